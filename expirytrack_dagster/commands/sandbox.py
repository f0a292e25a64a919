"""`expirytrack sandbox`: a local Upstox; options become a market, limits and switches, and `sandbox/` serves them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import RateLimit, parse_rate_limits

if TYPE_CHECKING:
    from expirytrack_dagster.sandbox.market import Market


def sandbox(  # noqa: PLR0917 - Typer reads the options from the parameters
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes any free one.", min=0, max=65_535)] = 0,
    market: Annotated[Literal["synthetic", "recorded"], typer.Option(help="Where the data come from.")] = "synthetic",
    folder: Annotated[Path | None, typer.Option(help="Folder of the recordings, for --market recorded.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic market.", min=0)] = 0,
    strikes: Annotated[int, typer.Option(help="Strikes on each side of the middle one.", min=0, max=249)] = 100,
    days: Annotated[int, typer.Option(help="Trading days that a synthetic contract lives.", min=1)] = 5,
    today: Annotated[
        str | None, typer.Option(help="Date of the sandbox (YYYY-MM-DD); the real one by default.")
    ] = None,
    rate_limits: Annotated[
        str | None,
        typer.Option(help="requests/seconds, comma-separated, or 'off'.", show_default="those of Upstox"),
    ] = None,
    token: Annotated[list[str] | None, typer.Option(help="Take this token only; repeatable.")] = None,
    plus: Annotated[bool | None, typer.Option("--plus/--no-plus", help="Whether the account has Upstox Plus.")] = None,
    depth: Annotated[Literal["floor", "six_months"] | None, typer.Option(help="How far back expiries go.")] = None,
    range_cap: Annotated[int | None, typer.Option(help="Refuse candle windows of more days.", min=1)] = None,
    latency: Annotated[str | None, typer.Option(help="Seconds until an answer, such as 0.2 or 0.1-0.5.")] = None,
    switches: Annotated[str | None, typer.Option(help="Switches as a JSON object, or a file with one.")] = None,
) -> None:
    """Serve a local Upstox API with generated or recorded data, until Ctrl-C."""
    import msgspec

    from expirytrack_dagster.sandbox.recorded import RecordedMarket
    from expirytrack_dagster.sandbox.server import UPSTOX_LIMITS
    from expirytrack_dagster.sandbox.serving import serve
    from expirytrack_dagster.sandbox.switches import Switches, changed
    from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

    limits = UPSTOX_LIMITS if rate_limits is None else _limits(rate_limits)
    day = _day(today)
    named = {
        "plus": plus,
        "depth": depth,
        "range_cap": range_cap,
        "delay_after": None if latency is None else _bounds(latency),
    }
    chosen = changed(Switches(), _document(switches))
    chosen = msgspec.structs.replace(chosen, **{key: value for key, value in named.items() if value is not None})
    if market == "recorded":
        if folder is None:
            raise ConfigurationError("--folder: say where the recordings of --market recorded lie.")
        source: Market = RecordedMarket(folder, today=day)
    else:
        source = SyntheticMarket(seed=seed, strikes=strikes, days=days, today=day)
    serve(port=port, market=source, limits=limits, switches=chosen, tokens=token or ())


def _limits(text: str) -> tuple[RateLimit, ...]:
    try:
        parsed = () if text == "off" else parse_rate_limits(text)
    except ValueError as error:
        raise ConfigurationError(f"--rate-limits: {error}.") from None
    return parsed  # type: ignore[return-value]  # text always gives a tuple


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"--today: '{text}' is no date of the form YYYY-MM-DD.") from None


def _bounds(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        bounds = float(low), float(high or low)
    except ValueError:
        raise ConfigurationError(f"--latency: '{text}' is not of the form 0.2 or 0.1-0.5.") from None
    return bounds


def _document(text: str | None) -> bytes | str:
    if text is None:
        return "{}"
    if text.lstrip().startswith("{"):
        return text
    try:
        return Path(text).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--switches: {text} cannot be read: {error.strerror}.") from error
