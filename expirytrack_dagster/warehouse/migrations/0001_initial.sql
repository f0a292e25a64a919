-- The archive's first tables.
--
-- Keys: DuckDB 1.5.5 lets one transaction delete and insert the same primary key again (tested), so the small tables
-- have keys. `candles` has none: measured, a key there takes four times the room and half the speed. Its uniqueness is
-- the work of the cell writer, which deletes a contract's rows before it inserts them, and is proved by a check.
--
-- Indexes: none beside the keys. Measured on 200,000 contracts, indexes on expiry, instrument_type and strike_price
-- made no query faster (a cell in 13 ms, a strike in 0.5 ms with and without; all calls 0.6 ms without, 8 ms with),
-- doubled the file and made rewriting a cell 2.6 times slower: DuckDB's zone maps already do their work.

CREATE TABLE schema_version (
    version BIGINT PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_version IS 'Steps of the schema that were applied to this file.';
COMMENT ON COLUMN schema_version.version IS 'Number of the step; the highest is the version of the schema.';
COMMENT ON COLUMN schema_version.name IS 'Name of the step.';
COMMENT ON COLUMN schema_version.applied_at IS 'When it was applied, UTC.';

CREATE TABLE expiries (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    underlying_key TEXT NOT NULL,
    discovered_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (underlying, expiry)
);
COMMENT ON TABLE expiries IS 'Expiry dates that the API has listed for an underlying; a date once listed is kept.';
COMMENT ON COLUMN expiries.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN expiries.expiry IS 'Expiry date in India.';
COMMENT ON COLUMN expiries.underlying_key IS 'The underlying''s instrument key, such as NSE_INDEX|Nifty 50.';
COMMENT ON COLUMN expiries.discovered_at IS 'When the date was first listed to us, UTC.';

CREATE TABLE contracts (
    instrument_key TEXT PRIMARY KEY,
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    instrument_type TEXT NOT NULL CHECK (instrument_type IN ('CE', 'PE', 'FUT')),
    strike_price DOUBLE,
    trading_symbol TEXT,
    exchange_token TEXT,
    lot_size BIGINT,
    tick_size DOUBLE,
    minimum_lot BIGINT,
    freeze_quantity DOUBLE,
    weekly BOOLEAN,
    segment TEXT,
    name TEXT,
    underlying_key TEXT
);
COMMENT ON TABLE contracts IS 'Expired options and futures as the API lists them; one row a contract.';
COMMENT ON COLUMN contracts.instrument_key IS 'Identity: SEGMENT|token|DD-MM-YYYY; a token alone is reused.';
COMMENT ON COLUMN contracts.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN contracts.expiry IS 'Expiry date in India.';
COMMENT ON COLUMN contracts.instrument_type IS 'CE (call), PE (put) or FUT (future).';
COMMENT ON COLUMN contracts.strike_price IS 'Strike in rupees; null for futures.';
COMMENT ON COLUMN contracts.trading_symbol IS 'Name at the exchange, such as NIFTY 24500 CE 28 AUG 25.';
COMMENT ON COLUMN contracts.exchange_token IS 'Token at the exchange; the middle part of the instrument key.';
COMMENT ON COLUMN contracts.lot_size IS 'Units of the underlying in one lot.';
COMMENT ON COLUMN contracts.tick_size IS 'Smallest step of the price, as the API gives it.';
COMMENT ON COLUMN contracts.minimum_lot IS 'Smallest order, in units of the underlying.';
COMMENT ON COLUMN contracts.freeze_quantity IS 'Largest order, in units of the underlying.';
COMMENT ON COLUMN contracts.weekly IS 'Whether the API calls it weekly; null where it does not say, as for futures.';
COMMENT ON COLUMN contracts.segment IS 'Segment of the exchange, such as NSE_FO.';
COMMENT ON COLUMN contracts.name IS 'Name of the underlying, as the API gives it.';
COMMENT ON COLUMN contracts.underlying_key IS 'The underlying''s instrument key.';

CREATE TABLE candles (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    instrument_key TEXT NOT NULL,
    ts TIMESTAMPTZ NOT NULL,
    open DOUBLE NOT NULL,
    high DOUBLE NOT NULL,
    low DOUBLE NOT NULL,
    close DOUBLE NOT NULL,
    volume BIGINT NOT NULL,
    open_interest BIGINT NOT NULL
);
COMMENT ON TABLE candles IS 'One-minute candles of expired contracts; unique by instrument_key and ts.';
COMMENT ON COLUMN candles.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN candles.expiry IS 'Expiry date in India; filter by it, the table is laid out by cell.';
COMMENT ON COLUMN candles.instrument_key IS 'The contract: SEGMENT|token|DD-MM-YYYY.';
COMMENT ON COLUMN candles.ts IS 'Start of the minute, UTC (Indian time is 5:30 ahead).';
COMMENT ON COLUMN candles.open IS 'First price of the minute, rupees.';
COMMENT ON COLUMN candles.high IS 'Highest price of the minute, rupees.';
COMMENT ON COLUMN candles.low IS 'Lowest price of the minute, rupees.';
COMMENT ON COLUMN candles.close IS 'Last price of the minute, rupees.';
COMMENT ON COLUMN candles.volume IS 'Units of the underlying traded in the minute; 0 where only a quote moved.';
COMMENT ON COLUMN candles.open_interest IS 'Units of the underlying in open positions at the end of the minute.';

CREATE TABLE contract_status (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    instrument_key TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('complete', 'empty_proven', 'partial', 'refused', 'failed')),
    requests BIGINT NOT NULL,
    candles BIGINT NOT NULL,
    quarantined BIGINT NOT NULL,
    duplicates BIGINT NOT NULL,
    first_ts TIMESTAMPTZ,
    last_ts TIMESTAMPTZ,
    error_code TEXT,
    message TEXT,
    checked_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (underlying, expiry, instrument_key)
);
COMMENT ON TABLE contract_status IS 'What became of each contract that was asked for; unasked contracts have no row.';
COMMENT ON COLUMN contract_status.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN contract_status.expiry IS 'Expiry date in India.';
COMMENT ON COLUMN contract_status.instrument_key IS 'The contract: SEGMENT|token|DD-MM-YYYY.';
COMMENT ON COLUMN contract_status.status IS 'complete, empty_proven, partial, refused (for good) or failed (asked again).';
COMMENT ON COLUMN contract_status.requests IS 'Requests spent on the contract.';
COMMENT ON COLUMN contract_status.candles IS 'Its rows in candles.';
COMMENT ON COLUMN contract_status.quarantined IS 'Its rows in quarantine.';
COMMENT ON COLUMN contract_status.duplicates IS 'Rows received twice, equal in every value, and dropped.';
COMMENT ON COLUMN contract_status.first_ts IS 'Start of its first minute, UTC.';
COMMENT ON COLUMN contract_status.last_ts IS 'Start of its last minute, UTC.';
COMMENT ON COLUMN contract_status.error_code IS 'The API''s error code, when it refused.';
COMMENT ON COLUMN contract_status.message IS 'What happened, in a sentence.';
COMMENT ON COLUMN contract_status.checked_at IS 'When the contract was last asked for, UTC.';

