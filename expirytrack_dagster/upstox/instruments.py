"""From the symbol that a trader types to the instrument key of an underlying.

The table of indices, and the instruments master for everything else, belong here. The master is a public file, no API
request, and costs no slot. Checking a key's form belongs to `keys.py`; remembering what is tracked to the caller.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec

from expirytrack_dagster.errors import ConfigurationError, MalformedResponse, NetworkError
from expirytrack_dagster.settings import is_loopback

if TYPE_CHECKING:
    from expirytrack_dagster.settings import Settings

INDICES = {
    "NIFTY": "NSE_INDEX|Nifty 50",  # the API's own documentation
    "BANKNIFTY": "NSE_INDEX|Nifty Bank",  # seen in live use
    "SENSEX": "BSE_INDEX|SENSEX",  # seen in live use
    # The rest: underlying_key of their contracts in the instruments master of 2025-12-18.
    "FINNIFTY": "NSE_INDEX|Nifty Fin Service",
    "MIDCPNIFTY": "NSE_INDEX|NIFTY MID SELECT",
    "NIFTYNXT50": "NSE_INDEX|Nifty Next 50",
    "BANKEX": "BSE_INDEX|BANKEX",
    "SENSEX50": "BSE_INDEX|SENSEX50",
}
"""Indices with derivatives: known without a download."""

MAX_AGE = 24 * 3600.0
_MAX_BYTES = 512 * 2**20
_TIMEOUT = 60.0
_CHUNK = 1 << 20


class _Instrument(msgspec.Struct):
    """The fields of the master that tell an underlying; all others are skipped while decoding."""

    segment: str = ""
    instrument_type: str = ""
    instrument_key: str = ""
    trading_symbol: str = ""
    underlying_symbol: str | None = None
    underlying_key: str | None = None


_MASTER = msgspec.json.Decoder(list[_Instrument])


def resolve(symbol: str, settings: Settings, *, now: float | None = None) -> str:
    """Return the instrument key of an underlying, such as `NSE_EQ|INE002A01018` for RELIANCE.

    Args:
        symbol: As exchanges write it; case does not matter.
        settings: Where the master is (`instruments_source`) and where a download is kept for a day (`home`).
        now: Seconds since the epoch, to judge the age of the kept download; the machine's time by default.

    Raises:
        ConfigurationError: no underlying has this symbol; the sentence names similar ones.
        NetworkError: the master cannot be fetched and no old copy is kept.
        MalformedResponse: the master is not what it used to be.
    """
    wanted = symbol.strip().upper()
    if wanted in INDICES:
        return INDICES[wanted]
    underlyings = underlyings_of_master(_master(settings, time.time() if now is None else now))
    if wanted in underlyings:
        return underlyings[wanted]
    close = difflib.get_close_matches(wanted, [*underlyings, *INDICES], n=3)
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ConfigurationError(
        f"No underlying has the symbol {symbol!r}.{meant} If you know its instrument key, give it with --key."
    )


def underlyings_of_master(master: bytes) -> dict[str, str]:
    """Return every symbol that can be tracked and its key, from the JSON of the instruments master.

    What the listed derivatives name as their underlying wins; then indices and NSE shares by their trading symbol,
    which still finds a share whose derivatives have been withdrawn.

    Raises:
        MalformedResponse: it is not a list of instruments.
    """
    try:
        instruments = _MASTER.decode(master)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedResponse(f"The instruments master cannot be read ({error}).") from error
    listed: dict[str, str] = {}
    derived: dict[str, str] = {}
    for item in instruments:
        if item.segment in {"NSE_FO", "BSE_FO"}:
            if item.underlying_symbol and item.underlying_key:
                derived[item.underlying_symbol.upper()] = item.underlying_key
        elif item.instrument_type == "INDEX" or (item.segment == "NSE_EQ" and item.instrument_type == "EQ"):
            listed.setdefault(item.trading_symbol.upper(), item.instrument_key)
    return listed | derived


def _master(settings: Settings, now: float) -> bytes:
    source = settings.instruments_source
    if source.startswith(("http://", "https://")):
        return _download(source, settings.home / "cache", now)
    try:
        return _plain(Path(source).read_bytes(), source)
    except OSError as error:
        raise ConfigurationError(
            f"EXPIRYTRACK_INSTRUMENTS {source!r} cannot be read: {error.strerror or error}."
        ) from error


def _download(url: str, folder: Path, now: float) -> bytes:
    """Return the JSON, from the copy of the last day if there is one; an older copy beats none at all."""
    kept = folder / f"instruments-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    if kept.exists() and 0 <= now - kept.stat().st_mtime < MAX_AGE:
        return _plain(kept.read_bytes(), url)
    body = bytearray()
    try:
        with httpx.stream("GET", url, timeout=_TIMEOUT, trust_env=not is_loopback(url)) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes(_CHUNK):
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise MalformedResponse(f"The instruments master at {url} is larger than {_MAX_BYTES} bytes.")
    except httpx.HTTPError as error:
        if kept.exists():
            return _plain(kept.read_bytes(), url)
        raise NetworkError(
            f"The instruments master at {url} cannot be fetched ({error}): give the key with --key."
        ) from error
    plain = _plain(bytes(body), url)  # before keeping it: a damaged download must not last a day
    folder.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".part")
    partial.write_bytes(body)
    partial.replace(kept)
    return plain


def _plain(data: bytes, source: str) -> bytes:
    """Return the JSON, unpacked if it is gzipped; whoever sent it may have unpacked it already."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise MalformedResponse(f"The instruments master from {source} is no whole gzip file ({error}).") from error
