"""A cell: what is believed to be empty, complete or cut short, and what the proof of it costs."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from expirytrack_dagster.collect.proof import dead_wings
from expirytrack_dagster.collect.questions import UNPROVEN
from expirytrack_dagster.collect.staging import CellStaging
from expirytrack_dagster.errors import RequestRefused, ServerError, TokenRejected
from expirytrack_dagster.state import StateDatabase
from expirytrack_dagster_tests.unit.collect.cells import EXPIRY, MINUTES, Cell, staged_rows, states
from expirytrack_dagster_tests.unit.collect.conftest import Source


def test_empty_contracts_are_settled_together(cell: Cell) -> None:
    """Inside the traded strikes an empty contract is asked for its days; beyond them nobody is, and all are proven."""
    cell = Cell(cell.source, cell.state, cell.staging, size=40)
    empty = {*range(5), 12, *range(30, 40)}
    for number in empty:
        del cell.source.days[cell.keys[number]]
    found = states(cell.collect(workers=4))
    assert {key for key, status in found.items() if status.status == "empty_proven"} == {cell.keys[n] for n in empty}
    assert Counter(str(status.status) for status in found.values()) == {"complete": 24, "empty_proven": 16}
    compared = cell.keys[18:23]
    assert set(cell.asked("day")) == {*compared, cell.keys[12]}
    assert (found[cell.keys[12]].requests, found[cell.keys[0]].requests, found[compared[0]].requests) == (2, 1, 2)


def test_types_have_wings_of_their_own(cell: Cell) -> None:
    """Puts that traded prove nothing about calls: a type of which none traded is asked contract by contract."""
    cell = Cell(cell.source, cell.state, cell.staging, size=20)
    cell.contracts["instrument_type"] = ["CE", "PE"] * 10
    for key in cell.keys[::2]:
        del cell.source.days[key]
    assert Counter(str(s.status) for s in states(cell.collect()).values()) == {"complete": 10, "empty_proven": 10}
    assert set(cell.asked("day")) >= set(cell.keys[::2])


def test_a_wing_is_not_dead_inside_a_contract_without_answer(cell: Cell) -> None:
    """A refused contract may have traded, so empty ones between it and the trades are asked for their days."""
    cell = Cell(cell.source, cell.state, cell.staging, size=40)
    for key in cell.keys[:10]:
        del cell.source.days[key]
    cell.source.faults[cell.keys[4]] = RequestRefused("no", status=400, code="UDAPI100011")
    found = states(cell.collect())
    assert found[cell.keys[4]].status == "refused"
    asked = cell.asked("day")
    assert set(cell.keys[5:10]) <= set(asked)
    assert not set(cell.keys[:5]) & set(asked)


@pytest.mark.parametrize("hidden", [2, 12], ids=["in the wing", "among traded strikes"])
def test_a_wing_that_is_alive_is_asked_in_full(cell: Cell, hidden: int) -> None:
    """When a contract has daily candles but no minutes, no minutes prove nothing: every empty contract is asked."""
    cell = Cell(cell.source, cell.state, cell.staging, size=40)
    empty = [*range(5), 12, *range(30, 40)]
    for number in empty:
        del cell.source.days[cell.keys[number]]
    cell.source.daily = {cell.keys[hidden]: [EXPIRY]}
    found = states(cell.collect(partial=[cell.keys[2]]))  # which has it compared, as if it were of the sample
    assert found[cell.keys[hidden]].status == "partial"
    assert Counter(str(status.status) for status in found.values()) == {
        "complete": 24,
        "empty_proven": 15,
        "partial": 1,
    }
    assert set(cell.asked("day")) >= {cell.keys[number] for number in empty}


def test_open_proofs_are_taken_up_after_an_interruption(cell: Cell) -> None:
    """Contracts known to have no minutes are not asked for minutes again by the next run, and end proven."""
    cell = Cell(cell.source, cell.state, cell.staging, size=40)
    inside = [cell.keys[number] for number in range(5, 15)]
    for key in [*inside, *cell.keys[:3]]:
        del cell.source.days[key]
    dead = TokenRejected("dead")
    cell.source.fault = lambda key, interval, _last: dead if (key, interval) == (inside[4], "day") else None
    with pytest.raises(TokenRejected):
        cell.collect()
    staged = states(cell.staging.batches())
    assert len(staged) == 40, "nobody is lost"
    assert Counter(status.error_code for status in staged.values())[UNPROVEN] == 5 + 3
    cell.asked()
    cell.source.fault = lambda *_: None
    found = states(cell.collect())
    assert Counter(str(status.status) for status in found.values()) == {"complete": 27, "empty_proven": 13}
    assert {status.error_code for status in found.values()} == {None}
    assert cell.minutes_asked() == 0
    assert set(cell.asked("day")) == set(inside[:5]), "those nearer to the middle are proven, the others in a dead wing"
    assert found[inside[0]].requests == 2, "those of the first run are counted"


@pytest.mark.parametrize(("sealed", "asked"), [(True, False), (False, True)])
def test_what_the_archive_holds_bounds_the_wings(cell: Cell, *, sealed: bool, asked: bool) -> None:
    """Contracts that traded and are sealed count as trades, those sealed as empty do not."""
    cell = Cell(cell.source, cell.state, cell.staging, size=20)
    rest = cell.keys[:4]
    for key in rest:
        del cell.source.days[key]
    held = [key for key in cell.keys if key not in rest]
    cell.collect(sealed=held, traded=held if sealed else [])
    assert (set(cell.asked("day")) == set(rest)) is asked


def test_a_disagreement_is_partial_and_named(cell: Cell) -> None:
    """A contract whose daily candles tell of another day is partial; the message names days, the first five of them."""
    compared, other = cell.keys[2], cell.keys[0]
    cell.source.daily = {compared: [EXPIRY - timedelta(days=30)], other: [EXPIRY - timedelta(days=30)]}
    found = states(cell.collect())
    assert found[compared].status == "partial"
    assert (found[compared].agrees, found[other].agrees) == (False, None)
    assert "disagree on 2025-07-29:" in str(found[compared].message)
    assert found[other].status == "complete", "it was not compared"
    cell.source.daily[compared] = [EXPIRY - timedelta(days=step) for step in range(30, 37)]
    cell.asked()
    assert "2025-07-27 and 2 more" in str(states(cell.collect())[compared].message)
    assert cell.asked() == [compared]


def test_what_was_partial_is_compared_again(cell: Cell) -> None:
    """A partial contract must agree with its daily candles to become complete, in the sample or not."""
    other = cell.keys[0]
    cell.source.daily[other] = [EXPIRY - timedelta(days=30)]
    assert states(cell.collect(partial=[other]))[other].status == "partial"
    assert states(cell.collect())[other].status == "partial", "as the staged batch says"
    del cell.source.daily[other]
    assert states(cell.collect())[other].status == "complete"


def test_wide_windows_are_learned_by_one_contract(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal of wide windows is met by the first contract alone; the others ask as often as they must."""
    cell = Cell(cell.source, cell.state, cell.staging, size=40)
    answer = cell.source.get_historical_data

    async def taking_turns(*request: Any) -> Any:
        await asyncio.sleep(0)
        return await answer(*request)

    monkeypatch.setattr(cell.source, "get_historical_data", taking_turns)
    cell.source.cap = cell.source.day_cap = 30
    cell.collect(workers=8)
    found = states(cell.staging.batches())
    assert sorted({status.requests for status in found.values()}) == [1, 2, 2 + 2 * 6]
    assert len(cell.source.asked) == 40 + 5 + 2 * 6


