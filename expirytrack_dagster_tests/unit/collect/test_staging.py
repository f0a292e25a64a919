"""Staged batches on a real disk: whole or not there, repeated reading, forgetting, and what a killed run leaves."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.collect.staging import SCHEMA, CellStaging, rows_of
from expirytrack_dagster.collect.states import ContractStatus, State
from expirytrack_dagster.errors import DiskFull, EncryptionMismatch, StorageError

KEY = bytes(range(32))
NOW = datetime(2025, 8, 28, 4, tzinfo=UTC)


@pytest.fixture(params=[None, KEY], ids=["plain", "encrypted"])
def staging(request: pytest.FixtureRequest, tmp_path: Path) -> CellStaging:
    """Give the staging of a cell whose folder does not exist yet."""
    return CellStaging(tmp_path / "staging" / "NIFTY" / "2025-08-28", request.param)


def good(key: str, rows: int) -> pd.DataFrame:
    """Return sound rows of a contract."""
    return pd.DataFrame(
        {
            "instrument_key": pd.Series([key] * rows, dtype="str"),
            "ts": pd.Series([NOW + timedelta(minutes=step) for step in range(rows)], dtype="datetime64[us, UTC]"),
            **{name: [10.0] * rows for name in ("open", "high", "low", "close")},
            "volume": pd.Series([75] * rows, dtype="int64"),
            "open_interest": pd.Series([750] * rows, dtype="int64"),
        }
    )


def bad(key: str, rows: int) -> pd.DataFrame:
    """Return rows for quarantine."""
    return good(key, rows).assign(rule="ohlc", detail="high below low")


def status(key: str, state: State = State.COMPLETE) -> ContractStatus:
    """Return the state of a contract."""
    return ContractStatus(instrument_key=key, status=state, checked_at=NOW, first_ts=NOW, message="[/] ünïcode")


def staged(staging: CellStaging) -> pd.DataFrame:
    """Return every staged row, contracts and rules as text."""
    frames = [*rows_of(staging.batches(), SCHEMA.names)] or [SCHEMA.empty_table().to_pandas()]
    return pd.concat([frame.astype({"instrument_key": "str", "rule": "str"}) for frame in frames], ignore_index=True)


def test_rows_and_states_come_back_as_they_went(staging: CellStaging) -> None:
    """A batch read back holds the good rows, the bad rows with their rule, and the states."""
    assert staging.batches() == []
    written = staging.write(good("a", 3), bad("b", 2), [status("a"), status("b", State.PARTIAL)])
    assert staging.batches() == [written]
    frame = staged(staging)
    pd.testing.assert_frame_equal(
        frame[frame["rule"].isna()].drop(columns=["rule", "detail"]), good("a", 3), check_dtype=False
    )
    assert (
        frame.loc[frame["rule"].notna(), ["instrument_key", "rule", "detail"]].to_numpy().tolist()
        == [["b", "ohlc", "high below low"]] * 2
    )


def test_states_alone_are_a_batch(staging: CellStaging) -> None:
    """Contracts without a row, refused or proven empty, are staged too."""
    staging.write(good("a", 0), bad("a", 0), [status("a", State.EMPTY_PROVEN)])
    assert [s.instrument_key for batch in staging.batches() for s in batch.statuses] == ["a"]
    assert staged(staging).empty


def test_missing_quantities_survive(staging: CellStaging) -> None:
    """A bad row whose volume the API left out is staged with a missing volume, not with a number."""
    broken = bad("a", 2).assign(volume=[float("nan"), 5.0])
    staging.write(good("a", 0), broken, [status("a")])
    assert staged(staging)["volume"].isna().tolist() == [True, False]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=6))
def test_rows_staged_are_rows_given(sizes: list[tuple[int, int]]) -> None:
    """Whatever the sizes of the batches, every row given is staged once."""
    with tempfile.TemporaryDirectory() as folder:
        staging = CellStaging(Path(folder) / "cell")
        for number, (sound, broken) in enumerate(sizes):
            staging.write(good(f"k{number}", sound), bad(f"k{number}", broken), [status(f"k{number}")])
        frame = staged(staging)
        assert len(staging.batches()) == len(sizes)
        counts = frame.groupby("instrument_key")["rule"].agg(["size", "count"])
    expected = {f"k{number}": (a + b, b) for number, (a, b) in enumerate(sizes) if a + b}
    assert {str(key): (int(row["size"]), int(row["count"])) for key, row in counts.iterrows()} == expected


def test_an_unfinished_file_does_not_count(staging: CellStaging) -> None:
    """What a killed process left under the unfinished name is ignored, and the next batch takes its place."""
    staging.folder.mkdir(parents=True)
    (staging.folder / "batch-00001.part").write_bytes(b"PAR1 half a file")
    assert staging.batches() == []
    staging.write(good("a", 1), bad("a", 0), [status("a")])
    assert [path.name for path in staging.folder.iterdir()] == ["batch-00001.parquet"]


@pytest.mark.parametrize("damage", ["cut", "empty", "footer", "flip", "foreign"])
def test_a_damaged_file_is_removed_and_the_others_stay(staging: CellStaging, damage: str) -> None:
    """Truncated, bit-flipped or foreign files go, so that their contracts are asked again."""
    hurt = staging.write(good("a", 500), bad("a", 0), [status("a")]).path
    kept = staging.write(good("b", 5), bad("b", 0), [status("b")])
    content = bytearray(hurt.read_bytes())
    match damage:
        case "cut":
            content = content[: len(content) // 2]
        case "empty":
            content = bytearray()
        case "footer":
            content[-20] ^= 0xFF
        case "flip":
            content[len(content) // 2] ^= 0x10
        case _:
            content = bytearray(b"not parquet at all")
    hurt.write_bytes(content)
    assert CellStaging(staging.folder, staging.key).batches() == [kept]
    assert not hurt.exists()


def test_every_flipped_bit_of_the_rows_is_noticed(staging: CellStaging) -> None:
    """Wherever in the file a bit flips, it does not pass as whole with other rows or states."""
    written = staging.write(good("a", 50), bad("a", 3), [status("a")])
    path = written.path
    content, rows = path.read_bytes(), staged(staging)
    for place in range(4, len(content), 37):
        hurt = bytearray(content)
        hurt[place] ^= 1 << (place % 8)
        path.write_bytes(hurt)
        if found := CellStaging(staging.folder, staging.key).batches():
            assert found == [written]
            pd.testing.assert_frame_equal(staged(staging), rows)
    assert place > 1000


def test_forgetting_keeps_the_rows_of_others(staging: CellStaging) -> None:
    """Forgotten contracts lose rows and states; a batch that only held them goes; the others are as before."""
    both = pd.concat([good("a", 3), good("b", 4)], ignore_index=True)
    staging.write(both, pd.concat([bad("a", 1), bad("b", 2)]), [status("a"), status("b")])
    staging.write(good("c", 5), bad("c", 0), [status("c")])
    staging.write(good("d", 1), bad("d", 0), [status("d")])
    staging.forget({"a", "d", "unknown"})
    assert staged(staging)["instrument_key"].value_counts().to_dict() == {"b": 6, "c": 5}
    assert [[s.instrument_key for s in batch.statuses] for batch in staging.batches()] == [["b"], ["c"]]


def test_the_last_state_of_a_contract_counts(staging: CellStaging) -> None:
    """A proof staged after the answer that it is about takes its place, for every reader."""
    staging.write(good("b", 2), bad("b", 0), [status("a", State.PARTIAL), status("b")])
    staging.write(good("c", 0), bad("c", 0), [status("a", State.EMPTY_PROVEN), status("c", State.EMPTY_PROVEN)])
    for reader in (staging, CellStaging(staging.folder, staging.key)):
        found = [[(s.instrument_key, str(s.status)) for s in batch.statuses] for batch in reader.batches()]
        assert found == [[("b", "complete")], [("a", "empty_proven"), ("c", "empty_proven")]]
    staging.forget({"c"})
    assert [s.instrument_key for batch in staging.batches() for s in batch.statuses] == ["b", "a"]
    assert len(staged(staging)) == 2


def test_a_look_at_the_states_changes_nothing(staging: CellStaging) -> None:
    """The planner sees the last state of each contract, and leaves what it cannot read to whoever works there."""
    assert staging.peek() == []
    staging.write(good("a", 1), bad("a", 0), [status("a", State.PARTIAL), status("b")])
    last = staging.write(good("a", 1), bad("a", 0), [status("a")])
    assert {one.instrument_key: one.status for one in staging.peek()} == {"a": State.COMPLETE, "b": State.COMPLETE}
    last.path.write_bytes(last.path.read_bytes()[:-5])
    assert {one.instrument_key: one.status for one in staging.peek()} == {"a": State.PARTIAL, "b": State.COMPLETE}
    assert last.path.exists()


def test_a_full_disk_leaves_nothing_half_written(staging: CellStaging, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room the error says so, earlier batches stay, and the next try succeeds."""
    first = staging.write(good("a", 3), bad("a", 0), [status("a")])

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="free some space"):
            staging.write(good("b", 3), bad("b", 0), [status("b")])
    assert list(staging.folder.iterdir()) == [first.path]
    staging.write(good("b", 3), bad("b", 0), [status("b")])
    assert len(staged(staging)) == 6


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in the place of the folder is an error of the tree that names the path."""
    (tmp_path / "NIFTY").write_text("in the way")
    with pytest.raises(StorageError, match="NIFTY"):
        CellStaging(tmp_path / "NIFTY" / "2025-08-28").write(good("a", 1), bad("a", 0), [status("a")])


def test_what_the_archive_knows_as_well_is_forgotten(staging: CellStaging) -> None:
    """What another host stored since then is the newer truth, and what was stored already need not be again."""
    staging.write(good("a", 1), bad("a", 0), [status("a"), status("b", State.PARTIAL), status("c"), status("d")])
    later, earlier = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)
    staging.forget_older_than({"a": NOW, "b": later, "c": earlier, "e": later})
    assert [s.instrument_key for batch in staging.batches() for s in batch.statuses] == ["c", "d"]
    staging.forget_older_than({"c": later, "d": later})
    assert staging.batches() == []


def test_another_setting_loses_nothing_and_a_new_key_is_taken(tmp_path: Path) -> None:
    """Files of the other kind are refused and stay; once converted they are the same rows and states, both ways."""
    plain, sealed = (CellStaging(tmp_path / "NIFTY" / "2025-08-28", key) for key in (None, KEY))
    plain.write(good("a", 3), bad("a", 1), [status("a")])
    plain.write(good("b", 0), bad("b", 0), [status("b", State.EMPTY_PROVEN)])
    rows = staged(plain)
    for now, other, command in ((plain, sealed, "encrypt"), (sealed, plain, "decrypt")):
        with pytest.raises(EncryptionMismatch, match=f"expirytrack {command}"):
            other.batches()
        assert now.change_key(other.key) == 2
        assert now.change_key(other.key) == 0
        pd.testing.assert_frame_equal(staged(other), rows)
        assert [s.instrument_key for batch in other.batches() for s in batch.statuses] == ["a", "b"]
        with pytest.raises(EncryptionMismatch):
            now.batches()


def test_an_encrypted_file_tells_nothing_and_belongs_to_its_cell(tmp_path: Path) -> None:
    """Neither keys nor states can be read in it; in another cell's folder, or with another key, it is no batch."""
    staging = CellStaging(tmp_path / "NIFTY" / "2025-08-28", KEY)
    path = staging.write(good("NSE_FO|secret", 3), bad("a", 0), [status("NSE_FO|secret")]).path
    assert b"secret" not in path.read_bytes()
    assert "0102" not in repr(staging.batches())
    for elsewhere in (CellStaging(tmp_path / "NIFTY" / "2025-09-04", KEY), CellStaging(staging.folder, bytes(32))):
        elsewhere.folder.mkdir(exist_ok=True)
        if elsewhere.folder != staging.folder:
            shutil.copy(path, elsewhere.folder)
        assert elsewhere.batches() == []


def test_clearing_removes_the_cell_and_is_repeatable(staging: CellStaging) -> None:
    """After clearing nothing is staged, and clearing again is no error."""
    staging.write(good("a", 3), bad("a", 0), [status("a")])
    staging.clear()
    staging.clear()
    assert staging.batches() == []
