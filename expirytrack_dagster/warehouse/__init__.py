"""The archive in DuckDB: how it is opened and locked, how its schema grows, how a cell is written, how it is read.

What belongs here is everything that speaks SQL to DuckDB. What does not: asking the API (`upstox/`), what to ask for
(`collect/`), judging rows (`quality/`), and anything of Dagster.
"""
