"""What the contracts of a chain say about each other: four checks over all days of a cell, day by day.

A row that breaks no rule of its own may still be impossible beside the others: a call that costs more than the next
lower strike, an open interest that grows tenfold overnight. Such findings warn and are never fatal: nobody can tell
from the chain alone which of two prices is the wrong one, so no row is dropped. The rules about prices are in
`chain_day`, the rule about open interest is here. Reading rows belongs to the caller, who hands over one day at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.candle_rules import MINUTE, microseconds
from expirytrack_dagster.quality.chain_day import (
    Finding,
    Ints,
    chain_day,
    intrinsic_value,
    order_of_strikes,
    put_call_parity,
)
from expirytrack_dagster.quality.outcome import MAX_SHOWN, CheckOutcome, plural, shown
from expirytrack_dagster.quality.rules import number, require_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import date

    from expirytrack_dagster.quality.chain_day import ChainDay

MONOTONIC_STRIKES = "monotonic_strikes"
INTRINSIC_VALUE = "intrinsic_value"
PUT_CALL_PARITY = "put_call_parity"
OPEN_INTEREST_JUMPS = "open_interest_jumps"
COLUMNS = (
    "ts",
    "instrument_key",
    "instrument_type",
    "strike_price",
    "high",
    "low",
    "close",
    "volume",
    "open_interest",
    "tick_size",
)
"""Of a day's rows: those of candles and contracts, tick_size in paise."""

JUMP_FACTOR = 5.0
"""Open interest that changes by less than this factor from bar to bar is never reported."""
PUBLISHED_WITHIN = 15
"""Minutes within which the exchange has published the effect of a trade on open interest; it does so every three."""
PART_ROWS = 50_000
"""Rows whose prices are judged together, at most; a day of 450 liquid contracts has more than three times as many."""
MAX_SPOTS = 5_000
"""Violations of a check that are kept for a picture, the worst of each day first."""

_PRICE_RULES: dict[str, Callable[[ChainDay], Finding]] = {
    MONOTONIC_STRIKES: order_of_strikes,
    INTRINSIC_VALUE: intrinsic_value,
    PUT_CALL_PARITY: put_call_parity,
}
_WORDS = {
    MONOTONIC_STRIKES: (
        "pair",
        " of neighbouring strikes",
        "{price}, but the neighbour that must be dearer costs {bound}",
    ),
    INTRINSIC_VALUE: ("option price", "", "{price} is less than the intrinsic value {bound}"),
    PUT_CALL_PARITY: ("pair", " of call and put", "call less put is {price}, the forward allows {bound}"),
    OPEN_INTEREST_JUMPS: ("pair", " of consecutive bars", "open interest goes from {bound} to {price}"),
}
"""What is judged (a noun and what follows it), and what is wrong with a violation."""


@dataclass(frozen=True)
class ChainReport:
    """What was found in a chain.

    Attributes:
        outcomes: one for each check, never fatal; `failing` has the worst rows first.
        spots: check, ts, strike_price (NaN for a future): where the violations lie, at most `MAX_SPOTS` a check.
    """

    outcomes: list[CheckOutcome]
    spots: pd.DataFrame


def judge_chain(days: Iterable[pd.DataFrame], expiry: date) -> ChainReport:
    """Judge a chain; memory holds one day at a time.

    Args:
        days: the rows of each trading day (IST), ascending, with the columns `COLUMNS`; ts datetime64[us, UTC], each
            day sorted by instrument_key and ts, one row a bar.
        expiry: of the contracts, a date in IST.

    Raises:
        UnfitData: a column is missing.
    """
    tallies = {name: _Tally(name) for name in (*_PRICE_RULES, OPEN_INTEREST_JUMPS)}
    interest = _OpenInterest()
    for rows in days:
        require_columns(rows, COLUMNS)
        for part in _parts(rows):
            day = chain_day(part, expiry)
            for name, rule in _PRICE_RULES.items():
                tallies[name].add_prices(rule(day), day, part)
        interest.judge(rows, tallies[OPEN_INTEREST_JUMPS])
    spots = [tally.spots.assign(check=name) for name, tally in tallies.items()]
    return ChainReport([tally.outcome() for tally in tallies.values()], pd.concat(spots, ignore_index=True))


