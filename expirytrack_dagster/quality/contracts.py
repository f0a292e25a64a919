"""The list of a cell's contracts: its columns, rules and schema, and the check `contract_specification`.

The list is the yardstick of completeness, so one broken row makes it unfit. The patterns are those of Upstox's
published OpenAPI. The expiry is a Python `datetime.date`, as in `expiries`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pandera.pandas as pa

from expirytrack_dagster.quality.columns import column
from expirytrack_dagster.quality.outcome import CheckOutcome, plural, shown
from expirytrack_dagster.quality.rules import Mask, Rule, judge, number, require_columns

if TYPE_CHECKING:
    from datetime import date

SEGMENTS = (
    "NSE_EQ",
    "NSE_FO",
    "NCD_FO",
    "BSE_EQ",
    "BSE_FO",
    "BCD_FO",
    "MCX_FO",
    "NSE_INDEX",
    "BSE_INDEX",
    "MCX_INDEX",
    "NSE_COM",
)
INSTRUMENT_KEY = re.compile(
    rf"(?P<segment>{'|'.join(SEGMENTS)})\|(?P<token>[\w-]+)\|(?P<day>(0[1-9]|[12]\d|3[01])-(0[1-9]|1[012])-\d{{4}})",
    re.ASCII,
)
"""SEGMENT|token|DD-MM-YYYY, to be matched in full."""

CONTRACT_COLUMNS = {
    "instrument_key": column("str", "TEXT", "The contract at Upstox: SEGMENT|token|DD-MM-YYYY."),
    "underlying": column("str", "TEXT", "Short symbol of the underlying, such as NIFTY."),
    "expiry": column(None, "DATE", "Day on which the contract expires.", unit="date in IST"),
    "instrument_type": column("str", "TEXT", "CE (call), PE (put) or FUT (future)."),
    "strike_price": column(
        "float64", "DOUBLE", "Strike of an option; none for a future.", unit="rupees", nullable=True, coerce=True
    ),
    "trading_symbol": column(None, "TEXT", "Name of the contract for people.", nullable=True),
    "exchange_token": column("str", "TEXT", "The exchange's number, which it uses again after the expiry."),
    "lot_size": column("int64", "BIGINT", "Units in a lot of this contract.", unit="units", coerce=True),
    # The recorded values, 5 for options and 10 for futures, fit 0.05 and 0.10 rupees; Upstox does not state the unit.
    "tick_size": column("float64", "DOUBLE", "Smallest step of the price, as received.", unit="paise", coerce=True),
    "minimum_lot": column("int64", "BIGINT", "Smallest quantity of an order.", unit="units", coerce=True),
    "freeze_quantity": column(
        "float64", "DOUBLE", "Largest quantity of an order.", unit="units", nullable=True, coerce=True
    ),
    "weekly": column(
        "boolean", "BOOLEAN", "Weekly option as the API says; none for a future.", nullable=True, coerce=True
    ),
    "segment": column(None, "TEXT", "Segment of the exchange, such as NSE_FO.", nullable=True),
    "name": column(None, "TEXT", "Name of the underlying as the API writes it.", nullable=True),
    "underlying_key": column("str", "TEXT", "The underlying at Upstox, such as NSE_INDEX|Nifty 50."),
}
OPTION_TYPES = ("CE", "PE")


def contract_rules(underlying_key: str, expiry: date) -> tuple[Rule, ...]:
    """Return the rules for the contracts of one cell; the order is that of precedence."""
    return (
        *_identity_rules(expiry),
        Rule(
            "instrument_type",
            "the type is CE, PE or FUT",
            lambda frame: frame["instrument_type"].isin((*OPTION_TYPES, "FUT")).to_numpy(),
            lambda rows: [f"type {value} is none of CE, PE, FUT" for value in rows["instrument_type"]],
        ),
        Rule(
            "strike_price",
            "an option has a strike above zero and a future has none",
            _strike_fits,
            lambda rows: [
                f"the strike of a {kind} is {number(strike)}"
                for kind, strike in zip(rows["instrument_type"], rows["strike_price"], strict=True)
            ],
        ),
        *(_positive_rule(name) for name in ("lot_size", "minimum_lot", "tick_size")),
        Rule(
            "one_lot_size",
            "a contract has one lot size",
            lambda frame: (frame.groupby("instrument_key")["lot_size"].transform("nunique") <= 1).to_numpy(),
            lambda rows: [f"listed with lot size {number(size)} and another one" for size in rows["lot_size"]],
        ),
        Rule(
            "unique_key",
            "a contract is listed once",
            lambda frame: ~frame["instrument_key"].duplicated(keep=False).to_numpy(),
            lambda rows: ["the instrument key is listed more than once, with different values"] * len(rows),
        ),
        Rule(
            "unique_strike",
            "an option's type and strike are listed once",
            _strike_is_unique,
            lambda rows: [
                f"{kind} {number(strike)} is listed more than once"
                for kind, strike in zip(rows["instrument_type"], rows["strike_price"], strict=True)
            ],
        ),
        Rule(
            "underlying_key",
            f"the underlying is {underlying_key}",
            lambda frame: (frame["underlying_key"] == underlying_key).to_numpy(dtype=np.bool_),
            lambda rows: [f"underlying {value} where {underlying_key} was asked" for value in rows["underlying_key"]],
        ),
    )


def contract_schema(underlying_key: str, expiry: date) -> pa.DataFrameSchema:
    """Return the schema of one cell's contracts; validate with `lazy=True`."""
    checks = [rule.as_check() for rule in contract_rules(underlying_key, expiry)]
    return pa.DataFrameSchema(CONTRACT_COLUMNS, checks=checks, name="contracts")


