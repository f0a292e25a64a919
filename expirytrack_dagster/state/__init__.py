"""The state database that every process of an account shares: a SQLite file, or a database in PostgreSQL.

`database.py` has the handle and its transactions, `sqlite.py` and `postgres.py` what is special to each engine,
`schema.py` the numbered migrations, `tables.py` the tables as SQLAlchemy sees them. How an address is written is in
`state_address.py` beside this package, because settings need it without SQLAlchemy. What the tables mean belongs to
the modules that use them, such as `upstox/ledger.py`; market data belongs in the archive.
"""

from expirytrack_dagster.state.database import StateDatabase, open_state

__all__ = ["StateDatabase", "open_state"]
