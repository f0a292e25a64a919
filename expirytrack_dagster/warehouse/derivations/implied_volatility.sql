-- black76() is registered by derived.py: the formulas of analytics/, a vector of rows at a time.
DELETE FROM main.implied_volatility WHERE underlying = $underlying AND expiry = $expiry;

INSERT INTO main.implied_volatility BY NAME
WITH options AS (
    SELECT ts, strike_price, 'CE' AS instrument_type, ce_key AS instrument_key, ce_close AS price, forward, years, rate
    FROM option_chain
    WHERE underlying = $underlying AND expiry = $expiry AND ce_key IS NOT NULL
    UNION ALL
    SELECT ts, strike_price, 'PE', pe_key, pe_close, forward, years, rate
    FROM option_chain
    WHERE underlying = $underlying AND expiry = $expiry AND pe_key IS NOT NULL
),
found AS (
    SELECT *, black76(price, forward, strike_price, years, rate, instrument_type = 'CE') AS implied FROM options
)
SELECT $underlying AS underlying, $expiry AS expiry, found.* EXCLUDE (implied), unnest(implied)
FROM found
ORDER BY ts, strike_price, instrument_type;
