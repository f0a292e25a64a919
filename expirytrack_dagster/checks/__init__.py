"""The asset checks: their names and descriptions, and how an outcome of `quality/` becomes a check result in Dagster.

The rules themselves are in `quality/`. What may keep a cell from being written is evaluated inside the asset that it
guards, before anything is written: a check that blocks only afterwards would not stop a downstream asset in another
run. What reads the archive afterwards never blocks.
"""
