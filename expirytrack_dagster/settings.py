"""All settings in one typed object: defaults, then the profile, then `expirytrack.toml`, then the environment.

A setting belongs here when a user may change it without touching code. Names are the environment variables without
their prefix: `EXPIRYTRACK_RATE_LIMITS` is `rate_limits`. Values that follow from others (paths below the home) are
properties. Nothing here opens a file other than `expirytrack.toml` or talks to a network.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import math
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from expirytrack_dagster.address import Address, parse_address
from expirytrack_dagster.errors import ConfigurationError

PREFIX = "EXPIRYTRACK_"
UPSTOX_API_URL = "https://api.upstox.com"
UPSTOX_INSTRUMENTS_URL = "https://assets.upstox.com/market-quote/instruments/exchange/complete.json.gz"
DEFAULT_ACCOUNT = "default"
LOGIN_URL = "http://127.0.0.1:8765/callback"
NOTIFIER_URL = "http://127.0.0.1:8766/notify"
SHORTEST_PASSPHRASE = 8
INSTRUMENTS_PATH = "/market-quote/instruments/exchange/complete.json.gz"


@dataclass(frozen=True, slots=True, order=True)
class RateLimit:
    """At most `requests` in any `seconds`."""

    seconds: float
    requests: int

    def __str__(self) -> str:
        """Return the form in which the setting is written, `requests/seconds`."""
        return f"{self.requests}/{self.seconds:g}"


def parse_rate_limits(text: object) -> object:
    """Turn `50/1,500/60,2000/1800` into windows, the shortest first; anything but text passes unchanged."""
    if not isinstance(text, str):
        return text
    limits = []
    for part in text.split(","):
        requests, _, seconds = part.strip().partition("/")
        try:
            limit = RateLimit(seconds=float(seconds), requests=int(requests))
        except ValueError:
            message = f"'{part.strip()}' is not of the form requests/seconds, such as 50/1"
            raise ValueError(message) from None
        if limit.requests < 1 or not 0 < limit.seconds < math.inf:
            message = f"'{part.strip()}' allows nothing: both numbers must be above zero"
            raise ValueError(message)
        limits.append(limit)
    return tuple(sorted(limits))


def is_loopback(url: str) -> bool:
    """Say whether the address names this machine itself."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_api_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        message = f"'{url}' is not an address such as {UPSTOX_API_URL}"
        raise ValueError(message)
    if parts.scheme == "http" and not is_loopback(url):
        message = f"'{url}' would send the token in the clear: use https (plain http is for this machine alone)"
        raise ValueError(message)
    return url.rstrip("/")


