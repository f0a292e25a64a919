"""What is wrong now, what was, and when a measured value makes the one into the other.

`judge` is pure: readings in, alerts raised and recovered out. An alert is raised once, however often its value is
measured, and recovers once, when the value is on the good side of a second level (`clear`), so that one that flutters
around its threshold is told once. The rest keeps alerts in the state database. What is measured, and in which words it
is told, belongs to `readings.py`; telling people, to `deliveries.py` and `notifiers.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from expirytrack_dagster.state import StateDatabase

Name: TypeAlias = Literal[
    "token_life",
    "lost",
    "horizon",
    "disk_free",
    "failure_rate",
    "response_time",
    "no_progress",
    "completeness",
    "quarantine_rate",
    "delivery",
]
"""The rules, in the order in which alerts of one moment are told."""

KEPT = timedelta(days=90)
"""For how long an alert that is over is remembered."""

_SELECT = "SELECT name, subject, value, threshold, sentence, todo, raised_at, recovered_at, ending, id FROM alerts"
_STANDING = f"{_SELECT} WHERE recovered_at IS NULL ORDER BY id"
_RECENT = f"{_SELECT} ORDER BY id DESC LIMIT ?"
_RAISE = """
INSERT INTO alerts (name, subject, value, threshold, sentence, todo, raised_at)
VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """A value as it is at this moment, and the two levels that it is held against, all in one unit.

    Where `clear` is below `threshold`, a value above the threshold is bad, and is good again at `clear` or below; where
    it is above, a value below the threshold is bad. `sentence` says what is, `todo` what to do if that is bad.
    """

    subject: str
    value: float
    threshold: float
    clear: float
    sentence: str
    todo: str

    @property
    def is_bad(self) -> bool:
        """The value is past the threshold."""
        return self.value > self.threshold if self.clear < self.threshold else self.value < self.threshold

    @property
    def is_good(self) -> bool:
        """The value is back at the clear level, or further from the threshold."""
        return self.value <= self.clear if self.clear < self.threshold else self.value >= self.clear


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong, or was. Times are UTC; `recovered_at` and `ending` are None while it stands.

    `value` is the one that raised it, in the unit of `threshold`; `ending` says how things were when it was over.
    """

    name: str
    subject: str
    value: float
    threshold: float
    sentence: str
    todo: str
    raised_at: datetime
    recovered_at: datetime | None = None
    ending: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What has changed at one moment."""

    raised: tuple[Alert, ...] = ()
    recovered: tuple[Alert, ...] = ()


Measured: TypeAlias = "Mapping[Name, Sequence[Reading]]"
"""The readings of each rule that was looked at: all of its subjects that there are.

A rule that is missing was not looked at, and its alerts stand. A subject that is missing in its rule's readings is not
there any more, and its alert is over.
"""


def judge(standing: Iterable[Alert], measured: Measured, now: datetime) -> Judgement:
    """Say which alerts begin and which end at this moment (UTC).

    Args:
        standing: the alerts that stand.
        measured: readings by rule; of a subject at most one.
        now: the moment of the readings.
    """
    known = {(alert.name, alert.subject): alert for alert in standing}
    read: dict[tuple[str, str], Reading] = {
        (name, reading.subject): reading for name in get_args(Name) for reading in measured.get(name, ())
    }
    raised = [_raised(name, reading, now) for (name, _), reading in read.items() if reading.is_bad]
    recovered = []
    for key, alert in known.items():
        reading = read.get(key)
        if reading is not None and reading.is_good:
            recovered.append(replace(alert, recovered_at=now, ending=reading.sentence))
        elif reading is None and alert.name in measured:
            recovered.append(replace(alert, recovered_at=now, ending=f"{alert.subject} is no longer judged."))
    return Judgement(tuple(alert for alert in raised if (alert.name, alert.subject) not in known), tuple(recovered))


def standing(state: StateDatabase) -> list[Alert]:
    """Return the alerts that stand, the oldest first; takes no lock."""
    return [_alert(row) for row in state.query(_STANDING)]


def recent(state: StateDatabase, limit: int) -> list[Alert]:
    """Return the alerts that were raised last, the newest first, whether they stand or not; takes no lock."""
    return [_alert(row) for row in state.query(_RECENT, (limit,))]


def record(state: StateDatabase, measured: Measured, now: datetime, channels: Collection[str]) -> Judgement:
    """Judge what was measured, keep what has changed, and note which channels have to be told of it.

    All in one transaction, so that of two processes that see the same only one raises it. What is long over is
    forgotten.
    """
    with state.transaction() as connection:
        rows = connection.execute(_STANDING).fetchall()
        ids = {(row[0], row[1]): row[-1] for row in rows}
        judgement = judge([_alert(row) for row in rows], measured, now)
        for alert in judgement.recovered:
            number = ids[alert.name, alert.subject]
            connection.execute(
                "UPDATE alerts SET recovered_at = ?, ending = ? WHERE id = ?", (now.timestamp(), alert.ending, number)
            )
            _to_tell(connection, number, "recovered", channels, now)
        for alert in judgement.raised:
            facts = (alert.name, alert.subject, alert.value, alert.threshold, alert.sentence, alert.todo)
            (number,) = connection.execute(_RAISE, (*facts, now.timestamp())).fetchone()
            _to_tell(connection, number, "raised", channels, now)
        connection.execute("DELETE FROM alerts WHERE recovered_at < ?", ((now - KEPT).timestamp(),))
    return judgement


def _raised(name: str, reading: Reading, now: datetime) -> Alert:
    return Alert(name, reading.subject, reading.value, reading.threshold, reading.sentence, reading.todo, now)


def _to_tell(connection: sqlite3.Connection, number: int, event: str, channels: Collection[str], now: datetime) -> None:
    connection.executemany(
        "INSERT INTO alert_deliveries (alert, event, channel, due_at) VALUES (?, ?, ?, ?)",
        [(number, event, channel, now.timestamp()) for channel in channels],
    )


def _alert(row: tuple[Any, ...]) -> Alert:
    *facts, raised_at, recovered_at, ending, _ = row
    return Alert(
        *facts,
        raised_at=_moment(raised_at),
        recovered_at=None if recovered_at is None else _moment(recovered_at),
        ending=ending,
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
