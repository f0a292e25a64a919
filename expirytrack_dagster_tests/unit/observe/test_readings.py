"""What alerts are judged by: every rule on both sides of its threshold, with the words that a person gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.collect import tracking
from expirytrack_dagster.collect.horizon import Leaving, Listing
from expirytrack_dagster.observe import readings
from expirytrack_dagster.observe.alerts import RULES, Name, judge
from expirytrack_dagster.observe.deliveries import ChannelState
from expirytrack_dagster.observe.lookout import Lookout
from expirytrack_dagster.observe.overview import CellCounts, Horizon, RunningCell
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.activity import Settled
from expirytrack_dagster_tests.statements import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expirytrack_dagster.observe.alerts import Reading
    from expirytrack_dagster.observe.overview import Overview

NOW = datetime(2025, 9, 1, 6, 30, tzinfo=UTC)
DAY = date(2025, 8, 28)


class Nothing:
    """An archive without cells."""

    def cells(self) -> None:
        """Return none."""


@pytest.fixture
def look() -> Overview:
    """Look at an empty home in which NIFTY is tracked."""
    settings = load_settings()
    tracking.track(open_state(settings), "NIFTY", "NSE_INDEX|Nifty 50")
    return Lookout(settings, Nothing()).look(NOW)


def cell(day: date = DAY, **counts: Any) -> CellCounts:
    """Return a cell of NIFTY."""
    names = CellCounts.__slots__[2:11]
    values = dict.fromkeys(names, 0) | {"first_ts": None, "last_ts": None, "sealed": False} | counts
    return CellCounts(underlying="NIFTY", expiry=day, **values)


def running(seen: datetime, **changes: Any) -> RunningCell:
    """Return a cell of NIFTY that is being asked for."""
    begun = RunningCell("NIFTY", DAY, "0123456789", "1 since 2", "asking", 90, 30, 1, 1, 1, NOW, seen, None)
    return replace(begun, **changes)


def verdicts(found: Sequence[Reading]) -> dict[str, str]:
    """Say of each subject whether it is bad, good, or between."""
    return {one.subject: "bad" if one.is_bad else "good" if one.is_good else "between" for one in found}


def test_the_token(look: Overview) -> None:
    """None, a dead or a dying one is bad; one that lives long or of unknown life is good; nobody asks without cells."""
    settings = load_settings()
    (missing,) = readings.token_life(settings, look)
    assert missing.is_bad
    assert missing.value == 0
    assert missing.todo == "Run `expirytrack login`."
    seconds: dict[float | None, str] = {59 * 60: "bad", 60 * 60: "good", None: "good"}
    for left, expected in seconds.items():
        seen = replace(look, token=replace(look.token, seconds_left=left, usable=True))
        assert verdicts(readings.token_life(settings, seen)) == {"default": expected}
    assert readings.token_life(settings, replace(look, underlyings=())) == []


def test_the_horizon(look: Overview) -> None:
    """What leaves incomplete is bad with the day and the command; what is complete by now is good."""
    settings = load_settings()
    soon, old = Leaving("NIFTY", date(2025, 3, 6), date(2025, 9, 5), 3), date(2025, 3, 7)
    seen = replace(look, horizon=Horizon(182, (soon,)), cells=(cell(old, contracts=2, complete=2, sealed=True), cell()))
    leaving, complete = readings.horizon(settings, seen)
    assert (leaving.value, leaving.threshold, leaving.is_bad) == (3, 14, True)
    assert leaving.sentence == "NIFTY 2025-03-06 may leave Upstox's list on 2025-09-05 with 3 contracts missing."
    assert leaving.todo == "Run: expirytrack collect NIFTY --expiry 2025-03-06"
    assert (complete.subject, complete.sentence) == ("NIFTY 2025-03-07", "NIFTY 2025-03-07 is complete.")
    assert complete.is_good
    last = replace(soon, on=date(2025, 9, 15))
    assert readings.horizon(settings, replace(seen, horizon=Horizon(182, (last,))))[0].is_bad


def test_what_is_lost(look: Overview) -> None:
    """A cell that left the list incomplete is an alert for a month; a complete one is none."""
    gone = [
        Listing("NIFTY", DAY, DAY, DAY, gone)
        for DAY, gone in (
            (date(2025, 3, 6), date(2025, 9, 1)),
            (date(2025, 3, 7), date(2025, 8, 2)),
            (date(2025, 3, 13), date(2025, 9, 1)),
            (date(2025, 3, 14), None),
        )
    ]
    cells = tuple(
        cell(one.expiry, contracts=4, complete=2, unasked=2, sealed=one.expiry == date(2025, 3, 13)) for one in gone
    )
    (lost,) = readings.lost(replace(look, cells=cells), gone)
    assert lost.is_bad
    assert lost.value == 2
    assert lost.sentence == "NIFTY 2025-03-06 has left Upstox's list with 2 contracts missing."


def test_requests(look: Overview) -> None:
    """Failures and slow answers are bad above their settings, and good again well below; none at all is good."""
    del look
    settings = load_settings()
    for failed, verdict in ((11, "bad"), (10, "between"), (9, "between"), (8, "good")):
        asked = Settled(100, failed, 1.0, "HTTP 503")
        (found,) = readings.failure_rate(settings, asked)
        assert verdicts([found]) == {"requests": verdict}
        assert found.sentence == f"{failed}.0 % of 100 requests in 30 minutes failed, mostly HTTP 503."
    for slowest, verdict in ((10.1, "bad"), (9.0, "between"), (8.0, "good")):
        assert verdicts(readings.response_time(settings, Settled(100, 0, slowest))) == {"answers": verdict}
    assert verdicts(readings.failure_rate(settings, Settled())) == {"requests": "good"}
    assert verdicts(readings.response_time(settings, Settled())) == {"answers": "good"}


def test_no_progress(look: Overview) -> None:
    """A cell that hears nothing for long is bad; one that does not, good; one whose process has ended, not judged."""
    settings = load_settings()
    quiet = running(NOW - timedelta(minutes=46))
    (found,) = readings.no_progress(settings, replace(look, running=(quiet,)))
    assert found.is_bad
    assert "no progress for 46 minutes, with 30 of 90 contracts answered" in found.sentence
    assert "01234567" in found.todo
    assert readings.no_progress(settings, replace(look, running=(replace(quiet, phase="ended"),))) == []
    assert verdicts(readings.no_progress(settings, replace(look, running=(running(NOW),)))) == {
        "NIFTY 2025-08-28": "good"
    }


def test_completeness(look: Overview) -> None:
    """Counted over what was asked for: neither lists that nobody asked about nor a cell at work make it worse."""
    settings = load_settings()
    whole, bad = cell(contracts=100, complete=90, empty_proven=10, sealed=True), date(2025, 9, 4)
    untouched = cell(date(2025, 9, 11), contracts=100, unasked=100)
    (found,) = readings.completeness(settings, replace(look, cells=(whole, untouched)))
    assert (found.subject, found.value, found.is_good) == ("NIFTY", 100, True)
    seen = replace(look, cells=(whole, untouched, cell(bad, contracts=100, complete=97, refused=3)))
    (found,) = readings.completeness(settings, seen)
    assert (found.value, found.is_bad) == (98.5, True)
    assert found.sentence.endswith(
        "98.5 % of the 200 contracts of NIFTY that were asked for are complete or proven empty; 3 are not."
    )
    (found,) = readings.completeness(settings, replace(seen, running=(running(NOW, expiry=bad),)))
    assert found.is_good
    for complete, verdict in ((989, "bad"), (991, "between"), (992, "good")):
        seen = replace(look, cells=(cell(contracts=1000, complete=complete, refused=1000 - complete),))
        assert verdicts(readings.completeness(settings, seen)) == {"NIFTY": verdict}


def test_quarantine(look: Overview, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell with many bad rows is bad, a few rows say nothing; a threshold of none allows none."""
    settings = load_settings()
    seen = replace(look, cells=(cell(candles=9_800, quarantined=200), cell(date(2025, 9, 4), quarantined=99)))
    (found,) = readings.quarantine_rate(settings, seen)
    assert (found.subject, found.value, found.is_bad) == ("NIFTY 2025-08-28", 2, True)
    assert found.todo.startswith("Look at them: expirytrack quarantine list NIFTY --expiry 2025-08-28")
    monkeypatch.setenv("EXPIRYTRACK_ALERT_QUARANTINE_PERCENT", "0")
    for bad_rows, verdict in ((1, "bad"), (0, "good")):
        seen = replace(look, cells=(cell(candles=9_800, quarantined=bad_rows),))
        assert verdicts(readings.quarantine_rate(load_settings(), seen)) == {"NIFTY 2025-08-28": verdict}


