"""The Upstox API: what goes over the wire and how often.

Belongs here: logging in and the life of tokens, the HTTP client, the ledger of requests that keeps the rate limits, the
meaning of Upstox's error codes, instrument keys and symbols, and decoding of answers into typed columns. Does not
belong here: what to ask and in which order (`collect/`), judging the data (`quality/`), storing it (`warehouse/`), and
anything of Dagster or DuckDB.
"""
