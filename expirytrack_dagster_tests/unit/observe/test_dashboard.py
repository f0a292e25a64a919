"""The dashboard fits any terminal, with and without colour, and says what matters on the smallest one."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from expirytrack_dagster.collect.horizon import Leaving
from expirytrack_dagster.observe.dashboard import Dashboard, running_line
from expirytrack_dagster.observe.overview import Horizon, Standing
from expirytrack_dagster.upstox.activity import Activity, Failure
from expirytrack_dagster_tests.unit.observe.looks import BUSY, FIRST, NOW, budget, running, token

if TYPE_CHECKING:
    from expirytrack_dagster.observe.overview import Overview, RunningCell, RunningPhase

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def lines(seen: Overview, width: int = 80, height: int | None = None, *, encoding: str = "utf-8") -> list[str]:
    """Return the lines that a terminal of this size shows, without the blanks at their ends."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    options = console.options if height is None else console.options.update(height=height)
    rendered = console.render_lines(Dashboard(seen), options, pad=False)
    return ["".join(segment.text for segment in line) for line in rendered]


@pytest.fixture(params=[40, 80, 100, 160])
def width(request: pytest.FixtureRequest) -> int:
    """Return the width of a terminal."""
    return int(request.param)


def test_what_there_is_to_see(width: int) -> None:
    """On any width: each window's use, each cell with its progress and time left, the counts, the last failure."""
    text = "\n".join(lines(BUSY, width))
    for part in (
        "14:00:00 IST", "45 min left", "31 of 50", "500 of 500", "1,204 of 2,000", "next in 0:12", "Paused for 0:30",
        "Breaker open", "Running: 3 cells", "120/403", "1:20 left", "300/300", "storing", "beginning", "NIFTY",
        "435 answers", "HTTP 429", "may leave on 2025-0", "keys rotate", "1 standing",
        "13:45  The token dies in 45 minutes", "09 Sep  over: 2 % of the",
    ):  # fmt: skip
        assert part in text, part
    assert ("180 k candles" in text) == (width >= 80)


def test_a_narrow_terminal_has_no_bars() -> None:
    """At forty columns the numbers stay and the bars go."""
    assert not any("━" in line for line in lines(BUSY, 40))
    assert sum("━" in line for line in lines(BUSY, 80)) == 5


