"""`docs/scale.md`, written by `python -m expirytrack_dagster_tests.docsite.scale` from what the benchmarks have left.

No measured number stands here. The figures are renewed with
`make bench ARGS="scale catalogue move --json docs/measured/scale.json"`; the page then has to be written anew, and a
test holds it to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster_tests.bench import every_stock
from expirytrack_dagster_tests.docsite.build import DOCS
from expirytrack_dagster_tests.docsite.markdown import table
from expirytrack_dagster_tests.docsite.resources import figures

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from expirytrack_dagster_tests.bench.figures import Figure

PAGE = DOCS / "scale.md"
_GRID = 100_000
"""Partitions of an asset that Dagster's guidance calls the most."""


def page(measured: Path) -> str:
    """Return the page as Markdown."""
    known = {name.removeprefix("scale, "): figure for name, figure in figures(measured, "scale").items()}
    size = {name: figure.value for name, figure in known.items()}
    disk = [name for name in size if name.startswith("disk of")]
    kept = sum(size[name] for name in disk)
    derived = size["disk of archive, derived tables"] + size["disk of published, derived tables"]
    records = [name for name in size if name.startswith("Dagster's records of")]
    grid = size["partitions of an asset"]
    years = (every_stock.TODAY - every_stock.SINCE).days / 365.25
    return f"""# Two hundred underlyings, two years

What happens if somebody collects everything: all indices with options and most stocks of the F&O list,
{size["underlyings"]:,.0f} underlyings, every expiry since {
        every_stock.SINCE:%B %Y}. This page is computed by the program's
own planner and measured on homes of that size, in one run; it is written by
`python -m expirytrack_dagster_tests.docsite.scale`, and no number in it is typed.

**In short.** {size["requests"]:,.0f} requests: {size["days with a login every morning"]:.1f} days at the limits of one
account, with a login every morning. Then {size["share of the limits once all is there"]:.1f} % of the limits keep it
up to date. {size["candles"] / 1e6:,.0f} million candles, {kept:,.0f} GB with everything that is derived and published.
One ordinary machine carries it; what is met first is the account's limit, then the disk.

## The market

{_table(known, ("underlyings", "dates", "cells", "contracts", "candles", "cells of stocks", "candles of stocks"))}
{_market()}
How many contracts there are is counted in Upstox's list of instruments of 18 December 2025, twelve days before the
expiry of the month; strikes that were listed in those last days are missing, and contracts of more than three months
(yearly NIFTY and SENSEX options) are left out. Expiry dates are those of the exchanges' rules and holidays.
**Assumptions, because nobody publishes them:** in which share of its listed minutes a contract trades. Requests do not
depend on them; candles and bytes do, in proportion: where everything trades twice as often, double them.

## Requests and time

{
        _table(
            known,
            (
                "requests",
                "days at the limits without a pause",
                "days with a login every morning",
                "days if a request may ask for a month only",
                "share of the limits once all is there",
            ),
        )
    }
The limits belong to the account, not to the machine. More processes, more machines and more collectors do not bring
one candle sooner; fewer underlyings, `EXPIRYTRACK_LOOKBACK_DAYS`, or a second account with its own plan do. What may
leave Upstox's list soon goes first, then the newest expiry, so that a desk can work from the first evening on.

## Rows, bytes and files

{_table(known, ("rows of all tables", *disk, "received", "published files"))}
Measured on {known["measured on"].value:,.0f} candles: {known["measured on"].note}. In a lake instead of a file:

{_table(known, [name for name in size if name.startswith("catalogue, ") and "of the" in name])}

## Dagster

{_table(known, ("partitions of an asset", "Dagster's events", "cells settled as not listed", *records))}
The grid is the cross product of underlyings and dates, and {size["cells"] / grid:.0%} of it exist. Dagster's guidance
is {_GRID:,} partitions an asset, which {size["underlyings"]:,.0f} underlyings reach after
{years * _GRID / grid:.1f} years; nothing ends there, the page of partitions becomes slower.

What would fill the disk first are runs that find nothing: the list of every underlying is asked for four times a day.
So a job, `retention`, forgets runs of discovery after a month, every night; what they found is in the archive and in
the grid. Runs of cells are kept.

## How a home of this size behaves

Really filled: the grid with its settled cells in a Dagster instance, the requests in a state database, and an archive
with every contract.

{_table(known, [name for name, figure in known.items() if figure.unit == "ms"], bars=True)}

## Moving it

{_table(known, [name for name in size if name.startswith("move, ")])}

## Where the first limit is met, and what then

{_limits(size, kept, derived)}
Several collectors are for what must not stop, and for deriving, verifying and exporting beside a collection. They do
not make one account faster.

## As measured

{_all(known.values())}
`make bench ARGS="scale catalogue move"` measures it anew.
"""


