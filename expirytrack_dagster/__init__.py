"""ExpiryTrack: expired futures and options from the Upstox API into DuckDB, with proof that nothing is missing."""