def drop_exact_duplicates(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the list without rows that repeat an earlier one in every column, and how many those were."""
    repeats = frame.duplicated()
    return frame[~repeats].reset_index(drop=True), int(repeats.sum())


def check_contracts(frame: pd.DataFrame, *, underlying_key: str, expiry: date) -> CheckOutcome:
    """Check the contracts of one cell, after `drop_exact_duplicates`.

    An empty list passes: the API lists dates for which it has no contract. Any broken row is fatal.

    Args:
        frame: the columns of `CONTRACT_COLUMNS`, one row a contract.
        underlying_key: the underlying that was asked for.
        expiry: the date that was asked for, in IST.

    Raises:
        UnfitData: a column is missing.
    """
    require_columns(frame, list(CONTRACT_COLUMNS))
    if frame.empty:  # whose columns have no types to judge
        found = pd.DataFrame({"rule": [], "detail": []})
    else:
        found = judge(frame, contract_schema(underlying_key, expiry), contract_rules(underlying_key, expiry))
    options = int(frame["instrument_type"].isin(OPTION_TYPES).sum())
    futures = int((frame["instrument_type"] == "FUT").sum())
    if frame.empty:
        summary = f"The API lists no contract of {underlying_key} for {expiry}: there is nothing to collect."
    elif found.empty:
        summary = f"{plural(options, 'option')} and {plural(futures, 'future')}, each as specified."
    else:
        summary = (
            f"{len(found):,} of {plural(len(frame), 'contract')} break the specification, so the cell is not written: "
            "ask the API again and report the list to Upstox if it stays broken."
        )
    keys = frame["instrument_key"].reset_index(drop=True).reindex(found.index)
    return CheckOutcome(
        name="contract_specification",
        passed=found.empty,
        fatal=not found.empty,
        summary=summary,
        counts={"contracts": len(frame), "options": options, "futures": futures, "broken": len(found)},
        failing=shown(found.assign(instrument_key=keys)[["instrument_key", "rule", "detail"]]),
    )


def _key_part(frame: pd.DataFrame, part: str) -> list[str | None]:
    """Return one part of each instrument key, None where the key is malformed."""
    matches = [INSTRUMENT_KEY.fullmatch(str(key)) for key in frame["instrument_key"]]
    return [match[part] if match else None for match in matches]


def _identity_rules(expiry: date) -> tuple[Rule, ...]:
    def well_formed(frame: pd.DataFrame) -> Mask:
        return np.array([token is not None for token in _key_part(frame, "token")], dtype=np.bool_)

    def token_agrees(frame: pd.DataFrame) -> Mask:
        pairs = zip(_key_part(frame, "token"), frame["exchange_token"], strict=True)
        return np.array([inside is None or inside == token for inside, token in pairs], dtype=np.bool_)

    def expiry_agrees(frame: pd.DataFrame) -> Mask:
        written = expiry.strftime("%d-%m-%Y")
        pairs = zip(_key_part(frame, "day"), frame["expiry"], strict=True)
        # A datetime or a text never equals a date, so that only dates agree.
        return np.array([day in (None, written) and own == expiry for day, own in pairs], dtype=np.bool_)

    return (
        Rule(
            "instrument_key",
            "the instrument key is SEGMENT|token|DD-MM-YYYY",
            well_formed,
            lambda rows: [f"instrument key {key} is not SEGMENT|token|DD-MM-YYYY" for key in rows["instrument_key"]],
        ),
        Rule(
            "exchange_token",
            "the token inside the key is the exchange token",
            token_agrees,
            lambda rows: [
                f"the key holds token {inside}, the column {token}"
                for inside, token in zip(_key_part(rows, "token"), rows["exchange_token"], strict=True)
            ],
        ),
        Rule(
            "expiry",
            f"column and key say that the contract expires on {expiry}",
            expiry_agrees,
            lambda rows: [
                f"expires on {own} by its column and on {day or 'no readable day'} by its key, asked was {expiry}"
                for own, day in zip(rows["expiry"], _key_part(rows, "day"), strict=True)
            ],
        ),
    )


def _positive_rule(name: str) -> Rule:
    def holds(frame: pd.DataFrame) -> Mask:
        values = frame[name].to_numpy(dtype="float64", na_value=np.nan)
        return (values > 0) & (values < np.inf)

    return Rule(
        name, f"{name} is above zero", holds, lambda rows: [f"{name} is {number(value)}" for value in rows[name]]
    )


def _strike_fits(frame: pd.DataFrame) -> Mask:
    strikes = frame["strike_price"].to_numpy(dtype="float64", na_value=np.nan)
    options = frame["instrument_type"].isin(OPTION_TYPES).to_numpy()
    futures = (frame["instrument_type"] == "FUT").to_numpy(dtype=np.bool_)
    return np.where(options, (strikes > 0) & (strikes < np.inf), np.isnan(strikes) | ~futures)


def _strike_is_unique(frame: pd.DataFrame) -> Mask:
    options = frame["instrument_type"].isin(OPTION_TYPES)
    return ~(options & frame.duplicated(["instrument_type", "strike_price"], keep=False)).to_numpy()
