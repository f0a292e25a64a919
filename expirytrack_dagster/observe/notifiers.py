"""The channels that tell people of alerts: the log, e-mail, a webhook of Slack's kind, and a Telegram bot.

How a message travels belongs here, and which channels the settings and the vault describe. What is in a message, whom
it has reached and when it is tried again is `deliveries.py`. No secret is in an error or a log line: the address of a
webhook and of a bot hold one, so httpx is not heard while it is used.

A message is sent again only where it cannot have arrived: no connection, or a server that said that it failed.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast

import httpx
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt, wait_exponential

from expirytrack_dagster.errors import ConfigurationError, ExpiryTrackError, NotSent
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.settings import is_loopback
from expirytrack_dagster.settings.values import check_telegram_token, check_webhook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from tenacity import RetryCallState

    from expirytrack_dagster.settings import Settings

Secret: TypeAlias = Literal["smtp_password", "webhook_url", "telegram_token"]
"""Settings that the vault may hold instead."""

PATIENCE = 10.0
"""Seconds to wait for any answer of a channel: a sensor that tells people has a minute for all of them."""

_TRIES = 3
_LONGEST = 4_000  # characters: what Telegram takes, and more than anybody reads
_ELSEWHERE = "\n...\nRun `expirytrack alerts` to see all."
_CHECKS: dict[str, Callable[[SecretStr], object]] = {
    "webhook_url": check_webhook,
    "telegram_token": check_telegram_token,
}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """What is told at once: a line, and the whole text.

    `key` is the same whenever the same is told; `urgent` says that something is wrong, and not only over.
    """

    title: str
    text: str
    key: str
    at: datetime
    urgent: bool


class Notifier(Protocol):
    """A way to tell people."""

    @property
    def channel(self) -> str:
        """The name by which deliveries are remembered."""
        ...

    def send(self, message: Message) -> None:
        """Tell it; returns when it has been taken.

        Raises:
            NotSent: it has not been taken, as far as can be told; the sentence says why and holds no secret.
        """
        ...


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels to use, and what keeps others from being used."""

    notifiers: tuple[Notifier, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """The program's own log, which always takes what it is given."""

    channel: str = "log"

    def send(self, message: Message) -> None:
        """Write the text as one record."""
        _LOG.log(logging.WARNING if message.urgent else logging.INFO, "%s", message.text)


@dataclass(frozen=True, slots=True)
class Mail:
    """E-mail through a server, with a login if there is a user."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    sender: str
    recipients: tuple[str, ...]
    user: str | None = None
    password: SecretStr | None = None
    patience: float = PATIENCE
    channel: str = "mail"

    def send(self, message: Message) -> None:
        """Hand the message to the server; the same message has the same Message-ID at each try."""
        if self.security == "none" and not is_loopback(f"smtp://{self.host}:{self.port}"):
            raise NotSent(
                f"The way to {self.host} is not encrypted, and it is another machine: set EXPIRYTRACK_SMTP_SECURITY to "
                "starttls or tls."
            )
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.title, self.sender, ", ".join(self.recipients)
        mail["Date"] = format_datetime(message.at)
        mail["Message-ID"] = f"<{message.key}@expirytrack.invalid>"
        mail.set_content(message.text)
        try:
            with self._connected() as server:
                refused = server.send_message(mail)
        except (OSError, smtplib.SMTPException) as error:
            raise NotSent(f"{self.host}:{self.port} did not take the e-mail: {_reason(error)}.") from None
        if refused:
            _LOG.warning("%s does not deliver to %s.", self.host, ", ".join(sorted(refused)))

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        # Named, because smtplib would ask the name service who this machine is, which may take longer than the mail.
        name = "[127.0.0.1]"
        if self.security == "tls":
            context = ssl.create_default_context()
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, name, timeout=self.patience, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, name, timeout=self.patience)
        with server:
            if self.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if self.user is not None:
                server.login(self.user, "" if self.password is None else self.password.get_secret_value())
            yield server


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that takes what Slack's incoming webhooks take."""

    url: SecretStr
    patience: float = PATIENCE
    channel: str = "webhook"

    def send(self, message: Message) -> None:
        """Post the message; what Slack would take for markup is masked."""
        text = _chat(message)
        for character, masked in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, masked)
        _post(self.url, {"text": text}, self.patience)


@dataclass(frozen=True, slots=True)
class Telegram:
    """A chat in which a bot may write."""

    address: str
    token: SecretStr | None
    chat: str
    patience: float = PATIENCE
    channel: str = "telegram"

    def send(self, message: Message) -> None:
        """Let the bot write the message, as plain text."""
        if self.token is None:
            raise NotSent("There is no token of the Telegram bot: run 'expirytrack alerts secret telegram-token'.")
        url = SecretStr(f"{self.address}/bot{self.token.get_secret_value()}/sendMessage")
        _post(
            url,
            {"chat_id": self.chat, "text": _chat(message), "link_preview_options": {"is_disabled": True}},
            self.patience,
        )


