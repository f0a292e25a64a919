-- Open interest of a contract without a bar in the minute is that of its last bar, so totals are sums of changes.
--
-- Max pain without a sum for every pair of strikes: if K is where the underlying settles, what all options pay falls
-- with K as long as the calls open up to K are fewer than the puts open beyond it, and rises from then on. So it is the
-- lowest strike up to which calls and puts together are as many as all puts.
DELETE FROM main.chain_metrics WHERE underlying = $underlying AND expiry = $expiry;

INSERT INTO main.chain_metrics BY NAME
WITH chain AS (
    SELECT *, (ts + INTERVAL 330 MINUTE)::DATE AS day FROM option_chain
    WHERE underlying = $underlying AND expiry = $expiry
),
minutes AS (
    SELECT
        ts,
        day,
        any_value(forward) AS forward,
        any_value(forward_source) AS forward_source,
        any_value(years) AS years,
        any_value(rate) AS rate,
        count(*) AS strikes,
        arg_min(
            {'strike': strike_price, 'ce_key': ce_key, 'pe_key': pe_key, 'ce_close': ce_close, 'pe_close': pe_close},
            (abs(strike_price - forward), strike_price)
        ) FILTER (ce_key IS NOT NULL AND pe_key IS NOT NULL AND forward IS NOT NULL) AS atm,
        coalesce(sum(ce_volume), 0) AS calls,
        coalesce(sum(pe_volume), 0) AS puts
    FROM chain
    GROUP BY ALL
),
changes AS (
    SELECT
        ts,
        strike_price,
        CASE WHEN ce_key IS NULL THEN 0 ELSE ce_open_interest - coalesce(
            lag(ce_open_interest IGNORE NULLS) OVER (PARTITION BY strike_price ORDER BY ts), 0) END AS calls,
        CASE WHEN pe_key IS NULL THEN 0 ELSE pe_open_interest - coalesce(
            lag(pe_open_interest IGNORE NULLS) OVER (PARTITION BY strike_price ORDER BY ts), 0) END AS puts
    FROM chain
),
totals AS (
    SELECT ts, sum(sum(calls)) OVER (ORDER BY ts) AS calls, sum(sum(puts)) OVER (ORDER BY ts) AS puts
    FROM changes
    GROUP BY ts
),
levels AS (
    SELECT
        ts,
        strike_price,
        sum(coalesce(changes.calls, 0) + coalesce(changes.puts, 0)) OVER (PARTITION BY strike_price ORDER BY ts) AS open
    FROM (SELECT ts FROM minutes) CROSS JOIN (SELECT DISTINCT strike_price FROM chain)
    LEFT JOIN changes USING (ts, strike_price)
),
pain AS (
    SELECT ts, min(strike_price) AS max_pain
    FROM (SELECT ts, strike_price, sum(open) OVER (PARTITION BY ts ORDER BY strike_price) AS reached FROM levels)
    JOIN totals USING (ts)
    WHERE reached >= puts AND puts + calls > 0
    GROUP BY ts
),
closing AS (
    SELECT day, arg_max(totals.calls, ts) AS calls, arg_max(totals.puts, ts) AS puts
    FROM totals JOIN minutes USING (ts)
    GROUP BY day
),
before AS (
    SELECT day, lag(calls, 1, 0) OVER (ORDER BY day) AS calls, lag(puts, 1, 0) OVER (ORDER BY day) AS puts FROM closing
)
SELECT
    $underlying AS underlying,
    $expiry AS expiry,
    ts,
    day,
    forward,
    forward_source,
    years,
    rate,
    strikes,
    atm.strike AS atm_strike,
    atm.ce_key AS atm_ce_key,
    atm.pe_key AS atm_pe_key,
    atm.ce_close AS atm_ce_close,
    atm.pe_close AS atm_pe_close,
    sum(minutes.calls) OVER (PARTITION BY day ORDER BY ts) AS call_volume,
    sum(minutes.puts) OVER (PARTITION BY day ORDER BY ts) AS put_volume,
    totals.calls AS call_open_interest,
    totals.puts AS put_open_interest,
    totals.calls - before.calls AS call_open_interest_change,
    totals.puts - before.puts AS put_open_interest_change,
    max_pain
FROM minutes JOIN totals USING (ts) JOIN before USING (day) LEFT JOIN pain USING (ts)
ORDER BY ts;
