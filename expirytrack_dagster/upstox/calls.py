"""What a request asks, and what became of it: the words that the client, the ledger and the breaker share.

Only these records belong here; how they are kept belongs to `ledger.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Endpoint = Literal["expiries", "option_contracts", "future_contracts", "candles", "profile"]
Outcome = Literal["ok", "http_error", "network_error", "malformed", "abandoned"]


@dataclass(frozen=True, slots=True)
class Call:
    """What one request asks: an endpoint, the instrument key it is about, and the other parameters as text."""

    endpoint: Endpoint
    target: str = ""
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a request; times are seconds since the epoch, `bytes` the decompressed body.

    `counted_at` is the arrival of the answer, None when none came.
    """

    outcome: Outcome
    counted_at: float | None = None
    status: int | None = None
    error_code: str | None = None
    bytes: int | None = None
    rows: int | None = None
    first_ts: int | None = None
    last_ts: int | None = None
