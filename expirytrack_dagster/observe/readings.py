"""What alerts are judged by: each value as it is now, its two levels, and the words for it.

Everything is read from where it is kept anyway: requests from the ledger, cells from the published copy of the archive,
so that looking every minute holds up no collection. When a value becomes an alert is `alerts.py`. A new rule is a
function here, its name and unit there, and a setting for its threshold.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from expirytrack_dagster.collect.horizon import leaves_on, listings
from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.ist import IST
from expirytrack_dagster.observe.alerts import Name, Reading
from expirytrack_dagster.observe.deliveries import ChannelState, channel_states
from expirytrack_dagster.observe.lookout import Lookout, counted_often
from expirytrack_dagster.quality.outcome import plural
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.activity import settled
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster.upstox.tokens import login_command

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from pathlib import Path

    from expirytrack_dagster.collect.horizon import Listing
    from expirytrack_dagster.observe.overview import Overview
    from expirytrack_dagster.settings import Settings
    from expirytrack_dagster.upstox.activity import Settled

EASED = 0.8
"""A value that is wanted at most is good again at this share of its threshold, and one that is wanted at least, at its
inverse: one that flutters around the threshold does not get so far."""

FEWEST_REQUESTS = 20
FEWEST_ROWS = 1_000
"""Fewer say nothing about a share."""

TRIES_IN_VAIN = 2
"""So often a channel may fail before the others are told; the third failure is four minutes after the first."""

LOST_FOR = timedelta(days=30)
"""For how long it is an alert that a cell was lost; after that the counts of `status` alone say it."""

_GIGABYTE = 1e9
_LOG = logging.getLogger(__name__)


def measure(
    settings: Settings, now: datetime, channels: Collection[str], problem: str | None = None
) -> dict[Name, list[Reading]]:
    """Return the readings of every rule that can be looked at now (UTC).

    Args:
        settings: the thresholds, and where everything is kept.
        now: the moment.
        channels: who is told, as far as is known.
        problem: why there may be more channels.

    Raises:
        StateBusy, StorageError: the state database cannot be read.
    """
    state = open_state(settings)
    asked = settled(
        state, open_ledger(settings).all_scopes(), state.now(now.timestamp()), 60 * settings.alert_window_minutes
    )
    measured: dict[Name, list[Reading]] = {
        "disk_free": disk_free(settings),
        "delivery": delivery(channels, channel_states(state), problem),
    }
    if asked.requests == 0 or asked.requests >= FEWEST_REQUESTS:
        measured["failure_rate"] = failure_rate(settings, asked)
        measured["response_time"] = response_time(settings, asked)
    try:
        look = Lookout(settings, counted_often(settings)).look(now)
    except StorageError as error:
        _LOG.warning("The cells are not looked at for alerts: %s", error)
        return measured
    return measured | {
        "token_life": token_life(settings, look),
        "lost": lost(look, listings(state)),
        "horizon": horizon(settings, look),
        "no_progress": no_progress(settings, look),
        "completeness": completeness(settings, look),
        "quarantine_rate": quarantine_rate(settings, look),
    }


def token_life(settings: Settings, look: Overview) -> list[Reading]:
    """Judge the account's token, where anything is tracked; one of unknown life counts as good."""
    if not look.underlyings:
        return []
    token = look.token
    minutes = math.inf if token.seconds_left is None else token.seconds_left / 60
    return [
        _at_least(
            token.account,
            minutes,
            settings.token_warning_minutes,
            token.sentence,
            f"Run {login_command(token.account)}"
            + (" after 03:30 IST, when every token dies, however late it was made." if token.usable else "."),
            clear=settings.token_warning_minutes,
        )
    ]


def lost(look: Overview, known: Sequence[Listing]) -> list[Reading]:
    """Name the cells that left Upstox's list not long ago with contracts missing."""
    today = look.at.astimezone(IST).date()
    gone = {(one.underlying, one.expiry): one.gone for one in known if one.gone and today - one.gone < LOST_FOR}
    return [
        _at_most(
            f"{cell.underlying} {cell.expiry}",
            max(cell.unfinished, 1),
            0.0,
            f"{cell.underlying} {cell.expiry} has left Upstox's list with "
            f"{plural(cell.unfinished, 'contract') if cell.contracts else 'all its contracts'} missing.",
            "Nothing can be done for it any more. See what leaves next: expirytrack status.",
        )
        for cell in look.cells
        if (cell.underlying, cell.expiry) in gone and not cell.sealed
    ]


def horizon(settings: Settings, look: Overview) -> list[Reading]:
    """Name the cells that may leave Upstox's list soon: incomplete, or complete by now."""
    today, window = look.at.astimezone(IST).date(), look.horizon.days
    readings = [
        _at_least(
            f"{cell.underlying} {cell.expiry}",
            (cell.on - today).days - 1,
            settings.horizon_days,
            cell.sentence.partition(" Run: ")[0],
            f"Run: expirytrack collect {cell.underlying} --expiry {cell.expiry}",
        )
        for cell in look.horizon.leaving
    ]
    for cell in look.cells:
        leaves = leaves_on(cell.expiry, None if window is None else timedelta(days=window))
        if cell.sealed and leaves is not None and (leaves - today).days <= settings.horizon_days:
            sentence = f"{cell.underlying} {cell.expiry} is complete."
            readings.append(
                _at_least(f"{cell.underlying} {cell.expiry}", math.inf, settings.horizon_days, sentence, "Nothing.")
            )
    return readings


