"""From a failing request to a message and back: the sensor, the ledger, the channels and the command, all real."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from expirytrack_dagster import sensors
from expirytrack_dagster.cli import app
from expirytrack_dagster.observe.alerts import recent, standing
from expirytrack_dagster.observe.deliveries import channel_states
from expirytrack_dagster.resources import UpstoxResource
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.calls import Call, Receipt
from expirytrack_dagster.upstox.ledger import open_ledger
from expirytrack_dagster_tests.integration.observe.conftest import PASSWORD

if TYPE_CHECKING:
    from typer.testing import Result

    from expirytrack_dagster_tests.integration.observe.conftest import Hook, MailServer

NOON = datetime(2025, 9, 1, 6, 30, tzinfo=UTC).timestamp()


class Clock:
    """A clock that a test sets."""

    seconds = NOON

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.seconds += seconds


CLOCK = Clock()


class Upstox(UpstoxResource):
    """The API by the clock of the test."""

    def clock(self) -> Clock:
        """Return it; Dagster copies resources, so it lies in the module."""
        return CLOCK


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin at noon, without limits."""
    CLOCK.seconds = NOON
    monkeypatch.setenv("EXPIRYTRACK_RATE_LIMITS", "100000/1")
    monkeypatch.setenv("EXPIRYTRACK_RATE_BURST", "1000")
    monkeypatch.setenv("EXPIRYTRACK_BREAKER_FAILURES", "1000")
    monkeypatch.setenv("EXPIRYTRACK_ALERT_DISK_GB", "0")


def ask(number: int, status: int) -> None:
    """Let so many requests be answered with this status."""
    ledger = open_ledger(load_settings(), CLOCK)
    for _ in range(number):
        taken = ledger.acquire(Call("candles"))
        assert isinstance(taken, int)
        CLOCK.seconds += 0.01
        ledger.settle(taken, Receipt("ok" if status == 200 else "http_error", CLOCK.now(), status))


def tick(minutes: float = 1) -> str:
    """Evaluate the sensor some time later and return what it says."""
    CLOCK.seconds += 60 * minutes
    with dg.build_sensor_context(resources={"upstox": Upstox()}) as context:
        result: Any = sensors.alerts(context, Upstox())
    return str(result.skip_message)


def run(*words: str, answer: str = "") -> Result:
    """Run `expirytrack alerts WORDS`."""
    return CliRunner().invoke(app, ["alerts", *words], input=answer)


