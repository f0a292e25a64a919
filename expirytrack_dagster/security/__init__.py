"""Secrets and what guards the data: the vault, where its key comes from, sealed files, the audit log, backups.

Here: only what `cryptography` and the operating system's keyring do for us, and files of our own formats. Not here:
the login itself (`upstox/`), the database (`warehouse/`), Dagster.
"""
