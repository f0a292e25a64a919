"""What to ask the API, in which order, and how answers reach the archive's door.

Here: windows, contract states, staging and resume, the registry of tracked underlyings. Not here: HTTP and limits
(`upstox/`), what makes a row good (`quality/`), the database (`warehouse/`), Dagster (`assets/`).
"""
