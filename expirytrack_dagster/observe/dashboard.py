"""The dashboard of `expirytrack status --watch`: an `Overview` drawn for a terminal of any size.

Only drawing: what is true was found out by `lookout.py`, and nothing is read or timed here. It is made of sections of
lines; no line is wider than the terminal, and where there are more lines than rows, the sections that can spare some
say how many they leave out. Colour is an addition: everything can be read without it, and with ASCII alone where the
terminal has no other characters. Times of the day are India's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.outcome import plural
from expirytrack_dagster.upstox.tokens import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, OverflowMethod, RenderResult

    from expirytrack_dagster.collect.horizon import Leaving
    from expirytrack_dagster.observe.alerts import Alert
    from expirytrack_dagster.observe.overview import Overview, RunningCell, Standing
    from expirytrack_dagster.upstox.activity import Activity
    from expirytrack_dagster.upstox.budget import Budget

NARROW, WIDE = 64, 130
"""Columns below which what is less needed is left out, and from which on sections stand side by side."""
_BETWEEN = 4
_LONGEST_BAR, _SHORTEST_BAR = 40, 6
_FULL = 0.9
_DIM = "bright_black"
_MINUTE, _HOUR = 60, 3600


class _Ink(NamedTuple):
    """The characters of a terminal: rules, a bar's done and open part, the heights of a second; how a line is cut."""

    rule: str
    done: str
    open: str
    heights: str
    cut: OverflowMethod


_UNICODE = _Ink("─", "━", "─", " ▁▂▃▄▅▆▇█", "ellipsis")
_ASCII = _Ink("-", "#", "-", " .:-=+*%#", "crop")


@dataclass(frozen=True, slots=True)
class _Section:
    """Lines under a title; `least` of them are shown however small the terminal is."""

    title: str
    lines: Sequence[Text]
    least: int

    def drawn(self, count: int, width: int, ink: _Ink) -> list[Text]:
        """Return the title, which says what is left out, and so many lines."""
        left_out = len(self.lines) - count
        title = Text(f"{self.title} ", style="bold")
        if left_out > 0:
            title.append(f"(+{plural(left_out, 'line')}) ", "not bold yellow")
        title.append(ink.rule * max(0, width - len(title)), f"not bold {_DIM}")
        return [title, *self.lines[:count]]


class _Gauge(NamedTuple):
    """A line with a bar: a name, how much of what, the bar's colour, the same in figures, and what else there is."""

    name: str
    done: int
    total: int
    colour: str
    figures: str
    more: str


