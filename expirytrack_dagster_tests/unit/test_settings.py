"""Settings: where values come from, which win, and one sentence for each value that cannot be used."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import PROFILES, UPSTOX_API_URL, RateLimit, is_loopback, load_settings

BAD_VALUES = {
    "profile": "testing",
    "api_url": "api.upstox.com",
    "rate_limits": "50",
    "workers": "0",
    "timeout": "-1",
    "max_retries": "11",
    "http2": "perhaps",
    "window_days": "0",
    "batch_rows": "10",
    "quarantine_threshold": "1.5",
    "discovery_age": "-1",
    "lock_timeout": "soon",
    "log_level": "LOUD",
    "account": "../x",
    "client_id": "two words",
    "redirect_uri": "http://example.com/callback",
    "notifier_url": "http://127.0.0.1:0/notify",
    "token_warning_minutes": "-1",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_defaults_are_the_limits_of_upstox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any setting: the real API, its documented limits, no token, and ./data as an absolute path."""
    monkeypatch.delenv("EXPIRYTRACK_HOME")
    settings = load_settings()
    assert settings.api_url == UPSTOX_API_URL
    assert ",".join(map(str, settings.rate_limits)) == "50/1,500/60,2000/1800"
    assert settings.access_token is None
    assert settings.home == Path.cwd() / "data"
    assert settings.home.is_absolute()
    assert settings.database == settings.home / "expirytrack.duckdb"
    assert settings.state == settings.home / "state.sqlite"