def _check_receiver(url: str) -> str:
    """Accept what a receiver can listen at or a browser be sent to: https, or http on this machine with its port."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.query or parts.fragment or parts.username or parts.password or not parts.hostname or port == 0:
        message = f"'{url}' is not an address such as {LOGIN_URL}"
        raise ValueError(message)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(url)):
        message = f"'{url}' would carry a login in the clear: use https (plain http is for this machine alone)"
        raise ValueError(message)
    return url


def parse_pins(text: object) -> object:
    """Turn `sha256/...,sha256/...` into hashes of public keys; anything but text passes unchanged."""
    if not isinstance(text, str):
        return text
    pins = tuple(part.strip() for part in text.split(","))
    for pin in pins:
        try:
            digest = base64.b64decode(pin.removeprefix("sha256/"), validate=True)
        except binascii.Error:
            digest = b""
        if not pin.startswith("sha256/") or len(digest) != hashlib.sha256().digest_size:
            message = f"'{pin}' is not of the form sha256/ and 44 characters of base64"
            raise ValueError(message)
    return pins


def _check_passphrase(passphrase: SecretStr | None) -> SecretStr | None:
    if passphrase is not None and len(passphrase.get_secret_value()) < SHORTEST_PASSPHRASE:
        message = f"a passphrase needs at least {SHORTEST_PASSPHRASE} characters"
        raise ValueError(message)
    return passphrase


PROFILES: dict[str, dict[str, object]] = {
    "production": {},
    "development": {"rate_limits": "10/1,100/60,500/1800", "workers": 2, "log_level": "DEBUG"},
}


class Settings(BaseSettings):
    """Everything that a user may set; build it with `load_settings()` to get readable errors."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    profile: Literal["production", "development"] = "production"
    home: Path = Field(Path("data"), description="Everything that is written at run time lies below this folder.")
    warehouse: Annotated[Address | None, NoDecode, BeforeValidator(parse_address)] = Field(
        None,
        description="Where the archive is: duckdb:PATH or sqlite:PATH (for development); `expirytrack.duckdb` in the "
        "home if unset.",
    )
    api_url: Annotated[str, AfterValidator(_check_api_url)] = UPSTOX_API_URL
    access_token: SecretStr | None = Field(
        None, description="A token of the day, pasted from the Upstox developer page."
    )
    account: str = Field(
        DEFAULT_ACCOUNT,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="Your own name for the Upstox account to use; each has its token, its app and its rate limits.",
    )
    client_id: str | None = Field(
        None, pattern=r"^[!-~]+$", description="API key of your app on the Upstox developer page; `login` needs it."
    )
    client_secret: SecretStr | None = Field(None, description="API secret of your app; `login` asks where it is unset.")
    redirect_uri: Annotated[str, AfterValidator(_check_receiver)] = Field(
        LOGIN_URL,
        description="Redirect address of your app, exactly as registered; `login` listens there, on this machine.",
    )
    notifier_url: Annotated[str, AfterValidator(_check_receiver)] = Field(
        NOTIFIER_URL,
        description="Where `login --approve` listens on this machine; your app's notifier webhook must be led there.",
    )
    token_warning_minutes: float = Field(
        60.0, ge=0, description="Minutes before its token dies at which `status` and `collect` warn."
    )
    instruments: str | None = Field(
        None, description="Address or file of the instruments master (JSON, may be gzipped)."
    )
    rate_limits: Annotated[tuple[RateLimit, ...], NoDecode, BeforeValidator(parse_rate_limits)] = (
        RateLimit(1, 50),
        RateLimit(60, 500),
        RateLimit(1800, 2000),
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
    timeout: float = Field(30.0, gt=0, description="Seconds to wait for an answer.")
    max_retries: int = Field(3, ge=0, le=10)
    http2: bool = Field(
        default=False, description="Offer HTTP/2; off means HTTP/1.1, which costs half the processor for long answers."
    )
    pins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_pins)] = Field(
        (),
        description="SHA-256 hashes of public keys, sha256/... in base64: a host must prove to have one of them (its "
        "own or that of an authority of its certificate). For https addresses; none by default.",
    )
    signing_key: Path | None = Field(
        None,
        description="File of an Ed25519 private key (PEM) or a shared secret (hmac-sha256): signs every request "
        "(RFC 9421) for a gateway of your own. Upstox needs none.",
    )
    signing_key_id: str = Field(
        "expirytrack",
        pattern=r"^[!#-\[\]-~]{1,128}$",
        description="The name by which the gateway knows the signing key; printable, no spaces, quotes, backslashes.",
    )
    cache: bool = Field(default=True, description="Keep answers that do not change; off asks for everything anew.")
    cache_mb: int = Field(512, ge=1, le=1_000_000, description="Bound of the kept answers on disk, in MiB.")
    cache_minutes: float = Field(
        15.0, ge=0, description="Minutes for which an answer that may still change, such as expiries, is believed."
    )
    window_days: int = Field(1830, ge=1, le=36_500, description="Width of the first window asked for, in days.")
    proof_share: float = Field(
        0.01, ge=0, le=1, description="Share of contracts compared with daily candles, beyond those at the money."
    )
    batch_rows: int = Field(122_880, ge=5_000, description="Candles validated and staged at once.")
    quarantine_threshold: float = Field(
        0.5, ge=0, le=1, description="Share of bad rows above which a cell is not written."
    )
    interest_rate: float = Field(
        0.065,
        ge=-0.1,
        le=1,
        description="Rate a year, continuously compounded, for implied forwards, volatilities and greeks.",
    )
    discovery_age: float = Field(3600.0, ge=0, description="Seconds for which `collect` trusts a list of expiries.")
    lookback_days: int | None = Field(
        None, ge=1, description="How far back expiries are collected, in days; everything that the API lists if unset."
    )
    horizon_days: int = Field(
        14, ge=0, description="Days before an expiry may leave the API's list from which it is collected first."
    )
    automatic: bool = Field(
        default=False, description="Schedules and sensors run from the first start; off leaves that to the Dagster UI."
    )
    lock_timeout: float = Field(60.0, ge=0, description="Seconds to wait for a database that another program holds.")
    passphrase: Annotated[SecretStr | None, AfterValidator(_check_passphrase)] = Field(
        None, description="What opens the vault on a machine without a keyring; at least eight characters."
    )
    key_age_days: int = Field(90, ge=1, le=36_500, description="Age of the vault's key from which its rotation is due.")
    encryption: bool = Field(
        default=False,
        description="Keep the archive, staged batches and kept answers encrypted, with keys of the vault.",
    )
    open_home: bool = Field(
        default=False,
        description="Go on although other users can read the home, where its disk keeps no rights (network drives).",
    )
    backups: Path | None = Field(
        None, description="Folder of backups, best on another disk; `backups` below the home if not given."
    )
    backup_keep: int = Field(7, ge=1, description="How many backups of this home a folder keeps; older ones go.")
    recovery_key: SecretStr | None = Field(
        None, description="What `expirytrack backup --show-key` printed: opens a backup on another machine."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, `expirytrack.toml` in the working folder, profile."""
        del dotenv_settings, file_secret_settings
        toml = TomlConfigSettingsSource(settings_cls, Path("expirytrack.toml"))
        chosen: dict[str, Any] = {**toml(), **env_settings(), **init_settings()}
        profile = PROFILES.get(str(chosen.get("profile", "production")), {})
        return init_settings, env_settings, toml, InitSettingsSource(settings_cls, dict(profile))

    @property
    def database(self) -> Path:
        """The archive's file."""
        return self.address.path

    @property
    def address(self) -> Address:
        """Where the archive is."""
        return self.warehouse or Address("duckdb", self.home / "expirytrack.duckdb")

    @property
    def state(self) -> Path:
        """The SQLite state database."""
        return self.home / "state.sqlite"

    @property
    def answers(self) -> Path:
        """The SQLite file of kept answers; encrypted ones have a file of their own."""
        return self.home / "cache" / ("sealed.sqlite" if self.encryption else "answers.sqlite")

    @property
    def staging(self) -> Path:
        """Folder of answered batches that wait for their cell's transaction."""
        return self.home / "staging"

    @property
    def vault(self) -> Path:
        """The encrypted file of secrets and keys."""
        return self.home / "vault.bin"

    @property
    def vault_keys(self) -> Path:
        """Folder of the key file that opens the vault where there is neither a keyring nor a passphrase."""
        return self.home / "keys"

    @property
    def reports(self) -> Path:
        """Folder of the validation reports, one JSON file a cell."""
        return self.home / "reports"

    @property
    def published(self) -> Path:
        """Folder of the copy of the archive that readers use."""
        return self.home / "published"

    @property
    def backup_folder(self) -> Path:
        """Folder of backups."""
        return self.backups.expanduser().resolve() if self.backups else self.home / "backups"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.home / "audit.jsonl"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance that the command line and the UI share."""
        return self.home / "dagster"

    @property
    def instruments_source(self) -> str:
        """Where the instruments master is read from: a local API serves its own, so that nothing else is asked."""
        if self.instruments:
            return self.instruments
        return self.api_url + INSTRUMENTS_PATH if is_loopback(self.api_url) else UPSTOX_INSTRUMENTS_URL


_SECRETS = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}


def load_settings(**overrides: object) -> Settings:
    """Read the settings of this process.

    The home becomes an absolute path, so that a later change of folder does not move it.

    Raises:
        ConfigurationError: a value cannot be used; the sentence names the key, the value and what is wrong. Or
            `expirytrack.toml` cannot be read, or the home can be no folder.
    """
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "settings"
        shown = "" if key in _SECRETS else f" ({first['input']!r})"
        message = f"{PREFIX}{key.upper()}{shown}: {first['msg'].removeprefix('Value error, ')}."
        raise ConfigurationError(message) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"expirytrack.toml cannot be read: {error}.") from None
    return settings.model_copy(update={"home": _usable_home(settings.home)})


def _usable_home(home: Path) -> Path:
    """Return the home as an absolute path; what is there, or the nearest above it that is, has to be a folder."""
    try:
        absolute = home.expanduser().resolve()
        nearest = next(place for place in (absolute, *absolute.parents) if os.path.lexists(place))
        is_folder = nearest.is_dir()
    except (OSError, RuntimeError) as error:  # of no such user, or of a link that leads to itself
        raise ConfigurationError(f"{PREFIX}HOME ({str(home)!r}) cannot be used: {error}.") from None
    if not is_folder:
        raise ConfigurationError(f"{PREFIX}HOME ({str(home)!r}) cannot be used, {nearest} is no folder: name another.")
    return absolute
