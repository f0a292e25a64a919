"""Pictures for people: a contract's bars, the smile of a chain, the coverage of a cell, as PNG or SVG files.

What is drawn is read from the archive here; nothing is computed that the archive does not hold. The small pictures that
a run leaves in Dagster's event log are `quality/pictures.py`. matplotlib is imported when something is drawn, and
without pyplot: no display, no global state.
"""