def test_an_alert_is_told_and_recovers_in_every_channel(
    mail_server: MailServer, hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage: log, mail, webhook and Telegram say so once, and once that it is over, however often it is judged."""
    caplog.set_level(logging.INFO)
    for name, value in {
        "MAIL_TO": "you@example.org",
        "SMTP_PORT": str(mail_server.port),
        "SMTP_USER": "me",
        "TELEGRAM_CHAT": "-100",
        "TELEGRAM_URL": hook.url,
    }.items():
        monkeypatch.setenv(f"EXPIRYTRACK_{name}", value)
    assert run("secret", "smtp-password", answer=f"{PASSWORD}\n").exit_code == 0
    assert run("secret", "webhook-url", answer=f"{hook.url}/services/secret\n").exit_code == 0
    assert run("secret", "telegram-token", answer="1:secret\n").exit_code == 0
    assert tick() == "Alerts that stand: 0; new: 0; over: 0."
    ask(30, 200)
    ask(10, 503)
    assert tick() == "Alerts that stand: 1; new: 1; over: 0."
    for _ in range(5):
        assert tick() == "Alerts that stand: 1; new: 0; over: 0."
    ask(200, 200)
    assert tick() == "Alerts that stand: 0; new: 0; over: 1."
    for _ in range(5):
        assert tick() == "Alerts that stand: 0; new: 0; over: 0."

    raised = "25.0 % of 40 requests in 30 minutes failed, mostly HTTP 503."
    over = "4.2 % of 240 requests in 30 minutes failed, mostly HTTP 503."
    logged = [record.getMessage() for record in caplog.records if record.name.endswith("notifiers")]
    mails = [
        part.decode() for one in mail_server.inbox.mails if isinstance(part := one.get_payload(decode=True), bytes)
    ]
    by_webhook = [body["text"] for path, body in hook.posts if path == "/services/secret"]
    by_telegram = [body["text"] for path, body in hook.posts if path == "/bot1:secret/sendMessage"]
    for told in (logged, mails, by_webhook, by_telegram):
        first, second = told
        assert f"ALERT: {raised}" in first
        assert "25 %, wanted at most 10." in first
        assert "What to do: Run 'expirytrack status'" in first
        assert "Since 12:02 IST on 01 September 2025" in first
        assert f"OVER: {over}" in second
    assert "secret" not in caplog.text
    assert [alert.name for alert in recent(open_state(load_settings()), 9)] == ["failure_rate"]


def test_a_channel_that_fails_is_told_by_the_others(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else stops; the third failure is an alert; once it works it is told what it missed, and all is good."""
    monkeypatch.setenv("EXPIRYTRACK_WEBHOOK_URL", f"{hook.url}/services/secret")
    ask(40, 503)
    hook.answers = [404] * 3
    assert tick().endswith("not delivered by webhook.")
    for _ in range(5):
        tick()
    assert hook.answers == []
    state = open_state(load_settings())
    assert [(alert.name, alert.subject) for alert in standing(state)] == [
        ("failure_rate", "requests"),
        ("delivery", "webhook"),
    ]
    assert "Alerts do not get through by webhook: 127.0.0.1 answered HTTP 404: no, not at [secret]." in caplog.text
    shown = run()
    assert "webhook:  not used yet, 1 wait" in shown.output
    assert run("test").output == "log:      taken\nwebhook:  taken\n"
    CLOCK.seconds = datetime.now(tz=UTC).timestamp()  # the command's clock is the true one
    tick()
    tick()
    assert [alert.name for alert in standing(state)] == []
    trial, missed = [body["text"] for _, body in hook.posts]
    assert trial.startswith("ExpiryTrack\nThis is a test")
    assert missed.startswith("ExpiryTrack\nALERT: 100.0 % of 40 requests")
    assert "OVER: 0.0 % of 0 requests" in missed
    assert "do not get through" not in missed
    assert channel_states(state)["webhook"].waiting == 0


def test_a_tick_without_a_state_database_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sensor fails nobody: what cannot be read is said, and looked at again."""
    settings = load_settings()
    monkeypatch.setenv("EXPIRYTRACK_LOCK_TIMEOUT", "0")
    with open_state(settings).transaction():
        monkeypatch.setattr(
            "expirytrack_dagster.resources.UpstoxResource.state", lambda _: open_state(settings, timeout=0.1)
        )
        assert tick().startswith("Nothing was judged, the next tick looks again: ")


def test_the_command_lists_what_stands_and_what_is_over() -> None:
    """For people and as JSON; nothing is shown as nothing."""
    assert "No alert stands." in run().output
    ask(40, 503)
    tick()
    shown = run()
    assert shown.exit_code == 0
    assert "100.0 % of 40 requests in 30 minutes failed, mostly HTTP 503." in shown.output
    assert "since 12:01 IST on 01 September 2025: 100 %, wanted at most 10" in shown.output
    report = json.loads(run("--json").output)
    (alert,) = report["standing"]
    assert (alert["name"], alert["value"], alert["threshold"]) == ("failure_rate", 100, 10)
    assert alert["raised_at"].startswith("2025-09-01T06:31:00")
    assert report["over"] == []
    assert [one["channel"] for one in report["channels"]] == ["log"]
    tick(40)
    report = json.loads(run("--json").output)
    assert report["standing"] == []
    assert report["over"][0]["ending"] == "0.0 % of 0 requests in 30 minutes failed."
    assert "Over:" in run().output


def test_a_test_message_says_which_channel_fails(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 and why, without the secret."""
    monkeypatch.setenv("EXPIRYTRACK_WEBHOOK_URL", f"{hook.url}/services/secret")
    hook.answers = [403]
    failed = run("test")
    assert failed.exit_code == 1
    assert "webhook:  127.0.0.1 answered HTTP 403: no, not at [secret]." in failed.output
    assert json.loads(run("test", "--json").output) == {"channels": {"log": None, "webhook": None}, "problem": None}


def test_a_secret_is_checked_kept_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong one is refused without being quoted; a kept one makes a channel, a forgotten one does not."""
    refused = run("secret", "telegram-token", answer="no token\n")
    assert refused.exit_code == 1
    assert "no token" not in f"{refused.output}{refused.exception}"
    assert run("secret", "webhook-url", answer="https://hooks.example.org/secret\n").exit_code == 0
    assert [one["channel"] for one in json.loads(run("--json").output)["channels"]] == ["log", "webhook"]
    assert "forgotten" in run("secret", "webhook-url", "--forget").output
    assert "There was no" in run("secret", "webhook-url", "--forget").output
    assert [one["channel"] for one in json.loads(run("--json").output)["channels"]] == ["log"]
    monkeypatch.setenv("EXPIRYTRACK_WEBHOOK_URL", "http://hooks.example.org/secret")
    shown = run()
    assert shown.exit_code == 1
    assert "services" not in f"{shown.output}{shown.exception}" or "secret" not in f"{shown.output}{shown.exception}"
