"""The channels against real servers: what arrives, what is tried again, what a failure says; no secret shows."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from expirytrack_dagster.errors import ConfigurationError, NotSent
from expirytrack_dagster.observe.notifiers import (
    Log,
    Mail,
    Message,
    Telegram,
    Webhook,
    channels,
    forget_secret,
    keep_secret,
)
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster_tests.integration.observe.conftest import PASSWORD, closed_port

if TYPE_CHECKING:
    from expirytrack_dagster_tests.integration.observe.conftest import Hook, MailServer

NOON = datetime(2025, 9, 1, 6, 30, tzinfo=UTC)
MESSAGE = Message("ExpiryTrack: <a> & b", "ALERT: ₹ < 5 & more.\nWhat to do: this.", "abc", NOON, urgent=True)
PATH = "/services/T0/B0/very-secret-path"
BOT = "12345:very-secret-token"


def mail(port: int, password: str = PASSWORD, **changes: object) -> Mail:
    """Return the channel to the mail server of the tests."""
    parts = {"security": "starttls", "sender": "me@example.org", "recipients": ("you@example.org",)} | changes
    return Mail("localhost", port, user="me", password=SecretStr(password), **parts)  # type: ignore[arg-type]


def test_the_log_takes_everything(caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong is a warning, what is over is not."""
    with caplog.at_level(logging.INFO):
        Log().send(MESSAGE)
        Log().send(Message("t", "OVER: good.", "k", NOON, urgent=False))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", MESSAGE.text),
        ("INFO", "OVER: good."),
    ]


def test_mail_goes_encrypted_and_logged_in(mail_server: MailServer) -> None:
    """Subject, text and identity arrive, over STARTTLS and after a login; twice the same has the same Message-ID."""
    sender = mail(mail_server.port, recipients=("you@example.org", "and@example.org"))
    sender.send(MESSAGE)
    sender.send(MESSAGE)
    first, second = mail_server.inbox.mails
    assert first["Subject"] == MESSAGE.title
    assert first["To"] == "you@example.org, and@example.org"
    assert first["Message-ID"] == second["Message-ID"]
    text = first.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert text.decode().splitlines() == MESSAGE.text.splitlines()
    assert mail_server.inbox.logins == [("me", PASSWORD)] * 2


def test_a_mail_that_is_not_taken_says_why(mail_server: MailServer) -> None:
    """A wrong password, a server that wants encryption, one that is full, and none: a sentence without secrets."""
    with pytest.raises(NotSent, match="did not take the e-mail: 535") as caught:
        mail(mail_server.port, "wrong-and-secret").send(MESSAGE)
    assert "secret" not in str(caught.value)
    with pytest.raises(NotSent, match="530"):
        Mail("127.0.0.1", mail_server.port, "none", "me@example.org", ("you@example.org",)).send(MESSAGE)
    mail_server.inbox.refuses = "452 the disk is full"
    with pytest.raises(NotSent, match="452 the disk is full"):
        mail(mail_server.port).send(MESSAGE)
    with pytest.raises(NotSent, match="refused"):
        mail(closed_port()).send(MESSAGE)
    assert PASSWORD not in repr(mail(1))


