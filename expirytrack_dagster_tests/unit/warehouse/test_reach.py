"""What a query may name: everything honest on every kind of archive, and nothing that is hidden in any way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.errors import QueryRefused
from expirytrack_dagster.warehouse.reach import require_within

if TYPE_CHECKING:
    from expirytrack_dagster.warehouse.connection import Warehouse

PLACES = ("plain", "sqlite", "lake on a server")

HONEST = (
    "SELECT count(*) FROM candles",
    "FROM Candles",
    "FROM main.candles",
    "SELECT \"underlying\", max(ts) AT TIME ZONE 'Asia/Kolkata' FROM candles GROUP BY ALL ORDER BY ALL LIMIT 3;",
    "SELECT k.strike_price, c.close FROM candles c JOIN contracts k USING (underlying, expiry, instrument_key)",
    "SELECT * FROM candles ASOF JOIN expiries USING (underlying, expiry) POSITIONAL JOIN contracts",
    "SELECT ts, close - lag(close) OVER (PARTITION BY instrument_key ORDER BY ts), row_number() OVER () FROM candles",
    "SELECT sum(volume) FILTER (volume > 0) OVER w FROM candles WINDOW w AS (ORDER BY ts) QUALIFY rank() OVER w < 5",
    "WITH candles AS (SELECT * FROM candles), n AS (SELECT count(*) AS n FROM candles) FROM n",
    "WITH RECURSIVE days(d) AS (SELECT 1 UNION ALL SELECT d + 1 FROM days WHERE d < 5) SELECT sum(d) FROM days",
    "WITH RECURSIVE a(n) AS (WITH b AS (SELECT 1 AS n) FROM b UNION ALL SELECT a.n + 1 FROM a, b WHERE a.n < 3) FROM a",
    'WITH "x.parquet" AS (SELECT 1) FROM "x.parquet" UNION ALL SELECT (SELECT 2 FROM "X.Parquet")',
    "SELECT * FROM candles, LATERAL (SELECT unnest([1, 2]) AS n) WHERE volume IN (SELECT max(volume) FROM candles)",
    "SELECT n, i FROM range(3) r(n), generate_series(1, n) s(i), unnest([n]) WITH ORDINALITY, repeat(1, 2)",
    "SELECT unnest({'a': 1}), [x + 1 FOR x IN [1, 2] IF x > 1], list_transform([1], lambda x: x + 1), if(true, 1, 2)",
    "SELECT coalesce(nullif(1, 1), 2), extract('year' FROM current_date), 'a' SIMILAR TO 'b', try(1 / 0), 1::VARCHAR",
    "SELECT COLUMNS('o.*'), * EXCLUDE (ts) REPLACE (close * 2 AS close) FROM candles",
    "SELECT underlying, expiry, grouping(expiry) FROM candles GROUP BY CUBE (underlying, expiry) HAVING count(*) > 0",
    "PIVOT contracts ON instrument_type IN ('CE', 'PE') USING count(*)",
    "UNPIVOT (SELECT open, close FROM candles) ON open, close",
    "FROM candles TABLESAMPLE 10 PERCENT (bernoulli)",
    "FROM bars('x', INTERVAL 5 MINUTE)",
    "FROM continuous('NIFTY', 'volume', adjustment => 'ratio')",
    "SELECT * FROM straddle('NIFTY', (SELECT max(expiry) FROM expiries)) JOIN bars_15m USING (ts)",
    "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal",
    "SELECT table_name FROM information_schema.tables",
    "FROM json_each('[1, 2]')",
    "VALUES (1), (2)",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "DESCRIBE candles",
    "SHOW candles",
    "SUMMARIZE SELECT close FROM candles",
    "WITH c AS (FROM candles) SELECT column_name FROM (DESCRIBE c)",
    "EXPLAIN SELECT 1",
    "explain analyze FROM candles",
)

SECRET = "'/etc/passwd'"

HIDDEN = (
    # functions that open, by any spelling
    f"FROM sqlite_scan({SECRET}, 's')",
    f"FROM \"sqlite_scan\"({SECRET}, 's')",
    f"FROM SQLITE_SCAN/**/({SECRET}, 's')",
    f"FROM -- a comment\nsqlite_scan({SECRET}, 's')",
    f"FROM system.main.sqlite_scan({SECRET}, 's')",
    "FROM postgres_query('__ducklake_metadata_store', 'SELECT 1')",
    "FROM \"postgres_scan\"('postgresql://elsewhere', 'public', 'a')",
    "CALL postgres_execute('__ducklake_metadata_store', 'SELECT pg_terminate_backend(1)')",
    "FROM ducklake_list_files('store', 'candles')",
    "FROM ducklake_table_changes('store', 'main', 'candles', 1, 2)",
    *(f"FROM {name}({SECRET})" for name in ("read_csv", "read_text", "read_parquet", "read_duckdb", "glob")),
    *(f"FROM {name}({SECRET})" for name in ("parquet_metadata", "sniff_csv", "parquet_schema", "read_json_auto")),
    *(f"FROM {name}()" for name in ("duckdb_secrets", "duckdb_settings", "duckdb_databases", "duckdb_logs")),
    # a text that is run, or bound, as a query
    "FROM query('FROM sqlite_' || 'scan(''a'', ''s'')')",
    "FROM query_table('__ducklake_' || 'metadata_store.ducklake_metadata')",
    "FROM query_table(['candles', 'contracts'])",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "PRAGMA json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT json_serialize_plan('FROM sqlite_scan(''a'', ''s'')')",
    "FROM histogram('__ducklake_metadata_store.ducklake_data_file', file_size_bytes)",
    "FROM histogram_values(candles, volume)",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    # the same inside of something honest
    "SELECT (SELECT max(a) FROM sqlite_scan('a', 's'))",
    "SELECT 1 FROM candles WHERE EXISTS (FROM 'a.parquet')",
    "SELECT 1 FROM candles ORDER BY (SELECT a FROM 'a.parquet')",
    "SELECT 1 LIMIT (SELECT count(*) FROM glob('*'))",
    "SELECT 1 FROM candles GROUP BY (SELECT 1 FROM 'a.parquet') HAVING (SELECT true FROM 'a.parquet')",
    "SELECT sum(volume) OVER (ORDER BY (SELECT 1 FROM 'a.parquet')) FROM candles",
    "SELECT sum(volume) FILTER (EXISTS (FROM 'a.parquet')) FROM candles",
    "SELECT list_transform([1], lambda x: (SELECT count(*) FROM glob('*')))",
    "SELECT * REPLACE ((SELECT 1 FROM 'a.parquet') AS close) FROM candles",
    "VALUES ((SELECT 1 FROM 'a.parquet'))",
    "SELECT 1 UNION ALL (SELECT 1 EXCEPT SELECT 1 FROM 'a.parquet')",
    "FROM candles JOIN contracts ON (SELECT true FROM 'a.parquet')",
    "FROM candles, LATERAL (FROM sqlite_scan('a', 's'))",
    "FROM bars((SELECT content FROM read_text('a')), INTERVAL 5 MINUTE)",
    "FROM unnest((SELECT list(file) FROM glob('*')))",
    "FROM (DESCRIBE 'a.parquet')",
    "SUMMARIZE 'a.parquet'",
    "DESCRIBE __ducklake_metadata_store.ducklake_data_file",
    "EXPLAIN ANALYZE FROM 'a.parquet'",
    "EXPLAIN (FORMAT json) FROM 'a.parquet'",
    "EXPLAIN/**/ANALYZE DELETE FROM main.candles",
    "WITH c AS MATERIALIZED (FROM 'a.parquet') SELECT 1",
    "WITH RECURSIVE c AS (FROM 'a.parquet' UNION ALL FROM c) FROM c",
    "PIVOT 'a.parquet' ON a IN (1) USING count(*)",
    "FROM candles PIVOT (count(*) FOR underlying IN (SELECT a FROM 'a.parquet'))",
    "UNPIVOT 'a.parquet' ON a",
    "FROM candles TABLESAMPLE 10% JOIN 'a.parquet' USING (ts)",
    # tables that are none of the archive's
    "FROM 'a.parquet'",
    'FROM "s3://bucket/lake/a.parquet"',
    "TABLE 'a.csv'",
    "FROM __ducklake_metadata_store.ducklake_data_file",
    'SELECT encryption_key FROM "__ducklake_metadata_store".main."ducklake_data_file"',
    "FROM ducklake_data_file",
    "FROM main.ducklake_data_file",
    "FROM elsewhere.main.candles",
    "FROM elsewhere.candles",
    "FROM sqlite_master",
    "FROM pg_catalog.pg_settings",
    "SHOW DATABASES",
    "SHOW VARIABLES",
    "SHOW TABLES FROM __ducklake_metadata_store",
    "PRAGMA table_info('candles')",
    # names of common table expressions where these are not seen
    'WITH a AS (WITH "b.parquet" AS (SELECT 1) FROM "b.parquet") FROM "b.parquet"',
    'WITH a AS (FROM "b.parquet"), "b.parquet" AS (SELECT 1) FROM a',
    'WITH "b.parquet" AS (FROM "b.parquet") FROM "b.parquet"',
    '(WITH "b.parquet" AS (SELECT 1) FROM "b.parquet") UNION ALL FROM "b.parquet"',
    'WITH RECURSIVE "b.parquet" AS (FROM "b.parquet" UNION ALL FROM "b.parquet") FROM "b.parquet"',
    'WITH RECURSIVE "b.parquet" AS (SELECT (SELECT a FROM "b.parquet") AS a UNION SELECT 1) FROM "b.parquet"',
    "WITH RECURSIVE duckdb_databases AS (FROM duckdb_databases UNION ALL FROM duckdb_databases) FROM duckdb_databases",
    "WITH ducklake_data_file AS (SELECT 1) FROM __ducklake_metadata_store.ducklake_data_file",
    # what does more than compute
    "SELECT nextval('a')",
    "SELECT write_log('a')",
    "SELECT getenv('HOME')",
    "SELECT " + "+".join("1" * 900),
    *("COPY candles TO 'a'", "ATTACH 'a.sqlite'", "INSTALL httpfs", "SELECT 1; SELECT 2 FROM 'a.parquet'", "SELEC 1"),
)  # fmt: skip


def test_honest_queries_are_answered_on_every_kind(warehouse: Warehouse) -> None:
    """What the documentation shows, and DuckDB's SQL all over, is judged well and understood."""
    with warehouse.querying() as connection:
        for sql in HONEST:
            require_within(sql)
            connection.execute(sql).fetchall()


@pytest.mark.parametrize("sql", HIDDEN)
def test_nothing_else_is_let_through(sql: str) -> None:
    """The judgement alone refuses it, whatever the session would still have done."""
    with pytest.raises(QueryRefused) as refused:
        require_within(sql)
    assert "\n" not in str(refused.value)