@pytest.mark.parametrize("workers", [1, 8])
def test_silent_truncation_loses_nothing_in_any_contract(cell: Cell, workers: int) -> None:
    """Where the API cuts answers to a month without saying so, each contract still gets every minute of its life."""
    cell = Cell(cell.source, cell.state, cell.staging, size=30)
    cell.source.newest = 30
    for number, key in enumerate(cell.keys):
        cell.source.days[key] = [EXPIRY - timedelta(days=step) for step in range(0, 95, 1 + number % 7 * 8)]
    expected = {key: MINUTES * len(days) for key, days in cell.source.days.items()}
    assert staged_rows(cell.collect(workers=workers)) == expected


def test_the_age_of_the_chain_is_known_from_the_archive(cell: Cell) -> None:
    """A cell of which one contract is left asks it as far back as the candles held, when windows are narrow."""
    last = cell.keys[0]
    cell.source.cap = cell.source.day_cap = 20
    cell.source.days[last] = [EXPIRY - timedelta(days=50)]
    batches = cell.collect(sealed=cell.keys[1:], traded=cell.keys[1:], oldest=EXPIRY - timedelta(days=60))
    assert staged_rows(batches) == {last: MINUTES}


@pytest.mark.parametrize("known", ["archived", "staged", "seen in this run"])
def test_proofs_reach_as_far_as_the_chain(cell: Cell, known: str) -> None:
    """With narrow windows of days too, a daily candle as old as the chain is found before "empty" is believed."""
    cell = Cell(cell.source, cell.state, cell.staging, size=20)
    quiet = cell.keys[2]
    cell.source.cap = cell.source.day_cap = 20
    cell.source.days = {key: [EXPIRY - timedelta(days=step) for step in range(60)] for key in cell.keys}
    del cell.source.days[quiet]
    cell.source.daily = {quiet: [EXPIRY - timedelta(days=50)]}
    held = [key for key in cell.keys if key != quiet] if known == "archived" else []
    oldest = EXPIRY - timedelta(days=59) if held else None
    if known == "staged":
        cell.source.fault = lambda key, interval, _: (
            TokenRejected("dead") if (key, interval) == (quiet, "day") else None
        )
        with pytest.raises(TokenRejected):
            cell.collect()
        cell.source.fault = lambda *_: None
    assert states(cell.collect(sealed=held, traded=held, oldest=oldest))[quiet].status == "partial"


