"""The asset checks: their names and descriptions, and how an outcome of `quality/` becomes a check result in Dagster.

The rules themselves are in `quality/`. All checks here are evaluated inside the asset that they guard, before
anything is written: a check that blocks only afterwards would not stop a downstream asset in another run.
"""
