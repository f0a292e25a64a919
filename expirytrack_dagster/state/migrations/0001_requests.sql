-- Every HTTP request to the API, one row each, never deleted: the audit of spending and the rate limiter's memory.
-- Times are seconds since the epoch. The token is never stored.
CREATE TABLE requests (
    id          INTEGER PRIMARY KEY,
    scope       TEXT    NOT NULL,  -- what the limits apply to: the account, or a family of endpoints
    endpoint    TEXT    NOT NULL,  -- expiries, option_contracts, future_contracts, candles, profile
    target      TEXT    NOT NULL,  -- instrument key; empty for the profile
    params      TEXT    NOT NULL,  -- JSON: expiry, interval, from, to
    attempt     INTEGER NOT NULL,  -- 1 for the first try
    run_id      TEXT,
    pid         INTEGER NOT NULL,
    started_at  REAL    NOT NULL,  -- when the slot was taken
    lease_until REAL    NOT NULL,  -- latest time at which the API can have counted a request without an answer
    counted_at  REAL,              -- arrival of the answer: latest time at which the API can have counted this one
    status      INTEGER,           -- HTTP status
    error_code  TEXT,              -- Upstox's code, such as UDAPI10005
    bytes       INTEGER,           -- size of the decompressed body
    rows        INTEGER,           -- expiries, contracts or candles received
    first_ts    INTEGER,           -- earliest and latest candle
    last_ts     INTEGER,
    latency     REAL,              -- seconds from started_at to counted_at
    outcome     TEXT CHECK (outcome IN ('ok', 'http_error', 'network_error', 'malformed', 'abandoned'))
);

-- The windows are read from this index alone: a request counts from counted_at, or from lease_until without an answer.
CREATE INDEX requests_window ON requests (scope, coalesce(counted_at, lease_until));
CREATE INDEX requests_run ON requests (run_id) WHERE run_id IS NOT NULL;

-- Pauses that a refusal (429) imposes on every process, one row each.
CREATE TABLE cooldowns (
    id     INTEGER PRIMARY KEY,
    scope  TEXT NOT NULL,
    set_at REAL NOT NULL,
    until  REAL NOT NULL,
    reason TEXT NOT NULL,
    newest_request INTEGER NOT NULL  -- highest requests.id when the pause was set; 0 if none
);
CREATE INDEX cooldowns_scope ON cooldowns (scope, until);
