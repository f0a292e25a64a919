-- The cells that are being collected, one row each, for whoever watches: written by the collector itself, at most once
-- a second, and removed when it lets go of the cell. What a killed process leaves is told from it by `process`.
CREATE TABLE progress (
    underlying TEXT    NOT NULL,
    expiry     TEXT    NOT NULL,   -- ISO date
    run_id     TEXT    NOT NULL,
    process    TEXT    NOT NULL,   -- number and beginning, as in processes.py
    phase      TEXT    NOT NULL CHECK (phase IN ('reading', 'asking', 'storing')),
    contracts  INTEGER NOT NULL,   -- to be asked, answered, and the candles of the answers
    answered   INTEGER NOT NULL,
    candles    INTEGER NOT NULL,
    began_at   REAL    NOT NULL,   -- when the cell was taken, and the row was last written; seconds since the epoch
    seen_at    REAL    NOT NULL,
    PRIMARY KEY (underlying, expiry)
) WITHOUT ROWID;
