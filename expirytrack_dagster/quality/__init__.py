"""What makes data fit to keep: pandera schemas, the rules behind them, quarantine, continuity.

Here belongs every judgement about expiries, contracts and candles, made on pandas frames alone. Requests, files,
DuckDB and Dagster do not: callers bring frames and get back frames and small dataclasses.
"""
