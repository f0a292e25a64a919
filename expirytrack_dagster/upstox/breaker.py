"""The circuit breaker: after some failures in a row nobody asks for a while, then one request tries for all.

The rules of opening, trying and closing belong here, as pure functions of a circuit's state and the time; the state is
shared by all processes in the state database (`scopes.py`), and `ledger.py` applies the rules in its transactions.

- **Closed.** Five failures in a row (a setting) open the circuit. Only the first try of a call counts: that the same
  request fails again says nothing new about the API, and two broken contracts must not stop a cell.
- **Open.** The first opening lasts as long as a retry's pause would (5 s) and is waited out, so that a restarting
  server costs no contract. If it did not help, every call raises `CircuitOpen` at once; openings double up to 10 min.
- **Half-open.** Exactly one request of all processes tries; the others wait for its answer. Its success closes the
  circuit, its failure opens it for longer. If its process dies, its lease ends and another one tries. An answer that
  says nothing about the API's health (429, a cancellation) leaves the trying to another one too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from expirytrack_dagster.errors import CircuitOpen
from expirytrack_dagster.ist import IST
from expirytrack_dagster.upstox.refusals import EDGE_BAN, EDGE_PAGE, EDGE_RATE_LIMIT

if TYPE_CHECKING:
    from expirytrack_dagster.upstox.calls import Receipt

LONGEST_PAUSE = 600.0
PROBE_POLL = 0.5
"""Seconds between two looks at whether the one request that tries has been answered."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """The state of one circuit; times are seconds since the epoch, `openings` counts since it was last closed."""

    failures: int = 0
    openings: int = 0
    open_until: float = 0.0
    reason: str = ""
    probe: int | None = None

    def state(self, now: float) -> Literal["closed", "open", "half-open"]:
        """Return `closed`, `open` or `half-open`."""
        if not self.openings:
            return "closed"
        return "open" if now < self.open_until else "half-open"


@dataclass(frozen=True, slots=True)
class Breaker:
    """The two numbers of the rules: failures in a row that open a circuit, and seconds of its first opening."""

    failures: int = 5
    pause: float = 5.0

    @property
    def longest_pause(self) -> float:
        """Seconds of the longest opening."""
        return max(self.pause, LONGEST_PAUSE)

    def seconds_to_wait(self, circuit: Circuit, now: float, probe_lease: float | None) -> float:
        """Return how long the circuit holds a request back; 0 means that it may go, as the probe if half-open.

        Args:
            circuit: The state that all processes share.
            now: Seconds since the epoch.
            probe_lease: Seconds after which the probe cannot be under way any more, None if none is.

        Raises:
            CircuitOpen: the first opening did not help, and the present one lasts.
        """
        state = circuit.state(now)
        if state == "closed":
            return 0.0
        if state == "half-open":
            return 0.0 if probe_lease is None else min(PROBE_POLL, probe_lease)
        if circuit.openings > 1:
            until = datetime.fromtimestamp(circuit.open_until, IST)
            raise CircuitOpen(
                f"Nothing is sent to Upstox until {until:%H:%M:%S} IST, because its answers keep failing (the last "
                f"one: {circuit.reason}): run the same command again then."
            )
        return circuit.open_until - now

    def after(self, circuit: Circuit, request_id: int, receipt: Receipt, *, first_try: bool, now: float) -> Circuit:
        """Return the circuit after the answer to a request, or the lack of one.

        Args:
            circuit: The state before.
            request_id: The settled request; while the circuit is not closed, only the probe's outcome counts.
            receipt: What became of it.
            first_try: False for a retry, which does not add to the failures in a row.
            now: Seconds since the epoch.
        """
        healthy = is_healthy(receipt)
        if circuit.openings:
            if request_id != circuit.probe:
                return circuit
            if healthy is None:
                return replace(circuit, probe=None)
            return Circuit() if healthy else self._opened(circuit, receipt, now)
        if healthy:
            return Circuit()
        if healthy is None or not first_try:
            return circuit
        failed = replace(circuit, failures=circuit.failures + 1)
        return self._opened(failed, receipt, now) if failed.failures >= self.failures else failed

    def _opened(self, circuit: Circuit, receipt: Receipt, now: float) -> Circuit:
        # Openings stop being counted where they stop mattering, so that the power stays small.
        pause = min(self.pause * 2.0 ** min(circuit.openings, 60), self.longest_pause)
        return Circuit(circuit.failures, circuit.openings + 1, now + pause, _words(receipt))


def is_healthy(receipt: Receipt) -> bool | None:
    """Say whether a receipt shows that the API works; None if it says nothing about that.

    A refusal of this one request (4xx) shows that it does; one for the rate is the cool-down's affair.
    """
    if receipt.outcome in {"network_error", "malformed"} or receipt.error_code in {EDGE_BAN, EDGE_PAGE}:
        return False
    if receipt.outcome == "abandoned" or receipt.error_code == EDGE_RATE_LIMIT:
        return None
    status = receipt.status or HTTPStatus.OK
    return None if status == HTTPStatus.TOO_MANY_REQUESTS else status < HTTPStatus.INTERNAL_SERVER_ERROR


def _words(receipt: Receipt) -> str:
    if receipt.outcome == "network_error":
        return "no answer"
    if receipt.outcome == "malformed":
        return "a body that is not whole or not of the documented shape"
    page = "a web page, " if receipt.error_code in {EDGE_BAN, EDGE_PAGE} else ""
    return f"{page}HTTP {receipt.status}"
