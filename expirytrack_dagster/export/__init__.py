"""Exports: rows of the archive as files that other programs open, each set with a manifest that proves it.

`cell.py` chooses rows, `tables.py`, `nautilus.py` and `lean.py` write formats, `manifest.py` and `target.py` see to it
that an export is whole or absent, `exporting.py` puts them together. Cells are read one after the other, so that a
collection waits for one cell at most, and nothing here ever writes to the archive. No Dagster, no printing.
"""