CREATE TABLE quarantine (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    instrument_key TEXT NOT NULL,
    ts TIMESTAMPTZ,
    open DOUBLE,
    high DOUBLE,
    low DOUBLE,
    close DOUBLE,
    volume BIGINT,
    open_interest BIGINT,
    rule TEXT NOT NULL,
    detail TEXT,
    run_id TEXT NOT NULL,
    quarantined_at TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE quarantine IS 'Candles as received that broke a rule, and so are not in candles.';
COMMENT ON COLUMN quarantine.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN quarantine.expiry IS 'Expiry date in India.';
COMMENT ON COLUMN quarantine.instrument_key IS 'The contract: SEGMENT|token|DD-MM-YYYY.';
COMMENT ON COLUMN quarantine.ts IS 'Start of the bar as received, UTC; null where none was given.';
COMMENT ON COLUMN quarantine.open IS 'First price as received, rupees.';
COMMENT ON COLUMN quarantine.high IS 'Highest price as received, rupees.';
COMMENT ON COLUMN quarantine.low IS 'Lowest price as received, rupees.';
COMMENT ON COLUMN quarantine.close IS 'Last price as received, rupees.';
COMMENT ON COLUMN quarantine.volume IS 'Volume as received, units of the underlying.';
COMMENT ON COLUMN quarantine.open_interest IS 'Open interest as received, units of the underlying.';
COMMENT ON COLUMN quarantine.rule IS 'Name of the check that the row broke.';
COMMENT ON COLUMN quarantine.detail IS 'What is wrong with it, in words.';
COMMENT ON COLUMN quarantine.run_id IS 'The run that received it.';
COMMENT ON COLUMN quarantine.quarantined_at IS 'When it was stored, UTC.';
