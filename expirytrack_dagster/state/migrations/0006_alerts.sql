-- What went wrong, one row each time, with when it was over. Times are seconds since the epoch.
CREATE TABLE alerts (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL,    -- the rule: failure_rate, disk_free, ...
    subject      TEXT NOT NULL,    -- what it is about: an underlying, a cell, an account, a channel
    value        REAL NOT NULL,    -- as measured when it was raised, in the unit of its threshold
    threshold    REAL NOT NULL,
    sentence     TEXT NOT NULL,    -- what is wrong
    todo         TEXT NOT NULL,    -- what to do about it
    raised_at    REAL NOT NULL,
    recovered_at REAL,             -- null while it stands
    ending       TEXT              -- how it ended
);
-- An alert stands once, however many processes see the same.
CREATE UNIQUE INDEX alerts_standing ON alerts (name, subject) WHERE recovered_at IS NULL;
CREATE INDEX alerts_recovered ON alerts (recovered_at);

-- Which channel has to be told of what, and has been: one row a message.
CREATE TABLE alert_deliveries (
    alert        INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    event        TEXT    NOT NULL CHECK (event IN ('raised', 'recovered')),
    channel      TEXT    NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    due_at       REAL    NOT NULL, -- not tried before; while one process sends it, others wait until then
    delivered_at REAL,
    error        TEXT,             -- why the last attempt failed
    PRIMARY KEY (alert, event, channel)
) WITHOUT ROWID;
CREATE INDEX alert_deliveries_due ON alert_deliveries (channel, due_at) WHERE delivered_at IS NULL;
