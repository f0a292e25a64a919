-- Which expiry dates the API has listed for an underlying, one row each: how far back its list reaches shows over time.
CREATE TABLE listings (
    underlying TEXT NOT NULL,
    expiry     TEXT NOT NULL,      -- ISO date
    first_at   REAL NOT NULL,      -- first and last answer that listed the date, seconds since the epoch
    last_at    REAL NOT NULL,
    gone_at    REAL,               -- first answer that no longer listed it; null while it is listed
    PRIMARY KEY (underlying, expiry)
) WITHOUT ROWID;
