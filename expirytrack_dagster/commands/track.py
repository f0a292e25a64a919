"""`expirytrack track` and `untrack`: which underlyings are collected.

What tracking means is `collect/tracking.py`; the partition that goes with it is `partitions.py`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import load_settings


def track(
    symbol: Annotated[str, typer.Argument(help="Short symbol, such as NIFTY or RELIANCE.")],
    key: Annotated[str | None, typer.Option(help="Its Upstox key, such as 'NSE_INDEX|Nifty 50'.")] = None,
) -> None:
    """Track an underlying: it becomes a partition at once, without a restart."""
    from expirytrack_dagster.collect.tracking import check_symbol
    from expirytrack_dagster.console import say, slow

    settings = load_settings()
    symbol = check_symbol(symbol)  # before anything is written
    with slow(f"Looking for {symbol}"):
        from expirytrack_dagster.backfill import track as track_underlying
        from expirytrack_dagster.instance import open_instance

        with open_instance(settings) as instance:
            underlying = track_underlying(settings, instance, symbol, key)
    say(f"Tracking {underlying.symbol} ({underlying.instrument_key}).")


def untrack(symbol: Annotated[str, typer.Argument(help="A tracked symbol.")]) -> None:
    """Stop tracking an underlying; what was collected stays in the archive."""
    from expirytrack_dagster.collect import tracking
    from expirytrack_dagster.console import say, slow
    from expirytrack_dagster.security.audit import record
    from expirytrack_dagster.state import open_state

    settings = load_settings()
    symbol = tracking.check_symbol(symbol)
    if not tracking.untrack(open_state(settings), symbol):
        raise ConfigurationError(f"{symbol} is not tracked.")
    record(settings, "untrack", symbol=symbol)
    with slow(f"Letting go of {symbol}"):
        from expirytrack_dagster.instance import open_instance
        from expirytrack_dagster.partitions import remove_underlying

        with open_instance(settings) as instance:
            remove_underlying(instance, symbol)
    say(f"{symbol} is no longer tracked; its data stays in {settings.address.place}.")
