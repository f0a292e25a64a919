"""The audit log: what is written is there for good, and every change of it is found or mended without loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import StorageError
from expirytrack_dagster.security.audit import BEGINNING, AuditLog, Entry, record
from expirytrack_dagster.settings import load_settings

EVENTS = 6


def filled(folder: Path) -> AuditLog:
    """Return a log of six events."""
    log = AuditLog(folder / "audit.jsonl")
    for number in range(EVENTS):
        log.append("login", {"account": "main", "attempt": number, "note": 'a "quoted" line\nof two, ₹'})
    return log


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Return the bytes of a sound log and of its head."""
    log = filled(tmp_path_factory.mktemp("audit"))
    return log.path.read_bytes(), log.head.read_bytes()


def damaged(folder: Path, content: bytes, head: bytes | None) -> AuditLog:
    """Put a log on disk as somebody else left it."""
    log = AuditLog(folder / "audit.jsonl")
    log.path.write_bytes(content)
    if head is not None:
        log.head.write_bytes(head)
    return log


def found(folder: Path, content: bytes, head: bytes | None) -> list[str]:
    """Return what `verify` says of it."""
    return [damage.found for damage in damaged(folder, content, head).verify().damage]


def test_lines_say_who_did_what_and_follow_each_other(tmp_path: Path) -> None:
    """Numbers rise by one, each line names the hash before it, details come back as they were given."""
    log = filled(tmp_path)
    entries = [entry for entry in log.entries() if isinstance(entry, Entry)]
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry.previous for entry in entries] == [BEGINNING, *(entry.hash for entry in entries[:-1])]
    assert entries[2].details == {"account": "main", "attempt": 2, "note": 'a "quoted" line\nof two, ₹'}
    assert all(entry.event == "login" and entry.user and entry.time.endswith("+00:00") for entry in entries)
    result = log.verify()
    assert (result.lines, result.damage, result.torn) == (6, [], False)
    assert result.head == f"6:{entries[-1].hash}"


def test_record_writes_below_the_home_for_its_owner_alone(home: Path) -> None:
    """The log, its head and the folder are closed to others; a detail may be called as the argument is."""
    record(load_settings(), "login", event="callback", account=None)
    (entry,) = (entry for entry in AuditLog(home / "audit.jsonl").entries() if entry)
    assert (entry.event, entry.details) == ("login", {"event": "callback", "account": None})
    if os.name == "posix":
        modes = {path.name: path.stat().st_mode & 0o777 for path in (home, *home.glob("audit.[jh]*"))}
        assert modes == {"home": 0o700, "audit.jsonl": 0o600, "audit.head": 0o600}


@settings(deadline=None)
@given(data=st.data())
def test_any_single_edit_is_found(written: tuple[bytes, bytes], data: st.DataObject) -> None:
    """Whatever is cut out, put in or overwritten anywhere: only a torn last line, which loses nothing, is no damage."""
    content, head = written
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + data.draw(st.sampled_from([0, 1, 40, 5000])))))
    put = data.draw(st.one_of(st.binary(max_size=30), st.sampled_from(content.splitlines(keepends=True))))
    edited = content[:start] + put + content[stop:]
    with tempfile.TemporaryDirectory() as folder:
        result = damaged(Path(folder), edited, head).verify()
    torn = content.startswith(edited) and len(content) - len(head) <= len(edited) < len(content)
    assert result.torn == torn
    assert bool(result.damage) == (edited != content and not torn)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ((1, 2, 4, 5, 6), "line 3 has number 4: 3 is missing before it"),
        ((1, 5, 6), "line 2 has number 5: 2 to 4 are missing before it"),
        ((1, 2, 4, 3, 5, 6), "line 4 has number 3 where 5 belongs"),
        ((1, 2, 2, 3, 4, 5, 6), "line 3 has number 2 where 3 belongs"),
        ((1, 2, 3, 4), "the end is cut off or changed: number 6 was the last one"),
        ((), "the end is cut off or changed: number 6 was the last one"),
        ((1, 2, 3, 4, 5, 6, 6), "line 7 has number 6 where 7 belongs"),
        ((1, 2, 3, 4, 5, 6, 5), "the end is cut off or changed: number 6 was the last one"),
    ],
    ids=[
        "removed",
        "several removed",
        "reordered",
        "repeated",
        "end cut",
        "all cut",
        "end repeated",
        "older at the end",
    ],
)
def test_whole_lines_out_of_place_are_named(
    tmp_path: Path, written: tuple[bytes, bytes], order: tuple[int, ...], says: str
) -> None:
    """The sentence says which lines, so that a person knows where to look."""
    lines = written[0].splitlines(keepends=True)
    assert says in found(tmp_path, b"".join(lines[number - 1] for number in order), written[1])


def test_a_forged_line_with_a_hash_of_its_own_is_found(tmp_path: Path, written: tuple[bytes, bytes]) -> None:
    """Whoever changes a line and hashes it anew has broken the next line's reference, or the head."""
    other = filled(tmp_path / "other")  # the same events at other times: every line sound in itself
    lines, forged = written[0].splitlines(keepends=True), other.path.read_bytes().splitlines(keepends=True)
    for place in range(EVENTS):
        content = b"".join([*lines[:place], forged[place], *lines[place + 1 :]])
        assert found(tmp_path, content, written[1]), place