def test_a_bar_is_as_long_as_what_is_done() -> None:
    """Half done is half drawn, everything is everything, and a bar says the same without colour."""
    cells = tuple(running("NIFTY", "asking", done, 200, 60.0) for done in (0, 100, 200))
    bars = [line for line in lines(replace(BUSY, running=cells)) if "/200" in line]
    drawn = [(line.count("━"), line.count("━") + line.count("─")) for line in bars]
    size = drawn[0][1]
    assert drawn == [(0, size), (size // 2, size), (size, size)]


def test_colour_is_an_addition(width: int) -> None:
    """With colours the same characters stand in the same places."""
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system="truecolor").print(Dashboard(BUSY))
    assert ESCAPE.search(file.getvalue())
    plain = [line.rstrip() for line in ESCAPE.sub("", file.getvalue()).splitlines()]
    assert plain == [line.rstrip() for line in lines(BUSY, width)]


def test_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves no colour in what is sent to a terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    Console(file=file, width=80, force_terminal=True, color_system="truecolor").print(Dashboard(BUSY))
    colours = {code for codes in re.findall(r"\x1b\[([0-9;]*)m", file.getvalue()) for code in codes.split(";")}
    assert colours <= {"", "0", "1", "2", "22"}, "bold and dim at most"


def test_a_terminal_of_ascii(width: int) -> None:
    """A terminal that has no other characters gets none."""
    text = "\n".join(lines(BUSY, width, encoding="ascii"))
    assert text.isascii()
    assert ("#" * 10 in text) == (width >= 80)


def test_a_small_terminal_keeps_every_section() -> None:
    """With 24 rows nothing is pushed off the screen; the longest sections say how much they leave out."""
    many = tuple(Standing(f"STOCK{number}", 3, 1, 1, 1, 0, 0, 9, 9, 99, 0) for number in range(40))
    shown = lines(replace(BUSY, standings=many), 80, 24)
    assert len(shown) <= 24
    assert [line for line in shown if "(+38 lines)" in line]
    assert "token dies" in shown[-3]
    assert "may leave" in shown[-1]
    for title in ("Limits", "Running", "Cells", "Requests", "Horizon", "Alerts"):
        assert any(line.startswith(title) for line in shown)
    assert sum("STOCK" in line for line in lines(replace(BUSY, standings=many), 80, 100)) == 40


def test_somebody_who_has_just_installed_it(width: int) -> None:
    """Nothing tracked and no token: what to do, in its order, and no table of nothing."""
    shown = lines(FIRST, width)
    text = " ".join(shown)
    assert "No access token" in text
    order = [text.index(command) for command in ("expirytrack login", "expirytrack track NIFTY", "expirytrack collect")]
    assert text.index("Nothing is tracked yet") < order[1] < order[2]
    assert "Limits" not in text
    assert len(shown) <= 12


def test_tracked_and_nothing_listed_yet() -> None:
    """The next step is named."""
    seen = replace(FIRST, underlyings=BUSY.underlyings, token=token(600))
    text = "\n".join(lines(seen))
    assert "nothing is listed yet: run 'expirytrack collect'" in text
    assert "nothing just now" in text
    assert "nothing was answered" in text


def test_a_look_that_failed_says_so() -> None:
    """The last figures stay, and why they are not new."""
    seen = replace(BUSY, unread="state.sqlite was held by another process for 30 s: try again.")
    assert any(line.startswith("Not read just now: state.sqlite was held") for line in lines(seen))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (running("NIFTY", "asking", 12, 40, 61.0), "12 of 40 contracts, 18,000 candles, 1:01 left"),
        (running("NIFTY", "asking", 12, 40, 7_500.0), "2 h 05 min left"),
        (running("NIFTY", "asking", 12, 40), "no answers"),
        (running("NIFTY", "proving", 40, 40), "proving the empty ones"),
        (running("NIFTY", "reading", 0, 0), "beginning"),
        (running("NIFTY", "storing", 0, 0), "storing"),
        (running("NIFTY", "ended", 12, 40), "its process ended at 14:00: collect it again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_cell_in_words(cell: RunningCell, words: str) -> None:
    """`status` says the same in a line."""
    assert running_line(cell).startswith("NIFTY 2025-08-28  ")
    assert running_line(cell).endswith(words)


NAMES = st.text(st.characters(categories=("Lu", "Nd", "Lo"), include_characters="&-. "), min_size=1, max_size=30)
COUNTS = st.integers(0, 10**12)


@given(
    width=st.integers(1, 220),
    height=st.none() | st.integers(1, 60),
    names=st.lists(NAMES, max_size=6),
    count=COUNTS,
    seconds=st.floats(0, 1e7),
    plain=st.booleans(),
)
def test_no_line_is_wider_than_the_terminal(
    width: int,
    height: int | None,
    names: list[str],
    count: int,
    seconds: float,
    plain: bool,  # noqa: FBT001 -- drawn
) -> None:
    """Whatever is shown, on whatever terminal, and no line is broken in two."""
    day = date(2025, 8, 28)
    phases: tuple[RunningPhase, ...] = ("reading", "asking", "proving", "storing", "ended")
    seen = replace(
        BUSY,
        budgets={name: budget(count, count, count, wait=seconds, pause=seconds, failures=3) for name in names} or {
            "account": budget(0, 0, 0)
        },
        running=tuple(
            running(name, phases[index % 5], count, count + index, seconds) for index, name in enumerate(names)
        ),
        standings=tuple(Standing(name, *[count] * 10) for name in names),
        horizon=Horizon(None, tuple(Leaving(name, day, day + timedelta(days=9), count or None) for name in names)),
        activity=Activity((count,) * 60, count, seconds, seconds, count, {}, tuple(
            Failure(name, "candles", count, NOW.timestamp()) for name in names
        )),
        unread="".join(names) or None,
    )  # fmt: skip
    shown = lines(seen, width, height, encoding="ascii" if plain else "utf-8")
    assert max(map(cell_len, shown)) <= width
