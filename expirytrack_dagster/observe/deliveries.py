"""Who has been told of what: each alert reaches each channel once when it is raised and once when it is over.

What a channel has to be told is kept beside the alerts, so that a failed delivery is tried again, after a minute at
first and after an hour at last, and what was delivered is not sent again, whoever looks. Everything that is due for a
channel goes in one message. While a process sends, the rows are lent to it; if it dies before it can note that the
channel took them, they are sent again when the loan is over, because told twice is better than never.

How a message travels belongs to `notifiers.py`; what is wrong, to `alerts.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Double, Text, bindparam, case, delete, func, insert, literal, select, update

from expirytrack_dagster.errors import NotSent
from expirytrack_dagster.ist import IST
from expirytrack_dagster.observe.alerts import COLUMNS, RULES, Alert, of_row
from expirytrack_dagster.observe.notifiers import Message
from expirytrack_dagster.state.tables import alert_deliveries, alerts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Connection, Insert

    from expirytrack_dagster.observe.notifiers import Notifier
    from expirytrack_dagster.state import StateDatabase

Event = Literal["raised", "recovered"]

LOAN = timedelta(minutes=5)
"""For how long a process that sends keeps others from sending the same; longer than any channel takes."""

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
_STALE = timedelta(days=3)  # what has been over for longer is not told any more
_AT_ONCE = 10  # alerts in a message; the command line shows all

_A, _D = alerts.c, alert_deliveries.c
_CHANNEL, _NOW = bindparam("of", type_=Text), bindparam("now", type_=Double)
_WAITS = (_D.channel == _CHANNEL, _D.delivered_at.is_(None))


def _tell(event: Event, condition: ColumnElement[bool]) -> Insert:
    """Return what notes that a channel has to be told of the alerts of a condition, unless that is noted already."""
    noted = alert_deliveries.alias()
    same = (noted.c.alert == _A.id, noted.c.event == event, noted.c.channel == _CHANNEL)
    told = select(_A.id, literal(event, Text), _CHANNEL, literal(0), _NOW)
    return insert(alert_deliveries).from_select(
        ["alert", "event", "channel", "attempts", "due_at"],
        told.where(condition, ~select(noted.c.alert).where(*same).exists()),
    )


# What stands is told to every channel, also to one that was added later; but none is told that it does not work.
_TO_TELL = _tell("raised", _A.recovered_at.is_(None) & ~((_A.name == "delivery") & (_A.subject == _CHANNEL)))
# What was never told of does not have to be told that it is over.
_TO_RECALL = _tell(
    "recovered",
    _A.recovered_at.is_not(None)
    & select(_D.alert).where(_D.alert == _A.id, _D.event == "raised", _D.channel == _CHANNEL).exists(),
)
_FORGET = delete(alert_deliveries).where(
    *_WAITS, _D.alert.in_(select(_A.id).where(_A.recovered_at < bindparam("stale")))
)
# What befell a subject is told in its order: what comes later waits for what was tried in vain, and so more often.
_OF, _EARLIER, _WAITING = alerts.alias(), alerts.alias(), alert_deliveries.alias()
_IS_NEXT = ~(
    select(_WAITING.c.alert)
    .join_from(_WAITING, _EARLIER, _EARLIER.c.id == _WAITING.c.alert)
    .join(_OF, (_OF.c.name == _EARLIER.c.name) & (_OF.c.subject == _EARLIER.c.subject))
    .where(_OF.c.id == _D.alert, _WAITING.c.channel == _D.channel)
    .where(_WAITING.c.delivered_at.is_(None), _WAITING.c.due_at > _NOW)
    .where(
        (_WAITING.c.alert < _D.alert)
        | ((_WAITING.c.alert == _D.alert) & (_WAITING.c.event != _D.event) & (_WAITING.c.event == "raised"))
    )
    .exists()
)
_DUE = (
    select(*COLUMNS, _D.alert, _D.event, _D.attempts)
    .join_from(alert_deliveries, alerts, _A.id == _D.alert)
    .where(*_WAITS, _D.due_at <= _NOW, _IS_NEXT)
    .order_by(case((_D.event == "raised", _A.raised_at), else_=_A.recovered_at), _D.alert)
)
_LEND = (
    update(alert_deliveries)
    .where(*_WAITS, _D.due_at <= _NOW, _IS_NEXT)
    .values(attempts=_D.attempts + 1, due_at=bindparam("until"))
)
_UNTOLD = _D.delivered_at.is_(None)
_STATES = (
    select(
        _D.channel,
        func.max(_D.delivered_at),
        func.count().filter(_UNTOLD),
        func.coalesce(func.max(_D.attempts).filter(_UNTOLD, _D.error.is_not(None)), 0),
        func.max(_D.error).filter(_UNTOLD),
    )
    .group_by(_D.channel)
    .order_by(_D.channel)
)
_HASTEN = update(alert_deliveries).where(*_WAITS, _D.error.is_not(None)).values(due_at=_NOW)
_NOTE = update(alert_deliveries).where(
    _D.alert == bindparam("number"), _D.event == bindparam("kind"), _D.channel == _CHANNEL
)


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What is known of a channel: when it took something last (UTC), what waits, and how often that was tried in vain.

    `error` says why the last try failed, None where nothing that waits has failed.
    """

    channel: str
    delivered_at: datetime | None = None
    waiting: int = 0
    failures: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Due:
    alert: Alert
    number: int
    event: Event
    attempts: int


