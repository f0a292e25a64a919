-- Three rules at once. A rule looks at the trading day before, so that it could have been followed; it never goes back
-- to an earlier future. Where the future that it wants has no bar, the next later one that has is taken.
DELETE FROM main.continuous_futures WHERE underlying = $underlying;

INSERT INTO main.continuous_futures BY NAME
WITH bars AS (
    SELECT * FROM daily_bars WHERE underlying = $underlying AND instrument_type = 'FUT'
),
days AS (
    SELECT
        day,
        min(expiry) AS first,
        arg_max(expiry, (volume, -epoch(expiry))) AS most_traded,
        arg_max(expiry, (open_interest, -epoch(expiry))) AS most_open
    FROM bars
    GROUP BY day
),
wanted AS (
    SELECT day, 'expiry' AS rule, first AS expiry FROM days
    UNION ALL
    SELECT day, 'volume', coalesce(lag(most_traded) OVER (ORDER BY day), first) FROM days
    UNION ALL
    SELECT day, 'open_interest', coalesce(lag(most_open) OVER (ORDER BY day), first) FROM days
),
forward_only AS (
    SELECT rule, day, max(expiry) OVER (PARTITION BY rule ORDER BY day) AS expiry FROM wanted
),
held AS (
    SELECT rule, day, min(bars.expiry) AS expiry
    FROM forward_only JOIN bars USING (day)
    WHERE bars.expiry >= forward_only.expiry
    GROUP BY ALL
),
series AS (
    SELECT
        rule,
        bars.*,
        lag(bars.instrument_key) OVER by_day AS old_key,
        lag(bars.day) OVER by_day AS old_day,
        lag(bars.close) OVER by_day AS old_close
    FROM held JOIN bars USING (day, expiry)
    WINDOW by_day AS (PARTITION BY rule ORDER BY bars.day)
),
-- A gap is the new price less the old one on the same day: the last before the roll, or else the first after it.
gaps AS (
    SELECT
        series.*,
        coalesce(old_key <> series.instrument_key, false) AS rolled,
        coalesce(before.close - old_close, series.close - after.close) AS gap,
        coalesce(before.close / old_close, series.close / after.close) AS factor
    FROM series
    LEFT JOIN bars AS before ON before.instrument_key = series.instrument_key AND before.day = old_day
    LEFT JOIN bars AS after ON after.instrument_key = old_key AND after.day = series.day
)
SELECT
    underlying,
    rule,
    day,
    expiry,
    instrument_key,
    open,
    high,
    low,
    close,
    volume,
    open_interest,
    rolled,
    CASE WHEN count(*) FILTER (rolled AND gap IS NULL) OVER later = 0
        THEN coalesce(sum(gap) FILTER (rolled) OVER later, 0) END AS difference,
    CASE WHEN count(*) FILTER (rolled AND factor IS NULL) OVER later = 0
        THEN exp(coalesce(sum(ln(factor)) FILTER (rolled) OVER later, 0)) END AS ratio
FROM gaps
WINDOW later AS (PARTITION BY rule ORDER BY day ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
ORDER BY rule, day;
