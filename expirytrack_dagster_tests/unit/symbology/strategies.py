"""Contracts of every shape that notations have to tell apart, for property tests."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from hypothesis import strategies as st

from expirytrack_dagster.symbology.contract import MONTHS, UNDERLYING, Contract, Kind

# Names that end in digits, hold the name of a month, or look like the beginning of a symbol.
_AWKWARD = (
    "NIFTY",
    "NIFTY25",
    "NIFTYNXT50",
    "SENSEX",
    "SENSEX50",
    "360ONE",
    "M&M",
    "BAJAJ-AUTO",
    "679GS2034",
    "X28MAR24",
)
_PIECES = st.sampled_from([*MONTHS, *"0123456789", "A", "&", "-", "_", ".", "FUT", "CE", "PE", "O", "N", "D"])

underlyings = st.sampled_from(_AWKWARD) | st.lists(_PIECES, min_size=1, max_size=8).map("".join).filter(
    UNDERLYING.fullmatch
)
expiries = st.dates(date(2000, 1, 1), date(2099, 12, 31))
strikes = st.integers(1, 10**9).map(lambda paise: Decimal(paise) / 10000) | st.integers(1, 10**6).map(Decimal)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """Draw a call, a put or a future."""
    kinds: tuple[Kind, ...] = ("CE", "PE", "FUT")
    kind = draw(st.sampled_from(kinds))
    return Contract(draw(underlyings), draw(expiries), kind, None if kind == "FUT" else draw(strikes))
