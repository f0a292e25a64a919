"""The names of a contract: as Upstox, OpenAlgo and the National Stock Exchange write it.

Text only: no frame, no file, no request. A module for each notation has `format_symbol` and a way to parse; reading
undoes writing, and text that has more than one meaning is refused, never guessed. Whether an expiry is weekly is what
the API says (`contracts.weekly`); nothing here looks at a weekday. Instrument keys are `upstox/keys.py`.
"""
