-- A day is one of India. Its first and last price are those of its first and last minute.
DELETE FROM main.daily_bars WHERE underlying = $underlying AND expiry = $expiry;

INSERT INTO main.daily_bars BY NAME
WITH bars AS (
    SELECT
        instrument_key,
        ((minute + 330) // 1440)::INTEGER AS number,
        arg_min(open, minute) AS open,
        max(high) AS high,
        min(low) AS low,
        arg_max(close, minute) AS close,
        sum(volume)::BIGINT AS volume,
        arg_max(open_interest, minute) AS open_interest,
        count(*) FILTER (volume > 0) AS minutes,
        to_timestamp(min(minute) * 60) AS first_ts,
        to_timestamp(max(minute) * 60) AS last_ts
    FROM candles
    WHERE underlying = $underlying AND expiry = $expiry
    GROUP BY ALL
)
SELECT underlying, expiry, instrument_type, strike_price, bars.* EXCLUDE (number), DATE '1970-01-01' + number AS day
FROM bars JOIN contracts USING (instrument_key)
WHERE underlying = $underlying AND expiry = $expiry
ORDER BY instrument_key, day;
