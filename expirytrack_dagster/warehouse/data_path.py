"""Where the files of a lake lie, and how an object store lets a session in.

A data path is a folder, or `s3://bucket/prefix/` in Amazon's S3 or in anything that speaks like it. Who may use it is
told by the variables that all such programs read: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_REGION (or AWS_DEFAULT_REGION) and AWS_ENDPOINT_URL. What lies there belongs to `lake.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings.values import is_loopback

if TYPE_CHECKING:
    import duckdb

    from expirytrack_dagster.settings import Settings

# An object store may answer 503 for 20 seconds: waits of 0.1, 0.2, 0.4, ... seconds come to 25.5 with the eighth.
RETRIES = {"http_retries": 8, "http_retry_wait_ms": 100, "http_retry_backoff": 2}


@dataclass(frozen=True, slots=True)
class Access:
    """How an object store is reached; `endpoint` is None for Amazon's own."""

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class DataPath:
    """A place that ends in a slash; `access` is None for a folder."""

    place: str
    access: Access | None = None

    def overlaps(self, other: DataPath) -> bool:
        """Say whether one lies in the other, or both are the same, however their folders are written."""
        one, two = (
            f"{Path(data.place).resolve().as_posix()}/" if data.access is None else data.place for data in (self, other)
        )
        return one.startswith(two) or two.startswith(one)

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a session with httpfs loaded in; a folder is made where it is missing."""
        for name, value in RETRIES.items():
            connection.execute(f"SET {name} = {value}")
        if self.access is None:
            Path(self.place).mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        words = {"KEY_ID": self.access.key_id, "SECRET": self.access.secret, "REGION": self.access.region}
        if self.access.token:
            words["SESSION_TOKEN"] = self.access.token
        if self.access.endpoint:
            url = urlsplit(self.access.endpoint)
            words |= {"ENDPOINT": url.netloc, "URL_STYLE": "path", "USE_SSL": str(url.scheme == "https")}
        told = ", ".join(f"{name} {_literal(value)}" for name, value in words.items())
        connection.execute(f"CREATE SECRET data_path (TYPE s3, {told}, SCOPE {_literal(self.place)})")


def data_path(settings: Settings) -> DataPath | None:
    """Return where the files of this home's lake lie; None where the archive is none.

    Raises:
        ConfigurationError: a variable of the object store is missing or unfit, or the folder holds the home, in
            which a lake would remove the files of others.
    """
    if not settings.address.is_lake:
        return None
    place = settings.data_path or str(settings.home / "lake")
    if not place.startswith("s3://"):
        folder, home = Path(place).expanduser().absolute(), settings.home.absolute()
        if home.resolve().is_relative_to(folder.resolve()):
            raise ConfigurationError(
                f"A lake cannot keep its files in {folder}, since it removes what it does not know and the home "
                f"{home} lies there: name a folder of their own in EXPIRYTRACK_DATA_PATH."
            )
        return DataPath(f"{folder}/")
    return DataPath(place.rstrip("/") + "/", _access(insecure=settings.data_path_insecure))


def _access(*, insecure: bool) -> Access:
    """Read the variables.

    Raises:
        ConfigurationError: as above.
    """
    values = {name: os.environ.get(f"AWS_{name}") or None for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}
    if missing := " and ".join(f"AWS_{name}" for name, value in values.items() if value is None):
        raise ConfigurationError(f"The archive's files lie in an object store, so that {missing} must be set.")
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
    if endpoint is not None:
        _check(endpoint, insecure=insecure)
    return Access(
        key_id=str(values["ACCESS_KEY_ID"]),
        secret=str(values["SECRET_ACCESS_KEY"]),
        token=os.environ.get("AWS_SESSION_TOKEN") or None,
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        endpoint=endpoint,
    )


def _check(endpoint: str, *, insecure: bool) -> None:
    """Refuse an endpoint that is none, or that would send signed requests through a network in the clear.

    Raises:
        ConfigurationError: a sentence without what the address may hold beside the host.
    """
    url = urlsplit(endpoint)
    if url.scheme not in {"http", "https"} or not url.hostname or url.username or url.path.strip("/") or url.query:
        raise ConfigurationError("AWS_ENDPOINT_URL is no address of the form https://HOST or https://HOST:PORT.")
    if url.scheme == "http" and not insecure and not is_loopback(endpoint):
        raise ConfigurationError(
            f"AWS_ENDPOINT_URL names http://{url.netloc}, which anyone on the way can read: use https, or set "
            "EXPIRYTRACK_DATA_PATH_INSECURE=on on a network that is yours alone."
        )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
