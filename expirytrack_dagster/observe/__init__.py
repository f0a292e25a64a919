"""What ExpiryTrack shows of itself while it works; nothing here changes what is collected, and nothing knows Dagster.

`metrics` and `logs` lie low, so that every room may count and write into them; the other modules lie above `collect/`.
"""