def disk_free(settings: Settings) -> list[Reading]:
    """Judge the room on the disk of the home."""
    free = shutil.disk_usage(_existing(settings.home)).free / _GIGABYTE
    return [
        _at_least(
            str(settings.home),
            free,
            settings.alert_disk_gb,
            f"The disk of {settings.home} has {free:.1f} GB of room.",
            "Make room, or move backups (EXPIRYTRACK_BACKUPS) to another disk: a full disk stops collections.",
        )
    ]


def failure_rate(settings: Settings, asked: Settled) -> list[Reading]:
    """Judge how many of the latest requests failed."""
    share = 100 * asked.failed / asked.requests if asked.requests else 0.0
    mostly = f", mostly {asked.mostly}" if asked.mostly else ""
    return [
        _at_most(
            "requests",
            share,
            settings.alert_failure_percent,
            f"{share:.1f} % of {plural(asked.requests, 'request')} in {settings.alert_window_minutes:g} minutes failed"
            f"{mostly}.",
            "Run 'expirytrack status' for what Upstox answers. An outage passes, and collection goes on by itself; "
            "HTTP 401 or 403 needs `expirytrack login`.",
        )
    ]


def response_time(settings: Settings, asked: Settled) -> list[Reading]:
    """Judge how long the slower answers took."""
    slowest = asked.slowest or 0.0
    return [
        _at_most(
            "answers",
            slowest,
            settings.alert_response_seconds,
            f"One answer in twenty takes {slowest:.1f} s or more, of {plural(asked.requests, 'request')} in "
            f"{settings.alert_window_minutes:g} minutes.",
            "Check the connection with 'expirytrack doctor'; fewer EXPIRYTRACK_WORKERS may help on a slow line.",
        )
    ]


def no_progress(settings: Settings, look: Overview) -> list[Reading]:
    """Judge for how long each cell that some process collects has heard nothing."""
    return [
        _at_most(
            f"{cell.underlying} {cell.expiry}",
            minutes := (look.at - cell.seen_at).total_seconds() / 60,
            settings.alert_stalled_minutes,
            f"{cell.underlying} {cell.expiry} is being collected and has made no progress for {minutes:.0f} minutes, "
            f"with {cell.answered:,} of {plural(cell.contracts, 'contract')} answered.",
            f"Run 'expirytrack status' for what holds requests up; if nothing does, end run {cell.run_id[:8]} in the "
            "Dagster UI: what has arrived is kept, and the next run asks only the rest.",
        )
        for cell in look.running
        if cell.phase != "ended"
    ]


def completeness(settings: Settings, look: Overview) -> list[Reading]:
    """Judge how many contracts of each underlying that were asked for are final; cells at work are left out."""
    running = {(cell.underlying, cell.expiry) for cell in look.running if cell.phase != "ended"}
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for cell in look.cells:
        if cell.contracts > cell.unasked and (cell.underlying, cell.expiry) not in running:
            counts[cell.underlying][0] += cell.contracts
            counts[cell.underlying][1] += cell.unfinished
    return [
        _at_least(
            name,
            share := 100 * (contracts - missing) / contracts,
            settings.alert_completeness_percent,
            clear=100 - (100 - settings.alert_completeness_percent) * EASED,
            sentence=f"{share:.1f} % of the {plural(contracts, 'contract')} of {name} that were asked for are complete "
            f"or proven empty; {missing:,} are not.",
            todo=f"Run: expirytrack collect {name}. It asks only what is missing, and says what Upstox refuses.",
        )
        for name, (contracts, missing) in sorted(counts.items())
    ]


def quarantine_rate(settings: Settings, look: Overview) -> list[Reading]:
    """Judge how many of the rows of each cell broke a rule."""
    return [
        _at_most(
            f"{cell.underlying} {cell.expiry}",
            share := 100 * cell.quarantined / rows,
            settings.alert_quarantine_percent,
            f"{share:.1f} % of the {rows:,} rows of {cell.underlying} {cell.expiry} are in quarantine.",
            f"Look at them: expirytrack quarantine list {cell.underlying} --expiry {cell.expiry}; then release or "
            "discard them.",
        )
        for cell in look.cells
        if (rows := cell.candles + cell.quarantined) >= FEWEST_ROWS
    ]


def delivery(channels: Collection[str], states: dict[str, ChannelState], problem: str | None) -> list[Reading]:
    """Judge how often each channel has failed to take what it has to be told; and whether the vault opens."""
    found = [states.get(channel, ChannelState(channel)) for channel in channels]
    readings = [
        _at_most(
            one.channel,
            one.failures,
            TRIES_IN_VAIN,
            f"Alerts do not get through by {one.channel}: {one.error}" if one.error else f"{one.channel} takes alerts.",
            "Mend its settings, and try them with 'expirytrack alerts test'; what was not delivered is sent then.",
        )
        for one in found
    ]
    failed = TRIES_IN_VAIN + 1 if problem else 0
    sentence = f"The vault does not open, so some channels are not told: {problem}" if problem else "The vault opens."
    readings.append(_at_most("vault", failed, TRIES_IN_VAIN, sentence, "Run 'expirytrack doctor'."))
    return readings


def _at_most(subject: str, value: float, threshold: float, sentence: str, todo: str) -> Reading:
    return Reading(subject, value, threshold, threshold * EASED, "at most", sentence, todo)


def _at_least(
    subject: str, value: float, threshold: float, sentence: str, todo: str, *, clear: float | None = None
) -> Reading:
    return Reading(subject, value, threshold, threshold / EASED if clear is None else clear, "at least", sentence, todo)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