class _Counted(NamedTuple):
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
class Dashboard:
    """The whole picture: within the height that it is given, and without one as long as it has to be."""

    seen: Overview

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for the size of the terminal."""
        ink = _ASCII if options.ascii_only else _UNICODE
        for line in self._lines(options.max_width, options.height, ink):
            line.no_wrap = True
            line.truncate(options.max_width, overflow=ink.cut)
            yield line

    def _lines(self, width: int, height: int | None, ink: _Ink) -> list[Text]:
        seen = self.seen
        head = list(_head(seen, width, ink))
        rows = None if height is None else height - len(head)
        if not seen.underlyings and not seen.cells:
            return head + _stacked([_first_steps(seen)], width, rows, ink)
        if width < WIDE:
            return head + _stacked([*_work(seen, width, ink), *_news(seen, width, ink)], width, rows, ink)
        half = (width - _BETWEEN) // 2
        work = _stacked(_work(seen, half, ink), half, rows, ink)
        news = _stacked(_news(seen, half, ink), half, rows, ink)
        return head + [_beside(*pair, half, ink) for pair in zip_longest(work, news, fillvalue=Text())]


def running_line(cell: RunningCell) -> str:
    """Return how far a cell is, in one line of words."""
    if not cell.contracts or cell.phase == "ended":
        return f"{_name(cell)}  {_what_it_does(cell)}"
    far = f"{cell.answered:,} of {cell.contracts:,} contracts, {cell.candles:,} candles"
    return f"{_name(cell)}  {far}, {_what_it_does(cell)}"


def _work(seen: Overview, width: int, ink: _Ink) -> list[_Section]:
    return [_limits(seen.budgets, width, ink), _running(seen.running, width, ink), _standings(seen.standings, width)]


def _news(seen: Overview, width: int, ink: _Ink) -> list[_Section]:
    horizon = _horizon(seen.horizon.days, seen.horizon.leaving)
    return [_requests(seen.activity, width, ink), _alerts(seen.alerts, seen.at), horizon]


def _stacked(sections: Sequence[_Section], width: int, rows: int | None, ink: _Ink) -> list[Text]:
    """Put sections one below the other, with room between them if there is any to spare."""
    counts = [len(section.lines) for section in sections]
    if rows is None or sum(counts) + 2 * len(counts) <= rows:
        return [line for section in sections for line in (Text(), *section.drawn(len(section.lines), width, ink))]
    while sum(counts) + len(counts) > rows:
        able = [index for index, section in enumerate(sections) if counts[index] > section.least]
        if not able:
            break
        counts[max(able, key=counts.__getitem__)] -= 1
    pairs = zip(sections, counts, strict=True)
    return [line for section, count in pairs for line in section.drawn(count, width, ink)]


def _beside(left: Text, right: Text, half: int, ink: _Ink) -> Text:
    line = left.copy()
    line.truncate(half, overflow=ink.cut, pad=True)
    return line.append(" " * _BETWEEN).append_text(right)


def _head(seen: Overview, width: int, ink: _Ink) -> Iterator[Text]:
    clock = f"{seen.at.astimezone(IST):%H:%M:%S} IST"
    title = Text.assemble(("ExpiryTrack", "bold cyan"), (f"  {seen.home}", _DIM))
    title.truncate(max(0, width - len(clock) - 2), overflow=ink.cut, pad=True)
    yield title.append(f"  {clock}", "default")
    yield from _sentence(*_token(seen, width), width)
    if seen.keys is not None:
        yield from _sentence(seen.keys, "yellow", width)
    if seen.unread is not None:
        yield from _sentence(f"Not read just now: {seen.unread}", "red", width)


def _token(seen: Overview, width: int) -> tuple[str, str]:
    token = seen.token
    if not token.usable:
        return token.sentence, "red"
    whose = "Token of the environment" if token.source == "environment" else f"Token of account '{token.account}'"
    if token.expires_at is None:
        return f"{whose}: dies at the next 03:30 IST", "green"
    dies = token.expires_at.astimezone(IST)
    until = f"{dies:%H:%M} IST" if width < NARROW else f"{dies:%H:%M} IST on {dies:%d %b}"
    said = f"{whose}: {duration(token.seconds_left or 0)} left, until {until}"
    return said, "yellow" if seen.token_is_short else "green"


def _first_steps(seen: Overview) -> _Section:
    """Say what to do in a home in which nothing is tracked yet."""
    steps = [
        ("expirytrack login", "is done, there is a token" if seen.token.usable else "logs in to Upstox"),
        ("expirytrack track NIFTY", "says what you want"),
        ("expirytrack collect", "asks for all of it that Upstox still lists"),
        ("expirytrack demo", "shows everything without an account"),
    ]
    longest = max(len(command) for command, _ in steps)
    lines = [Text.assemble("  ", (command.ljust(longest), "bold"), (f"   {does}", _DIM)) for command, does in steps]
    return _Section("Nothing is tracked yet", lines, least=len(lines))


def _limits(budgets: dict[str, Budget], width: int, ink: _Ink) -> _Section:
    """Show how full each window is, and what holds requests back."""
    gauges, held = [], []
    for scope, budget in budgets.items():
        of = f" {scope}" if len(budgets) > 1 else ""
        for window in budget.windows:
            used, allowed, wait = window.used, window.limit.requests, window.seconds_to_slot
            colour = "yellow" if used >= _FULL * allowed else "cyan"
            more = f"next in {_time(wait)}" if wait >= 1 else ""
            gauges.append(
                _Gauge(_span(window.limit.seconds) + of, used, allowed, colour, f"{used:,} of {allowed:,}", more)
            )
        if budget.cooldown_reason:
            paused = f"  Paused for {_time(budget.cooldown_seconds)}: {budget.cooldown_reason}{of}"
            held.append(Text(paused, style="yellow"))
        if budget.circuit_state != "closed":
            state = f"open for {_time(budget.circuit_seconds)}" if budget.circuit_state == "open" else "half-open"
            held.append(Text(f"  Breaker {state}, last failure: {budget.circuit.reason}{of}", style="red"))
    lines = [*_gauged(gauges, width, ink), *held]
    return _Section("Limits: requests used", lines, least=len(lines))


def _running(cells: Sequence[RunningCell], width: int, ink: _Ink) -> _Section:
    """Show how far each cell under way is, whichever process collects it."""
    ended = sum(cell.phase == "ended" for cell in cells)
    title = f"Running: {plural(len(cells) - ended, 'cell')}" + (f", {ended} ended before the end" if ended else "")
    longest = max((len(_name(cell, width)) for cell in cells), default=0)
    barred = [cell for cell in cells if cell.contracts and cell.phase != "ended"]
    gauges = [
        _Gauge(
            _name(cell, width).ljust(longest),
            cell.answered,
            cell.contracts,
            "green" if cell.phase == "asking" else "cyan",
            f"{cell.answered:,}/{cell.contracts:,}",
            ("" if width < NARROW else f"{_short(cell.candles)} candles, ") + _what_it_does(cell),
        )
        for cell in barred
    ]
    said = [
        Text(f"  {_name(cell, width):<{longest}}  {_what_it_does(cell)}", style="red" if cell.phase == "ended" else "")
        for cell in cells
        if cell not in barred
    ]
    lines = [*_gauged(gauges, width, ink), *said] or [Text("  nothing just now", style=_DIM)]
    return _Section(title if cells else "Running", lines, least=min(len(lines), 3))


def _what_it_does(cell: RunningCell) -> str:
    match cell.phase:
        case "ended":
            seen = cell.seen_at.astimezone(IST)
            return f"its process ended at {seen:%H:%M}: collect it again"
        case "reading":
            return "beginning"
        case "storing":
            return "storing"
        case "proving":
            return "proving the empty ones"
        case "asking":
            return "no answers" if cell.seconds_left is None else f"{_time(cell.seconds_left)} left"


def _standings(standings: Sequence[Standing], width: int) -> _Section:
    """Show the cells of each underlying by what is left to do."""
    if not standings:
        nothing = Text("  nothing is listed yet: run 'expirytrack collect'", style=_DIM)
        return _Section("Cells", [nothing], least=1)
    columns = [column for column in _COLUMNS if column.needed or width >= NARROW]
    rows = [[("", ""), *((column.title, _DIM) for column in columns)]]
    for standing in standings:
        counts = [(column, int(getattr(standing, column.name))) for column in columns]
        cells = [(_short(count), column.style if count else _DIM) for column, count in counts]
        rows.append([(standing.underlying, "bold"), *cells])
    widths = [max(len(text) for text, _ in column) for column in zip(*rows, strict=True)]
    lines = []
    for (name, style), *cells in rows:
        line = Text.assemble("  ", (name.ljust(widths[0]), style))
        for (text, colour), size in zip(cells, widths[1:], strict=True):
            line.append(f"  {text:>{size}}", colour)
        lines.append(line)
    return _Section("Cells", lines, least=min(len(lines), 3))


def _requests(recent: Activity, width: int, ink: _Ink) -> _Section:
    """Show the last minute, and what failed in the last half hour."""
    rates = [f"{recent.total:,} answers", f"{_short(recent.candles)} candles", f"{recent.under_way} under way"]
    if recent.latency is not None and recent.slowest is not None and width >= NARROW:
        rates.append(f"half in {recent.latency:.2f} s, 95 % in {recent.slowest:.2f} s")
    lines = [_pulse(recent, width, ink), Text(f"  {', '.join(rates)}")]
    for failure in recent.failures:
        last = datetime.fromtimestamp(failure.last_at, UTC).astimezone(IST)
        times = "once, at" if failure.count == 1 else f"{failure.count:,} times, last at"
        lines.append(Text(f"  {failure.what} ({failure.endpoint}) {times} {last:%H:%M:%S}", style="yellow"))
    return _Section("Requests: the last minute", lines, least=2)


def _pulse(recent: Activity, width: int, ink: _Ink) -> Text:
    """Draw the answers of each second as a column, the newest at the right."""
    seconds = recent.answers[-max(1, width - 4) :]
    most = max(seconds, default=0)
    if not most:
        return Text("  nothing was answered", style=_DIM)
    steps = len(ink.heights) - 1
    return Text("  " + "".join(ink.heights[-(-count * steps // most)] for count in seconds), style="green")


def _horizon(days: int | None, leaving: Sequence[Leaving]) -> _Section:
    """Show what is about to leave the API's list."""
    if not leaving:
        reach = "its oldest date stays" if days is None else f"an expiry stays for {days} days"
        said = Text(f"  {reach}; nothing that is missing leaves soon", style=_DIM)
        return _Section("Horizon of Upstox's list", [said], least=1)
    lines = [
        Text(
            f"  {cell.underlying} {cell.expiry} may leave on {cell.on}, "
            + ("all of it missing" if cell.missing is None else f"{plural(cell.missing, 'contract')} missing"),
            style="yellow",
        )
        for cell in leaving
    ]
    return _Section(f"Horizon of Upstox's list: {plural(len(leaving), 'cell')} about to leave", lines, least=1)


