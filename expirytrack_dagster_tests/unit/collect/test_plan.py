"""What the missing cells cost: counted where it can be, else estimated from what was collected, or guessed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.collect import plan
from expirytrack_dagster.collect.due import Cell
from expirytrack_dagster.collect.plan import Basis, CellPlan, Experience
from expirytrack_dagster.collect.proof import to_reconcile
from expirytrack_dagster.collect.questions import UNPROVEN, questions
from expirytrack_dagster.collect.states import ContractStatus, State
from expirytrack_dagster.settings import RateLimit
from expirytrack_dagster.upstox.forecast import Forecast

EXPIRY = date(2025, 8, 28)
NOW = datetime(2025, 9, 1, 14, 0, tzinfo=UTC)
SHARE = 0.01


def chain(strikes: int) -> pd.DataFrame:
    """Return a contract list: a call and a put a strike, and a future."""
    keys = [f"NSE_FO|{number}|28-08-2025" for number in range(2 * strikes + 1)]
    prices = [100.0 + number // 2 for number in range(2 * strikes)]
    kinds = ["CE", "PE"] * strikes
    return pd.DataFrame({"instrument_key": keys, "strike_price": [*prices, None], "instrument_type": [*kinds, "FUT"]})


def cell(contracts: int = 0, final: int = 0, leaves: date | None = None) -> Cell:
    """Return a listed cell of NIFTY."""
    return Cell("NIFTY", EXPIRY, contracts, final, 0, sealed=False, listed=True, leaves=leaves)


def planned(cell_: Cell, experience: Experience, asked: object = None) -> CellPlan:
    """Plan a cell at 50 bytes a row."""
    return plan.of_cell(cell_, asked, experience, share=SHARE, bytes_a_row=50.0)  # type: ignore[arg-type]


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 10), st.floats(0, 0.5))
def test_questions_are_counted(strikes: int, sealed: int, empty: int, share: float) -> None:
    """One request a contract that is not final, one more for each that is compared, one a proof that is outstanding."""
    contracts = chain(strikes)
    keys = list(contracts["instrument_key"])
    final, unproven = keys[:sealed], keys[sealed : sealed + empty]
    staged = [
        ContractStatus(instrument_key=key, status=State.PARTIAL, checked_at=NOW, error_code=UNPROVEN)
        for key in unproven
    ]
    asked = questions(contracts, final=final, partial=(), staged=staged, share=share)
    rest = set(keys) - set(final) - set(unproven)
    assert set(asked.keys) == rest
    assert asked.requests == len(rest) + len(rest & (to_reconcile(contracts, share) | set(unproven))) + len(unproven)


def test_a_first_cell_is_a_guess() -> None:
    """Without any experience there is still a figure, and it says what it is."""
    first = planned(cell(), Experience())
    assert first.basis is Basis.GUESSED
    assert first.requests == plan.LIST_REQUESTS + plan.GUESSED_CONTRACTS + 13
    assert first.rows == plan.GUESSED_CONTRACTS * plan.GUESSED_ROWS


def test_a_cell_is_estimated_from_its_likes() -> None:
    """Contracts, candles and what could not be foreseen come from the cells that were collected."""
    known = Experience(cells=2, contracts=400, requests=470, rows=1_200_000)  # 26 compared, 44 not foreseen
    next_one = planned(cell(), known)
    assert (next_one.contracts, next_one.basis) == (200, Basis.ESTIMATED)
    assert next_one.requests == 2 + 200 + 13 + 22
    assert (next_one.rows, next_one.bytes) == (600_000, 30_000_000)


def test_a_known_list_is_counted() -> None:
    """The questions themselves, and only what nobody can foresee from experience."""
    contracts = chain(50)
    asked = questions(contracts, final=set(contracts["instrument_key"][:60]), partial=(), staged=(), share=0.0)
    some = planned(cell(101, 60), Experience(1, 100, 111, 1000), asked)
    assert some.basis is Basis.KNOWN
    assert some.contracts == 41
    assert some.requests == asked.requests


def test_a_cell_that_was_not_looked_at_is_estimated_from_its_counts() -> None:
    """Far down the plan, the contracts that are missing are known, which of them are compared is not."""
    far = planned(cell(contracts=200, final=150), Experience(1, 200, 213, 1000))
    assert (far.contracts, far.requests) == (50, 50 + 12 - 1 + 1)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2])
def test_the_expected_number_of_compared_contracts(share: float) -> None:
    """What is expected of a chain's size is about what the collector compares."""
    contracts = chain(400)
    assert plan.compared(len(contracts), share) == pytest.approx(len(to_reconcile(contracts, share)), rel=0.15)
    assert plan.compared(3, share) == 3


def test_an_underlying_without_experience_takes_that_of_all() -> None:
    """Its own cells if there are any, else the sum of the others."""
    known = {"NIFTY": Experience(1, 200, 220, 9), "SENSEX": Experience(1, 100, 110, 5)}
    assert plan.experience_with(known, "NIFTY") == known["NIFTY"]
    assert plan.experience_with(known, "RELIANCE") == Experience(2, 300, 330, 14)
    assert plan.experience_with({}, "RELIANCE") == Experience()


def test_a_schedule_against_the_clock() -> None:
    """Cells end one after another, some before the token dies, and one too late for the list."""
    forecast = Forecast((RateLimit(60, 10),), (), NOW.timestamp())
    costs = [planned(cell(leaves=day), Experience(1, 8, 8, 8)) for day in (None, date(2025, 9, 2), NOW.date())]
    made = plan.scheduled(costs, forecast, NOW, NOW + timedelta(minutes=2))
    each = costs[0].requests
    assert made.requests == 3 * each
    assert [one.finish for one in made.cells] == [
        datetime.fromtimestamp(forecast.finish(each * number), UTC) for number in (1, 2, 3)
    ]
    assert made.until_token_dies == 20
    assert [one.leaves for one in made.late] == [NOW.date()]
    assert len(made.tonight) == sum(each * number <= 20 for number in (1, 2, 3))
    sentence = plan.warning(made)
    assert sentence is not None
    assert "20 can leave before the token dies" in sentence
    assert plan.warning(plan.scheduled(costs[:1], forecast, NOW, NOW + timedelta(days=1))) is None
    assert plan.numbers(made)["cells_too_late"] == 1
    assert list(plan.table(made)["leaves"].fillna("")) == ["", "2025-09-02", "2025-09-01"]


def test_nothing_missing() -> None:
    """An empty plan is finished when it is made."""
    made = plan.scheduled([], Forecast((), (), NOW.timestamp()), NOW, NOW + timedelta(hours=1))
    assert (made.requests, made.finish, made.tonight, made.late) == (0, NOW, [], [])
    assert plan.cost(0, 0) == {"requests": 0, "requests_per_1000_rows": 0.0}
    assert plan.cost(3, 6000)["requests_per_1000_rows"] == 0.5
