"""The settings themselves: names, types, defaults, bounds, descriptions, and the two profiles.

A setting belongs here when a user may change it without touching code; each has a description that a user reads.
Names are the environment variables without their prefix: `EXPIRYTRACK_RATE_LIMITS` is `rate_limits`. Where things lie
is `places.py`, how a value is written `values.py`, where values come from `loading.py`; nothing here opens a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from expirytrack_dagster.settings.places import Places
from expirytrack_dagster.settings.values import (
    LOGIN_URL,
    MAIL_ADDRESS,
    MAIL_ADDRESSES,
    UPSTOX_API_URL,
    Allowed,
    RateLimit,
    check_api_url,
    check_passphrase,
    check_receiver,
    check_telegram_token,
    check_webhook,
    is_loopback,
    parse_pins,
    parse_rate_limits,
)

UPSTOX_INSTRUMENTS_URL = "https://assets.upstox.com/market-quote/instruments/exchange/complete.json.gz"
DEFAULT_ACCOUNT = "default"
NOTIFIER_URL = "http://127.0.0.1:8766/notify"
TELEGRAM_URL = "https://api.telegram.org"
INSTRUMENTS_PATH = "/market-quote/instruments/exchange/complete.json.gz"

PROFILES: dict[str, dict[str, object]] = {
    "production": {"workers": 10, "log_level": "INFO"},
    "development": {"rate_limits": "10/1,100/60,500/1800", "workers": 2, "log_level": "DEBUG"},
}

ELSEWHERE = {
    "database": "it is called warehouse here, such as sqlite:data/expirytrack.sqlite",
    "api_rate_limit": "it is called rate_limits here and has several windows, such as 50/1,500/60,2000/1800",
    "connection_pool_size": "there is no pool to size, because a database in a file needs none and a server gets one "
    "connection a thread",
    "batch_insert_size": "it is called batch_rows here",
    "checkpoint_interval": "there is nothing to set, because every answered request is kept at once",
}
"""Names that programs of this kind often have, and what there is here instead; the reason fits behind a colon."""


class Settings(Places):
    """Everything that a user may set; build it with `load_settings()` to get readable errors."""

    profile: Literal["production", "development"] = Field(
        "production", description="A set of defaults: `development` asks more slowly, with 2 workers, and logs more."
    )
    api_url: Annotated[str, AfterValidator(check_api_url), Allowed(f"an address such as {UPSTOX_API_URL}")] = Field(
        UPSTOX_API_URL, description="Address of the API; plain http is for this machine alone."
    )
    access_token: SecretStr | None = Field(
        None, description="A token of the day, pasted from the Upstox developer page."
    )
    account: Annotated[
        str,
        Allowed(
            "1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
            pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}",
        ),
    ] = Field(
        DEFAULT_ACCOUNT,
        description="Your own name for the Upstox account to use; each has its token, its app and its rate limits.",
    )
    client_id: Annotated[str | None, Allowed("the API key as Upstox shows it, without spaces", pattern=r"[!-~]+")] = (
        Field(None, description="API key of your app on the Upstox developer page; `login` needs it.")
    )
    client_secret: SecretStr | None = Field(None, description="API secret of your app; `login` asks where it is unset.")
    redirect_uri: Annotated[str, AfterValidator(check_receiver), Allowed(f"an address such as {LOGIN_URL}")] = Field(
        LOGIN_URL,
        description="Redirect address of your app, exactly as registered; `login` listens there, on this machine.",
    )
    notifier_url: Annotated[str, AfterValidator(check_receiver), Allowed(f"an address such as {LOGIN_URL}")] = Field(
        NOTIFIER_URL,
        description="Where `login --approve` listens on this machine; your app's notifier webhook must be led there.",
    )
    token_warning_minutes: float = Field(
        60.0, ge=0, le=10_080, description="Minutes before its token dies at which `status` and `collect` warn."
    )
    instruments: str | None = Field(
        None, description="Address or file of the instruments master (JSON, may be gzipped)."
    )
    rate_limits: Annotated[
        tuple[RateLimit, ...],
        BeforeValidator(parse_rate_limits),
        Allowed("windows of the form requests/seconds, such as 50/1,500/60,2000/1800"),
    ] = Field(
        (RateLimit(1, 50), RateLimit(60, 500), RateLimit(1800, 2000)),
        description="How many requests may leave in how many seconds, as requests/seconds; any number of windows.",
    )
    rate_scope: Literal["account", "family"] = Field(
        "account",
        description="What the limits apply to: all requests of the account together (careful), or each family of "
        "endpoints (expiries, contracts, candles, profile) for itself.",
    )
    rate_burst: int = Field(
        5, ge=1, le=1000, description="Requests that may leave at once, before the shortest window's rate paces them."
    )
    discovery_workers: int = Field(
        1, ge=1, le=100, description="Requests for expiries or the profile under way at once in a process."
    )
    contract_workers: int = Field(
        5, ge=1, le=100, description="Requests for contract lists under way at once in a process."
    )
    workers: int = Field(10, ge=1, le=100, description="Requests for candles under way at once in a process.")
    breaker_failures: int = Field(
        5, ge=1, le=1000, description="Failures in a row after which nobody asks for a while."
    )
    breaker_pause: float = Field(
        5.0,
        gt=0,
        le=600,
        description="Seconds of the first such pause, which is waited out; the next ones double up to ten minutes.",
    )
    timeout: float = Field(30.0, gt=0, le=3_600, description="Seconds to wait for an answer.")
    max_retries: int = Field(
        3, ge=0, le=10, description="Tries again after timeouts, 5xx and broken answers; a 429 uses none of them."
    )
    backoff_factor: float = Field(
        2.0, ge=1, le=10, description="How many times longer each wait before another try is; the first is a second."
    )
    http2: bool = Field(
        default=False, description="Offer HTTP/2; off means HTTP/1.1, which costs half the processor for long answers."
    )
    pins: Annotated[
        tuple[str, ...],
        BeforeValidator(parse_pins),
        Allowed("hashes of the form sha256/ and 44 characters of base64, with commas between them"),
    ] = Field(
        (),
        description="SHA-256 hashes of public keys, sha256/... in base64: a host must prove to have one of them (its "
        "own or that of an authority of its certificate). For https addresses; none by default.",
    )
    signing_key: Path | None = Field(
        None,
        description="File of an Ed25519 private key (PEM) or a shared secret (hmac-sha256): signs every request "
        "(RFC 9421) for a gateway of your own. Upstox needs none.",
    )
    signing_key_id: Annotated[
        str,
        Allowed("1 to 128 printable characters without spaces, quotes and backslashes", pattern=r"[!#-\[\]-~]{1,128}"),
    ] = Field("expirytrack", description="The name by which the gateway knows the signing key.")
    cache: bool = Field(default=True, description="Keep answers that do not change; off asks for everything anew.")
    cache_mb: int = Field(512, ge=1, le=1_000_000, description="Bound of the kept answers on disk, in MiB.")
    cache_minutes: float = Field(
        15.0,
        ge=0,
        le=1_440,
        description="Minutes for which an answer that may still change, such as expiries, is believed.",
    )
    window_days: int = Field(1830, ge=1, le=36_500, description="Width of the first window asked for, in days.")
    proof_share: float = Field(
        0.01, ge=0, le=1, description="Share of contracts compared with daily candles, beyond those at the money."
    )
    batch_rows: int = Field(122_880, ge=5_000, le=10_000_000, description="Candles validated and staged at once.")
    quarantine_threshold: float = Field(
        0.5, ge=0, le=1, description="Share of bad rows above which a cell is not written."
    )
    interest_rate: float = Field(
        0.065,
        ge=-0.1,
        le=1,
        description="Rate a year, continuously compounded, for implied forwards, volatilities and greeks.",
    )
    discovery_age: float = Field(
        3600.0, ge=0, le=31_536_000, description="Seconds for which `collect` trusts a list of expiries."
    )
    lookback_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="How far back expiries are collected, in days; everything that the API lists if unset.",
    )
    horizon_days: int = Field(
        14,
        ge=0,
        le=36_500,
        description="Days before an expiry may leave the API's list from which it is collected first.",
    )
    automatic: bool = Field(
        default=False, description="Schedules and sensors run from the first start; off leaves that to the Dagster UI."
    )
    lock_timeout: float = Field(
        60.0, ge=0, le=86_400, description="Seconds to wait for a database that another program holds."
    )
    passphrase: Annotated[SecretStr | None, AfterValidator(check_passphrase)] = Field(
        None, description="What opens the vault on a machine without a keyring; at least eight characters."
    )
    key_age_days: int = Field(90, ge=1, le=36_500, description="Age of the vault's key from which its rotation is due.")
    backup_keep: int = Field(
        7, ge=1, le=10_000, description="How many backups of this home a folder keeps; older ones go."
    )
    recovery_key: SecretStr | None = Field(
        None, description="What `expirytrack backup --show-key` printed: opens a backup on another machine."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least serious messages that are logged."
    )
    log_mb: int = Field(
        10, ge=0, le=1_000, description="MiB of logs/expirytrack.jsonl before it is set aside; 0 writes no log file."
    )
    log_files: int = Field(5, ge=1, le=100, description="How many log files that were set aside are kept.")
    metrics: bool = Field(default=True, description="Keep what is counted and measured in the table of metrics.")
    metrics_days: float = Field(
        14.0, gt=0, le=36_500, description="Days for which the table of metrics keeps what is past."
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65_535, description="Port at which `ui` serves /metrics for Prometheus; none if unset."
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Address at which /metrics is served; whoever reaches it may read, so others than this machine's "
        "need a network that you trust.",
    )

    # Alerts: what is too much, and who is told. The token's life is token_warning_minutes, the horizon horizon_days.
    alert_window_minutes: float = Field(
        30.0, ge=1, le=1_440, description="Minutes back over which failing and slow requests are counted for alerts."
    )
    alert_failure_percent: float = Field(
        10.0, ge=0, le=100, description="An alert is raised when more of the requests fail; 100 is never."
    )
    alert_response_seconds: float = Field(
        10.0, gt=0, le=3_600, description="An alert is raised when one answer in twenty takes longer."
    )
    alert_stalled_minutes: float = Field(
        45.0,
        ge=1,
        le=10_080,
        description="An alert is raised when a cell that is collected gets no answer for so long; full windows may "
        "hold it up for half an hour.",
    )
    alert_quarantine_percent: float = Field(
        1.0, ge=0, le=100, description="An alert is raised when more of a cell's rows are in quarantine; 100 is never."
    )
    alert_completeness_percent: float = Field(
        99.0,
        ge=0,
        le=100,
        description="An alert is raised when fewer of an underlying's contracts that were asked for are complete or "
        "proven empty; 0 is never.",
    )
    alert_disk_gb: float = Field(
        5.0, ge=0, le=1_000_000, description="An alert is raised when the home's disk has less room, in GB; 0 is never."
    )
    mail_to: Annotated[str | None, Allowed("addresses with commas between them", pattern=MAIL_ADDRESSES)] = Field(
        None, description="Who gets alerts by e-mail; nobody if unset."
    )
    mail_from: Annotated[str | None, Allowed("one address", pattern=MAIL_ADDRESS)] = Field(
        None, description="Sender of the e-mails; the first of mail_to if unset."
    )
    smtp_host: Annotated[str, Allowed("the name of a host", pattern=r"[A-Za-z0-9.:_-]+")] = Field(
        "localhost", description="Server that takes the e-mails."
    )
    smtp_port: int = Field(587, ge=1, le=65_535, description="Its port; 465 as a rule where smtp_security is tls.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls",
        description="How the way to it is encrypted: once connected, from the start, or not, which is for this "
        "machine alone.",
    )
    smtp_user: str | None = Field(None, description="Name at the mail server; no login if unset.")
    smtp_password: SecretStr | None = Field(
        None, description="Its password; `alerts secret smtp-password` keeps it in the vault instead."
    )
    webhook_url: Annotated[SecretStr | None, AfterValidator(check_webhook)] = Field(
        None,
        description="Address that takes alerts as Slack does (also Mattermost, Discord with /slack); plain http is for "
        "this machine alone. `alerts secret webhook-url` keeps it in the vault instead.",
    )
    telegram_chat: Annotated[
        str | None, Allowed("the number of a chat, or @ and the name of a channel", pattern=r"-?\d+|@\w+")
    ] = Field(None, description="Telegram chat that gets alerts; none if unset.")
    telegram_token: Annotated[SecretStr | None, AfterValidator(check_telegram_token)] = Field(
        None, description="Token of the bot that writes there; `alerts secret telegram-token` keeps it in the vault."
    )
    telegram_url: Annotated[str, AfterValidator(check_api_url), Allowed(f"an address such as {TELEGRAM_URL}")] = Field(
        TELEGRAM_URL, description="Address of Telegram's bot API; plain http is for this machine alone."
    )

    @property
    def instruments_source(self) -> str:
        """Where the instruments master is read from: a local API serves its own, so that nothing else is asked."""
        if self.instruments:
            return self.instruments
        return self.api_url + INSTRUMENTS_PATH if is_loopback(self.api_url) else UPSTOX_INSTRUMENTS_URL
