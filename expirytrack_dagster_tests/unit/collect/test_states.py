"""The states of a contract, and how they are laid out as columns."""

from __future__ import annotations

from datetime import UTC, datetime

from expirytrack_dagster.collect.states import SEALED, ContractStatus, State, status_frame

NOW = datetime(2025, 9, 1, 12, tzinfo=UTC)


def test_only_proven_states_are_final() -> None:
    """Complete and proven empty are never asked again; the other three are."""
    assert {"complete", "empty_proven"} == SEALED
    assert set(State) - SEALED == {"partial", "refused", "failed"}


def test_statuses_become_typed_columns() -> None:
    """Times are UTC microseconds, counts whole numbers, missing texts missing; the columns are those of the record."""
    frame = status_frame(
        [
            ContractStatus(instrument_key="a", status=State.COMPLETE, checked_at=NOW, candles=2, first_ts=NOW),
            ContractStatus(instrument_key="b", status=State.REFUSED, checked_at=NOW, error_code="UDAPI100011"),
        ]
    )
    assert list(frame.columns) == list(ContractStatus.__slots__)
    assert frame["first_ts"].dtype == "datetime64[us, UTC]"
    assert frame["first_ts"].isna().tolist() == [False, True]
    assert frame["candles"].tolist() == [2, 0]
    assert frame["status"].tolist() == ["complete", "refused"]
    assert frame["error_code"].isna().tolist() == [True, False]


def test_no_statuses_have_the_same_columns() -> None:
    """A cell without answers gives an empty frame of the same columns and types."""
    empty = status_frame([])
    full = status_frame([ContractStatus(instrument_key="a", status=State.COMPLETE, checked_at=NOW)])
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert len(empty) == 0
