"""Symbols to keys: indices without a file, everything else from a real master, and helpful refusals."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from expirytrack_dagster.errors import ConfigurationError, MalformedResponse, NetworkError
from expirytrack_dagster.settings import Settings
from expirytrack_dagster.upstox.instruments import INDICES, resolve, underlyings_of_master

if TYPE_CHECKING:
    from collections.abc import Iterator

MASTER = Path(__file__).parents[4] / "shared" / "realdata" / "instruments_master_2025-12-18.json.gz"
ROWS = [
    {"segment": "NSE_EQ", "instrument_type": "EQ", "instrument_key": "NSE_EQ|INE1", "trading_symbol": "ACME", "x": 1.5},
    {"segment": "NSE_EQ", "instrument_type": "EQ", "instrument_key": "NSE_EQ|INE2", "trading_symbol": "SOLO"},
    {"segment": "NSE_EQ", "instrument_type": "SG", "instrument_key": "NSE_EQ|IN3", "trading_symbol": "BOND"},
    {"segment": "NSE_FO", "instrument_type": "FUT", "instrument_key": "NSE_FO|1", "trading_symbol": "ACME FUT",
     "underlying_symbol": "ACME", "underlying_key": "NSE_EQ|INE9"},
]  # fmt: skip


def settings_for(tmp_path: Path, source: str) -> Settings:
    """Return settings that read the master from there."""
    return Settings(home=tmp_path / "home", instruments=source)


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    """Give settings with a small plain master."""
    (tmp_path / "master.json").write_bytes(orjson.dumps(ROWS))
    return settings_for(tmp_path, str(tmp_path / "master.json"))


@pytest.mark.skipif(not MASTER.is_file(), reason=f"the instruments master is not at {MASTER}")
def test_real_master_resolves_every_underlying(tmp_path: Path) -> None:
    """All 216 underlyings of NSE and BSE derivatives resolve to the key that their contracts name."""
    named: dict[str, set[str]] = defaultdict(set)
    data = gzip.decompress(MASTER.read_bytes())
    for row in orjson.loads(data):
        if row["segment"] in {"NSE_FO", "BSE_FO"}:
            named[row["underlying_symbol"]].add(row["underlying_key"])
    underlyings = underlyings_of_master(data)
    assert len(named) == 216
    assert {symbol: {underlyings[symbol]} for symbol in named} == named
    assert {symbol: {key} for symbol, key in INDICES.items()} == {symbol: named[symbol] for symbol in INDICES}
    settings = settings_for(tmp_path, str(MASTER))
    assert resolve("reliance", settings) == "NSE_EQ|INE002A01018"
    with pytest.raises(ConfigurationError, match=r"RELIANCE.*--key"):
        resolve("RELIANSE", settings)


def test_indices_need_no_master(tmp_path: Path) -> None:
    """NIFTY is known even where no master can be read."""
    assert resolve(" nifty ", settings_for(tmp_path, "absent.json")) == "NSE_INDEX|Nifty 50"


def test_what_contracts_name_wins(small: Settings) -> None:
    """The derivatives' own word comes before the share's row; a share without derivatives is found too."""
    assert resolve("ACME", small) == "NSE_EQ|INE9"
    assert resolve("SOLO", small) == "NSE_EQ|INE2"
    with pytest.raises(ConfigurationError, match="--key"):
        resolve("BOND", small)


@pytest.mark.parametrize("data", [b"{", b"{}", b"<html>", b'[{"segment":5}]', gzip.compress(b"[]", mtime=0)[:-3]])
def test_damaged_master_is_malformed(tmp_path: Path, data: bytes) -> None:
    """Cut off, of another shape, or no JSON."""
    (tmp_path / "master").write_bytes(data)
    with pytest.raises(MalformedResponse, match="instruments master"):
        resolve("ACME", settings_for(tmp_path, str(tmp_path / "master")))


def test_absent_file_is_a_setting_to_correct(tmp_path: Path) -> None:
    """The sentence names the setting."""
    with pytest.raises(ConfigurationError, match="EXPIRYTRACK_INSTRUMENTS"):
        resolve("ACME", settings_for(tmp_path, str(tmp_path / "absent.json")))


class _Server(ThreadingHTTPServer):
    status = 200
    body = gzip.compress(orjson.dumps(ROWS))
    asked = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Send what the server holds."""
        self.server.asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[_Server]:
    """Serve a master on a free port of this machine."""
    with _Server(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_download_is_kept_for_a_day_and_survives_an_outage(tmp_path: Path, server: _Server) -> None:
    """One download a day; when a new one fails, the old copy serves."""
    settings = settings_for(tmp_path, f"http://127.0.0.1:{server.server_port}/complete.json.gz")
    assert resolve("ACME", settings) == "NSE_EQ|INE9"
    assert resolve("ACME", settings) == "NSE_EQ|INE9"
    assert server.asked == 1
    (kept,) = (tmp_path / "home" / "cache").iterdir()
    tomorrow = kept.stat().st_mtime + 25 * 3600
    assert resolve("ACME", settings, now=tomorrow) == "NSE_EQ|INE9"
    assert server.asked == 2
    server.status = 503
    assert resolve("ACME", settings, now=tomorrow + 86_400) == "NSE_EQ|INE9"
    assert server.asked == 3


def test_failed_download_leaves_nothing_behind(tmp_path: Path, server: _Server) -> None:
    """An outage without a copy is a network error, a damaged download is not kept."""
    settings = settings_for(tmp_path, f"http://127.0.0.1:{server.server_port}/complete.json.gz")
    server.status = 503
    with pytest.raises(NetworkError, match="--key"):
        resolve("ACME", settings)
    server.status, server.body = 200, gzip.compress(orjson.dumps(ROWS))[:-5]
    with pytest.raises(MalformedResponse):
        resolve("ACME", settings)
    assert not (tmp_path / "home" / "cache").exists()