def test_minutes_are_asked_once_where_one_window_suffices(cell: Cell) -> None:
    """The cost of a cell: one request of minutes a contract, and days for the sample and the holes inside alone."""
    cell = Cell(cell.source, cell.state, cell.staging, size=300, share=0.01)
    for key in [*cell.keys[:40], *cell.keys[270:]]:
        del cell.source.days[key]
    cell.collect(workers=5)
    assert cell.minutes_asked() <= 1.02 * (300 + 2)
    assert len(cell.source.asked) - cell.minutes_asked() <= 0.05 * 300


NO_ANSWER = ["refused", "failed"]


@example(["hidden", "traded", "refused", "traded", "empty", "traded"], 0.0, "CP")  # no call is known to have traded
@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["traded", "empty", "hidden", "refused", "failed"]), min_size=1, max_size=24),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    types=st.sampled_from(["C", "CP", "CPP"]),
)
def test_every_contract_ends_in_a_true_state(kinds: list[str], share: float, types: str) -> None:
    """Whoever traded: listed = sum of states, and nobody is proven empty who has daily candles, where these are asked.

    They are asked of all contracts with share 1, and always inside the strikes that have minutes.
    """
    with tempfile.TemporaryDirectory() as folder, StateDatabase(Path(folder) / "state.sqlite") as state:
        cell = Cell(Source(), state, CellStaging(Path(folder) / "staging"), size=len(kinds), share=share)
        cell.contracts["instrument_type"] = [f"{types[number % len(types)]}E" for number in range(len(kinds))]
        kind_of = dict(zip(cell.keys, kinds, strict=True))
        cell.source.days = {key: [EXPIRY] for key in cell.keys if kind_of[key] == "traded"}
        cell.source.daily = {key: [EXPIRY] for key in cell.keys if kind_of[key] == "hidden"}
        cell.source.faults = {
            key: RequestRefused("no", status=400, code="UDAPI100011")
            if kind == "refused"
            else ServerError("500", status=500)
            for key, kind in kind_of.items()
            if kind in NO_ANSWER
        }
        found = {key: str(status.status) for key, status in states(cell.collect(workers=3)).items()}
    assert set(found) == set(cell.keys)
    right = {"traded": "complete", "empty": "empty_proven", "hidden": "partial"}
    traded, unknown = ([key for key in cell.keys if kind_of[key] in kinds] for kinds in (["traded"], NO_ANSWER))
    presumed = dead_wings(cell.contracts, traded, unknown)
    for key, state_found in found.items():
        allowed = {right.get(kind_of[key], kind_of[key])}
        if kind_of[key] == "hidden" and key in presumed and share < 1:
            allowed |= {"empty_proven"}
        assert state_found in allowed
