-- Questions that everyone asks, by name. Each names the cell that it reads, so that only its blocks are read.
--
-- Prices, volume and open interest are those of candles; times are the start of the bar in UTC. Examples that a test
-- runs are in docs/queries.md.

-- Bars of a contract at any width, counted like the API's own from 09:15 in India, and those of a day or more from
-- midnight. A bar without a minute in it does not exist.
CREATE MACRO bars(key, width) AS TABLE
WITH counted AS (
    SELECT
        *,
        CASE WHEN epoch(width) >= 86400 THEN -330 ELSE 225 END AS anchor,
        (minute - anchor) // (epoch(width) // 60)::INTEGER AS number
    FROM candles
    WHERE expiry = strptime(right(key, 10), '%d-%m-%Y')::DATE AND instrument_key = key
)
SELECT
    instrument_key,
    to_timestamp((number * (epoch(width) // 60)::INTEGER + any_value(anchor)) * 60) AS ts,
    arg_min(open, minute) AS open,
    max(high) AS high,
    min(low) AS low,
    arg_max(close, minute) AS close,
    sum(volume)::BIGINT AS volume,
    arg_max(open_interest, minute) AS open_interest
FROM counted
GROUP BY instrument_key, number
ORDER BY ts;

-- The chain of a cell in the minute of an instant, by strike.
CREATE MACRO chain_at(symbol, expiry_day, instant) AS TABLE
SELECT * FROM option_chain
WHERE underlying = symbol AND expiry = expiry_day AND ts = date_trunc('minute', instant::TIMESTAMPTZ)
ORDER BY strike_price;

-- What the chain says as a whole in the minute of an instant: the strike at the money with its two contracts, their
-- straddle, the forward. One row, or none in a minute without a bar.
CREATE MACRO atm(symbol, expiry_day, instant) AS TABLE
SELECT * FROM chain_metrics
WHERE underlying = symbol AND expiry = expiry_day AND ts = date_trunc('minute', instant::TIMESTAMPTZ);

-- Rolling: in each minute the strikes up to `steps` listed strikes away from the one at the money, with the contracts
-- that they were. `step` is 0 at the money and 1 at the next higher listed strike.
CREATE MACRO chain_window(symbol, expiry_day, steps) AS TABLE
WITH listed AS (
    SELECT strike_price, row_number() OVER (ORDER BY strike_price) AS place
    FROM (
        SELECT DISTINCT strike_price FROM contracts
        WHERE underlying = symbol AND expiry = expiry_day AND instrument_type <> 'FUT'
    )
),
middle AS (
    SELECT ts, place AS atm_place
    FROM chain_metrics JOIN listed ON strike_price = atm_strike
    WHERE underlying = symbol AND expiry = expiry_day
)
SELECT option_chain.*, place - atm_place AS step
FROM option_chain JOIN listed USING (strike_price) JOIN middle USING (ts)
WHERE underlying = symbol AND expiry = expiry_day AND abs(place - atm_place) <= steps
ORDER BY ts, strike_price;

-- The straddle at the money, minute by minute: its strike, its contracts and its price.
CREATE MACRO straddle(symbol, expiry_day) AS TABLE
SELECT ts, forward, atm_strike, atm_ce_key, atm_pe_key, atm_ce_close, atm_pe_close, straddle
FROM chain_metrics
WHERE underlying = symbol AND expiry = expiry_day
ORDER BY ts;

-- The spot in the minute of an instant, from the nearest expiry that has a forward in it: that forward, discounted.
CREATE MACRO spot_at(symbol, instant) AS TABLE
SELECT ts, spot, expiry, forward, forward_source, years, rate
FROM chain_metrics
WHERE underlying = symbol AND ts = date_trunc('minute', instant::TIMESTAMPTZ) AND forward IS NOT NULL
AND expiry >= (instant::TIMESTAMPTZ + INTERVAL 330 MINUTE)::DATE
ORDER BY expiry LIMIT 1;

-- The continuous future, a row a day. rule: expiry, volume or open_interest. adjustment: none, difference or ratio.
CREATE MACRO continuous(symbol, roll_rule, adjustment) AS TABLE
WITH adjusting AS (
    SELECT
        *,
        CASE adjustment WHEN 'none' THEN 0 WHEN 'difference' THEN difference WHEN 'ratio' THEN 0
            ELSE error('the adjustment is none, difference or ratio') END AS shift,
        CASE adjustment WHEN 'ratio' THEN ratio ELSE 1 END AS scale
    FROM continuous_futures
    WHERE underlying = symbol AND rule = roll_rule
)
SELECT
    day,
    expiry,
    instrument_key,
    rolled,
    open * scale + shift AS open,
    high * scale + shift AS high,
    low * scale + shift AS low,
    close * scale + shift AS close,
    volume,
    open_interest
FROM adjusting
ORDER BY day;

-- The same, a row a minute.
CREATE MACRO continuous_minutes(symbol, roll_rule, adjustment) AS TABLE
WITH adjusting AS (
    SELECT
        *,
        CASE adjustment WHEN 'none' THEN 0 WHEN 'difference' THEN difference WHEN 'ratio' THEN 0
            ELSE error('the adjustment is none, difference or ratio') END AS shift,
        CASE adjustment WHEN 'ratio' THEN ratio ELSE 1 END AS scale
    FROM continuous_futures
    WHERE underlying = symbol AND rule = roll_rule
)
SELECT
    candles.ts,
    adjusting.expiry,
    instrument_key,
    candles.open * scale + shift AS open,
    candles.high * scale + shift AS high,
    candles.low * scale + shift AS low,
    candles.close * scale + shift AS close,
    candles.volume,
    candles.open_interest
FROM candles JOIN adjusting USING (underlying, expiry, instrument_key)
WHERE (candles.ts + INTERVAL 330 MINUTE)::DATE = day
ORDER BY ts;

-- All contracts at the usual widths, for whoever reads more than one contract at a time: filter by expiry.
CREATE MACRO bars_of(minutes) AS TABLE
SELECT
    underlying,
    expiry,
    instrument_key,
    to_timestamp(((minute - 225) // minutes * minutes + 225) * 60) AS ts,
    arg_min(open, minute) AS open,
    max(high) AS high,
    min(low) AS low,
    arg_max(close, minute) AS close,
    sum(volume)::BIGINT AS volume,
    arg_max(open_interest, minute) AS open_interest
FROM candles
GROUP BY ALL;

CREATE VIEW bars_3m AS FROM bars_of(3);
CREATE VIEW bars_5m AS FROM bars_of(5);
CREATE VIEW bars_15m AS FROM bars_of(15);
CREATE VIEW bars_30m AS FROM bars_of(30);
CREATE VIEW bars_60m AS FROM bars_of(60);

COMMENT ON VIEW bars_3m IS 'Bars of 3 minutes of all contracts; filter by expiry.';
COMMENT ON VIEW bars_5m IS 'Bars of 5 minutes of all contracts; filter by expiry.';
COMMENT ON VIEW bars_15m IS 'Bars of 15 minutes of all contracts; filter by expiry.';
COMMENT ON VIEW bars_30m IS 'Bars of 30 minutes of all contracts; filter by expiry.';
COMMENT ON VIEW bars_60m IS 'Bars of 60 minutes of all contracts; filter by expiry.';
COMMENT ON COLUMN bars_3m.ts IS 'Start of the bar, UTC.';
COMMENT ON COLUMN bars_5m.ts IS 'Start of the bar, UTC.';
COMMENT ON COLUMN bars_15m.ts IS 'Start of the bar, UTC.';
COMMENT ON COLUMN bars_30m.ts IS 'Start of the bar, UTC.';
COMMENT ON COLUMN bars_60m.ts IS 'Start of the bar, UTC.';
