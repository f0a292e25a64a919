"""Answers with few rows (expiries, contracts, profile) from JSON to typed values, and contracts to columns.

Shapes follow the recorded answers of the API. Fields that are not named here are ignored, fields that the archive can
do without may be missing or null, `data` may be null but not missing, and a field of the wrong type is an error.
Candles, which are many, have their own way in `decode.py`; whether values make sense is for `quality/` to say.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import msgspec
import pandas as pd

from expirytrack_dagster.errors import MalformedResponse, TruncatedResponse
from expirytrack_dagster.upstox.refusals import excerpt

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """One expired contract as the API lists it.

    `instrument_key` is `SEGMENT|token|DD-MM-YYYY`, `tick_size` is in paise as sent, `lot_size` that of the contract's
    own time. Futures have neither `strike_price` nor `weekly`.
    """

    instrument_key: str
    expiry: date
    instrument_type: str
    lot_size: int
    minimum_lot: int
    trading_symbol: str | None = None
    exchange_token: str | None = None
    tick_size: float | None = None
    freeze_quantity: float | None = None
    strike_price: float | None = None
    weekly: bool | None = None
    segment: str | None = None
    exchange: str | None = None
    name: str | None = None
    underlying_key: str | None = None
    underlying_type: str | None = None
    underlying_symbol: str | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The account behind a token, as far as it is of use here."""

    user_id: str
    user_name: str | None = None
    broker: str | None = None
    is_active: bool | None = None
    exchanges: list[str] = []


class _Success(msgspec.Struct, Generic[T]):
    status: str
    data: T | None  # null means empty; a missing field does not


_EXPIRIES = msgspec.json.Decoder(_Success[list[date]])
_CONTRACTS = msgspec.json.Decoder(_Success[list[Contract]])
_PROFILE = msgspec.json.Decoder(_Success[Profile])


def decode_expiries(body: bytes) -> list[date]:
    """Return the expiries, ascending.

    Raises:
        TruncatedResponse: the body is no JSON or is cut off.
        MalformedResponse: it is JSON of another shape.
    """
    expiries = _data(_EXPIRIES, body)
    return sorted(expiries or [])


def decode_contracts(body: bytes) -> list[Contract]:
    """Return the contracts in the order received; raises like `decode_expiries`."""
    return _data(_CONTRACTS, body) or []


def decode_profile(body: bytes) -> Profile:
    """Return the profile, which cannot be empty; raises like `decode_expiries`."""
    profile = _data(_PROFILE, body)
    if profile is None:
        raise MalformedResponse(f"The profile is empty: {excerpt(body)}")
    return profile


def unreadable(error: Exception, body: bytes) -> NoReturn:
    """Raise our error for a decoder's: wrong shape, or no complete JSON at all; both show the body's beginning."""
    try:
        msgspec.json.decode(body)  # a typed decoder may stumble over the shape before it comes to the missing end
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise TruncatedResponse(f"The answer is cut off or no JSON ({error}): {excerpt(body)}") from error
    raise MalformedResponse(f"The answer is not of the documented shape ({error}): {excerpt(body)}") from error


def check_success(status: str, body: bytes) -> None:
    """Refuse an envelope that does not say success: a part of the data must not pass for all of it."""
    if status != "success":
        raise MalformedResponse(f"The answer's status is {excerpt(status.encode())!r}, not 'success': {excerpt(body)}")


def _data(decoder: msgspec.json.Decoder[_Success[T]], body: bytes) -> T | None:
    try:
        envelope = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        unreadable(error, body)
    check_success(envelope.status, body)
    return envelope.data


def contracts_frame(contracts: Sequence[Contract], underlying: str) -> pd.DataFrame:
    """Return one row a contract, in the order given.

    Columns: text (`instrument_key`, `underlying`, `instrument_type`, `trading_symbol`, `exchange_token`, `segment`,
    `name`, `underlying_key`), `expiry` as date objects, `lot_size` and `minimum_lot` int64, `strike_price` (NaN for
    futures), `tick_size` (paise) and `freeze_quantity` float64, `weekly` nullable boolean.

    Args:
        contracts: Contracts of one underlying.
        underlying: Its short symbol, such as NIFTY.
    """
    columns: dict[str, Any] = {}
    for name, dtype in _FRAME_TYPES.items():
        values = [underlying] * len(contracts) if name == "underlying" else [getattr(c, name) for c in contracts]
        columns[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(columns)


_FRAME_TYPES = {
    "instrument_key": "str",
    "underlying": "str",
    "expiry": "object",
    "instrument_type": "str",
    "strike_price": "float64",
    "trading_symbol": "str",
    "exchange_token": "str",
    "lot_size": "int64",
    "tick_size": "float64",
    "minimum_lot": "int64",
    "freeze_quantity": "float64",
    "weekly": "boolean",
    "segment": "str",
    "name": "str",
    "underlying_key": "str",
}