def test_a_server_that_is_not_trusted_gets_no_password(
    mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the certificate is of nobody known, nothing is said; to another machine, nothing in the clear."""
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(NotSent, match="certificate cannot be trusted"):
        mail(mail_server.port).send(MESSAGE)
    with pytest.raises(NotSent, match="not encrypted"):
        Mail("192.0.2.1", 25, "none", "me@example.org", ("you@example.org",)).send(MESSAGE)
    assert mail_server.inbox.logins == []


def test_slack_and_telegram_get_their_shapes(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    """Slack's text is masked, Telegram's goes to the bot's address as it is; no address is logged, at any level."""
    with caplog.at_level(logging.DEBUG):
        Webhook(SecretStr(hook.url + PATH)).send(MESSAGE)
        Telegram(hook.url, SecretStr(BOT), "-100").send(MESSAGE)
    slack, telegram = hook.posts
    text = f"ExpiryTrack\n{MESSAGE.text}"
    assert slack == (PATH, {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")})
    assert telegram[0] == f"/bot{BOT}/sendMessage"
    assert telegram[1] == {"chat_id": "-100", "text": text, "link_preview_options": {"is_disabled": True}}
    assert "secret" not in caplog.text


def test_a_long_message_is_cut(hook: Hook) -> None:
    """Telegram takes 4,096 characters, and the end says where the rest is."""
    Telegram(hook.url, SecretStr(BOT), "@me").send(Message("t", "x" * 9_000, "k", NOON, urgent=True))
    text = hook.posts[0][1]["text"]
    assert len(text) <= 4_096
    assert text.endswith("Run `expirytrack alerts` to see all.")


def test_what_cannot_have_arrived_is_sent_again(hook: Hook) -> None:
    """A server that fails is asked again at once; one that refuses is not."""
    hook.answers = [502, 503]
    Webhook(SecretStr(hook.url + PATH)).send(MESSAGE)
    assert len(hook.posts) == 1
    hook.answers = [404, 200]
    with pytest.raises(NotSent, match=r"127\.0\.0\.1 answered HTTP 404: no, not at \[secret\]") as caught:
        Webhook(SecretStr(hook.url + PATH)).send(MESSAGE)
    assert "secret-path" not in str(caught.value)
    assert hook.answers == [200]


def test_a_channel_that_is_silent_or_away_fails_in_time(hook: Hook) -> None:
    """No answer, nobody there, and a bot without a token: each is one sentence."""
    wait = threading.Event()
    hook.before = lambda: wait.wait(5)
    with pytest.raises(NotSent, match="cannot be reached: timed out"):
        Webhook(SecretStr(hook.url + PATH), patience=0.2).send(MESSAGE)
    wait.set()
    with pytest.raises(NotSent, match="refused") as caught:
        Telegram(f"http://127.0.0.1:{closed_port()}", SecretStr(BOT), "1").send(MESSAGE)
    assert "secret" not in str(caught.value)
    with pytest.raises(NotSent, match="alerts secret telegram-token"):
        Telegram(hook.url, None, "1").send(MESSAGE)


def test_channels_come_from_settings_and_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word there is the log; a secret of the environment goes before that of the vault."""
    assert [one.channel for one in channels(load_settings()).notifiers] == ["log"]
    keep_secret(load_settings(), "webhook_url", "https://hooks.example.org/kept")
    keep_secret(load_settings(), "telegram_token", BOT)
    for name, value in {
        "MAIL_TO": "a@example.org, b@example.org",
        "SMTP_USER": "me",
        "SMTP_PASSWORD": PASSWORD,
        "TELEGRAM_CHAT": "@me",
    }.items():
        monkeypatch.setenv(f"EXPIRYTRACK_{name}", value)
    _, by_mail, webhook, telegram = channels(load_settings()).notifiers
    assert isinstance(by_mail, Mail)
    assert by_mail.recipients == ("a@example.org", "b@example.org")
    assert by_mail.sender == "a@example.org"
    assert by_mail.password == SecretStr(PASSWORD)
    assert webhook == Webhook(SecretStr("https://hooks.example.org/kept"))
    assert telegram == Telegram("https://api.telegram.org", SecretStr(BOT), "@me")
    monkeypatch.setenv("EXPIRYTRACK_WEBHOOK_URL", "https://hooks.example.org/set")
    assert channels(load_settings()).notifiers[2] == Webhook(SecretStr("https://hooks.example.org/set"))
    assert forget_secret(load_settings(), "webhook_url")
    with pytest.raises(ConfigurationError, match="use an https address"):
        keep_secret(load_settings(), "webhook_url", "http://hooks.example.org/secret")
    assert not forget_secret(load_settings(), "webhook_url")


def test_a_vault_that_does_not_open_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is still told, and so is whoever looks."""
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "the right one")
    keep_secret(load_settings(), "webhook_url", "https://hooks.example.org/kept")
    monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "another one")
    found = channels(load_settings())
    assert [one.channel for one in found.notifiers] == ["log"]
    assert found.problem is not None
    assert "does not open" in found.problem