def _table(known: dict[str, Figure], names: Iterable[str], *, bars: bool = False) -> str:
    rows = [
        (name.removeprefix("scale, "), _value(figure), figure.bar if bars else figure.beside, figure.note)
        for name in names
        if (figure := known[name])
    ]
    return table(("figure", "value", "bar" if bars else "measured", "note"), rows)


def _market() -> str:
    rows = [
        (
            index.symbol,
            f"{index.monthly:,}",
            f"{index.weekly:,}" if index.weekly else "",
            f"{len([day for day, weekly in every_stock.dates(index.calendar) if index.weekly or not weekly]):,}",
            f"{index.minutes:.0%}",
        )
        for index in every_stock.INDICES
    ]
    stock = len(every_stock.dates("RELIANCE"))
    rows.append(
        (
            f"each of {every_stock.STOCKS} stocks",
            f"{every_stock.STOCK_OPTIONS}",
            "",
            f"{stock}",
            f"{every_stock.STOCK_MINUTES:.0%}",
        )
    )
    headings = ("underlying", "options a monthly expiry", "a weekly one", "expiries", "an option trades in")
    lives = (
        f"\nA weekly contract is listed for {every_stock.WEEKLY_LIFE} trading days of {every_stock.SESSION} minutes, "
        f"a monthly one for {every_stock.MONTHLY_LIFE}; every monthly expiry has a future, which trades in "
        f"{every_stock.FUTURE_MINUTES:.0%} of them.\n"
    )
    return table(headings, rows) + lives


def _limits(size: dict[str, float], kept: float, derived: float) -> str:
    discoveries = size["Dagster's records of discoveries, if all were kept"]
    month = size["Dagster's records of discoveries that are kept"]
    rows = [
        (
            "the account's limits",
            f"from the first minute, for {size['days with a login every morning']:.0f} days",
            "wait; collect what matters first, or less",
        ),
        (
            "the disk",
            f"{kept:,.0f} GB, of which {derived:,.0f} GB are derived",
            "a larger one; or derive only what is asked (`expirytrack derive`), which can be made again at any time",
        ),
        (
            "Dagster's records in SQLite",
            f"would be {discoveries:,.0f} GB of runs that found nothing; {month:,.0f} GB with `retention`",
            "PostgreSQL for Dagster once several runs write at once: one database instead of a file a run",
        ),
        (
            "one writer at a time",
            "a second machine, or readers that must see a cell the moment it is committed",
            "[move the archive](how-to/move-the-archive.md) into a lake, and the state into PostgreSQL",
        ),
        (
            "one machine that must not fail",
            "when a missed day costs more than a second machine",
            "several collectors on one state: they share the limits and take no cell twice",
        ),
    ]
    return table(("what", "when", "what then"), rows)


def _value(figure: Figure) -> str:
    digits = 0 if figure.value >= 100 or figure.value == int(figure.value) else 2
    return f"{figure.value:,.{digits}f} {figure.unit}"


def _all(kept: Iterable[Figure]) -> str:
    rows = [(figure.name, _value(figure), figure.beside, figure.bar, figure.note) for figure in kept]
    return table(("figure", "value", "beside it", "bar", "note"), rows)


if __name__ == "__main__":
    PAGE.write_text(page(DOCS / "measured"), encoding="utf-8")
