"""What an address of a target means, and which targets cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.address import Address, parse_address
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.moving.targets import archive_at, parse_target
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state_address import StateAddress

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("duckdb:a.duckdb", Address),
        ("ducklake:sqlite:a.sqlite", Address),
        ("ducklake:postgres:dbname=lake host=db", Address),
        ("warehouse=sqlite:a.sqlite", Address),
        ("state=sqlite:a.sqlite", StateAddress),
        ("postgresql://desk@db:5432/state", StateAddress),
        ("state=postgresql://desk@db:5432/state", StateAddress),
    ],
)
def test_an_address_says_what_it_is_of(text: str, kind: type) -> None:
    """By its form, or by the word before it."""
    assert isinstance(parse_target(text), kind)


def test_what_may_be_two_things_is_not_guessed() -> None:
    """The sentence has both ways to write it."""
    with pytest.raises(ValueError, match=r"warehouse=sqlite:a or state=sqlite:a"):
        parse_target("sqlite:a")


@pytest.mark.parametrize("spelled", ["x/../archive.duckdb", "link.duckdb"])
def test_an_archive_is_not_moved_onto_itself(tmp_path: Path, spelled: str) -> None:
    """However the path of its file is written: nothing would be moved, and both sides be equal."""
    (tmp_path / "x").mkdir()
    (tmp_path / "archive.duckdb").touch()
    (tmp_path / "link.duckdb").symlink_to(tmp_path / "archive.duckdb")
    here, there = (parse_address(f"duckdb:{tmp_path}/{name}") for name in ("archive.duckdb", spelled))
    assert isinstance(there, Address)
    with pytest.raises(ConfigurationError, match="already"):
        archive_at(load_settings(warehouse=here), there)


def test_two_lakes_do_not_share_a_folder(tmp_path: Path) -> None:
    """The maintenance of each would remove the files of the other."""
    here, there = (parse_address(f"ducklake:sqlite:{tmp_path}/{name}.sqlite") for name in ("here", "there"))
    assert isinstance(there, Address)
    settings = load_settings(warehouse=here, data_path=str(tmp_path / "files"))
    (tmp_path / "link").symlink_to(tmp_path / "files")
    for shared in (None, f"{tmp_path}/files/below", f"{tmp_path}/link"):
        with pytest.raises(ConfigurationError, match="--data-path"):
            archive_at(settings, there, shared)
    assert archive_at(settings, there, str(tmp_path / "others"))[0].store.place == str(there)


def test_an_encrypted_archive_is_not_moved_into_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite file would lay it open."""
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "a long enough passphrase")
    target = parse_address(f"sqlite:{tmp_path}/archive.sqlite")
    assert isinstance(target, Address)
    with pytest.raises(ConfigurationError, match="cannot be encrypted"):
        archive_at(load_settings(encryption=True), target)
