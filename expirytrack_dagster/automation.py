"""When derived assets are made without being asked for: as soon as the candles of a cell are there, or are others.

Belongs here: the sensor that evaluates the conditions, which stand at the assets themselves. It asks the API nothing.
"""

from __future__ import annotations

import dagster as dg

from expirytrack_dagster.assets import derived_assets

derive_new_candles = dg.AutomationConditionSensorDefinition(
    "derive_new_candles",
    target=dg.AssetSelection.assets(*derived_assets),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes daily bars, chains, volatilities, metrics and continuous futures of candles that are new.",
)
