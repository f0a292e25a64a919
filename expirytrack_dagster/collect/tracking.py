"""The underlyings that a user tracks, by short symbol.

The symbol is the partition key of every asset (`|` cannot stand in a Dagster partition key), the instrument key is
what the API is asked with. Both live in the state database, so that an underlying is added without code or restart.
Finding the key of a symbol is `upstox/instruments.py`'s job; Dagster's partitions are `partitions.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.state.tables import underlyings
from expirytrack_dagster.symbology.contract import UNDERLYING

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from expirytrack_dagster.state import StateDatabase


@dataclass(frozen=True, slots=True)
class Underlying:
    """A tracked underlying: `NIFTY`, `NSE_INDEX|Nifty 50`."""

    symbol: str
    instrument_key: str


def check_symbol(text: str) -> str:
    """Return the symbol in capitals.

    Raises:
        ConfigurationError: it cannot be a partition key, a folder name and a symbol at once.
    """
    symbol = text.strip().upper()
    if not UNDERLYING.fullmatch(symbol):
        raise ConfigurationError(
            f"'{text[:40]}' is no symbol: use letters, digits, '&', '-', '_' and '.', such as NIFTY or M&M."
        )
    return symbol


def track(state: StateDatabase, symbol: str, instrument_key: str) -> Underlying:
    """Remember an underlying; tracking the same one again changes nothing.

    Raises:
        ConfigurationError: the symbol stands for another key already, or the key for another symbol.
    """
    symbol = check_symbol(symbol)
    for other in tracked(state):
        if other.symbol == symbol and other.instrument_key != instrument_key:
            raise ConfigurationError(
                f"{symbol} already stands for {other.instrument_key}: run 'expirytrack untrack {symbol}' first, "
                "or choose another symbol."
            )
        if other.instrument_key == instrument_key and other.symbol != symbol:
            raise ConfigurationError(f"{instrument_key} is already tracked as {other.symbol}.")
    row = {"symbol": symbol, "instrument_key": instrument_key, "tracked_at": state.now()}

    def work(connection: Connection) -> None:
        if not connection.execute(select(underlyings).where(underlyings.c.symbol == symbol)).first():
            connection.execute(insert(underlyings), row)

    state.write(work)
    return Underlying(symbol, instrument_key)


def untrack(state: StateDatabase, symbol: str) -> bool:
    """Forget an underlying (its collected data stays); say whether it was tracked."""
    forget = delete(underlyings).where(underlyings.c.symbol == check_symbol(symbol))
    return state.write(lambda connection: connection.execute(forget).rowcount > 0)


def tracked(state: StateDatabase) -> list[Underlying]:
    """Return all tracked underlyings, by symbol."""
    known = select(underlyings.c.symbol, underlyings.c.instrument_key).order_by(underlyings.c.symbol)
    return [Underlying(*row) for row in state.query(known)]


def find(state: StateDatabase, symbol: str) -> Underlying:
    """Return a tracked underlying.

    Raises:
        ConfigurationError: it is not tracked.
    """
    symbol = check_symbol(symbol)
    for underlying in tracked(state):
        if underlying.symbol == symbol:
            return underlying
    raise ConfigurationError(f"{symbol} is not tracked: run 'expirytrack track {symbol}' first.")
