"""The cache of answers: what is kept and for how long, its bound, damage, and processes that are killed."""

from __future__ import annotations

import asyncio
import copy
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.security.sealer import Sealer
from expirytrack_dagster.settings import Settings, load_settings
from expirytrack_dagster.upstox.cache import AnswerCache, kept_answers
from expirytrack_dagster.upstox.calls import Call
from expirytrack_dagster.upstox.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://api.example/candles"
BODY = b'{"status":"success"}' * 100
OLD = Call("candles", "NSE_FO|1|28-08-2025", {"interval": "1minute", "from": "2020-01-01", "to": "2025-08-28"})
SEPTEMBER_2025 = 1_757_500_000.0  # 2025-09-10, 13 days after that expiry


class FakeClock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        """Begin in September 2025."""
        self.time = SEPTEMBER_2025

    def now(self) -> float:
        """Return the time shown."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Move the time."""
        self.time += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock to turn."""
    return FakeClock()


@pytest.fixture(params=[None, Sealer(bytes(range(32)))], ids=["plain", "sealed"])
def cache(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AnswerCache:
    """Give an empty cache of a megabyte."""
    path = tmp_path / "cache" / "answers.sqlite"
    return AnswerCache(path, max_bytes=2**20, minutes=15, clock=clock, sealer=request.param)


def other(cache: AnswerCache) -> AnswerCache:
    """Return the cache of another process: the same file."""
    return copy.copy(cache)  # nothing is open in one


@pytest.mark.parametrize(
    ("call", "minutes"),
    [(OLD, None), (Call("option_contracts", "NSE_INDEX|Nifty 50", {"expiry": "2025-08-28"}), None),
     (Call("future_contracts", "NSE_INDEX|Nifty 50", {"expiry": "2025-09-03"}), 15),
     (Call("candles", "NSE_FO|1|09-09-2025", {"to": "2025-09-09"}), 15),
     (Call("expiries", "NSE_INDEX|Nifty 50"), 15), (Call("profile"), 0)],
)  # fmt: skip
def test_life_of_an_answer(cache: AnswerCache, clock: FakeClock, call: Call, minutes: float | None) -> None:
    """For ever if a week has passed since the last day asked for, minutes if not, never for the profile."""
    cache.put(call, URL, BODY, rows=1)
    assert other(cache).get(URL) == (None if minutes == 0 else BODY)
    clock.time += 14 * 60
    assert (cache.get(URL) is None) == (minutes == 0)
    clock.time += 2 * 60
    assert (cache.get(URL) is None) == (minutes is not None)
    clock.time -= 3600  # a clock set back must not give an answer a longer life
    assert (cache.get(URL) is None) == (minutes is not None)


def test_empty_answers_are_not_kept(cache: AnswerCache) -> None:
    """What is empty now may be filled later, and an archive must not believe in emptiness from memory."""
    cache.put(OLD, URL, BODY, rows=0)
    assert cache.get(URL) is None


def test_a_new_answer_takes_the_old_ones_place(cache: AnswerCache) -> None:
    """One address, one answer; other addresses have none."""
    cache.put(OLD, URL, BODY, rows=1)
    cache.put(OLD, URL, BODY + b" ", rows=1)
    assert cache.get(URL) == BODY + b" "
    assert cache.get(URL + "/") is None


def test_forgetting_is_by_instrument(cache: AnswerCache) -> None:
    """Only answers about the instruments named are dropped."""
    cache.forget(["nothing is kept yet"])
    cache.put(OLD, URL, BODY, rows=1)
    cache.put(Call("candles", "another", OLD.params), URL + "2", BODY, rows=1)
    cache.forget([OLD.target])
    assert (cache.get(URL), cache.get(URL + "2")) == (None, BODY)


def test_bound_is_kept_and_the_oldest_leave(cache: AnswerCache, tmp_path: Path) -> None:
    """Ten times the bound is written: the file stays below it and the newest answers are there."""
    bodies = [os.urandom(100_000) for _ in range(100)]  # cannot be compressed
    for number, body in enumerate(bodies):
        cache.put(OLD, f"{URL}/{number}", body, rows=1)
    assert (tmp_path / "cache" / "answers.sqlite").stat().st_size <= 2**20 + 3 * 4096  # and the pages of its indexes
    kept = [number for number, body in enumerate(bodies) if cache.get(f"{URL}/{number}") == body]
    assert kept == list(range(100 - len(kept), 100))
    assert len(kept) >= 9


def test_a_lower_bound_shrinks_the_file(tmp_path: Path, clock: FakeClock) -> None:
    """The next answer makes the file as small as it is now to be; one beyond a quarter of the bound is not kept."""
    cache = AnswerCache(tmp_path / "cache" / "answers.sqlite", max_bytes=2**20, minutes=15, clock=clock)
    for number in range(9):
        cache.put(OLD, f"{URL}/{number}", os.urandom(100_000), rows=1)
    path = tmp_path / "cache" / "answers.sqlite"
    small = AnswerCache(path, max_bytes=300_000, minutes=15, clock=clock)
    small.put(OLD, URL, os.urandom(70_000), rows=1)
    small.put(OLD, URL + "2", os.urandom(80_000), rows=1)
    assert path.stat().st_size <= 300_000 + 3 * 4096
    assert small.get(URL) is not None
    assert small.get(URL + "2") is None


@pytest.mark.parametrize("spoil", ["body = x'00ff'", "size = size - 1", "checksum = checksum + 1", "url = 'moved'"])
def test_damaged_entry_is_dropped(cache: AnswerCache, tmp_path: Path, spoil: str) -> None:
    """An entry that is not what was kept, or not for this address, is no answer; the others stay."""
    cache.put(OLD, URL, BODY, rows=1)
    path = tmp_path / "cache" / "answers.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE answers SET {spoil}")  # noqa: S608  the words above
    cache.put(OLD, URL + "2", BODY, rows=1)
    assert cache.get("moved" if "url" in spoil else URL) is None
    assert cache.get(URL + "2") == BODY
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (1,)


def test_a_sealed_answer_is_for_its_key_and_address_alone(tmp_path: Path, clock: FakeClock) -> None:
    """The body cannot be read in the file; another key, no key and another address find nothing, and no error."""
    path, body = tmp_path / "answers.sqlite", b"plain words " * 20

    def cache(sealer: Sealer | None) -> AnswerCache:
        return AnswerCache(path, max_bytes=2**20, minutes=15, clock=clock, sealer=sealer)

    for opener in (Sealer(bytes(32)), None):
        cache(Sealer(bytes(range(32)))).put(OLD, URL, body, rows=1)
        assert b"plain words" not in path.read_bytes()
        assert cache(Sealer(bytes(range(32)))).get(URL) == body
        assert cache(opener).get(URL) is None
    cache(None).put(OLD, URL, body, rows=1)
    assert cache(Sealer(bytes(32))).get(URL) is None
    assert "0102" not in repr(Sealer(bytes(range(32))))


def test_what_is_dropped_is_gone(cache: AnswerCache, tmp_path: Path) -> None:
    """The file goes; dropping twice is no error, and the next answer is kept again."""
    cache.put(OLD, URL, BODY, rows=1)
    cache.drop()
    cache.drop()
    assert list((tmp_path / "cache").iterdir()) == []
    assert cache.get(URL) is None
    cache.put(OLD, URL, BODY, rows=1)
    assert cache.get(URL) == BODY


@pytest.mark.parametrize("where", ["beginning", "middle"])
def test_damaged_file_is_dropped(
    cache: AnswerCache, tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is no database any more is removed, said once, and the next answers are kept again."""
    for number in range(5):
        cache.put(OLD, f"{URL}/{number}", os.urandom(50_000), rows=1)
    path = tmp_path / "cache" / "answers.sqlite"
    content = bytearray(path.read_bytes())
    content[slice(0, 100) if where == "beginning" else slice(4096, 20 * 4096)] = b"\xa5" * 100
    path.write_bytes(content)
    assert cache.get(f"{URL}/0") is None
    cache.put(OLD, URL, BODY, rows=1)
    cache.put(OLD, URL, BODY, rows=1)
    assert cache.get(URL) == BODY
    assert "was not used" in caplog.text