def channels(settings: Settings) -> Channels:
    """Return the channels that the settings and the vault describe; the log is always one.

    Where the vault does not open, the channels whose address it may hold are left out, and `problem` says why.
    """
    notifiers: list[Notifier] = [Log()]
    problem: str | None = None

    def secret(name: Secret) -> SecretStr | None:
        nonlocal problem
        try:
            return _secret(settings, name)
        except ExpiryTrackError as error:
            problem = str(error)
            return None

    if settings.mail_to is not None:
        recipients = tuple(address.strip() for address in settings.mail_to.split(","))
        notifiers.append(
            Mail(
                settings.smtp_host,
                settings.smtp_port,
                settings.smtp_security,
                settings.mail_from or recipients[0],
                recipients,
                settings.smtp_user,
                secret("smtp_password") if settings.smtp_user is not None else None,
            )
        )
    if (url := secret("webhook_url")) is not None:
        notifiers.append(Webhook(url))
    if settings.telegram_chat is not None:
        notifiers.append(Telegram(settings.telegram_url, secret("telegram_token"), settings.telegram_chat))
    return Channels(tuple(notifiers), problem)


def keep_secret(settings: Settings, name: Secret, value: str) -> None:
    """Keep a secret in the vault, where a channel finds it if the settings have none.

    Raises:
        ConfigurationError: it cannot be what it is given for.
        VaultError: the vault cannot be opened.
    """
    try:
        if (check := _CHECKS.get(name)) is not None:
            check(SecretStr(value))
    except ValueError as error:
        raise ConfigurationError(f"Nothing was kept: {error}.") from None
    open_vault(settings).put(f"alerts/{name}", value.encode())


def forget_secret(settings: Settings, name: Secret) -> bool:
    """Remove a secret from the vault and say whether there was one; raises like `keep_secret`."""
    return open_vault(settings).delete(f"alerts/{name}")


def _secret(settings: Settings, name: Secret) -> SecretStr | None:
    set_ = cast("SecretStr | None", getattr(settings, name))
    if set_ is not None:
        return set_
    kept = open_vault(settings).get(f"alerts/{name}")
    return None if kept is None else SecretStr(kept.decode())


def _chat(message: Message) -> str:
    """Return what is written into a chat, which has no line for a title: who says it, and what."""
    text = f"ExpiryTrack\n{message.text}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - len(_ELSEWHERE)] + _ELSEWHERE


def _post(url: SecretStr, body: dict[str, object], patience: float) -> None:
    address = url.get_secret_value()
    host = httpx.URL(address).host
    attempts = Retrying(
        retry=retry_if_exception_type((httpx.ConnectError, httpx.ConnectTimeout)) | retry_if_result(_failed),
        wait=wait_exponential(multiplier=0.25, max=2),
        stop=stop_after_attempt(_TRIES),
        retry_error_callback=_last,
    )
    timeout = httpx.Timeout(patience / _TRIES, read=patience)
    try:
        with _unheard(), httpx.Client(timeout=timeout, trust_env=not is_loopback(address)) as client:
            response = attempts(client.post, address, json=body)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise NotSent(f"{host} cannot be reached: {_without(url, _reason(error))}.") from None
    if not response.is_success:
        said = _without(url, " ".join(response.text.split())[:200])
        raise NotSent(f"{host} answered HTTP {response.status_code}: {said or response.reason_phrase}.")


def _failed(response: httpx.Response) -> bool:
    return response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR


def _last(state: RetryCallState) -> httpx.Response:
    """Return the last answer, or raise what the last try ended with."""
    if state.outcome is None:
        raise AssertionError("a try that is given up has an outcome")
    return cast("httpx.Response", state.outcome.result())


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep httpx from logging the addresses that this thread asks."""
    own, log = threading.get_ident(), logging.getLogger("httpx")

    def others(record: logging.LogRecord) -> bool:
        return record.thread != own

    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)


def _reason(error: Exception) -> str:
    """Return what an error says, on one line, or its kind where it says nothing."""
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return f"{error.smtp_code} {' '.join(said.split())}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"it delivers to none of {', '.join(sorted(error.recipients))}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted ({error.verify_message})"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _without(url: SecretStr, text: str) -> str:
    address = url.get_secret_value()
    parts = httpx.URL(address)
    for secret in (address, parts.raw_path.decode(), parts.path):
        if len(secret) > 1:
            text = text.replace(secret, "[secret]")
    return text
