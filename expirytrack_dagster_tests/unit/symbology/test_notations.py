"""The three notations: known examples, round trips, and text that is refused rather than guessed."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.symbology import nse, openalgo, upstox
from expirytrack_dagster.symbology.contract import Contract
from expirytrack_dagster_tests.unit.symbology.strategies import contracts, expiries, underlyings

AUGUST = date(2025, 8, 28)
PUT = Contract("NIFTY", AUGUST, "PE", Decimal(22600))
FUTURE = Contract("NIFTY", AUGUST, "FUT")
UPSTOX = {
    "NIFTY 22600 PE 28 AUG 25": PUT,
    "NIFTY FUT 28 AUG 25": FUTURE,
    "SENSEX 93200 PE 08 JAN 26": Contract("SENSEX", date(2026, 1, 8), "PE", Decimal(93200)),
    "USDINR 87.6 CE 02 JAN 26": Contract("USDINR", date(2026, 1, 2), "CE", Decimal("87.6")),
}
OPENALGO = {
    "NIFTY28AUG2522600PE": PUT,
    "NIFTY28AUG25FUT": FUTURE,
    "NIFTY28MAR2420800CE": Contract("NIFTY", date(2024, 3, 28), "CE", Decimal(20800)),
    "VEDL25APR24292.5CE": Contract("VEDL", date(2024, 4, 25), "CE", Decimal("292.5")),
    "NIFTYNXT5030DEC2565000CE": Contract("NIFTYNXT50", date(2025, 12, 30), "CE", Decimal(65000)),
    "679GS203425JUN26103.75CE": Contract("679GS2034", date(2026, 6, 25), "CE", Decimal("103.75")),
    "M&M24FEB263600PE": Contract("M&M", date(2026, 2, 24), "PE", Decimal(3600)),
    "BAJAJ-AUTO24FEB26FUT": Contract("BAJAJ-AUTO", date(2026, 2, 24), "FUT"),
}
# As brokers' forums and recordings show them: name, contract, whether the API called it weekly.
NSE = {
    "NIFTY25AUG22600PE": (PUT, False),
    "NIFTY25AUGFUT": (FUTURE, False),
    "NIFTY2590222600PE": (Contract("NIFTY", date(2025, 9, 2), "PE", Decimal(22600)), True),
    "NIFTY20D1713600CE": (Contract("NIFTY", date(2020, 12, 17), "CE", Decimal(13600)), True),
    "BANKNIFTY20FEB30900CE": (Contract("BANKNIFTY", date(2020, 2, 27), "CE", Decimal(30900)), False),
    "BANKNIFTY2020630900CE": (Contract("BANKNIFTY", date(2020, 2, 6), "CE", Decimal(30900)), True),
    "BANKNIFTY2392038000CE": (Contract("BANKNIFTY", date(2023, 9, 20), "CE", Decimal(38000)), True),
    "NIFTY2161715600CE": (Contract("NIFTY", date(2021, 6, 17), "CE", Decimal(15600)), True),
}


@pytest.mark.parametrize(("text", "contract"), UPSTOX.items(), ids=UPSTOX)
def test_upstox_examples(text: str, contract: Contract) -> None:
    """Both ways."""
    assert upstox.parse(text) == contract
    assert upstox.format_symbol(contract) == text


@pytest.mark.parametrize(("text", "contract"), OPENALGO.items(), ids=OPENALGO)
def test_openalgo_examples(text: str, contract: Contract) -> None:
    """Both ways; names that end in digits lose none of them to the day."""
    assert openalgo.parse(text) == contract
    assert openalgo.format_symbol(contract) == text


@pytest.mark.parametrize("text", NSE)
def test_nse_examples(text: str) -> None:
    """Both ways, all examples listed at once."""
    contract, weekly = NSE[text]
    reader = nse.Reader(nse.Expiry(each.underlying, each.expiry, flag) for each, flag in NSE.values())
    assert reader.parse(text) == contract
    assert nse.format_symbol(contract, weekly=weekly) == text


@given(contracts())
def test_separated_and_dated_symbols_round_trip(contract: Contract) -> None:
    """Whatever is written is read back as the same contract."""
    assert upstox.parse(upstox.format_symbol(contract)) == contract
    assert openalgo.parse(openalgo.format_symbol(contract)) == contract


@given(st.text("NIFTY0123456789 .-&JANFEBCEPUT", max_size=30) | contracts().map(openalgo.format_symbol))
def test_what_is_read_is_written_alike(text: str) -> None:
    """No second spelling of a contract is accepted: reading and writing gives the text itself, or it is refused."""
    for notation in (upstox, openalgo):
        try:
            contract = notation.parse(text)
        except ConfigurationError:
            continue
        assert notation.format_symbol(contract) == text


LISTED = st.lists(st.builds(nse.Expiry, underlyings, expiries, st.booleans()), min_size=1, max_size=30)


@given(LISTED, contracts(), st.data())
def test_nse_symbols_have_one_meaning_or_are_refused(
    listed: list[nse.Expiry], drawn: Contract, data: st.DataObject
) -> None:
    """Never another contract than the one that was written; the refusal names all that it may mean."""
    expiry = data.draw(st.sampled_from(listed))
    contract = Contract(expiry.underlying, expiry.day, drawn.kind, drawn.strike)
    text = nse.format_symbol(contract, weekly=expiry.weekly)
    try:
        read = nse.Reader(listed).parse(text)
    except ConfigurationError as refused:
        meanings = str(refused)
    else:
        meanings = f"may mean {read.underlying} {read.expiry} {read.ending}:"
    assert f" {contract.underlying} {contract.expiry} {contract.ending}" in meanings
    assert "may mean" in meanings


def test_the_same_symbol_of_two_expiries_is_refused() -> None:
    """Two monthly expiries in a month, and a name that ends like the beginning of a date."""
    twice = [nse.Expiry("NIFTY", AUGUST, weekly=False), nse.Expiry("NIFTY", date(2025, 8, 26), weekly=False)]
    with pytest.raises(ConfigurationError, match="may mean NIFTY 2025-08-26 22600PE or NIFTY 2025-08-28 22600PE"):
        nse.Reader(twice).parse("NIFTY25AUG22600PE")
    alike = [nse.Expiry("X", date(2025, 9, 2), weekly=True), nse.Expiry("X25", date(2090, 2, 22), weekly=True)]
    with pytest.raises(ConfigurationError, match="may mean"):
        nse.Reader(alike).parse("X2590222600PE")
    with pytest.raises(ConfigurationError, match="no symbol of a listed expiry"):
        nse.Reader(twice).parse("NIFTY2590222600PE")


@pytest.mark.parametrize(
    "text",
    ["", "NIFTY", "NIFTY28AUG25", "NIFTY28AUG25022600PE", "NIFTY28AUG2522600.0PE", "NIFTY28AUG2522600", "28AUG25FUT",
     "NIFTY31FEB2522600PE", "NIFTY28aug2522600PE", "NIFTY28AUG2522600PE\n", "nifty28AUG25FUT", "NIFTY8AUG25FUT",
     "NIFTY28AUG25-5PE", "NIFTY28AUG251e3PE", "NIFTY28AUG250PE", "NIFTY28AUG25FUTCE", "NIFTY२८AUG25FUT",
     "../28AUG25FUT", "NIFTY 28AUG25FUT"],
)  # fmt: skip
def test_other_openalgo_spellings_are_refused(text: str) -> None:
    """The sentence shows the form."""
    with pytest.raises(ConfigurationError, match="NIFTY28AUG2522600PE"):
        openalgo.parse(text)


@pytest.mark.parametrize(
    "text", ["NIFTY 22600 PE 8 AUG 25", "NIFTY 22600 PE 31 FEB 25", "NIFTY PE 28 AUG 25", "NIFTY 22600 PE 28 AUG 2025",
             "NIFTY 22600.50 PE 28 AUG 25", "NIFTY  22600 PE 28 AUG 25", "NIFTY FUT 28 AUG 25 ", "NIFTY28AUG25FUT"],
)  # fmt: skip
def test_other_upstox_spellings_are_refused(text: str) -> None:
    """The sentence shows the form."""
    with pytest.raises(ConfigurationError, match="NIFTY 22600 PE 28 AUG 25"):
        upstox.parse(text)


def test_a_row_of_the_archive_becomes_a_contract() -> None:
    """A strike that is a float keeps the digits that it shows; what no notation can name is refused."""
    assert Contract.of("NIFTY", AUGUST, "PE", 22600.0) == PUT
    assert Contract.of("NIFTY", AUGUST, "FUT", None) == FUTURE
    assert Contract.of("VEDL", AUGUST, "CE", 292.1).ending == "292.1CE"
    for kind, strike in (
        ("CE", None),
        ("CE", 0.0),
        ("PE", -1.0),
        ("CE", float("nan")),
        ("CE", float("inf")),
        ("EQ", 1.0),
    ):
        with pytest.raises(ConfigurationError):
            Contract.of("NIFTY", AUGUST, kind, strike)
    for underlying, day in (("../etc", AUGUST), ("nifty", AUGUST), ("", AUGUST), ("NIFTY", date(1999, 12, 31))):
        with pytest.raises(ConfigurationError):
            Contract.of(underlying, day, "FUT", None)
