"""Every setting: described, and what is wrong with a value told in words that name the key and what is allowed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import ELSEWHERE, PROFILES, Settings, allowed, is_secret, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JARGON = re.compile(r"input|instance|valid|parse|type|literal|NoneType|tuple|integer|boolean|pydantic", re.IGNORECASE)
FIELDS = Settings.model_fields
GUIDE = {
    "database",
    "api_rate_limit",
    "workers",
    "log_level",
    "connection_pool_size",
    "batch_insert_size",
    "checkpoint_interval",
    "timeout",
    "max_retries",
    "backoff_factor",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outside(name: str) -> Iterator[str]:
    """Yield what is just beyond the bounds of a number."""
    for item in FIELDS[name].metadata:
        for bound, step in (("ge", -1), ("gt", 0), ("le", 1)):
            if hasattr(item, bound):
                yield f"{getattr(item, bound) + step}"


def refused(name: str) -> Iterator[str]:
    """Yield values that a variable of this name cannot have: no word at all, and numbers beyond the bounds."""
    words = allowed(FIELDS[name])
    if not words.startswith(("text", "a path")):
        yield "? !"
    if words.startswith("a number"):
        yield from ("nan", "inf")
    yield from outside(name)


def complaint() -> str:
    """Load the settings, which fails, and return the sentence."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    return str(caught.value)


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_described(name: str) -> None:
    """A sentence for the user, who sees it in the file of a new home and in the documentation."""
    description = FIELDS[name].description
    assert description, name
    assert description.endswith("."), name


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in FIELDS for value in refused(name)])
def test_a_bad_variable_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """It names the variable, the value that was found there, and what is allowed."""
    monkeypatch.setenv(f"EXPIRYTRACK_{name.upper()}", value)
    sentence = complaint()
    assert sentence.startswith(f"EXPIRYTRACK_{name.upper()} ({value!r}): ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert re.search(r"\buse \w|is not|must be", sentence)
    assert not JARGON.search(sentence)


@pytest.mark.parametrize("name", FIELDS)
def test_a_bad_value_of_the_file_is_one_sentence(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """Whatever is no value of the kind is told with the name as it is written there, the file, and what is allowed."""
    monkeypatch.delenv("EXPIRYTRACK_HOME")
    (folder / "expirytrack.toml").write_text(f"{name} = [[]]\n")
    shown = "" if is_secret(FIELDS[name]) else " ([[]])"
    assert complaint() == f"{name}{shown} in {folder / 'expirytrack.toml'}: use {allowed(FIELDS[name])}."


@pytest.mark.parametrize("name", ["account", "client_id", "signing_key_id", "passphrase", "redirect_uri", "pins"])
def test_text_of_a_certain_form(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where a type does not tell what is allowed, the words do, and a secret is not quoted."""
    monkeypatch.setenv(f"EXPIRYTRACK_{name.upper()}", "two w")
    sentence = complaint()
    assert re.search(r"use 1 to|use the|at least 8 characters|an address such as|of the form sha256/", sentence)
    assert ("two w" in sentence) is not is_secret(FIELDS[name])


def test_no_pattern_is_left_without_words() -> None:
    """A bare pattern would be told as "text": `Allowed` takes it together with its words."""
    bare = [name for name, about in FIELDS.items() if any(getattr(item, "pattern", None) for item in about.metadata)]
    assert [name for name in bare if allowed(FIELDS[name]) == "text"] == []


def test_several_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start three times to learn of three of them."""
    monkeypatch.setenv("EXPIRYTRACK_WORKERS", "0")
    monkeypatch.setenv("EXPIRYTRACK_CACHE", "perhaps")
    assert complaint() == (
        "EXPIRYTRACK_WORKERS ('0'): use a whole number from 1 to 100. EXPIRYTRACK_CACHE ('perhaps'): use on or off."
    )


def test_profiles_name_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both load, and the development one asks less, with fewer workers, and logs more."""
    production = load_settings()
    monkeypatch.setenv("EXPIRYTRACK_PROFILE", "development")
    development = load_settings()
    assert set(PROFILES) == {"production", "development"}
    assert (production.workers, production.log_level) == (10, "INFO")
    assert (development.workers, development.log_level) == (2, "DEBUG")
    assert all(few.requests < many.requests for few, many in zip(development.rate_limits, production.rate_limits))  # noqa: B905 -- the profiles may have different numbers of windows


def test_every_key_of_the_guide_is_here_or_explained() -> None:
    """Whoever carries a configuration over finds each key, or reads why there is none."""
    assert set(FIELDS) | set(ELSEWHERE) >= GUIDE
    assert not set(FIELDS) & set(ELSEWHERE)


def test_a_local_api_serves_its_own_instruments() -> None:
    """The master comes from the API's own host on this machine, else from Upstox, unless it is set."""
    local = load_settings(api_url="http://127.0.0.1:9")
    assert local.instruments_source.startswith("http://127.0.0.1:9/")
    assert load_settings().instruments_source.startswith("https://assets.upstox.com/")
    assert load_settings(instruments="some.json").instruments_source == "some.json"
