"""A local Upstox: the same routes, limits, errors and token rules, over a synthetic or a recorded market.

Belongs here: everything that plays the server. `market.py` says what a market can be asked; `synthetic.py` and
`recorded.py` are the two markets; `planting.py` spoils chosen candles; `server.py` speaks HTTP; `limits.py` counts
requests; `login.py` and `tokens.py` log users in; `switches.py` makes it misbehave; `running.py` and `command.py` host
it in a test or a terminal.

Does not belong here: anything a client needs. The client must work against the real API without this package, so
nothing outside the tests and the command line imports it.
"""