def deliver(state: StateDatabase, notifiers: Collection[Notifier], now: datetime) -> dict[str, str]:
    """Tell every channel what it has not been told yet and is due, and return why channels did not take it.

    No error of a channel is raised. Raises StateBusy and StorageError where the state database cannot be used.
    """
    failed = {}
    for notifier in notifiers:
        due = _lent(state, notifier.channel, now)
        if not due:
            continue
        error: str | None = None
        try:
            notifier.send(message([(one.event, one.alert) for one in due], now))
        except NotSent as refusal:
            error = failed[notifier.channel] = str(refusal)
        except Exception as defect:  # noqa: BLE001 -- a channel's defect must not keep the others from being told
            error = failed[notifier.channel] = f"The channel failed: {type(defect).__name__}."
        _note(state, notifier.channel, due, error, now)
    return failed


def hasten(state: StateDatabase, channel: str, now: datetime) -> None:
    """Let what a channel did not take be due at once: somebody has just seen that it takes messages again."""
    at = {"of": channel, "now": state.now(now.timestamp())}
    state.write(lambda connection: connection.execute(_HASTEN, at))


def channel_states(state: StateDatabase) -> dict[str, ChannelState]:
    """Return what is known of each channel that was ever told something; takes no lock."""
    return {
        channel: ChannelState(
            channel, None if last is None else datetime.fromtimestamp(last, UTC), waiting, failures, error
        )
        for channel, last, waiting, failures, error in state.query(_STATES)
    }


def message(events: Sequence[tuple[Event, Alert]], now: datetime) -> Message:
    """Put what has to be told into words: what, since when, the value and its threshold, and what to do."""
    raised = sum(event == "raised" for event, _ in events)
    counts = [f"{number} {word}" for number, word in ((raised, "new"), (len(events) - raised, "over")) if number]
    event, first = events[0]
    what = f"{'over: ' if event == 'recovered' else ''}{first.sentence}" if len(events) == 1 else ", ".join(counts)
    texts = [_told(event, alert) for event, alert in events[:_AT_ONCE]]
    if len(events) > _AT_ONCE:
        texts.append(f"... and {len(events) - _AT_ONCE} more: run 'expirytrack alerts'.")
    names = [f"{event} {alert.name} {alert.subject} {alert.raised_at.timestamp()}" for event, alert in events]
    key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]
    return Message(f"ExpiryTrack: {what}", "\n\n".join(texts), key, now, urgent=raised > 0)


def trial_message(now: datetime) -> Message:
    """Return a message that tells nothing but that it got through."""
    text = f"This is a test, sent at {in_india(now)}: this channel is told of alerts."
    return Message("ExpiryTrack: a test", text, f"test-{now.timestamp():.6f}", now, urgent=False)


def in_india(moment: datetime) -> str:
    """Return a moment for a message."""
    return moment.astimezone(IST).strftime("%H:%M IST on %d %B %Y")


def measure(alert: Alert) -> str:
    """Return the value and the threshold of an alert with their unit."""
    unit, wanted = RULES[alert.name]
    return f"{_number(alert.value)} {unit}, wanted {wanted} {_number(alert.threshold)}"


def _number(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def _told(event: Event, alert: Alert) -> str:
    if event == "recovered" and alert.recovered_at is not None:
        return (
            f"OVER: {alert.ending}\n"
            f"It was: {alert.sentence}\n"
            f"From {in_india(alert.raised_at)} to {in_india(alert.recovered_at)}."
        )
    return f"ALERT: {alert.sentence}\nSince {in_india(alert.raised_at)}: {measure(alert)}.\nWhat to do: {alert.todo}"


def _lent(state: StateDatabase, channel: str, now: datetime) -> list[_Due]:
    """Borrow everything that is due for a channel."""
    at = state.now(now.timestamp())
    bound = {"of": channel, "now": at}

    def work(connection: Connection) -> list[tuple[Any, ...]]:
        connection.execute(_TO_TELL, bound)
        connection.execute(_TO_RECALL, bound)
        connection.execute(_FORGET, {"of": channel, "stale": at - _STALE.total_seconds()})
        rows = [tuple(row) for row in connection.execute(_DUE, bound)]
        connection.execute(_LEND, bound | {"until": at + LOAN.total_seconds()})
        return rows

    rows = state.write(work)
    return [_Due(of_row(alert), number, event, attempts + 1) for *alert, number, event, attempts in rows]


def _note(state: StateDatabase, channel: str, due: Sequence[_Due], error: str | None, now: datetime) -> None:
    """Note what became of a message, and give back what was borrowed."""
    at = state.now(now.timestamp())

    def work(connection: Connection) -> None:
        for one in due:
            pause = min(_FIRST_PAUSE * 2 ** min(one.attempts - 1, 10), _LONGEST_PAUSE)
            noted = _NOTE.values(
                delivered_at=at if error is None else None, error=error, due_at=at + pause.total_seconds()
            )
            connection.execute(noted, {"number": one.number, "kind": one.event, "of": channel})

    state.write(work)
