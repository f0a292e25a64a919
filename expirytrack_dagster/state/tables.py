"""The tables of the state database as SQLAlchemy sees them: one description for both engines.

The migrations make the tables and say what each column means; here only names and types are repeated, so that
statements can be built. A test holds the two equal on both engines. Reals have eight bytes and whole numbers too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Column, Double, MetaData, Table, Text, bindparam, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.sql.compiler import SQLCompiler

METADATA = MetaData()


def _table(table: str, keys: str, /, **columns: type[Text | BigInteger | Double[float]]) -> Table:
    """Describe a table; `keys` has the names of its primary key."""
    described = [Column(name, kind, primary_key=name in keys.split()) for name, kind in columns.items()]
    return Table(table, METADATA, *described)


requests = _table(
    "requests",
    "id",
    id=BigInteger,
    scope=Text,
    endpoint=Text,
    target=Text,
    params=Text,
    attempt=BigInteger,
    run_id=Text,
    pid=BigInteger,
    started_at=Double,
    lease_until=Double,
    counted_at=Double,
    status=BigInteger,
    error_code=Text,
    bytes=BigInteger,
    rows=BigInteger,
    first_ts=BigInteger,
    last_ts=BigInteger,
    latency=Double,
    outcome=Text,
)
cooldowns = _table(
    "cooldowns",
    "id",
    id=BigInteger,
    scope=Text,
    set_at=Double,
    until=Double,
    reason=Text,
    newest_request=BigInteger,
)
underlyings = _table("underlyings", "symbol", symbol=Text, instrument_key=Text, tracked_at=Double)
learned = _table("learned", "name", name=Text, value=Text, learned_at=Double)
scopes = _table(
    "scopes",
    "scope",
    scope=Text,
    paced_until=Double,
    boot=Text,
    wall=Double,
    uptime=Double,
    failures=BigInteger,
    openings=BigInteger,
    open_until=Double,
    open_reason=Text,
    probe=BigInteger,
)
losses = _table("losses", "", lost_at=Double, kept_as=Text)
listings = _table(
    "listings", "underlying expiry", underlying=Text, expiry=Text, first_at=Double, last_at=Double, gone_at=Double
)
metrics = _table(
    "metrics",
    "id",
    id=BigInteger,
    saved_at=Double,
    run_id=Text,
    pid=BigInteger,
    name=Text,
    labels=Text,
    value=Double,
    added=Double,
    host=Text,
)
metered = _table("metered", "", upto=BigInteger, open=Text)
alerts = _table(
    "alerts",
    "id",
    id=BigInteger,
    name=Text,
    subject=Text,
    value=Double,
    threshold=Double,
    sentence=Text,
    todo=Text,
    raised_at=Double,
    recovered_at=Double,
    ending=Text,
)
alert_deliveries = _table(
    "alert_deliveries",
    "alert event channel",
    alert=BigInteger,
    event=Text,
    channel=Text,
    attempts=BigInteger,
    due_at=Double,
    delivered_at=Double,
    error=Text,
)
progress = _table(
    "progress",
    "underlying expiry",
    underlying=Text,
    expiry=Text,
    run_id=Text,
    process=Text,
    phase=Text,
    contracts=BigInteger,
    answered=BigInteger,
    candles=BigInteger,
    began_at=Double,
    seen_at=Double,
)
leases = _table(
    "leases",
    "name",
    name=Text,
    number=BigInteger,
    process=Text,
    run_id=Text,
    until=Double,
)


def put(connection: Connection, table: Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Change the row of this key, or make it; in a transaction that is alone, so that nobody else can make it first."""
    same = [table.c[name] == value for name, value in key.items()]
    if not connection.execute(table.update().where(*same).values(values)).rowcount:
        connection.execute(table.insert(), key | values)


class server_time(FunctionElement[float]):  # noqa: N801 -- SQLAlchemy's functions are written in small letters
    """Seconds since the epoch as the database server's clock has them; null where there is no server."""

    type = Double()
    inherit_cache = True


@compiles(server_time)
def _no_server(element: server_time, compiler: SQLCompiler, **words: Any) -> str:
    del element, compiler, words
    return "NULL"


@compiles(server_time, "postgresql")
def _of_server(element: server_time, compiler: SQLCompiler, **words: Any) -> str:
    del element, compiler, words
    # A subquery is read once a statement, so that an index may be searched for it.
    return "(SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION))"


def moment(name: str = "now") -> ColumnElement[float]:
    """Return the time that all hosts share: the server's, or the bound local time `name` where there is no server."""
    return func.coalesce(server_time(), bindparam(name, type_=Double))