def test_an_unusable_place_fails_no_request(tmp_path: Path, clock: FakeClock) -> None:
    """A file in the folder's place costs the cache, nothing else."""
    (tmp_path / "cache").write_text("in the way")
    cache = AnswerCache(tmp_path / "cache" / "answers.sqlite", max_bytes=2**20, minutes=15, clock=clock)
    cache.put(OLD, URL, BODY, rows=1)
    assert cache.get(URL) is None


def test_threads_may_share_it(cache: AnswerCache) -> None:
    """Eight threads that write and read at once lose nothing."""

    def use(number: int) -> bool:
        cache.put(OLD, f"{URL}/{number}", BODY, rows=1)
        return cache.get(f"{URL}/{number}") == BODY

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(80)))


WRITER = """
import itertools, os, sys, hashlib
from pathlib import Path
from expirytrack_dagster.upstox.cache import AnswerCache
from expirytrack_dagster.upstox.clock import SystemClock
from expirytrack_dagster.upstox.calls import Call
cache = AnswerCache(Path(sys.argv[1]), max_bytes=4 << 20, minutes=15, clock=SystemClock())
call = Call("candles", "x", {"to": "2020-01-01"})
for number in itertools.count():
    cache.put(call, f"{sys.argv[2]}/{number}", hashlib.shake_256(str(number).encode()).digest(300_000), rows=1)
    print(number, flush=True)
"""


def test_killed_writers_leave_whole_answers(tmp_path: Path) -> None:
    """Two processes write without pause and are killed in the middle: every answer that is there is right."""
    import hashlib  # noqa: PLC0415  beside the program above, which makes the same bodies

    path = tmp_path / "answers.sqlite"
    for _ in range(3):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True)
            for name in "ab"
        ]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(5):
                assert writer.stdout.readline()
        for writer in writers:
            writer.kill()
            writer.communicate()
    cache = AnswerCache(path, max_bytes=4 << 20, minutes=15, clock=SystemClock())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        urls = [url for (url,) in connection.execute("SELECT url FROM answers")]
    assert len(urls) >= 10
    for url in urls:
        assert cache.get(url) == hashlib.shake_256(url.split("/")[1].encode()).digest(300_000)


def test_settings_switch_it_off(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """On below the home by default; EXPIRYTRACK_CACHE=off leaves none."""
    cache = kept_answers(load_settings(), SystemClock())
    assert cache is not None
    cache.put(Call("expiries", "x"), URL, BODY, rows=1)
    assert (home / "cache" / "answers.sqlite").is_file()
    monkeypatch.setenv("EXPIRYTRACK_CACHE", "off")
    assert kept_answers(load_settings(), SystemClock()) is None
    assert Settings(cache=True, cache_mb=1).cache_mb == 1


def test_settings_encrypt_it(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """With EXPIRYTRACK_ENCRYPTION=on bodies are sealed with a key of the vault, in a file of their own."""
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on")
    for _ in range(2):
        cache = kept_answers(load_settings(), SystemClock())
        assert cache is not None
        if not (home / "cache" / "sealed.sqlite").exists():
            cache.put(OLD, URL, BODY, rows=1)
        assert cache.get(URL) == BODY
    assert not (home / "cache" / "answers.sqlite").exists()
