-- Both options of each strike and minute, side by side. The forward is taken from the chain itself: at each strike at
-- which both options traded, put-call parity names one; the median over the strikes nearest the money is not moved by
-- a stale or a broken price, nor much by the rate, since call less put is small there. Where too few strikes traded
-- on both sides it is the future's price, and where that did not trade either it is unknown.
DELETE FROM main.option_chain WHERE underlying = $underlying AND expiry = $expiry;

INSERT INTO main.option_chain BY NAME
WITH listed AS (
    SELECT instrument_key, instrument_type, strike_price FROM contracts
    WHERE underlying = $underlying AND expiry = $expiry
),
bars AS (
    SELECT minute, instrument_type, strike_price, close, volume, open_interest
    FROM candles JOIN listed USING (instrument_key)
    WHERE underlying = $underlying AND expiry = $expiry
),
ends AS (
    SELECT (minute + 330) // 1440 AS day, coalesce(max(minute) FILTER (volume > 0), max(minute)) + 1 AS closing
    FROM bars
    GROUP BY ALL
),
expiring AS (
    SELECT coalesce(
        max(closing) FILTER (day = epoch($expiry::DATE) // 86400),
        epoch($expiry::DATE) // 60 - 330 + quantile_disc((closing + 330) % 1440, 0.5)
    ) AS minute
    FROM ends
),
chain AS (
    SELECT
        coalesce(call.minute, put.minute) AS minute,
        coalesce(call.strike_price, put.strike_price) AS strike_price,
        call.close AS ce_close,
        call.volume AS ce_volume,
        call.open_interest AS ce_open_interest,
        put.close AS pe_close,
        put.volume AS pe_volume,
        put.open_interest AS pe_open_interest,
        (expiring.minute - coalesce(call.minute, put.minute) - 1) / (365 * 1440) AS years
    FROM (FROM bars WHERE instrument_type = 'CE') AS call
    FULL JOIN (FROM bars WHERE instrument_type = 'PE') AS put USING (minute, strike_price)
    CROSS JOIN expiring
),
nearest AS (
    SELECT minute, unnest(min_by(strike_price + (ce_close - pe_close) * exp($rate * years), (abs(ce_close - pe_close), strike_price), 5))
        AS forward
    FROM chain
    WHERE ce_volume > 0 AND pe_volume > 0
    GROUP BY minute
),
parity AS (
    SELECT minute, median(forward) AS forward FROM nearest GROUP BY minute HAVING count(*) >= 3
),
future AS (
    SELECT minute, min(close) AS forward FROM bars WHERE instrument_type = 'FUT' AND volume > 0 GROUP BY minute
)
SELECT
    $underlying AS underlying,
    $expiry AS expiry,
    to_timestamp(minute * 60) AS ts,
    chain.* EXCLUDE (minute),
    CASE WHEN ce_close IS NOT NULL THEN call.instrument_key END AS ce_key,
    CASE WHEN pe_close IS NOT NULL THEN put.instrument_key END AS pe_key,
    coalesce(parity.forward, future.forward) AS forward,
    CASE WHEN parity.forward IS NOT NULL THEN 'parity' WHEN future.forward IS NOT NULL THEN 'future' END
        AS forward_source,
    $rate AS rate
FROM chain
LEFT JOIN parity USING (minute)
LEFT JOIN future USING (minute)
LEFT JOIN (FROM listed WHERE instrument_type = 'CE') AS call USING (strike_price)
LEFT JOIN (FROM listed WHERE instrument_type = 'PE') AS put USING (strike_price)
ORDER BY ts, strike_price;
