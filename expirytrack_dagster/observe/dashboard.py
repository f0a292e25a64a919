"""The dashboard of `expirytrack status --watch`: an `Overview` drawn for a terminal of any size.

Only drawing: what is true was found out by `overview.py`, and nothing is read or timed here. It is made of sections of
lines; no line is wider than the terminal, and where the lines are more than its rows, the longest sections say how many
they leave out. Colour is an addition: everything can be read without it, and without any character beyond ASCII where
the terminal has no others. Times are shown in India's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from textwrap import wrap
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

from expirytrack_dagster.quality.outcome import plural
from expirytrack_dagster.quality.rules import IST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from expirytrack_dagster.observe.overview import Overview, RunningCell, Standing
    from expirytrack_dagster.upstox.activity import Activity
    from expirytrack_dagster.upstox.ledger import WindowUse

NARROW, WIDE = 64, 130
"""Columns below which what is less needed is left out, and from which on sections stand side by side."""
_GAP = 4
_BLOCKS, _PLAIN_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*%#"
_FULL = 0.9
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True, slots=True)
class _Counted:
    """A column of counts: which one of `Standing`, its title, its colour, and whether a narrow terminal shows it."""

    name: str
    title: str
    style: str = ""
    needed: bool = False


_COLUMNS = (
    _Counted("cells", "cells", needed=True),
    _Counted("complete", "done", "green", needed=True),
    _Counted("begun", "begun", "cyan"),
    _Counted("not_begun", "open", needed=True),
    _Counted("waiting", "waits", "yellow"),
    _Counted("lost", "lost", "red"),
    _Counted("contracts", "contracts"),
    _Counted("candles", "candles"),
    _Counted("quarantined", "bad", "yellow"),
)


@dataclass(frozen=True, slots=True)
class Section:
    """Some lines under a title; `least` of them are shown however small the terminal is."""

    title: str
    lines: int
    draw: Callable[[int], RenderableType]
    least: int = 1

    def drawn(self, lines: int) -> RenderableType:
        """Return the title and so many lines, the last of which says what is left out."""
        title = Rule(Text(self.title, style="bold"), align="left", style="bright_black")
        if lines >= self.lines:
            return Group(title, self.draw(self.lines))
        left_out = Text(f"  and {self.lines - lines + 1} more", style="bright_black")
        return Group(title, self.draw(lines - 1), left_out) if lines > 1 else Group(title, left_out)


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The whole picture; it fills the height that it is given, and without one it is as long as it needs."""

    seen: Overview

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for the size of the terminal."""
        del console
        width, plain = options.max_width, options.ascii_only
        head = list(_head(self.seen, width))
        yield from head
        rows = None if options.height is None else options.height - len(head)
        if not self.seen.underlyings and not self.seen.cells:
            yield _first_steps(self.seen).drawn(rows - 1 if rows is not None and rows < 5 else 4)  # noqa: PLR2004
            return
        if width < WIDE:
            yield _column(_left(self.seen, width) + _right(self.seen, width, plain=plain), rows)
            return
        half = (width - _GAP) // 2
        sides = Table.grid(Column(width=half), Column(width=half), padding=(0, _GAP, 0, 0), pad_edge=False)
        sides.add_row(_column(_left(self.seen, half), rows), _column(_right(self.seen, half, plain=plain), rows))
        yield sides


def running_line(cell: RunningCell) -> str:
    """Return how far a cell is, in one line of words."""
    return f"{cell.underlying} {cell.expiry}  {_how_far(cell)}"


def _left(seen: Overview, width: int) -> list[Section]:
    return [_limits(seen, width), _running(seen, width), _standings(seen.standings, width)]


def _right(seen: Overview, width: int, *, plain: bool) -> list[Section]:
    return [_requests(seen, width, plain=plain), _horizon(seen)]


def _column(sections: Sequence[Section], rows: int | None) -> Group:
    """Stack sections, with room between them if there is any to spare.

    Where they do not fit, lines are taken from the longest until they do, or all are at their least.
    """
    lines = [section.lines for section in sections]
    if rows is None or sum(lines) + 2 * len(lines) <= rows:
        return Group(*(part for section in sections for part in ("", section.drawn(section.lines))))
    while sum(lines) + len(lines) > rows:
        spare = [count - section.least for count, section in zip(lines, sections, strict=True)]
        if max(spare) <= 0:
            break
        longest = max(range(len(lines)), key=lambda index: (spare[index] > 0, lines[index]))
        lines[longest] -= 1
    return Group(*(section.drawn(count) for section, count in zip(sections, lines, strict=True)))


def _head(seen: Overview, width: int) -> Iterator[RenderableType]:
    clock = f"{seen.at.astimezone(IST):%H:%M:%S} IST"
    title = Table.grid(Column(no_wrap=True, ratio=1, overflow="ellipsis"), Column(no_wrap=True), expand=True)
    title.add_row(Text.assemble(("ExpiryTrack", "bold cyan"), ("  " + str(seen.home), "bright_black")), clock)
    yield title
    yield from _wrapped(*_token(seen, width), width)
    if seen.keys is not None:
        yield from _wrapped(seen.keys, "yellow", width)
    if seen.unread is not None:
        yield from _wrapped(f"Not read just now: {seen.unread}", "red", width)


def _token(seen: Overview, width: int) -> tuple[str, str]:
    token = seen.token
    if not token.usable:
        return token.sentence, "red"
    whose = "Token of the environment" if token.source == "environment" else f"Token of account '{token.account}'"
    if token.expires_at is None:
        return f"{whose}: dies at the next 03:30 IST", "green"
    dies = token.expires_at.astimezone(IST)
    until = f"{dies:%H:%M} IST" if width < NARROW else f"{dies:%d %b %H:%M} IST"
    return (
        f"{whose}: {_time(token.seconds_left or 0)} left, until {until}",
        "yellow" if seen.token_is_short else "green",
    )


def _first_steps(seen: Overview) -> Section:
    """Say what to do in a home in which nothing is tracked yet."""
    steps = [
        ("expirytrack login", "log in to Upstox" if not seen.token.usable else "done: there is a token"),
        ("expirytrack track NIFTY", "say what you want"),
        ("expirytrack collect", "collect all that Upstox lists of it"),
        ("expirytrack demo", "or try everything without an account"),
    ]

    def draw(lines: int) -> RenderableType:
        grid = Table.grid(
            Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", style="bright_black"), padding=(0, 3, 0, 0)
        )
        for command, why in steps[:lines]:
            grid.add_row(Text(command, style="bold"), why)
        return _indented(grid)

    return Section("Nothing is tracked yet", len(steps), draw)


def _limits(seen: Overview, width: int) -> Section:
    """Draw how full each window is, and what holds requests back."""
    rows: list[tuple[str, WindowUse]] = []
    held: list[Text] = []
    for scope, budget in seen.budgets.items():
        of = f" {scope}" if len(seen.budgets) > 1 else ""
        rows += [(_span(window.limit.seconds) + of, window) for window in budget.windows]
        if budget.cooldown_reason:
            held.append(_line(f"  Paused for {_time(budget.cooldown_seconds)}: {budget.cooldown_reason}{of}", "yellow"))
        if budget.circuit_state == "open":
            reason = budget.circuit.reason
            held.append(_line(f"  Breaker open for {_time(budget.circuit_seconds)}: {reason}{of}", "red"))
        elif budget.circuit_state == "half-open":
            held.append(_line(f"  Breaker half-open, the next request tries: {budget.circuit.reason}{of}", "yellow"))

    def draw(lines: int) -> RenderableType:
        grid = _bars(bar=_bar_width(width, 37))
        for span, window in rows[: max(0, lines - len(held))]:
            used, allowed, wait = window.used, window.limit.requests, window.seconds_to_slot
            colour = "yellow" if used >= _FULL * allowed else "cyan"
            count = Text(f"{used:,} of {allowed:,}")
            then = Text(f"next in {_time(wait)}" if wait >= 1 else "", style="yellow")
            grid.add_row(span, _bar(used, allowed, colour), count, then)
        return Group(_indented(grid), *held[:lines])

    return Section("Limits: requests used", len(rows) + len(held), draw, least=len(rows) + len(held))


def _running(seen: Overview, width: int) -> Section:
    """Draw a bar for each cell under way, of whatever process."""
    cells = seen.running
    if not cells:
        return Section("Running", 1, lambda _: _line("  nothing just now", "bright_black"))

    def draw(lines: int) -> RenderableType:
        grid = _bars(bar=_bar_width(width, 62))
        for cell in cells[:lines]:
            name = Text(f"{cell.underlying} {cell.expiry}")
            colour = {"ended": "red", "asking": "green"}.get(cell.phase, "cyan")
            if cell.phase == "ended" or not cell.contracts:
                grid.add_row(
                    name, Text(""), Text(""), Text(_how_far(cell), style="red" if cell.phase == "ended" else "")
                )
                continue
            count = f"{cell.answered:,}/{cell.contracts:,}"
            grid.add_row(name, _bar(cell.answered, cell.contracts, colour), count, Text(_and_then(cell, width)))
        return _indented(grid)

    return Section(f"Running: {plural(len(cells), 'cell')}", len(cells), draw)


def _and_then(cell: RunningCell, width: int) -> str:
    candles = "" if width < NARROW else f"{_short(cell.candles)} candles  "
    return candles + _left_of(cell)


def _left_of(cell: RunningCell) -> str:
    if cell.phase == "storing":
        return "storing"
    if cell.phase == "proving":
        return "proving"
    return "no answer comes" if cell.seconds_left is None else f"{_time(cell.seconds_left)} left"


def _how_far(cell: RunningCell) -> str:
    if cell.phase == "ended":
        seen = cell.seen_at.astimezone(IST)
        return f"its process ended at {seen:%H:%M}: collect it again, what arrived is kept"
    if not cell.contracts:
        return "nothing to ask" if cell.phase == "storing" else "beginning"
    far = f"{cell.answered:,} of {cell.contracts:,} contracts, {cell.candles:,} candles"
    return f"{far}, {_left_of(cell)}"


def _standings(standings: Sequence[Standing], width: int) -> Section:
    """Draw a line of counts for each underlying."""
    if not standings:
        return Section("Collected", 1, lambda _: _line("  nothing yet: run 'expirytrack collect'", "bright_black"))

    def draw(lines: int) -> RenderableType:
        columns = _COLUMNS if width >= NARROW else [column for column in _COLUMNS if column.needed]
        grid = Table.grid(Column(no_wrap=True), padding=(0, 2, 0, 0))
        for _ in columns:
            grid.add_column(justify="right", no_wrap=True)
        grid.add_row("", *(Text(column.title, style="bright_black") for column in columns))
        for standing in standings[: max(0, lines - 1)]:
            counts = ((column, int(getattr(standing, column.name))) for column in columns)
            cells = [Text(_short(count), style=column.style if count else "bright_black") for column, count in counts]
            grid.add_row(Text(standing.underlying, style="bold"), *cells)
        return _indented(grid)

    return Section("Collected: cells", len(standings) + 1, draw, least=2)


def _requests(seen: Overview, width: int, *, plain: bool) -> Section:
    """Draw the last minute, and what failed in the last half hour."""
    recent = seen.activity
    failures = recent.failures

    def draw(lines: int) -> RenderableType:
        shown = [_pulse(recent, width, plain=plain), _rates(recent, width)][:lines]
        for failure in failures[: max(0, lines - len(shown))]:
            last = datetime.fromtimestamp(failure.last_at, UTC).astimezone(IST)
            times = "once" if failure.count == 1 else f"{failure.count:,} times"
            shown.append(_line(f"  {failure.what} ({failure.endpoint}) {times}, last at {last:%H:%M:%S}", "yellow"))
        return Group(*shown)

    return Section("Requests: the last minute", 2 + len(failures), draw, least=2)


def _pulse(recent: Activity, width: int, *, plain: bool) -> Text:
    """Draw the answers of each second as a row of blocks, the newest at the right."""
    blocks = _PLAIN_BLOCKS if plain else _BLOCKS
    seconds = recent.answers[-min(len(recent.answers), max(1, width - 4)) :]
    most = max(seconds, default=0)
    drawn = "".join(blocks[-(-count * (len(blocks) - 1) // most)] if most else blocks[0] for count in seconds)
    return _line(f"  {drawn}" if most else "  nothing was asked", "green" if most else "bright_black")


def _rates(recent: Activity, width: int) -> Text:
    said = [f"{recent.total:,} answers", f"{_short(recent.candles)} candles", f"{recent.under_way} under way"]
    if recent.latency is not None and recent.slowest is not None and width >= NARROW:
        said.append(f"{recent.latency:.2f} s each, slowest {recent.slowest:.2f} s")
    return _line("  " + ", ".join(said))


def _horizon(seen: Overview) -> Section:
    """Draw what is about to leave the API's list."""
    leaving, days = seen.horizon.leaving, seen.horizon.days
    if not leaving:
        reach = "the API's list loses nothing" if days is None else f"the API lists an expiry for {days} days"
        return Section("Horizon", 1, lambda _: _line(f"  {reach}; nothing that is missing leaves soon", "bright_black"))

    def draw(lines: int) -> RenderableType:
        return Group(*(_line(f"  {cell.sentence}", "yellow") for cell in leaving[:lines]))

    return Section(f"Horizon: {plural(len(leaving), 'cell')} about to leave Upstox's list", len(leaving), draw)


def _bars(bar: int) -> Table:
    return Table.grid(
        Column(no_wrap=True),
        Column(width=bar) if bar else Column(width=0),
        Column(no_wrap=True, justify="right"),
        Column(no_wrap=True, overflow="ellipsis"),
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )


def _bar_width(width: int, beside: int) -> int:
    return max(0, min(40, width - beside))


def _bar(done: int, total: int, colour: str) -> ProgressBar:
    return ProgressBar(
        total=max(total, 1),
        completed=min(done, total),
        style="bright_black",
        complete_style=colour,
        finished_style=colour,
    )


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, 2))


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _wrapped(text: str, style: str, width: int) -> Iterator[Text]:
    """Break a sentence into lines, because it says what to do."""
    for line in wrap(text, max(1, width)):
        yield _line(line, style)


def _span(seconds: float) -> str:
    return f"{seconds / _MINUTE:g} min" if seconds >= _MINUTE else f"{seconds:g} s"


def _time(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < _HOUR:
        return f"{whole // _MINUTE}:{whole % _MINUTE:02}"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


def _short(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):,.{0 if unit == 'k' else 1}f} {unit}"
    return f"{number:,}"