def _parts(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield a day's rows some minutes at a time: prices are judged by the minute, a wide chain's matrices are large."""
    instants = microseconds(rows["ts"])
    for minutes in np.array_split(np.unique(instants), -(-len(rows) // PART_ROWS)):
        yield rows[(instants >= minutes[0]) & (instants <= minutes[-1])]


@dataclass(slots=True)
class _Tally:
    """Adds up the findings of one check: counts of all, the worst rows in words, places for a picture."""

    name: str
    judged: int = 0
    minutes: int = 0
    violations: int = 0
    worst: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["excess"]))
    spots: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(
            {"ts": pd.Series(dtype="datetime64[us, UTC]"), "strike_price": pd.Series(dtype="float64")}
        )
    )

    def add_prices(self, found: Finding, day: ChainDay, rows: pd.DataFrame) -> None:
        """Add a day's findings of a rule about prices."""
        self._add(
            found.judged,
            found.minutes,
            pd.DataFrame(
                {
                    "ts": _instants(day.instants[found.minute]),
                    "instrument_type": found.kind,
                    "strike_price": day.strikes[found.strike],
                    "price": found.price,
                    "bound": found.bound,
                    "excess": found.excess,
                }
            ),
            rows,
        )

    def add_bars(self, judged: int, minutes: int, violations: pd.DataFrame, rows: pd.DataFrame) -> None:
        """Add a day's findings about bars: ts, instrument_type, strike_price, price, bound, excess."""
        self._add(judged, minutes, violations, rows)

    def outcome(self) -> CheckOutcome:
        """Return the outcome over all days."""
        noun, more, _ = _WORDS[self.name]
        judged = plural(self.judged, noun) + more
        worst = float(self.worst["excess"].iloc[0]) if len(self.worst) else 0.0
        share = 100 * self.violations / self.judged if self.judged else 0.0
        if not self.judged:
            summary = "Nothing of this cell can be judged: no two contracts traded in the same minute."
        elif self.violations:
            summary = (
                f"{self.violations:,} of {judged} cannot be: the worst come first. Every row is kept; compare them "
                "with another source before you use these minutes."
            )
        else:
            summary = f"{judged} in {plural(self.minutes, 'minute')}: nothing impossible among them."
        return CheckOutcome(
            name=self.name,
            passed=self.violations == 0,
            fatal=False,
            summary=summary,
            counts={
                "minutes": self.minutes,
                "judged": self.judged,
                "violations": self.violations,
                "violations_percent": round(share, 4),
                "worst": round(worst, 2),
            },
            failing=shown(self.worst),
        )

    def _add(self, judged: int, minutes: int, violations: pd.DataFrame, rows: pd.DataFrame) -> None:
        self.judged += judged
        self.minutes += minutes
        self.violations += len(violations)
        if len(violations):
            violations = violations.sort_values("excess", ascending=False, kind="stable")
            told = _told(violations.head(MAX_SHOWN), rows, _WORDS[self.name][2])
            self.worst = pd.concat([self.worst, told]) if len(self.worst) else told
            self.worst = self.worst.sort_values("excess", ascending=False, kind="stable").head(MAX_SHOWN)
            room = MAX_SPOTS - len(self.spots)
            self.spots = pd.concat([self.spots, violations[["ts", "strike_price"]].head(room)], ignore_index=True)


class _OpenInterest:
    """Judges open interest from bar to bar, across the night too: of the day before, only last bars are kept.

    A trade of some units changes open interest by no more than these, so a jump is a change by a factor that is also
    more than all that was traded since `PUBLISHED_WITHIN` minutes before the bar before.
    """

    def __init__(self) -> None:
        self._before = pd.DataFrame(columns=["instrument_key", "ts", "volume", "open_interest"])

    def judge(self, rows: pd.DataFrame, tally: _Tally) -> None:
        """Judge a day and remember its last bars."""
        day = rows[["instrument_key", "ts", "volume", "open_interest"]]
        if len(self._before):
            day = pd.concat([self._before, day], ignore_index=True)
        contract, keys = pd.factorize(day["instrument_key"])
        minute = microseconds(day["ts"]) // MINUTE
        order = np.argsort(contract, kind="stable")  # the bar of the day before comes first
        contract, minute = contract[order], minute[order]
        volume, interest = (day[name].to_numpy(dtype=np.int64)[order] for name in ("volume", "open_interest"))
        here = np.flatnonzero(contract[1:] == contract[:-1]) + 1
        before = here - 1
        change = np.abs(interest[here] - interest[before])
        least, most = np.minimum(interest[here], interest[before]), np.maximum(interest[here], interest[before])
        suspect = here[most > JUMP_FACTOR * np.maximum(least, 1)]
        traded = _traded(contract, minute, volume, suspect)
        wrong = suspect[change[np.searchsorted(here, suspect)] > traded]
        known = rows.drop_duplicates("instrument_key").set_index("instrument_key")
        named = known.reindex(keys[contract[wrong]])
        tally.add_bars(
            len(here),
            len(np.unique(minute[here])),
            pd.DataFrame(
                {
                    "ts": _instants(minute[wrong] * MINUTE),
                    "instrument_type": named["instrument_type"].to_numpy(),
                    "strike_price": named["strike_price"].to_numpy(),
                    "price": interest[wrong].astype(np.float64),
                    "bound": interest[wrong - 1].astype(np.float64),
                    "excess": np.abs(interest[wrong] - interest[wrong - 1]).astype(np.float64),
                }
            ),
            rows,
        )
        ends = np.flatnonzero(np.append(contract[1:] != contract[:-1], True)) if len(contract) else order
        # The volume of a remembered bar is that of its whole day, and it counts once: on the next day of its contract.
        remembered = np.append(True, contract[1:] != contract[:-1]) & (order < len(self._before))
        silent = remembered & np.append(contract[1:] != contract[:-1], True)
        whole_day = np.bincount(contract, weights=np.where(remembered & ~silent, 0, volume)).astype(np.int64)
        self._before = pd.DataFrame(
            {
                "instrument_key": keys,
                "ts": _instants(minute[ends] * MINUTE),
                "volume": whole_day,
                "open_interest": interest[ends],
            }
        )


def _traded(contract: Ints, minute: Ints, volume: Ints, at: Ints) -> Ints:
    """Return what each contract traded from `PUBLISHED_WITHIN` minutes before the bar before `at`, `at` included."""
    if not len(at):
        return np.empty(0, dtype=np.int64)
    # One number that grows with contract, then time, so that one search finds where each window starts.
    span = minute.max() - minute.min() + 1
    place = contract * span + (minute - minute.min())
    opening = np.maximum(minute[at - 1] - PUBLISHED_WITHIN - minute.min(), 0)
    start = np.searchsorted(place, contract[at] * span + opening)
    total = np.append(0, np.cumsum(volume))
    traded: Ints = total[at + 1] - total[start]
    return traded


def _told(violations: pd.DataFrame, rows: pd.DataFrame, words: str) -> pd.DataFrame:
    """Return violations for people: time in IST, contract, what is wrong, by how much."""
    contracts = rows.drop_duplicates("instrument_key")[["instrument_key", "instrument_type", "strike_price"]]
    named = violations.merge(contracts, on=["instrument_type", "strike_price"], how="left")
    strikes = named["strike_price"]
    return pd.DataFrame(
        {
            "time": named["ts"].dt.tz_convert(IST).dt.strftime("%Y-%m-%d %H:%M IST"),
            "instrument_key": named["instrument_key"],
            "contract": [
                kind if pd.isna(strike) else f"{number(strike)} {kind}"
                for kind, strike in zip(named["instrument_type"], strikes, strict=True)
            ],
            "detail": [
                words.format(price=number(round(price, 2)), bound=number(round(bound, 2)))
                for price, bound in zip(named["price"], named["bound"], strict=True)
            ],
            "excess": named["excess"].round(2),
        }
    )


def _instants(microseconds_utc: Ints) -> pd.Series:
    return pd.Series(pd.DatetimeIndex(microseconds_utc.view("datetime64[us]"), tz="UTC"))
