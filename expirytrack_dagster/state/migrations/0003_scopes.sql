-- What all processes must agree on about one scope of the limits, one row each, made by its first request.
CREATE TABLE scopes (
    scope       TEXT PRIMARY KEY,
    paced_until REAL NOT NULL,              -- token bucket: when it is full again, seconds since the epoch
    boot        TEXT NOT NULL,              -- wall clock and uptime of one instant, to tell a jump of the clock
    wall        REAL NOT NULL,              --   from time passing: seconds since the epoch,
    uptime      REAL NOT NULL,              --   and seconds since that boot
    failures    INTEGER NOT NULL DEFAULT 0, -- breaker: failed requests in a row while it is closed
    openings    INTEGER NOT NULL DEFAULT 0, -- breaker: times it opened since it was last closed; 0 means closed
    open_until  REAL NOT NULL DEFAULT 0,    -- breaker: from then on one request may try
    open_reason TEXT NOT NULL DEFAULT '',   -- breaker: how the last request failed
    probe       INTEGER                     -- breaker: requests.id of the one that tries
) WITHOUT ROWID;

-- One row if this database replaces a damaged one: what was requested before is not known.
CREATE TABLE losses (
    lost_at REAL NOT NULL,                  -- seconds since the epoch
    kept_as TEXT NOT NULL                   -- name of the damaged copy
);