@pytest.mark.parametrize(("key", "value"), BAD_VALUES.items(), ids=BAD_VALUES)
def test_a_bad_value_is_one_sentence(monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    """The sentence names the key as it is set and the value that was found there."""
    monkeypatch.setenv(f"EXPIRYTRACK_{key.upper()}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    sentence = str(caught.value)
    assert sentence.startswith(f"EXPIRYTRACK_{key.upper()} ('{value}'): ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "text", ["50/x", "x/1", "50", "/", "50/1,", "0/1", "50/0", "-5/1", "50/-1", "50/nan", "50/inf"]
)
def test_bad_rate_limits_are_explained(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Whatever is wrong with a window, the sentence says what it should look like."""
    monkeypatch.setenv("EXPIRYTRACK_RATE_LIMITS", text)
    with pytest.raises(ConfigurationError, match=r"(form requests/seconds, such as 50/1|must be above zero)\.$"):
        load_settings()


def test_rate_limits_are_sorted_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest window comes first, spaces do not matter, and a window prints as it is written."""
    monkeypatch.setenv("EXPIRYTRACK_RATE_LIMITS", "2000/1800, 5/0.5")
    assert load_settings().rate_limits == (RateLimit(0.5, 5), RateLimit(1800, 2000))
    assert [str(limit) for limit in load_settings().rate_limits] == ["5/0.5", "2000/1800"]


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither text, repr nor JSON of the settings holds the token, nor an error that is about it or another key."""
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "eyJ-secret")
    settings = load_settings()
    assert settings.access_token is not None
    assert settings.access_token.get_secret_value() == "eyJ-secret"
    assert "eyJ-secret" not in f"{settings} {settings!r} {settings.model_dump_json()}"
    monkeypatch.setenv("EXPIRYTRACK_WORKERS", "many")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "eyJ-secret" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(access_token=["eyJ-secret"])
    assert "eyJ-secret" not in str(caught.value)
    assert "EXPIRYTRACK_ACCESS_TOKEN" in str(caught.value)


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable set to nothing, as shells and compose files do, leaves the default."""
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "")
    monkeypatch.setenv("EXPIRYTRACK_WORKERS", "")
    settings = load_settings()
    assert (settings.access_token, settings.workers) == (None, 10)


def test_later_sources_win(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Default < profile < expirytrack.toml < environment < argument."""
    assert load_settings().workers == 10
    monkeypatch.setenv("EXPIRYTRACK_PROFILE", "development")
    assert load_settings().workers == PROFILES["development"]["workers"] == 2
    assert load_settings().log_level == "DEBUG"
    (folder / "expirytrack.toml").write_text('workers = 3\nrate_limits = "7/1"\n')
    assert (load_settings().workers, load_settings().rate_limits) == (3, (RateLimit(1, 7),))
    assert load_settings().log_level == "DEBUG"
    monkeypatch.setenv("EXPIRYTRACK_WORKERS", "4")
    assert load_settings().workers == 4
    assert load_settings(workers=5).workers == 5


def test_the_file_may_name_the_profile(folder: Path) -> None:
    """A profile in expirytrack.toml counts like one in the environment."""
    (folder / "expirytrack.toml").write_text('profile = "development"\n')
    assert load_settings().workers == 2


@pytest.mark.parametrize("content", [b"workers = ", b"\xff\xfe"], ids=["syntax", "encoding"])
def test_a_broken_file_is_one_sentence(folder: Path, content: bytes) -> None:
    """A file that is no TOML is named, without a traceback of the parser."""
    (folder / "expirytrack.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^expirytrack.toml cannot be read: "):
        load_settings()


def test_an_unknown_key_of_the_file_is_named(folder: Path) -> None:
    """A misspelt key is an error, not silence."""
    (folder / "expirytrack.toml").write_text("wrokers = 3\n")
    with pytest.raises(ConfigurationError, match="WROKERS"):
        load_settings()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/", "http://localhost:1", "http://[::1]:1", "https://x.example"])
def test_plain_http_for_this_machine_only(url: str) -> None:
    """Loopback may be plain; everything else needs https; a final slash is dropped."""
    assert load_settings(api_url=url).api_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["http://api.upstox.com", "http://10.0.0.1", "http://127.0.0.1.example.com", "http://0.0.0.0"]
)
def test_the_token_does_not_travel_in_the_clear(url: str) -> None:
    """Plain http to another machine is refused, however much its name looks like this one."""
    with pytest.raises(ConfigurationError, match="in the clear: use https"):
        load_settings(api_url=url)
    assert not is_loopback(url)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:80", "https://", "http:///x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """An address needs a scheme and a host."""
    with pytest.raises(ConfigurationError, match="is not an address such as https:"):
        load_settings(api_url=url)


def test_a_local_api_serves_its_own_instruments() -> None:
    """The master comes from the API's own host on this machine, else from Upstox, unless it is set."""
    local = load_settings(api_url="http://127.0.0.1:9")
    assert local.instruments_source.startswith("http://127.0.0.1:9/")
    assert load_settings().instruments_source.startswith("https://assets.upstox.com/")
    assert load_settings(instruments="some.json").instruments_source == "some.json"


def test_settings_cannot_be_changed_and_can_be_pickled() -> None:
    """Settings are a value: frozen, and the same after a trip to another process."""
    settings = load_settings(access_token="x")
    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 3  # type: ignore[misc] # the point of the test
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 -- our own bytes


def test_a_home_below_the_user_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`~` is the user's folder, and a relative home does not move when the process does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load_settings(home="~/archive").home == (tmp_path / "archive").resolve()


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_home_that_can_be_no_folder(tmp_path: Path, below: str) -> None:
    """A file in its place or above it is named, and nothing is made of it."""
    (file := tmp_path / "file").write_text("a letter")
    with pytest.raises(
        ConfigurationError, match=r"EXPIRYTRACK_HOME \(.*\) cannot be used, .*file is no folder"
    ) as caught:
        load_settings(home=file / below)
    assert "\n" not in str(caught.value)
    assert file.read_text() == "a letter"


def test_a_home_of_nobody(tmp_path: Path) -> None:
    """An unknown user, and a link that leads to itself."""
    (loop := tmp_path / "loop").symlink_to(loop)
    for home in ("~nobody-of-that-name/data", loop, loop / "below"):
        with pytest.raises(ConfigurationError, match="EXPIRYTRACK_HOME"):
            load_settings(home=home)
