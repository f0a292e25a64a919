"""The page of resources, made from the figures that `make bench` has left in `docs/measured`.

No number stands here: what a machine carries and what the API allows are computed from the runs. The figures are
renewed with `make bench ARGS="resources --json docs/measured/resources.json"`, and the same for `archive`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from expirytrack_dagster_tests.bench.figures import Figure
from expirytrack_dagster_tests.bench.load import TRUE_LIMITS, limits_of
from expirytrack_dagster_tests.docsite.markdown import table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_GUIDE = (
    # name, cores, memory in GB, disk in GB, network in Mbit/s: the guide's table
    ("Minimum", 2, 4, 50, 10),
    ("Recommended", 4, 8, 200, 100),
    ("Production", 8, 16, 1000, 1000),
)
_WEEKS = 52
_GB, _MBIT = 1e9, 1e6
_DAY = 86_400


def figures(measured: Path, name: str) -> dict[str, Figure]:
    """Return the figures of a benchmark that were kept, by name."""
    kept = msgspec.json.decode((measured / f"{name}.json").read_bytes(), type=list[Figure])
    return {figure.name: figure for figure in kept}


def page(measured: Path) -> str:
    """Return the page as Markdown."""
    carried, asked = figures(measured, "resources"), figures(measured, "archive")
    longest, minute = limits_of(TRUE_LIMITS)[-1], limits_of(TRUE_LIMITS)[1]
    allowed = longest.requests / longest.seconds
    requests = carried["resources, requests a cell"].value
    candles = requests * carried["resources, candles a request"].value
    size = candles * carried["resources, bytes on disk a candle"].value
    received = carried["resources, bytes a request"].value
    one = {what: carried[f"resources, {what} a cell on 1 core"] for what in ("collecting", "deriving")}
    processor = sum(figure.value for figure in one.values())
    asking = requests / allowed
    peak = max(figure.value for name, figure in carried.items() if "peak memory" in name)
    year = _WEEKS * size
    day = allowed * _DAY / requests * size
    often = minute.requests / minute.seconds * received * 8 / _MBIT
    rows = [
        (
            f"{name}: {cores} cores, {memory} GB, {disk} GB, {network} Mbit/s",
            f"{asking / processor * cores:,.0f}",
            f"{memory * 1000 / peak:,.0f}",
            f"{disk * _GB / year:,.1f}",
            f"{disk * _GB / day:,.0f}",
            f"{network / (allowed * received * 8 / _MBIT):,.0f}",
        )
        for name, cores, memory, disk, network in _GUIDE
    ]
    return f"""# What a machine carries

The API bounds a collection, not the machine. {longest.requests:,} requests in {longest.seconds / 60:.0f} minutes are
{allowed:.2f} a second, whoever asks. A cell of the measured size (97 strikes like a recorded NIFTY expiry, 20 days of
minutes: {candles:,.0f} candles, {requests:,.0f} requests) takes {asking:,.0f} seconds of that limit, and
{processor:,.0f} seconds of one core: {one["collecting"].value:,.0f} to collect it,
{one["deriving"].value:,.0f} to derive chains, volatilities and greeks. **One core could keep up with
{asking / processor:,.0f} accounts at full speed.**

{_table(rows)}
How to read it: cores, memory and network of the guide's smallest machine already carry several times what one account
can ask for. More of them shorten queries, derivations and exports; they do not bring one candle sooner. What runs out
is the disk, and only for who collects everything day and night: then a larger one is what to buy.

The market of the sandbox is made up. A real cell has other numbers of candles, and `expirytrack plan` goes by the cells
that you have collected.

## Memory

Collecting and deriving ran with an address space of 4 GB and never held more than {peak:,.0f} MB. It does not grow with
the cell: candles stream through in batches. DuckDB is given 256 MB to read and at most 4 GB to write, or four fifths of
a smaller machine; what a query needs beyond that goes to disk.

## Disk

A candle takes {carried["resources, bytes on disk a candle"].value:,.0f} bytes with everything that belongs to it:
the archive, what is derived, the copy for readers, kept answers (bounded by `EXPIRYTRACK_CACHE_MB`), and records.
{_parts(carried["resources, bytes on disk a candle"])}

One underlying with an expiry of this size every week fills {year / _GB:,.1f} GB a year, and its year is collected in
{_WEEKS * asking / 3600:,.1f} hours of the API's limit. At full speed, day and night, the API delivers at most
{day / _GB:,.1f} GB a day. Stocks have monthly expiries only, which is a quarter of the cells.

## Network

An answer has {received / 1000:,.0f} kB of JSON, before any compression on the way. The half-hour limit is
{allowed * received * 8 / _MBIT:,.1f} Mbit/s; a burst at {minute.requests} requests a minute is {often:,.0f} Mbit/s.
So 10 Mbit/s suffice in the long run and slow the bursts; the limits make up for it afterwards.

## Questions to the archive

{_asked(asked)}

## As measured

Processor seconds are what to compare: the clock also tells of what else the machine did.

{_all([*carried.values(), *asked.values()])}
`make bench ARGS="resources"` and `make bench ARGS="archive"` measure it anew.
"""


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    headings = (
        "the guide's machine",
        "accounts at full speed that its cores carry",
        "such collections in its memory",
        "years of one weekly underlying on its disk",
        "days until the API at full speed fills it",
        "times the API's long-run rate in its network",
    )
    return table(headings, rows)


def _parts(figure: Figure) -> str:
    return f"By folder, in bytes a candle: {figure.note.partition(': ')[2]}."


def _asked(asked: dict[str, Figure]) -> str:
    rows = [
        (name.removeprefix("archive, "), f"{figure.value:,.1f} {figure.unit}", figure.beside)
        for name, figure in asked.items()
        if figure.unit == "ms"
    ]
    note = next(figure.note for figure in asked.values() if figure.unit == "ms").split("; ")[-2:]
    return table(("question", "median", "beside it, in the same run"), rows) + f"\nOn {'; '.join(note)}."


def _all(kept: list[Figure]) -> str:
    rows = [(figure.name, f"{figure.value:,.1f} {figure.unit}", figure.beside, figure.note) for figure in kept]
    return table(("figure", "value", "beside it", "note"), rows)
