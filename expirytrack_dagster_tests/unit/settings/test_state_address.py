"""The address of the state database: its two forms, where a relative path counts from, and no password anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from expirytrack_dagster.address import without_password
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import load_settings, tell_settings
from expirytrack_dagster.state_address import StateAddress, parse_state_address


def test_it_is_a_file_in_the_home_if_nothing_is_said(home: Path) -> None:
    """As it always was."""
    assert load_settings().state_address == StateAddress.of_file(home / "state.sqlite")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@db.example:5433/home",
        "postgresql://me@[::1]/home?sslmode=require",
        "postgresql://me@db-1:5432,db-2:5433/home?target_session_attrs=read-write",
        "postgresql://me@db-1,[::1]:5433/home",
        "postgresql://me@/home?host=/run/postgresql",
    ],
)
def test_a_server_is_written_as_libpq_reads_it(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The address passes unchanged, and is shown as it is."""
    monkeypatch.setenv("EXPIRYTRACK_STATE", f" {text} ")
    assert str(load_settings().state_address) == text
    assert {told.name: (told.value, told.origin) for told in tell_settings()}["state"] == (text, "environment")


def test_a_relative_path_counts_from_the_folder_of_its_file(home: Path) -> None:
    """And one of the environment from the working folder."""
    home.mkdir()
    (home / "expirytrack.toml").write_text('state = "sqlite:a.sqlite"\n')
    assert str(load_settings().state_address) == f"sqlite:{home / 'a.sqlite'}"
    assert parse_state_address("sqlite:b") == StateAddress.of_file(Path.cwd() / "b")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mysql://me@host/db", "('mysql://me@host/db'): it is not of the form sqlite:PATH or postgresql://"),
        ("data/state.sqlite", "('data/state.sqlite'): it is not of the form sqlite:PATH or postgresql://"),
        ("sqlite:", "('sqlite:'): it names no file: it is sqlite: and a path, such as sqlite:data/state.sqlite."),
        ("sqlite:~nobody-here/a", "('sqlite:~nobody-here/a'): it cannot be used: "),
        ("postgresql://me@host", "it cannot be read (no database is named): use postgresql://USER@HOST:PORT/DATABASE."),
        ("postgresql://me@host:0/db", "it cannot be read (0 is no port)"),
        ("postgresql://me@host:port/db", "it cannot be read ("),
        ("postgresql://me@db-1:5432,db-2:port/db", "it cannot be read ("),
    ],
)
def test_a_wrong_one_is_one_sentence(monkeypatch: pytest.MonkeyPatch, text: str, sentence: str) -> None:
    """It names the setting, the value, and what to write."""
    monkeypatch.setenv("EXPIRYTRACK_STATE", text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value).startswith("EXPIRYTRACK_STATE (")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:of-the-vault@host/db",
        "postgresql://me@host/db?password=of-the-vault",
        "postgresql://host/db?sslmode=require&password=of-the-vault",
        "mysql://me:of-the-vault@host/db",
    ],
)
def test_a_password_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The sentence says where it belongs, wherever it stood."""
    monkeypatch.setenv("EXPIRYTRACK_STATE", text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "of-the-vault" not in str(caught.value)
    if text.startswith("postgresql"):
        assert "PGPASSWORD" in str(caught.value)


def test_what_is_no_password_is_not_masked() -> None:
    """Addresses, paths and times stay readable."""
    for text in ("postgresql://me@host:5432/db?sslmode=require", "sqlite:C:\\data\\state.sqlite", "at 12:30@noon"):
        assert without_password(text) == text
