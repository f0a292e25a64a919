"""How values are written: windows of the limits, addresses, names, and the words that say what is allowed."""

from __future__ import annotations

import pytest

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import RateLimit, Settings, allowed, is_loopback, load_settings

WORDS = {
    "profile": "production or development",
    "log_level": "DEBUG, INFO, WARNING or ERROR",
    "cache": "on or off",
    "workers": "a whole number from 1 to 100",
    "interest_rate": "a number from -0.1 to 1",
    "breaker_pause": "a number above 0 and at most 600",
    "lookback_days": "a whole number from 1 to 36,500",
    "home": "a path",
    "client_secret": "text",
    "rate_limits": "windows of the form requests/seconds, such as 50/1,500/60,2000/1800",
}


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


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1",
        "127.0.0.1:80",
        "https://",
        "http:///x",
        "https://[::1",
        "https://x.example:port",
        "https://me:secret@x.example",
        "https://x.example?a=b",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """An address needs a scheme and a host; a password or a query has no place in it."""
    with pytest.raises(ConfigurationError, match="is not an address such as https:"):
        load_settings(api_url=url)


@pytest.mark.parametrize(("name", "words"), WORDS.items(), ids=WORDS)
def test_what_is_allowed_is_said_in_words(name: str, words: str) -> None:
    """A person reads bounds and choices, never the names of types."""
    assert allowed(Settings.model_fields[name]) == words