def test_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The home need not be there yet; more room than there is, is bad, and none is always there."""
    for wanted, verdict in (("1000000", "bad"), ("0", "good")):
        monkeypatch.setenv("EXPIRYTRACK_ALERT_DISK_GB", wanted)
        settings = load_settings()
        assert verdicts(readings.disk_free(settings)) == {str(settings.home): verdict}


def test_a_channel_that_fails_is_an_alert() -> None:
    """The third failure in a row is bad, and so is a vault that does not open; then both are good again."""
    states = {"mail": ChannelState("mail", None, 1, 3, "It is away.")}
    found = readings.delivery(["log", "mail"], states, "wrong passphrase.")
    assert verdicts(found) == {"log": "good", "mail": "bad", "vault": "bad"}
    assert found[1].sentence == "Alerts do not get through by mail: It is away."
    assert verdicts(readings.delivery(["mail"], {}, None)) == {"mail": "good", "vault": "good"}


def test_every_rule_is_measured(look: Overview) -> None:
    """With nothing asked, every rule is looked at; with a few requests, all but those that need many."""
    del look
    settings = load_settings()
    names: set[str] = set(readings.measure(settings, NOW, ["log"]))
    assert names == set(RULES)
    with open_state(settings).transaction() as connection:
        connection.execute(
            sql(
                "INSERT INTO requests (scope, endpoint, target, params, attempt, pid, started_at, lease_until,"
                " counted_at, status, outcome) VALUES ('account', 'candles', '', '', 1, 1, ?, ?, ?, 503, 'http_error')",
                *(NOW.timestamp() - 60,) * 3,
            ),
        )
    assert names - set(readings.measure(settings, NOW, ["log"])) == {"failure_rate", "response_time"}


def test_a_damaged_copy_keeps_nothing_else_from_being_judged(caplog: pytest.LogCaptureFixture) -> None:
    """The rules about cells are left alone, which leaves their alerts standing; the others are judged."""
    settings = load_settings()
    settings.published.mkdir(parents=True)
    (settings.published / "manifest.json").write_text("{", encoding="utf-8")
    found = readings.measure(settings, NOW, ["log"])
    assert set(found) == {"disk_free", "delivery", "failure_rate", "response_time"}
    assert "The cells are not looked at" in caplog.text


def test_both_sides_are_those_of_the_rules(look: Overview) -> None:
    """What a message says is wanted is what a reading is judged by."""
    settings = load_settings()
    seen = replace(look, cells=(cell(contracts=9, complete=9, candles=9_999),), running=(running(NOW),))
    found: dict[Name, list[Reading]] = {
        "token_life": readings.token_life(settings, seen),
        "disk_free": readings.disk_free(settings),
        "no_progress": readings.no_progress(settings, seen),
        "completeness": readings.completeness(settings, seen),
        "quarantine_rate": readings.quarantine_rate(settings, seen),
        "failure_rate": readings.failure_rate(settings, Settled(9, 9)),
        "response_time": readings.response_time(settings, Settled(9, 9)),
        "delivery": readings.delivery(["log"], {}, None),
    }
    assert all(one.wanted == RULES[name][1] for name, several in found.items() for one in several)
    assert {alert.name for alert in judge([], found, NOW).raised} == {"token_life", "failure_rate"}
