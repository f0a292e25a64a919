"""The mathematics of options on arrays: implied volatility and greeks.

This room knows numpy and scipy's special functions alone: no frame, no database, no time zone. Which price, forward
and time belong to a row is decided by the SQL of `warehouse/`.
"""
