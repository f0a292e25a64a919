"""The jobs that can be launched by name, from the UI and from the command line.

A job only selects assets; `expiries` has one dimension and the cells have two, so they cannot share a job.
"""

import dagster as dg

expiry_fetch = dg.define_asset_job(
    "expiry_fetch",
    selection="expiries",
    description="Ask which expiries Upstox lists for an underlying; new dates become partitions.",
)
contract_fetch = dg.define_asset_job(
    "contract_fetch",
    selection="contracts",
    description="Fetch the contract list of a cell.",
)
historical_data_fetch = dg.define_asset_job(
    "historical_data_fetch",
    selection=["contracts", "candles"],
    description="Collect a cell: its contract list, then the candles of every contract.",
)

all_jobs = [expiry_fetch, contract_fetch, historical_data_fetch]
