"""Names, sentences and partitions of the checks; what a failing one costs is decided where it is evaluated."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.partitions import cells, underlyings

if TYPE_CHECKING:
    from collections.abc import Mapping


def _specs(
    asset: str, partitions: dg.PartitionsDefinition[str], descriptions: Mapping[str, str]
) -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        # Marked preview in Dagster 1.13; it is what shows a check's result by cell, and the lock pins the version.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(name, asset=asset, description=description, partitions_def=partitions)
            for name, description in descriptions.items()
        ]


expiries_checks = _specs(
    "expiries",
    underlyings,
    {"expiry_dates": "The API's list of expiry dates is not empty, ascending, and names no date twice."},
)

contracts_checks = _specs(
    "contracts",
    cells,
    {
        "contract_specification": "Every contract's key agrees with its token and expiry; type, strike and lot size "
        "are sound; no contract is listed twice. A broken list is not written: it is the yardstick of completeness."
    },
)

candles_checks = _specs(
    "candles",
    cells,
    {
        "ohlc": "Prices are above zero, the high is the highest and the low the lowest of each bar.",
        "volume_and_open_interest": "Volume and open interest are present and not negative.",
        "duplicates": "No two different bars claim the same minute of a contract.",
        "timestamp_continuity": "Bars start on the minute, none lies after the expiry, and no minute of a session "
        "is missing across the whole chain. Session hours come from the chain's own bars.",
        "completeness": "Every listed contract is complete or proven empty: nothing is silently missing.",
    },
)

chain_checks = _specs(
    "candles",
    cells,
    {
        "monotonic_strikes": "In any minute, calls do not rise and puts do not fall with the strike, beyond what a "
        "minute and a coarse quote explain. A warning: the rows are kept.",
        "intrinsic_value": "No option costs less than exercising it brings at the forward of its minute, which is that "
        "of the future or the one implied at the money. A warning: the rows are kept.",
        "put_call_parity": "Call less put is the discounted forward less the strike, beyond what a minute, the rate "
        "and the spread explain. A warning: the rows are kept.",
        "open_interest_jumps": "Open interest does not change by a factor from bar to bar, and by more than was "
        "traded. A warning: the rows are kept.",
    },
)
