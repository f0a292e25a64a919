"""Sealed files: what comes out is what went in, and nothing of a file that was changed in any way."""

from __future__ import annotations

import io
import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expirytrack_dagster.errors import SealBroken
from expirytrack_dagster.security import sealed_files
from expirytrack_dagster.security.sealed_files import HEADER, Sealing, Unsealing, has_its_end, seal, sealing, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = bytes(range(32))
PIECE = 64


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """Make pieces so small that every test has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_files, "PIECE", PIECE)
        yield


def sealed(content: bytes, *, key: bytes = KEY, context: bytes = b"test", step: int = 50) -> bytes:
    """Return the content sealed, written in steps."""
    file = io.BytesIO()
    with sealing(file, key, context=context) as writer:
        for start in range(0, len(content), step):
            writer.write(content[start : start + step])
    return file.getvalue()


def opened(content: bytes, *, key: bytes = KEY, context: bytes = b"test") -> bytes:
    """Return the content of a sealed file."""
    reader = Unsealing(io.BytesIO(content), key, context=context, name="it")
    return b"".join(iter(lambda: reader.read(37), b""))


@settings(deadline=None)
@given(content=st.binary(max_size=4 * PIECE), step=st.integers(1, 3 * PIECE))
def test_what_comes_out_is_what_went_in(content: bytes, step: int) -> None:
    """Of any size, in steps of any size; the size of the file is the content's and a tag for each piece."""
    file = sealed(content, step=step)
    assert opened(file) == content
    pieces = max(1, -(-len(content) // PIECE))
    assert len(file) == HEADER + len(content) + 16 * pieces


@settings(deadline=None)
@given(data=st.data(), pieces=st.integers(0, 4))
def test_any_change_is_refused(data: st.DataObject, pieces: int) -> None:
    """Bits flipped, parts cut out or put in, at any place, the header included."""
    file = sealed(b"x" * (pieces * PIECE))
    start = data.draw(st.integers(0, len(file)))
    stop = data.draw(st.integers(start, len(file)))
    changed = file[:start] + data.draw(st.binary(max_size=100)) + file[stop:]
    if changed != file:
        with pytest.raises(SealBroken):
            opened(changed)


def test_every_bit_and_every_cut_is_refused() -> None:
    """No byte of the file is without meaning, and no shorter file passes."""
    file = sealed(b"y" * 150)
    for place in range(len(file)):
        flipped = bytearray(file)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(SealBroken):
            opened(bytes(flipped))
        with pytest.raises(SealBroken):
            opened(file[:place])


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 1, 1, 2, 3), (0, 1, 3), (0, 1, 2), (1, 2, 3), (0, 1, 2, 3, 3)])
def test_pieces_out_of_place_are_refused(order: tuple[int, ...]) -> None:
    """Moved, repeated, left out at the start, in the middle, at the end: each piece knows its number and the end."""
    file = sealed(bytes(4 * PIECE))
    size = PIECE + 16
    pieces = [file[HEADER + number * size :][:size] for number in range(4)]
    with pytest.raises(SealBroken):
        opened(file[:HEADER] + b"".join(pieces[number] for number in order))


def test_pieces_of_another_file_are_refused() -> None:
    """Even with the same key, content and context: each file has a salt of its own."""
    one, other = sealed(bytes(3 * PIECE)), sealed(bytes(3 * PIECE))
    assert one[HEADER:] != other[HEADER:]
    with pytest.raises(SealBroken):
        opened(one[: HEADER + PIECE + 16] + other[HEADER + PIECE + 16 :])


def test_another_key_context_or_version_is_refused() -> None:
    """The sentence tells a foreign file and a newer one from a damaged one."""
    file = sealed(b"secret")
    with pytest.raises(SealBroken, match="another key"):
        opened(file, key=bytes(32))
    with pytest.raises(SealBroken, match="another key"):
        opened(file, context=b"backup")
    with pytest.raises(SealBroken, match="of version 0, which is not known"):
        opened(file[:8] + b"\0" + file[9:])
    with pytest.raises(SealBroken, match="no sealed file"):
        opened(b"PK" + file)
    with pytest.raises(ValueError, match="32 bytes"):
        opened(file, key=b"short")
    assert b"secret" not in file


def test_a_writer_that_fails_leaves_nothing_to_read() -> None:
    """Without its end the file is refused."""
    file = io.BytesIO()
    Sealing(file, KEY, context=b"test").write(bytes(3 * PIECE))
    with pytest.raises(SealBroken):
        opened(file.getvalue())
    with pytest.raises(TypeError), sealing(file := io.BytesIO(), KEY, context=b"test") as writer:
        writer.write("no bytes")  # type: ignore[arg-type]
    with pytest.raises(SealBroken):
        opened(file.getvalue())


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
def test_the_end_is_proved_by_itself(size: int) -> None:
    """A file that was written whole is told from one that was cut off, or goes on, without reading all of it."""
    file = sealed(bytes(size))
    assert has_its_end(io.BytesIO(file), KEY, context=b"test")
    assert not has_its_end(io.BytesIO(file), bytes(32), context=b"test")
    for other in (file[:-1], file + b"x", file[:HEADER], file[: HEADER + 3]):
        assert not has_its_end(io.BytesIO(other), KEY, context=b"test")


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    """A target is replaced when all has proved true; a refused file leaves what was there and nothing beside it."""
    plain, file, back = tmp_path / "plain", tmp_path / "sealed", tmp_path / "back"
    plain.write_bytes(os.urandom(1000))
    seal(plain, file, KEY, context=b"test")
    unseal(file, back, KEY, context=b"test")
    assert back.read_bytes() == plain.read_bytes()
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in (file, back)} == {0o600}
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SealBroken, match="sealed is damaged, cut off"):
        unseal(file, back, KEY, context=b"test")
    assert back.read_bytes() == plain.read_bytes()
    with pytest.raises(FileNotFoundError):
        seal(tmp_path / "none", file, KEY, context=b"test")
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "sealed", "back"}


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file sixteen times a piece is sealed and opened with the memory of a few pieces."""
    monkeypatch.setattr(sealed_files, "PIECE", 1 << 18)
    plain, file = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(bytes(64 << 18))
    tracemalloc.start()
    seal(plain, file, KEY, context=b"test")
    unseal(file, plain, KEY, context=b"test")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 18
