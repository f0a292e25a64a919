-- What was counted and measured, one row a sample and save; observe/metrics.py says what each name means.
-- Ids, not times, say what came last, so that no jump of the clock changes that. Old rows go, but never a series' last.
CREATE TABLE metrics (
    id       INTEGER PRIMARY KEY,
    saved_at REAL NOT NULL,        -- seconds since the epoch
    run_id   TEXT,                 -- whose it is, null outside of runs
    pid      INTEGER,              -- of the process that a gauge describes, null for what describes the home
    name     TEXT NOT NULL,
    labels   TEXT NOT NULL,        -- JSON, in the order of their names
    value    REAL NOT NULL,        -- of a gauge; of what grows: the sum over all processes of the home, ever
    added    REAL                  -- by how much it grew with this row; null for a gauge
);
CREATE INDEX metrics_series ON metrics (name, labels, id);
CREATE INDEX metrics_saved ON metrics (saved_at);
CREATE INDEX metrics_run ON metrics (run_id) WHERE run_id IS NOT NULL;

-- Which requests are in the metrics: all up to an id, but those that were under way then. One row.
CREATE TABLE metered (
    upto INTEGER NOT NULL,
    open TEXT NOT NULL             -- JSON: their ids
);
INSERT INTO metered VALUES (0, '[]');
