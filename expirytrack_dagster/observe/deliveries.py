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
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal

from expirytrack_dagster.errors import NotSent
from expirytrack_dagster.observe.alerts import RULES, Alert, of_row
from expirytrack_dagster.observe.notifiers import Message

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from expirytrack_dagster.observe.notifiers import Notifier
    from expirytrack_dagster.state import StateDatabase

Event = Literal["raised", "recovered"]

LOAN = timedelta(minutes=5)
"""For how long a process that sends keeps others from sending the same; longer than any channel takes."""

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
_STALE = timedelta(days=3)  # what has been over for longer is not told any more
_AT_ONCE = 10  # alerts in a message; the command line shows all
_IST = timezone(timedelta(hours=5, minutes=30))

# What stands is told to every channel, also to one that was added later; but none is told that it does not work.
_TO_TELL = """
INSERT OR IGNORE INTO alert_deliveries (alert, event, channel, due_at)
SELECT id, 'raised', :channel, :now FROM alerts
WHERE recovered_at IS NULL AND NOT (name = 'delivery' AND subject = :channel)
"""
# What was never told of does not have to be told that it is over.
_TO_RECALL = """
INSERT OR IGNORE INTO alert_deliveries (alert, event, channel, due_at)
SELECT id, 'recovered', :channel, :now FROM alerts JOIN alert_deliveries ON alert = id
WHERE recovered_at IS NOT NULL AND event = 'raised' AND channel = :channel
"""
_FORGET = """
DELETE FROM alert_deliveries WHERE delivered_at IS NULL AND channel = :channel
AND alert IN (SELECT id FROM alerts WHERE recovered_at < :stale)
"""
_DUE = """
SELECT name, subject, value, threshold, sentence, todo, raised_at, recovered_at, ending, alert, event, attempts
FROM alert_deliveries JOIN alerts ON id = alert
WHERE channel = :channel AND delivered_at IS NULL AND due_at <= :now
ORDER BY iif(event = 'raised', raised_at, recovered_at), alert
"""
_LEND = """
UPDATE alert_deliveries SET attempts = attempts + 1, due_at = :until
WHERE channel = :channel AND delivered_at IS NULL AND due_at <= :now
"""
_STATES = """
SELECT
    channel,
    max(delivered_at),
    count(*) FILTER (WHERE delivered_at IS NULL),
    coalesce(max(attempts) FILTER (WHERE delivered_at IS NULL AND error IS NOT NULL), 0),
    max(error) FILTER (WHERE delivered_at IS NULL)
FROM alert_deliveries GROUP BY channel ORDER BY channel
"""


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

    No error of a channel is raised. Raises StateLocked and StorageError where the state database cannot be used.
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
    with state.transaction() as connection:
        connection.execute(
            "UPDATE alert_deliveries SET due_at = ? WHERE channel = ? AND delivered_at IS NULL AND error IS NOT NULL",
            (now.timestamp(), channel),
        )


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
    return moment.astimezone(_IST).strftime("%H:%M IST on %d %B %Y")


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
    bound = {
        "channel": channel,
        "now": now.timestamp(),
        "until": (now + LOAN).timestamp(),
        "stale": (now - _STALE).timestamp(),
    }
    with state.transaction() as connection:
        for statement in (_TO_TELL, _TO_RECALL, _FORGET):
            connection.execute(statement, bound)
        rows = connection.execute(_DUE, bound).fetchall()
        connection.execute(_LEND, bound)
    return [_Due(of_row(alert), number, event, attempts + 1) for *alert, number, event, attempts in rows]


def _note(state: StateDatabase, channel: str, due: Sequence[_Due], error: str | None, now: datetime) -> None:
    """Note what became of a message, and give back what was borrowed."""
    with state.transaction() as connection:
        for one in due:
            pause = min(_FIRST_PAUSE * 2 ** min(one.attempts - 1, 10), _LONGEST_PAUSE)
            connection.execute(
                "UPDATE alert_deliveries SET delivered_at = ?, error = ?, due_at = ?"
                " WHERE alert = ? AND event = ? AND channel = ?",
                (
                    now.timestamp() if error is None else None,
                    error,
                    (now + pause).timestamp(),
                    one.number,
                    one.event,
                    channel,
                ),
            )
