"""What is wrong now, what was, and when a measured value makes the one into the other.

`judge` is pure: readings in, alerts raised and recovered out. An alert is raised once, however often its value is
measured, and recovers once, when the value is on the good side of a second level (`clear`), so that one that flutters
around its threshold is told once. The rest keeps alerts in the state database. What is measured, and in which words it
is told, belongs to `readings.py`; telling people, to `deliveries.py` and `notifiers.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from sqlalchemy import bindparam, delete, insert, select, update

from expirytrack_dagster.state.tables import alerts as _ALERTS  # noqa: N812 -- a table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

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

Wanted: TypeAlias = Literal["at most", "at least"]

RULES: dict[str, tuple[str, Wanted]] = {
    "token_life": ("minutes left", "at least"),
    "lost": ("contracts missing", "at most"),
    "horizon": ("days left", "at least"),
    "disk_free": ("GB free", "at least"),
    "failure_rate": ("%", "at most"),
    "response_time": ("seconds", "at most"),
    "no_progress": ("minutes", "at most"),
    "completeness": ("%", "at least"),
    "quarantine_rate": ("%", "at most"),
    "delivery": ("failed tries", "at most"),
}
"""The unit of each rule's values, and on which side of its threshold they are wanted."""

KEPT = timedelta(days=90)
"""For how long an alert that is over is remembered."""

_ROW = _ALERTS.c
COLUMNS = (
    _ROW.name,
    _ROW.subject,
    _ROW.value,
    _ROW.threshold,
    _ROW.sentence,
    _ROW.todo,
    _ROW.raised_at,
    _ROW.recovered_at,
    _ROW.ending,
)
"""An alert's columns in the order of its fields."""
_STANDING = select(*COLUMNS).where(_ROW.recovered_at.is_(None)).order_by(_ROW.id)
_END = update(_ALERTS).where(
    _ROW.name == bindparam("of"), _ROW.subject == bindparam("about"), _ROW.recovered_at.is_(None)
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A value as it is at this moment, and the two levels that it is held against, all in one unit.

    A value that is wanted `at most` is bad above `threshold` and good again at `clear` or below, and the other way
    round; between the two nothing changes. `sentence` says what is, `todo` what to do if that is bad.
    """

    subject: str
    value: float
    threshold: float
    clear: float
    wanted: Wanted
    sentence: str
    todo: str

    @property
    def is_bad(self) -> bool:
        """The value is past the threshold."""
        return self.value > self.threshold if self.wanted == "at most" else self.value < self.threshold

    @property
    def is_good(self) -> bool:
        """The value is back at the clear level, or further from the threshold."""
        return self.value <= self.clear if self.wanted == "at most" else self.value >= self.clear


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
    return [of_row(row) for row in state.query(_STANDING)]


def recent(state: StateDatabase, limit: int) -> list[Alert]:
    """Return the alerts that were raised last, the newest first, whether they stand or not; takes no lock."""
    return [of_row(row) for row in state.query(select(*COLUMNS).order_by(_ROW.id.desc()).limit(limit))]


def record(state: StateDatabase, measured: Measured, now: datetime) -> Judgement:
    """Judge what was measured and keep what has changed; what has been over for long is forgotten.

    All in one transaction, so that of two processes that see the same only one raises it.
    """

    def work(connection: Connection) -> Judgement:
        judgement = judge([of_row(row) for row in connection.execute(_STANDING)], measured, now)
        for alert in judgement.recovered:
            over = _END.values(recovered_at=now.timestamp(), ending=alert.ending)
            connection.execute(over, {"of": alert.name, "about": alert.subject})
        for alert in judgement.raised:
            connection.execute(insert(_ALERTS), asdict(alert) | {"raised_at": now.timestamp()})
        connection.execute(delete(_ALERTS).where(_ROW.recovered_at < (now - KEPT).timestamp()))
        return judgement

    return state.write(work)


def _raised(name: str, reading: Reading, now: datetime) -> Alert:
    return Alert(name, reading.subject, reading.value, reading.threshold, reading.sentence, reading.todo, now)


def of_row(row: Sequence[Any]) -> Alert:
    """Return the alert of a row of its table, the columns in the order of the fields."""
    name, subject, value, threshold, sentence, todo, raised_at, recovered_at, ending = row
    over = None if recovered_at is None else _moment(recovered_at)
    return Alert(name, subject, value, threshold, sentence, todo, _moment(raised_at), over, ending)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
