"""What each leaf of the error tree does to a cell: one contract's state and the rest goes on, or a stop that keeps all.

Every leaf is tried in the place where most of them arise, an answer about one contract; a new leaf without a line in
`ONE_CONTRACT` has to stop the work, whatever its branch.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster import errors
from expirytrack_dagster.errors import ExpiryTrackError, MalformedResponse, RateLimited
from expirytrack_dagster.failures import readable_failures
from expirytrack_dagster_tests.unit.collect.cells import staged_rows, states

if TYPE_CHECKING:
    from expirytrack_dagster_tests.unit.collect.cells import Cell

TREE = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ExpiryTrackError)]
LEAVES = [cls for cls in TREE if not cls.__subclasses__() or cls is errors.RequestRefused]
DATA = {"status": 400, "code": "UDAPI1148", "retry_after": 3.0}

ONE_CONTRACT = {
    "NetworkError": "failed",
    "ServerError": "failed",
    "RateLimited": "failed",
    "EdgeBlocked": "failed",
    "TruncatedResponse": "failed",
    "NotSent": "failed",  # no alert is sent there; whatever may be tried again is taken for one contract's
    "CellBusy": "failed",
    "CellLost": "failed",  # as above
    "RequestRefused": "refused",
    "DateRangeRefused": "refused",
}
"""Leaves that say something about the contract that was asked, and its state then."""


def raised(leaf: type[ExpiryTrackError]) -> ExpiryTrackError:
    """Return an error of this leaf with the data that it takes."""
    taken = inspect.signature(leaf.__init__).parameters
    return leaf("what happened and what to do", **{name: value for name, value in DATA.items() if name in taken})


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf.__name__ in ONE_CONTRACT])
def test_an_error_about_a_contract_is_its_state_alone(cell: Cell, leaf: type[ExpiryTrackError]) -> None:
    """The contract has the state and the sentence, and every other one is complete."""
    hurt = cell.keys[3]
    cell.source.faults[hurt] = raised(leaf)
    found = states(cell.collect())
    assert found.pop(hurt).status == ONE_CONTRACT[leaf.__name__]
    assert {str(status.status) for status in found.values()} == {"complete"}


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf.__name__ not in ONE_CONTRACT])
def test_any_other_error_stops_at_once_and_keeps_what_arrived(cell: Cell, leaf: type[ExpiryTrackError]) -> None:
    """No contract is asked after it, what was answered before is staged, and the next run asks only for the rest."""
    order = asked_in_order(cell)
    hurt = order[3]
    cell.source.faults[hurt] = error = raised(leaf)
    with pytest.raises(leaf) as caught:
        cell.collect()
    assert caught.value is error
    assert cell.asked() == order[:4]
    assert set(staged_rows(cell.staging.batches())) == set(order[:3])
    cell.source.faults.clear()
    assert {str(status.status) for status in states(cell.collect()).values()} == {"complete"}
    assert set(cell.asked()) == set(order[3:])


def asked_in_order(cell: Cell) -> list[str]:
    """Return the order in which the cell's contracts are asked, and forget that they were."""
    cell.collect()
    cell.staging.clear()
    return cell.asked()


@pytest.mark.parametrize("archived", [False, True], ids=["staged", "archived"])
def test_a_contract_of_odd_answers_stops_one_run_and_no_more(cell: Cell, *, archived: bool) -> None:
    """Once known, it is asked last and is failed, so that it keeps no other contract out of the archive."""
    order = asked_in_order(cell)
    hurt = order[1]
    cell.source.faults[hurt] = MalformedResponse("data is a number, not an object")
    if not archived:
        with pytest.raises(MalformedResponse):
            cell.collect()
        (known,) = [status for status in states(cell.staging.batches()).values() if status.status == "failed"]
        assert (known.instrument_key, known.error_code, known.requests) == (hurt, "MalformedResponse", 1)
    cell.asked()
    found = states(cell.collect(odd=[hurt] if archived else []))
    assert cell.asked()[-1] == hurt
    assert {key for key, status in found.items() if status.status != "complete"} == {hurt}
    assert found[hurt].message == "data is a number, not an object"


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_dagster_run_ends_with_the_sentence(leaf: type[ExpiryTrackError]) -> None:
    """Whatever it is, people read one sentence, scripts an exit code, and only what may succeed later is retried."""
    dagster = pytest.importorskip("dagster")
    with pytest.raises(dagster.Failure) as caught, readable_failures():
        raise raised(leaf)
    assert caught.value.description == "what happened and what to do"
    assert caught.value.metadata["error"].value == leaf.__name__
    assert caught.value.metadata["exit_code"].value == leaf.exit_code
    assert caught.value.allow_retries is leaf.retryable
    assert caught.value.__cause__ is None, "no traceback of ours"


def test_the_servers_wish_is_kept() -> None:
    """A test of the helper above: data of a leaf reach it."""
    assert getattr(raised(RateLimited), "retry_after", None) == DATA["retry_after"]
