-- Candles keep the number of their minute; the instant `ts` is made of it when it is asked for. Contracts keep whether
-- their daily candles agreed.
--
-- DuckDB packs a whole number by its distance from the one before. From bar to bar that is 1 in minutes and 60,000,000
-- in microseconds, and over a night 1,066 and 64 thousand millions, so that an instant takes 5 to 6 bytes a candle and
-- its minute 1.5 (docs/decisions/0040-candles-by-minute.md has the figures). Checksums of seals stay: hash(ts) is what
-- it was. A bar that is not on the minute has never come past the rules; if one has, the step is refused.

CREATE TABLE candles_by_minute (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    instrument_key TEXT NOT NULL,
    minute INTEGER NOT NULL,
    ts TIMESTAMPTZ GENERATED ALWAYS AS (to_timestamp(minute * 60)),
    open DOUBLE NOT NULL,
    high DOUBLE NOT NULL,
    low DOUBLE NOT NULL,
    close DOUBLE NOT NULL,
    volume BIGINT NOT NULL,
    open_interest BIGINT NOT NULL
);

INSERT INTO candles_by_minute BY NAME
SELECT
    underlying,
    expiry,
    instrument_key,
    CASE WHEN epoch_us(ts) % 60000000 = 0 THEN epoch_us(ts) // 60000000
    ELSE error('a candle of ' || instrument_key || ' is not on the minute') END AS minute,
    open,
    high,
    low,
    close,
    volume,
    open_interest
FROM candles;

DROP TABLE candles;
ALTER TABLE candles_by_minute RENAME TO candles;

COMMENT ON TABLE candles IS 'One-minute candles of expired contracts; unique by instrument_key and ts.';
COMMENT ON COLUMN candles.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN candles.expiry IS 'Expiry date in India; filter by it, the table is laid out by cell.';
COMMENT ON COLUMN candles.instrument_key IS 'The contract: SEGMENT|token|DD-MM-YYYY.';
COMMENT ON COLUMN candles.minute IS 'Start of the minute as minutes since 1970-01-01 00:00 UTC; ts is made of it.';
COMMENT ON COLUMN candles.ts IS 'Start of the minute, UTC (Indian time is 5:30 ahead).';
COMMENT ON COLUMN candles.open IS 'First price of the minute, rupees.';
COMMENT ON COLUMN candles.high IS 'Highest price of the minute, rupees.';
COMMENT ON COLUMN candles.low IS 'Lowest price of the minute, rupees.';
COMMENT ON COLUMN candles.close IS 'Last price of the minute, rupees.';
COMMENT ON COLUMN candles.volume IS 'Units of the underlying traded in the minute; 0 where only a quote moved.';
COMMENT ON COLUMN candles.open_interest IS 'Units of the underlying in open positions at the end of the minute.';

ALTER TABLE contract_status ADD COLUMN agrees BOOLEAN;
COMMENT ON COLUMN contract_status.agrees IS 'Whether daily candles tell the same; null where they were not compared.';
