-- What a process has for itself, among all hosts that share this database: a cell while it is collected, and its own
-- name while it works for the command line. A cell's row stays, so that its number only ever grows.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,        -- 'NIFTY 2025-08-28', or what names the process
    number INTEGER NOT NULL,      -- how often it was taken: a holder that was away knows by it that another came
    process TEXT NOT NULL,        -- which process took it last, and on which host
    run_id TEXT NOT NULL,
    until REAL NOT NULL           -- free from then on, in seconds since the epoch by this database's clock; 0: given back
) STRICT;