@pytest.mark.parametrize("head", [None, b"", b"garbage\n"], ids=["gone", "empty", "garbage"])
def test_a_lost_head_is_found_and_said_in_the_log_itself(
    tmp_path: Path, written: tuple[bytes, bytes], head: bytes | None
) -> None:
    """The next event goes on from the last sound line, after a line that says what was found: not silently."""
    log = damaged(tmp_path, written[0], head)
    assert [damage.found for damage in log.verify().damage] == ["the head of the log is missing or altered"]
    log.append("login", {})
    assert [entry and entry.event for entry in log.entries()][EVENTS:] == ["audit_broken", "login"]
    (damage,) = log.verify().damage
    assert damage.found.endswith("the head of the log is missing or altered")


@pytest.mark.parametrize("kept", [4, 2, 0])
def test_a_cut_end_stays_found_when_the_log_goes_on(tmp_path: Path, written: tuple[bytes, bytes], kept: int) -> None:
    """Numbers go on from the head, so the gap stays."""
    log = damaged(tmp_path, b"".join(written[0].splitlines(keepends=True)[:kept]), written[1])
    log.append("login", {})
    says = [damage.found for damage in log.verify().damage]
    assert any("missing before it" in sentence for sentence in says)
    assert any("does not end with line 6" in sentence for sentence in says)


def test_rubbish_at_the_end_does_not_spoil_what_follows(tmp_path: Path, written: tuple[bytes, bytes]) -> None:
    """Half a line of somebody else stays a line of its own."""
    log = damaged(tmp_path, written[0] + b'{"n":7', written[1])
    log.append("login", {})
    assert [entry and entry.number for entry in log.entries()] == [1, 2, 3, 4, 5, 6, None, 7, 8]


@pytest.mark.parametrize("left", [0, 1, 100, -1], ids=["nothing", "a byte", "a part", "all but the line end"])
def test_a_torn_last_line_is_completed(tmp_path: Path, written: tuple[bytes, bytes], left: int) -> None:
    """A program that died between head and log loses nothing: the next event writes the rest of the line first."""
    content, head = written
    before = content[: len(content) - len(head)]
    log = damaged(tmp_path, before + head[:left], head)
    result = log.verify()
    assert (result.torn, result.damage) == (True, [])
    log.append("login", {})
    assert log.path.read_bytes().startswith(content)
    assert not log.verify().damage
    assert log.verify().lines == EVENTS + 1


def test_the_first_line_may_be_torn_too(tmp_path: Path) -> None:
    """Nothing but a head is a log whose first line was being written."""
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("login", {})
    log.path.unlink()
    assert log.verify().torn
    log.append("logout", {})
    assert (log.verify().lines, log.verify().damage) == (2, [])


def test_a_kept_head_finds_a_log_that_was_exchanged_whole(tmp_path: Path) -> None:
    """A log forged with its head is sound in itself; a head noted elsewhere tells, also when lines were added since."""
    log = filled(tmp_path)
    number, _, digest = log.verify().head.partition(":")
    log.append("export", {})
    assert not log.verify((int(number), digest)).damage
    log.path.unlink()
    log.head.unlink()
    forged = filled(tmp_path)
    assert not forged.verify().damage
    (damage,) = forged.verify((int(number), digest)).damage
    assert damage.found == "number 6 with the hash that was kept is not in the log"


def test_threads_and_processes_write_one_chain(tmp_path: Path) -> None:
    """Nobody overwrites or splits another's line."""
    program = (
        "import sys, pathlib; from expirytrack_dagster.security.audit import AuditLog\n"
        "for n in range(10): AuditLog(pathlib.Path(sys.argv[1])).append('use', {'n': n})"
    )
    path = tmp_path / "audit.jsonl"
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: AuditLog(path).append("use", {"n": number}), range(20)))
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    result = AuditLog(path).verify()
    assert (result.lines, result.damage) == (40, [])


def test_a_program_that_is_killed_leaves_a_sound_log(tmp_path: Path) -> None:
    """Killed again and again while it writes: nothing looks like damage, and every line is there."""
    program = (
        "import sys, pathlib; from expirytrack_dagster.security.audit import AuditLog\n"
        "log = AuditLog(pathlib.Path(sys.argv[1]))\n"
        "while True: log.append('use', {'padding': 'x' * 2000})"
    )
    log = AuditLog(tmp_path / "audit.jsonl")
    for trial in range(5):
        process = subprocess.Popen([sys.executable, "-c", program, str(log.path)])
        lines = log.verify().lines
        while log.verify().lines < lines + 3 + trial:
            assert process.poll() is None
        process.kill()
        process.wait(timeout=30)
        assert log.verify().damage == []
    log.append("login", {})
    assert (log.verify().damage, log.verify().torn) == ([], False)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    """An event that is not noted is an error, not a silence."""
    log = AuditLog(tmp_path / "audit.jsonl")
    log.path.mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        log.append("login", {})


def test_the_file_is_plain_json_lines(written: tuple[bytes, bytes]) -> None:
    """Any tool can read it."""
    for line in written[0].splitlines():
        assert list(json.loads(line)) == ["n", "time", "event", "user", "details", "previous", "hash"]
