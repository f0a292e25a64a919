"""The contract list: options and futures in one frame, repeats dropped and counted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import date

import pytest

from expirytrack_dagster.collect.contracts import ask_contracts, from_archive, not_listed
from expirytrack_dagster.collect.tracking import Underlying
from expirytrack_dagster.errors import NetworkError
from expirytrack_dagster.upstox.wire import Contract

EXPIRY = date(2025, 8, 28)
NIFTY = Underlying("NIFTY", "NSE_INDEX|Nifty 50")


def contract(token: int, kind: str, strike: float | None) -> Contract:
    """Return a contract as the API lists it."""
    return Contract(
        instrument_key=f"NSE_FO|{token}|28-08-2025",
        expiry=EXPIRY,
        instrument_type=kind,
        lot_size=75,
        minimum_lot=75,
        strike_price=strike,
    )


@dataclass
class Source:
    """Answers with these contracts; `asked` holds (kind, key, expiry)."""

    options: list[Contract]
    futures: list[Contract]
    asked: list[tuple[str, str, date]] = field(default_factory=list)
    broken: bool = False

    async def get_option_contracts(self, instrument_key: str, expiry_date: date) -> list[Contract]:
        """Return the options."""
        self.asked.append(("option", instrument_key, expiry_date))
        return self.options

    async def get_future_contracts(self, instrument_key: str, expiry_date: date) -> list[Contract]:
        """Return the futures."""
        self.asked.append(("future", instrument_key, expiry_date))
        if self.broken:
            raise NetworkError("no answer")
        return self.futures


def test_options_and_futures_make_one_list() -> None:
    """Two requests with the underlying's key give one frame under its symbol; rows sent twice count as duplicates."""
    call, put = contract(1, "CE", 24_500.0), contract(2, "PE", 24_500.0)
    source = Source([call, put, call], [contract(3, "FUT", None)])
    found = asyncio.run(ask_contracts(source, NIFTY, EXPIRY))
    assert sorted(source.asked) == [("future", NIFTY.instrument_key, EXPIRY), ("option", NIFTY.instrument_key, EXPIRY)]
    assert (found.requests, found.duplicates, found.listed) == (2, 1, True)
    assert found.frame["instrument_type"].tolist() == ["CE", "PE", "FUT"]
    assert set(found.frame["underlying"]) == {"NIFTY"}
    assert found.frame["strike_price"].isna().tolist() == [False, False, True]


def test_half_a_list_is_no_list() -> None:
    """When the futures cannot be had, there is no list of options alone."""
    source = Source([contract(1, "CE", 24_500.0)], [], broken=True)
    with pytest.raises(NetworkError):
        asyncio.run(ask_contracts(source, NIFTY, EXPIRY))


class Slow(Source):
    """Whose futures are refused while the options are still on their way."""

    left = "on its way"

    async def get_option_contracts(self, instrument_key: str, expiry_date: date) -> list[Contract]:
        """Wait for ever, and note how the waiting ended."""
        del instrument_key, expiry_date
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left = "cancelled"
            raise
        return []


def test_an_error_leaves_no_request_on_its_way() -> None:
    """The other call has ended when the error is raised, so nothing works on with a client that is closed."""
    source = Slow([], [], broken=True)

    async def ask() -> str:
        with pytest.raises(NetworkError):
            await ask_contracts(source, NIFTY, EXPIRY)
        return source.left

    assert asyncio.run(ask()) == "cancelled"


def test_a_known_or_unlisted_cell_costs_nothing() -> None:
    """The archive's list is passed on; a cell that never was has an empty list of the same columns."""
    found = asyncio.run(ask_contracts(Source([contract(1, "CE", 24_500.0)], []), NIFTY, EXPIRY))
    known = from_archive(found.frame)
    assert known.frame is found.frame
    assert (known.requests, known.listed) == (0, True)
    nothing = not_listed()
    assert (nothing.requests, nothing.listed, len(nothing.frame)) == (0, False, 0)
    assert nothing.frame.dtypes.to_dict() == found.frame.dtypes.to_dict()
