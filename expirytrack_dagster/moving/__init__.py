"""Moving what a home has kept to other addresses: the archive (`archive.py`) and the state database (`state.py`).

Both copy in steps that are committed one by one, find out what is left to do from what the target holds, and prove at
the end that both sides are equal. The source is never changed. Where the two lie from now on is for settings to say.
"""