def _alerts(alerts: Sequence[Alert], now: datetime) -> _Section:
    """Show what is wrong now, then what was."""
    standing = sum(alert.recovered_at is None for alert in alerts)
    lines = []
    for alert in alerts:
        raised = alert.raised_at.astimezone(IST)
        when = f"{raised:%H:%M}" if raised.date() == now.astimezone(IST).date() else f"{raised:%d %b}"
        said = alert.sentence if alert.recovered_at is None else f"over: {alert.ending or alert.sentence}"
        lines.append(Text(f"  {when}  {said}", style="red" if alert.recovered_at is None else _DIM))
    if not lines:
        return _Section("Alerts", [Text("  none", style=_DIM)], least=1)
    title = f"Alerts: {standing} standing" if standing else "Alerts: all over"
    return _Section(title, lines, least=max(1, min(standing, 3)))


def _gauged(gauges: Sequence[_Gauge], width: int, ink: _Ink) -> Iterable[Text]:
    """Align names, bars, counts and words; where there is no room for bars, there are none."""
    if not gauges:
        return
    name, figures, more = (
        max(len(part) for part in parts) for parts in zip(*((g.name, g.figures, g.more) for g in gauges), strict=True)
    )
    bar = min(_LONGEST_BAR, width - (2 + name + 2 + 2 + figures + 2 + more))
    for gauge in gauges:
        line = Text(f"  {gauge.name:<{name}}  ")
        if bar >= _SHORTEST_BAR:
            done = min(bar, round(bar * gauge.done / gauge.total)) if gauge.total else bar
            line.append(ink.done * done, gauge.colour).append(ink.open * (bar - done), _DIM).append("  ")
        yield line.append(f"{gauge.figures:>{figures}}").append(f"  {gauge.more}", "default")


def _name(cell: RunningCell, width: int = NARROW) -> str:
    return f"{cell.underlying} {cell.expiry}" if width >= NARROW else f"{cell.underlying} {cell.expiry:%y-%m-%d}"


def _sentence(text: str, style: str, width: int) -> Iterator[Text]:
    """Break a sentence into lines, because it says what to do."""
    for line in wrap(text, max(1, width)):
        yield Text(line, style=style)


def _span(seconds: float) -> str:
    return f"{seconds / _MINUTE:g} min" if seconds >= _MINUTE else f"{seconds:g} s"


def _time(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < _HOUR:
        return f"{whole // _MINUTE}:{whole % _MINUTE:02}"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


def _short(number: int) -> str:
    """Return a count in at most six characters or so: 9,999, then thousands, millions and thousands of these."""
    if number < 10_000:  # noqa: PLR2004 -- as the docstring says
        return f"{number:,}"
    for size, unit in ((1e3, "k"), (1e6, "M")):
        if number < 999.5 * size:
            return f"{number / size:.{0 if unit == 'k' else 1}f} {unit}"
    return f"{number / 1e9:,.1f} G"
