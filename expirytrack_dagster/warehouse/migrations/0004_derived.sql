-- Tables that follow from the candles alone: each can be made again, a cell at a time, by the statement of its name in
-- `derivations/`. None has a key, for the reason that candles has none; each is laid out for the question that it
-- answers: option_chain and implied_volatility by minute, since a chain at a minute read from candles touches every
-- block of its cell (docs/decisions/0081-derived-tables.md has the figures).
--
-- What follows from other columns of the row is a generated column: it takes no room and cannot disagree.

CREATE TABLE derived_cells (
    asset TEXT NOT NULL,
    underlying TEXT NOT NULL,
    expiry DATE,
    source_version TEXT NOT NULL,
    rate DOUBLE,
    rows BIGINT NOT NULL,
    derived_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON TABLE derived_cells IS 'Which derived rows are there, and from which version of the candles they were made.';
COMMENT ON COLUMN derived_cells.asset IS 'The derived table.';
COMMENT ON COLUMN derived_cells.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN derived_cells.expiry IS 'Expiry date in India; null where the rows are of all expiries.';
COMMENT ON COLUMN derived_cells.source_version IS 'Hash of the content of the candles that the rows were made from.';
COMMENT ON COLUMN derived_cells.rate IS 'Rate a year that was used, continuously compounded; null where none was.';
COMMENT ON COLUMN derived_cells.rows IS 'Rows made.';
COMMENT ON COLUMN derived_cells.derived_at IS 'When they were made, UTC.';

CREATE TABLE daily_bars (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    instrument_key TEXT NOT NULL,
    instrument_type TEXT NOT NULL,
    strike_price DOUBLE,
    day DATE NOT NULL,
    open DOUBLE NOT NULL,
    high DOUBLE NOT NULL,
    low DOUBLE NOT NULL,
    close DOUBLE NOT NULL,
    volume BIGINT NOT NULL,
    open_interest BIGINT NOT NULL,
    minutes BIGINT NOT NULL,
    first_ts TIMESTAMPTZ NOT NULL,
    last_ts TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE daily_bars IS 'One bar a contract and trading day, made of the minutes that it has.';
COMMENT ON COLUMN daily_bars.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN daily_bars.expiry IS 'Expiry date in India.';
COMMENT ON COLUMN daily_bars.instrument_key IS 'The contract: SEGMENT|token|DD-MM-YYYY.';
COMMENT ON COLUMN daily_bars.instrument_type IS 'CE (call), PE (put) or FUT (future).';
COMMENT ON COLUMN daily_bars.strike_price IS 'Strike in rupees; null for futures.';
COMMENT ON COLUMN daily_bars.day IS 'Trading day in India.';
COMMENT ON COLUMN daily_bars.open IS 'First price of the day, rupees.';
COMMENT ON COLUMN daily_bars.high IS 'Highest price of the day, rupees.';
COMMENT ON COLUMN daily_bars.low IS 'Lowest price of the day, rupees.';
COMMENT ON COLUMN daily_bars.close IS 'Last price of the day, rupees.';
COMMENT ON COLUMN daily_bars.volume IS 'Units of the underlying traded on the day.';
COMMENT ON COLUMN daily_bars.open_interest IS 'Units of the underlying in open positions at the end of the last minute.';
COMMENT ON COLUMN daily_bars.minutes IS 'Minutes of the day in which something was traded.';
COMMENT ON COLUMN daily_bars.first_ts IS 'Start of the first minute, UTC.';
COMMENT ON COLUMN daily_bars.last_ts IS 'Start of the last minute, UTC.';

CREATE TABLE option_chain (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    ts TIMESTAMPTZ NOT NULL,
    strike_price DOUBLE NOT NULL,
    ce_key TEXT,
    ce_close DOUBLE,
    ce_volume BIGINT,
    ce_open_interest BIGINT,
    pe_key TEXT,
    pe_close DOUBLE,
    pe_volume BIGINT,
    pe_open_interest BIGINT,
    forward DOUBLE,
    forward_source TEXT,
    years DOUBLE NOT NULL,
    rate DOUBLE NOT NULL,
    days_to_expiry DOUBLE GENERATED ALWAYS AS (years * 365),
    moneyness DOUBLE GENERATED ALWAYS AS (strike_price / forward),
    ce_intrinsic DOUBLE GENERATED ALWAYS AS (greatest(forward - strike_price, 0 * forward) * exp(-rate * years)),
    pe_intrinsic DOUBLE GENERATED ALWAYS AS (greatest(strike_price - forward, 0 * forward) * exp(-rate * years)),
    ce_time_value DOUBLE
        GENERATED ALWAYS AS (ce_close - greatest(forward - strike_price, 0 * forward) * exp(-rate * years)),
    pe_time_value DOUBLE
        GENERATED ALWAYS AS (pe_close - greatest(strike_price - forward, 0 * forward) * exp(-rate * years))
);
COMMENT ON TABLE option_chain IS 'One row a minute and strike with both options, in the order of time and strike.';
COMMENT ON COLUMN option_chain.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN option_chain.expiry IS 'Expiry date in India.';
COMMENT ON COLUMN option_chain.ts IS 'Start of the minute, UTC (Indian time is 5:30 ahead).';
COMMENT ON COLUMN option_chain.strike_price IS 'Strike in rupees.';
COMMENT ON COLUMN option_chain.ce_key IS 'The call; null where it has no bar in the minute, as are its other columns.';
COMMENT ON COLUMN option_chain.ce_close IS 'Last price of the call in the minute, rupees.';
COMMENT ON COLUMN option_chain.ce_volume IS 'Units of the underlying traded through the call.';
COMMENT ON COLUMN option_chain.ce_open_interest IS 'Units of the underlying in open calls.';
COMMENT ON COLUMN option_chain.pe_key IS 'The put; null where it has no bar in the minute, as are its other columns.';
COMMENT ON COLUMN option_chain.pe_close IS 'Last price of the put in the minute, rupees.';
COMMENT ON COLUMN option_chain.pe_volume IS 'Units of the underlying traded through the put.';
COMMENT ON COLUMN option_chain.pe_open_interest IS 'Units of the underlying in open puts.';
COMMENT ON COLUMN option_chain.forward IS 'Forward for the expiry, rupees; null where the minute does not tell it.';
COMMENT ON COLUMN option_chain.forward_source IS
    'parity: median of what put-call parity says at the (up to) five strikes nearest the money at which both options '
    'traded, three at least; future: its price.';
COMMENT ON COLUMN option_chain.years IS
    'Time from the end of the minute to the end of the last minute that the cell traded on its expiry day, in years of '
    '365 days; where it has none on that day, to the hour at which its days end as a rule.';
COMMENT ON COLUMN option_chain.rate IS 'Rate a year, continuously compounded.';
COMMENT ON COLUMN option_chain.days_to_expiry IS 'The same time in days.';
COMMENT ON COLUMN option_chain.moneyness IS 'Strike over forward.';
COMMENT ON COLUMN option_chain.ce_intrinsic IS 'What exercising the call brings at the forward, discounted, rupees.';
COMMENT ON COLUMN option_chain.pe_intrinsic IS 'What exercising the put brings at the forward, discounted, rupees.';
COMMENT ON COLUMN option_chain.ce_time_value IS 'Price of the call less its intrinsic value, rupees.';
COMMENT ON COLUMN option_chain.pe_time_value IS 'Price of the put less its intrinsic value, rupees.';

CREATE TABLE implied_volatility (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    ts TIMESTAMPTZ NOT NULL,
    strike_price DOUBLE NOT NULL,
    instrument_type TEXT NOT NULL,
    instrument_key TEXT NOT NULL,
    price DOUBLE NOT NULL,
    forward DOUBLE,
    years DOUBLE NOT NULL,
    rate DOUBLE NOT NULL,
    volatility DOUBLE,
    delta FLOAT,
    gamma FLOAT,
    vega FLOAT,
    theta FLOAT,
    rho FLOAT,
    reason TEXT
);
COMMENT ON TABLE implied_volatility IS
    'Volatility and greeks of each option and minute by Black-76 on the forward, in the order of time and strike.';
COMMENT ON COLUMN implied_volatility.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN implied_volatility.expiry IS 'Expiry date in India.';
COMMENT ON COLUMN implied_volatility.ts IS 'Start of the minute, UTC (Indian time is 5:30 ahead).';
COMMENT ON COLUMN implied_volatility.strike_price IS 'Strike in rupees.';
COMMENT ON COLUMN implied_volatility.instrument_type IS 'CE (call) or PE (put).';
COMMENT ON COLUMN implied_volatility.instrument_key IS 'The contract: SEGMENT|token|DD-MM-YYYY.';
COMMENT ON COLUMN implied_volatility.price IS 'Last price of the minute, rupees.';
COMMENT ON COLUMN implied_volatility.forward IS 'Forward for the expiry, rupees, as in option_chain.';
COMMENT ON COLUMN implied_volatility.years IS 'Time to expiry in years of 365 days, as in option_chain.';
COMMENT ON COLUMN implied_volatility.rate IS 'Rate a year, continuously compounded.';
COMMENT ON COLUMN implied_volatility.volatility IS 'A year, 0.14 for 14 %; null where the price determines none.';
COMMENT ON COLUMN implied_volatility.delta IS 'Rupees a rupee of the forward.';
COMMENT ON COLUMN implied_volatility.gamma IS 'Change of delta a rupee of the forward.';
COMMENT ON COLUMN implied_volatility.vega IS 'Rupees for one percentage point of volatility.';
COMMENT ON COLUMN implied_volatility.theta IS 'Rupees a calendar day, with the forward unchanged.';
COMMENT ON COLUMN implied_volatility.rho IS 'Rupees for one percentage point of the rate, with the forward unchanged.';
COMMENT ON COLUMN implied_volatility.reason IS
    'Why there is no volatility: missing (a forward), expired, below_intrinsic, above_bound, undetermined.';

CREATE TABLE chain_metrics (
    underlying TEXT NOT NULL,
    expiry DATE NOT NULL,
    ts TIMESTAMPTZ NOT NULL,
    day DATE NOT NULL,
    forward DOUBLE,
    forward_source TEXT,
    years DOUBLE NOT NULL,
    rate DOUBLE NOT NULL,
    spot DOUBLE GENERATED ALWAYS AS (forward * exp(-rate * years)),
    strikes BIGINT NOT NULL,
    atm_strike DOUBLE,
    atm_ce_key TEXT,
    atm_pe_key TEXT,
    atm_ce_close DOUBLE,
    atm_pe_close DOUBLE,
    straddle DOUBLE GENERATED ALWAYS AS (atm_ce_close + atm_pe_close),
    call_volume BIGINT NOT NULL,
    put_volume BIGINT NOT NULL,
    call_open_interest BIGINT NOT NULL,
    put_open_interest BIGINT NOT NULL,
    call_open_interest_change BIGINT NOT NULL,
    put_open_interest_change BIGINT NOT NULL,
    put_call_ratio DOUBLE GENERATED ALWAYS AS (put_open_interest / nullif(call_open_interest, 0)),
    put_call_volume_ratio DOUBLE GENERATED ALWAYS AS (put_volume / nullif(call_volume, 0)),
    max_pain DOUBLE
);
COMMENT ON TABLE chain_metrics IS 'One row a minute of a cell: what its chain says as a whole, in the order of time.';
COMMENT ON COLUMN chain_metrics.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN chain_metrics.expiry IS 'Expiry date in India.';
COMMENT ON COLUMN chain_metrics.ts IS 'Start of the minute, UTC (Indian time is 5:30 ahead).';
COMMENT ON COLUMN chain_metrics.day IS 'Trading day in India.';
COMMENT ON COLUMN chain_metrics.forward IS 'Forward for the expiry, rupees, as in option_chain.';
COMMENT ON COLUMN chain_metrics.forward_source IS 'parity or future, as in option_chain.';
COMMENT ON COLUMN chain_metrics.years IS 'Time to expiry in years of 365 days, as in option_chain.';
COMMENT ON COLUMN chain_metrics.rate IS 'Rate a year, continuously compounded.';
COMMENT ON COLUMN chain_metrics.spot IS 'The forward discounted to the minute: the spot, if nothing is paid out before the expiry.';
COMMENT ON COLUMN chain_metrics.strikes IS 'Strikes with a bar in the minute.';
COMMENT ON COLUMN chain_metrics.atm_strike IS 'Strike nearest the forward, of those at which both options have a bar; the lower of two.';
COMMENT ON COLUMN chain_metrics.atm_ce_key IS 'The call of this strike.';
COMMENT ON COLUMN chain_metrics.atm_pe_key IS 'The put of this strike.';
COMMENT ON COLUMN chain_metrics.atm_ce_close IS 'Last price of this call in the minute, rupees.';
COMMENT ON COLUMN chain_metrics.atm_pe_close IS 'Last price of this put in the minute, rupees.';
COMMENT ON COLUMN chain_metrics.straddle IS 'Sum of the two, rupees.';
COMMENT ON COLUMN chain_metrics.call_volume IS 'Units of the underlying traded through calls, from the start of the day.';
COMMENT ON COLUMN chain_metrics.put_volume IS 'Units of the underlying traded through puts, from the start of the day.';
COMMENT ON COLUMN chain_metrics.call_open_interest IS 'Units in open calls; a call without a bar counts as at its last one.';
COMMENT ON COLUMN chain_metrics.put_open_interest IS 'Units in open puts; a put without a bar counts as at its last one.';
COMMENT ON COLUMN chain_metrics.call_open_interest_change IS 'Change since the end of the trading day before.';
COMMENT ON COLUMN chain_metrics.put_open_interest_change IS 'Change since the end of the trading day before.';
COMMENT ON COLUMN chain_metrics.put_call_ratio IS 'Open puts over open calls.';
COMMENT ON COLUMN chain_metrics.put_call_volume_ratio IS 'Puts over calls traded, from the start of the day.';
COMMENT ON COLUMN chain_metrics.max_pain IS 'Strike at which an expiry would pay least to the holders of all open options; the lowest of several.';

CREATE TABLE continuous_futures (
    underlying TEXT NOT NULL,
    rule TEXT NOT NULL CHECK (rule IN ('expiry', 'volume', 'open_interest')),
    day DATE NOT NULL,
    expiry DATE NOT NULL,
    instrument_key TEXT NOT NULL,
    open DOUBLE NOT NULL,
    high DOUBLE NOT NULL,
    low DOUBLE NOT NULL,
    close DOUBLE NOT NULL,
    volume BIGINT NOT NULL,
    open_interest BIGINT NOT NULL,
    rolled BOOLEAN NOT NULL,
    difference DOUBLE,
    ratio DOUBLE
);
COMMENT ON TABLE continuous_futures IS
    'One row an underlying, rule and trading day: the future that the rule holds, its bar, and what adjusts it.';
COMMENT ON COLUMN continuous_futures.underlying IS 'Short symbol of the underlying, such as NIFTY.';
COMMENT ON COLUMN continuous_futures.rule IS
    'When the next future is taken: expiry (on the day after the expiry), volume or open_interest (on the day after a '
    'later future had more of it); never back.';
COMMENT ON COLUMN continuous_futures.day IS 'Trading day in India.';
COMMENT ON COLUMN continuous_futures.expiry IS 'Expiry date of the future in India.';
COMMENT ON COLUMN continuous_futures.instrument_key IS 'The future: SEGMENT|token|DD-MM-YYYY.';
COMMENT ON COLUMN continuous_futures.open IS 'First price of the day, rupees, as traded.';
COMMENT ON COLUMN continuous_futures.high IS 'Highest price of the day, rupees, as traded.';
COMMENT ON COLUMN continuous_futures.low IS 'Lowest price of the day, rupees, as traded.';
COMMENT ON COLUMN continuous_futures.close IS 'Last price of the day, rupees, as traded.';
COMMENT ON COLUMN continuous_futures.volume IS 'Units of the underlying traded on the day.';
COMMENT ON COLUMN continuous_futures.open_interest IS 'Units of the underlying in open positions at its end.';
COMMENT ON COLUMN continuous_futures.rolled IS 'Whether another future was held the day before.';
COMMENT ON COLUMN continuous_futures.difference IS
    'Added to a price, makes it comparable with the last future: the gaps of all later rolls. Null before a roll whose '
    'two futures never traded on the same day.';
COMMENT ON COLUMN continuous_futures.ratio IS 'The same as a factor.';
