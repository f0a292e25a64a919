-- The underlyings that the user tracks, by their short symbol.
CREATE TABLE underlyings (
    symbol         TEXT PRIMARY KEY,
    instrument_key TEXT NOT NULL UNIQUE,
    tracked_at     REAL NOT NULL   -- seconds since the epoch
) WITHOUT ROWID;

-- What was learned about the API by asking it, such as the widest window it serves.
CREATE TABLE learned (
    name       TEXT PRIMARY KEY,
    value      TEXT,
    learned_at REAL NOT NULL       -- seconds since the epoch
) WITHOUT ROWID;
