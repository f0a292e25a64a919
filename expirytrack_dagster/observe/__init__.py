"""Seeing what happens: metrics, logs, and what is made of them for people. No Dagster here.

`metrics` and `logs` lie low, so that every room may count and write into them; the other modules lie above `collect/`.
"""
