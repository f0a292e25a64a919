"""The command line as a user meets it: exit codes, sentences, and that nothing is asked twice.

What a whole process shows is tested with processes; the many sentences are tested by calling `main` in this one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import Fault, Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import free_port, this_program
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 10))
NIFTY = "NSE_INDEX|Nifty 50"
EXPIRY = date(2025, 8, 28)
CELL = ("collect", "NIFTY", "--expiry", "2025-08-28")
CONTRACTS = [
    str(row["instrument_key"])
    for row in [*(MARKET.option_contracts(NIFTY, EXPIRY) or ()), *(MARKET.future_contracts(NIFTY, EXPIRY) or ())]
]
CANDLES = {key: len(MARKET.minutes(key) or ()) for key in CONTRACTS}
TRADED = next(key for key in CONTRACTS if CANDLES[key] > 100)
EMPTY = [key for key in CONTRACTS if not CANDLES[key]]
TOKEN = "x"
NOWHERE = "http://127.0.0.1:9"  # where nobody listens
FIRST_RUN = 1 + 2 + 2 * len(CONTRACTS)
"""Requests: discovery, options and futures, minutes and days of each contract: so near the money all are compared."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Return the one line of standard error; any other line, or a traceback, fails the test."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0] == lines[0].strip()
        assert lines[0].endswith((".", ")")), lines[0]
        return lines[0]


def environment(home: Path, url: str, token: str | None = TOKEN, **settings: str) -> dict[str, str]:
    """Return the environment of a process with these settings and no others of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXPIRYTRACK_", "DAGSTER_"))}
    ours = {"home": str(home), "api_url": url, **settings} | ({"access_token": token} if token else {})
    return kept | {f"EXPIRYTRACK_{name.upper()}": value for name, value in ours.items()} | {"COLUMNS": "80"}


def command(env: dict[str, str], *words: str) -> Ended:
    """Run `expirytrack WORDS` in a process of its own."""
    done = subprocess.run(
        [*this_program(), *words], env=env, capture_output=True, text=True, timeout=120, check=False, encoding="utf-8"
    )
    assert "Traceback" not in done.stderr + done.stdout
    return Ended(done.returncode, done.stdout, done.stderr)


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the answer of the archive to a query."""
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        return connection.execute(sql).fetchall()


def states(home: Path) -> dict[str, str]:
    """Return the state of each contract of the cell."""
    return dict(rows(home, "SELECT instrument_key, status FROM contract_status"))


def is_whole(home: Path) -> bool:
    """Say whether the archive holds every candle of the cell once."""
    found = rows(home, "SELECT instrument_key, count(*), count(DISTINCT ts) FROM candles GROUP BY ALL")
    return {key: (size, size) for key, size in CANDLES.items() if size} == {key: (a, b) for key, a, b in found}


def candles_asked(upstox: Running, since: int = 0, until: int | None = None, interval: str = "") -> list[str]:
    """Return the contracts whose candles were asked for between two numbers of requests, of one interval or of all."""
    paths = [request.path for request in upstox.requests()[since:until] if request.endpoint == "candles"]
    paths = [path for path in paths if f"/{interval}" in path]
    return [path.split("/historical-candle/")[1].split("/")[0].replace("%7C", "|") for path in paths]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Callable[..., Ended]:
    """Return a function that runs the command in this process."""

    def run(*words: str, url: str = NOWHERE, token: str | None = TOKEN, at: Path = home, **settings: str) -> Ended:
        for name, value in environment(at, url, token, **settings).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def upstox() -> Iterator[Running]:
    """Serve the market without a fault."""
    with running(MARKET) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def collected(upstox: Running, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended, int]:
    """Collect the cell once: its home, how the command ended, the requests it made."""
    home = tmp_path_factory.mktemp("cli") / "home"
    before = len(upstox.requests())
    ended = command(environment(home, upstox.url), *CELL)
    return home, ended, len(upstox.requests()) - before


def test_collecting_fills_the_tables(collected: tuple[Path, Ended, int]) -> None:
    """One command, exit code 0: expiries, contracts, candles and states are there, and the summary counts them."""
    home, ended, requests = collected
    assert ended.code == 0, ended.err
    assert requests == FIRST_RUN
    assert is_whole(home)
    assert set(states(home)) == set(CONTRACTS)
    assert {key for key, state in states(home).items() if state == "empty_proven"} == set(EMPTY)
    assert rows(home, "SELECT count(*), min(underlying_key) FROM expiries") == [
        (len(MARKET.expiries(NIFTY) or ()), NIFTY)
    ]
    assert rows(home, "SELECT count(*) FROM contracts") == [(len(CONTRACTS),)]
    summary = ended.out.splitlines()[-1]
    assert summary.startswith(f"1 of 1 cells complete, {sum(CANDLES.values()):,} candles, {requests} requests, ")
    assert max(map(len, ended.out.splitlines())) <= 80


def test_collecting_again_asks_for_nothing(collected: tuple[Path, Ended, int], upstox: Running) -> None:
    """A second run makes no request at all, needs no token, and says the same of the cell."""
    home, first, _ = collected
    before = len(upstox.requests())
    ended = command(environment(home, upstox.url, token=None), *CELL)
    assert (ended.code, ended.err) == (0, "")
    assert len(upstox.requests()) == before
    assert "0 requests" in ended.out
    assert ended.out.splitlines()[:-1] == first.out.splitlines()[:-1]


def test_reports_as_json(collected: tuple[Path, Ended, int], here: Callable[..., Ended], upstox: Running) -> None:
    """`--json` gives one JSON document on standard output, of a collection and of the status."""
    home, *_ = collected
    done = here(*CELL, "--json", url=upstox.url, at=home)
    report = json.loads(done.out)
    assert (done.code, report["complete"], report["requests"], report["errors"]) == (0, True, 0, [])
    (cell,) = report["cells"]
    assert (cell["underlying"], cell["expiry"], cell["contracts"]) == ("NIFTY", "2025-08-28", len(CONTRACTS))
    assert report["failed_checks"] == []
    done = here("status", "--json", at=home)
    report = json.loads(done.out)
    assert report["underlyings"] == [{"symbol": "NIFTY", "instrument_key": NIFTY}]
    assert report["home"] == str(home.resolve())
    assert len(report["cells"]) == len(MARKET.expiries(NIFTY) or ())
    assert [window["allowed"] for window in report["budget"]] == [50, 500, 2000]
    assert report["budget"][-1]["used"] == FIRST_RUN
    assert report["cooldown"]["reason"] is None


def test_status_in_words(collected: tuple[Path, Ended, int], here: Callable[..., Ended]) -> None:
    """The status names the archive, the tracked, what is left of the limits, and the collected cell."""
    home, *_ = collected
    done = here("status", at=home)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"Archive: {home.resolve() / 'expirytrack.duckdb'}"
    assert lines[1] == "Tracked: NIFTY (NSE_INDEX|Nifty 50)"
    assert f"Limit:   {2000 - FIRST_RUN:,} of 2,000 requests left in 1800 s" in lines
    assert lines[-1].split() == ["NIFTY", "2025-08-28", *lines[-1].split()[2:]]


def test_status_of_an_empty_home(here: Callable[..., Ended]) -> None:
    """Before anything is tracked the status says what to do first."""
    done = here("status")
    assert done.code == 0
    assert "nothing yet, run: expirytrack track NIFTY" in done.out


def test_without_a_token(upstox: Running, tmp_path: Path) -> None:
    """No token: exit code 4 and exactly one sentence on standard error, and nothing was asked."""
    before = len(upstox.requests())
    ended = command(environment(tmp_path / "home", upstox.url, token=None), *CELL)
    assert (ended.code, ended.out) == (4, "")
    assert "EXPIRYTRACK_ACCESS_TOKEN" in ended.sentence
    assert len(upstox.requests()) == before


def test_without_plus(here: Callable[..., Ended]) -> None:
    """On an account without the plan: exit code 4 and the sentence of UDAPI1149, after one request."""
    with running(MARKET, switches=Switches(plus=False)) as upstox:
        ended = here(*CELL, url=upstox.url)
        assert len(upstox.requests()) == 1
    assert (ended.code, ended.out) == (4, "")
    assert "Upstox Plus plan" in ended.sentence
    assert "UDAPI1149" in ended.sentence


def test_a_wrong_token(here: Callable[..., Ended]) -> None:
    """A token that Upstox does not take: exit code 4, one sentence, one request, and the token is not shown."""
    with running(MARKET, tokens=("good",)) as upstox:
        ended = here(*CELL, url=upstox.url, token="secret-but-wrong")
        assert len(upstox.requests()) == 1
    assert (ended.code, ended.out) == (4, "")
    assert "UDAPI100050" in ended.sentence
    assert "secret-but-wrong" not in ended.err


@pytest.mark.parametrize(
    ("kind", "state", "code"), [(400, "refused", "UDAPI100011"), (500, "failed", "ServerError")], ids=["400", "500"]
)
def test_a_contract_that_cannot_be_had(
    here: Callable[..., Ended], home: Path, kind: Any, state: str, code: str
) -> None:
    """Exit code 3 with the rest collected; the state tells why; the next run asks for that contract alone."""
    with running(MARKET, switches=Switches(faults=(Fault(kind=kind, tokens=(TRADED,)),))) as upstox:
        ended = here(*CELL, url=upstox.url, max_retries="0")
        assert ended.code == 3
        assert ended.err.splitlines()[-1].startswith("Not complete yet: run the same command again")
        assert rows(
            home, "SELECT instrument_key, status, error_code FROM contract_status WHERE candles = 0 ORDER BY 1"
        ) == [*sorted([(TRADED, state, code), *((key, "empty_proven", None) for key in EMPTY)])]
        assert "0 of 1 cells complete" in ended.out
        assert "completeness" in ended.out
        before = len(upstox.requests())
        upstox.switch(faults=())
        ended = here(*CELL, url=upstox.url)
        assert candles_asked(upstox, before) == [TRADED, TRADED]  # its days and its minutes
        assert len(upstox.requests()) == before + 2
    assert ended.code == 0
    assert is_whole(home)


def test_a_token_that_dies_in_the_middle(here: Callable[..., Ended], home: Path) -> None:
    """Exit code 4 in the middle of a cell; with a new token only what had not arrived is asked."""
    with running(MARKET, switches=Switches(token_life=8)) as upstox:
        ended = here(*CELL, url=upstox.url, token="old", workers="1")
        assert ended.code == 4
        assert "UDAPI100050" in ended.err.splitlines()[-1]
        arrived = candles_asked(upstox, until=8, interval="1minute")
        assert len(arrived) >= 2
        before = len(upstox.requests())
        assert before == 9
        upstox.switch(token_life=None)
        ended = here(*CELL, url=upstox.url, token="new")
        asked = candles_asked(upstox, before)
    assert ended.code == 0, ended.err
    assert not {key for key in arrived if CANDLES[key]} & set(asked)
    assert is_whole(home)


def until_asked(upstox: Running, requests: int) -> None:
    """Return when so many requests were answered."""
    deadline = time.monotonic() + 60
    while len(upstox.requests()) < requests:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_api_that_goes_away_and_comes_back(here: Callable[..., Ended], home: Path) -> None:
    """The contracts that could not be had are failed (exit code 3); the next run asks for them, and only for them."""
    with running(MARKET, switches=Switches(delay_after=(0.1, 0.1))) as upstox:
        process = subprocess.Popen(
            [*this_program(), *CELL],
            env=environment(home, upstox.url, workers="1", max_retries="0", breaker_failures="100"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until_asked(upstox, 7)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "Traceback" not in err
    failed = {key for key, state in states(home).items() if state == "failed"}
    assert 4 <= len(failed) < len(CONTRACTS)
    assert {code for (code,) in rows(home, "SELECT error_code FROM contract_status WHERE status = 'failed'")} <= {
        "NetworkError",
        "TruncatedResponse",
    }
    with running(MARKET) as upstox:
        ended = here(*CELL, url=upstox.url)
        assert ended.code == 0, ended.err
        assert set(candles_asked(upstox)) == failed
        assert {request.endpoint for request in upstox.requests()} == {"candles"}
    assert is_whole(home)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one process")
def test_ctrl_c_keeps_what_arrived(here: Callable[..., Ended], home: Path) -> None:
    """Ctrl-C ends the whole command with one sentence, and the next one asks only for what had not arrived."""
    with running(MARKET, switches=Switches(delay_after=(0.1, 0.1))) as upstox:
        env = environment(home, upstox.url, workers="1")
        process = subprocess.Popen(
            [*this_program(), *CELL, "--expiry", "2025-08-21"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until_asked(upstox, 9)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert err.splitlines()[-1].startswith("Stopped: what has arrived is kept.")
        assert "Traceback" not in err
        assert "error" not in err.lower()
        before = len(upstox.requests())
        minutes = candles_asked(upstox, until=before - 1, interval="1minute")  # the last one may be under way
        arrived = {key for key in minutes if CANDLES[key]}
        assert arrived
        upstox.switch(delay_after=(0.0, 0.0))
        ended = here(*CELL, url=upstox.url)
        assert ended.code == 0, ended.err
        assert not arrived & set(candles_asked(upstox, before))
    assert is_whole(home)


def test_an_api_that_serves_thirty_days_at_once(here: Callable[..., Ended], home: Path) -> None:
    """With UDAPI1148 beyond thirty days the cell is complete all the same, and the next cell begins with the width."""
    with running(MARKET, switches=Switches(range_cap=30)) as upstox:
        ended = here(*CELL, url=upstox.url)
        assert ended.code == 0, ended.err
        assert is_whole(home)
        before = len(upstox.requests())
        assert before <= FIRST_RUN + 6 * (10 + len(EMPTY)), "six times halved, by ten requests at once"
        ended = here("collect", "NIFTY", "--expiry", "2025-08-21", url=upstox.url)
        assert ended.code == 0, ended.err
        refused = [request for request in upstox.requests()[before:] if request.status != 200]
    assert refused == []


def test_an_expiry_that_is_not_listed(collected: tuple[Path, Ended, int], here: Callable[..., Ended]) -> None:
    """The sentence names the nearest dates that are listed."""
    home, *_ = collected
    with running(MARKET) as upstox:
        ended = here("collect", "NIFTY", "--expiry", "2025-08-29", url=upstox.url, at=home)
    assert (ended.code, ended.out) == (1, "")
    assert "2025-08-21, 2025-08-28, 2025-09-02" in ended.sentence


def test_one_underlying_in_trouble_does_not_stop_the_others(here: Callable[..., Ended], home: Path) -> None:
    """An underlying that Upstox does not know any more is told with exit code 1; the other one is collected."""
    with running(MARKET) as upstox:
        assert here("track", "GONE", "--key", "NSE_INDEX|Gone", url=upstox.url).code == 0
        ended = here("collect", "GONE", "NIFTY", "--expiry", "2025-08-28", url=upstox.url)
    assert ended.code == 1
    assert "UDAPI100011" in ended.err
    assert is_whole(home)


@pytest.mark.parametrize("words", [("collect", "NOSUCH"), ("track", "NOSUCH"), ("collect", "NIFTI")])
def test_an_unknown_symbol(here: Callable[..., Ended], upstox: Running, words: tuple[str, ...]) -> None:
    """A symbol that nobody knows is one sentence, with a guess where one is near, and nothing is tracked."""
    ended = here(*words, url=upstox.url)
    assert (ended.code, ended.out) == (1, "")
    assert "No underlying has the symbol" in ended.sentence
    assert ("Did you mean NIFTY" in ended.sentence) == ("NIFTI" in words)
    assert "nothing yet" in here("status").out


@pytest.mark.parametrize("command_name", ["collect", "track", "untrack"])
@pytest.mark.parametrize("symbol", ["../x", "A|B", "'; DROP TABLE underlyings; --", "A" * 200, "[/red]"])
def test_a_hostile_symbol_writes_nothing(
    here: Callable[..., Ended], home: Path, command_name: str, symbol: str
) -> None:
    """What can be no symbol is refused with one sentence before a file or a folder is made."""
    ended = here(command_name, symbol)
    assert (ended.code, ended.out) == (1, "")
    assert "is no symbol" in ended.sentence
    assert symbol[:40] in ended.sentence
    assert not home.exists()


@pytest.mark.parametrize("day", ["29-08-2025", "2025-02-30", "tomorrow"])
def test_a_bad_date_is_bad_usage(here: Callable[..., Ended], home: Path, day: str) -> None:
    """A date of another form ends with exit code 2, names the option, and says which form is wanted."""
    ended = here("collect", "NIFTY", "--expiry", day)
    assert (ended.code, ended.out) == (2, "")
    assert "--expiry" in ended.err
    assert day in ended.err
    assert "YYYY-MM-DD" in ended.err
    assert not home.exists()


def test_tracking_and_untracking(here: Callable[..., Ended], upstox: Running) -> None:
    """A stock is found in the instruments master; twice is fine, another key is not, and untracking ends it."""
    done = here("track", "reliance", url=upstox.url)
    assert (done.code, done.out, done.err) == (0, "Tracking RELIANCE (NSE_EQ|INE002A01018).\n", "")
    assert here("track", "RELIANCE", url=upstox.url).code == 0
    assert here("track", "RELIANCE", "--key", "NSE_EQ|INE002A01018").code == 0
    other = here("track", "RELIANCE", "--key", "NSE_EQ|INE999A01018")
    assert other.code == 1
    assert "already stands for NSE_EQ|INE002A01018" in other.sentence
    same = here("track", "RIL", "--key", "NSE_EQ|INE002A01018")
    assert same.code == 1
    assert "already tracked as RELIANCE" in same.sentence
    bad = here("track", "RIL", "--key", "nonsense")
    assert bad.code == 1
    assert "SEGMENT|name" in bad.sentence
    assert "RELIANCE (NSE_EQ|INE002A01018)" in here("status").out
    assert here("untrack", "RELIANCE").code == 0
    again = here("untrack", "RELIANCE")
    assert (again.code, again.sentence) == (1, "RELIANCE is not tracked.")


def test_nothing_to_collect(here: Callable[..., Ended]) -> None:
    """Without a symbol and with nothing tracked, the sentence says how to begin."""
    ended = here("collect")
    assert ended.code == 1
    assert "expirytrack track NIFTY" in ended.sentence


def test_a_server_that_is_not_there(here: Callable[..., Ended]) -> None:
    """Nobody listens at the address: exit code 1 and one sentence that names it."""
    url = f"http://127.0.0.1:{free_port()}"
    ended = here(*CELL, url=url, max_retries="0")
    assert (ended.code, ended.out) == (1, "")
    assert f"{url} cannot be reached" in ended.sentence


@pytest.mark.parametrize("words", [("ui",), ("demo",)], ids=" ".join)
def test_a_port_that_is_taken(here: Callable[..., Ended], words: tuple[str, ...]) -> None:
    """The sentence names the port and how to choose another; nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = here(*words, "--port", str(port))
    assert (ended.code, ended.out) == (1, "")
    assert f"Port {port} is taken" in ended.sentence
    assert "--port" in ended.sentence


def test_a_bad_setting(here: Callable[..., Ended], home: Path) -> None:
    """A setting that cannot be used is one sentence with its name and value, before anything is written."""
    ended = here("status", workers="many")
    assert ended.code == 1
    assert "EXPIRYTRACK_WORKERS ('many')" in ended.sentence
    assert not home.exists()


@pytest.mark.parametrize("words", [("collect", "NIFTY"), ("track", "NIFTY"), ("job", "expiry_fetch", "NIFTY"), ("ui",)])
def test_a_file_in_the_place_of_dagsters_folder(here: Callable[..., Ended], home: Path, words: tuple[str, ...]) -> None:
    """One sentence names it and says what to do; the file stays."""
    home.mkdir(mode=0o700)
    (home / "dagster").touch(mode=0o600)
    ended = here(*words)
    assert ended.code == 1
    assert str(home / "dagster") in ended.sentence
    assert (home / "dagster").is_file()


@pytest.mark.parametrize(
    "words",
    [("status",), ("token",), ("collect", "NIFTY"), ("verify",), ("query", "SELECT 1"), ("backup",), ("keys", "status"),
     ("audit", "verify"), ("quarantine", "list"), ("plan",), ("encrypt",), ("logout",), ("track", "NIFTY")],
)  # fmt: skip
def test_a_home_that_is_a_file(here: Callable[..., Ended], home: Path, words: tuple[str, ...]) -> None:
    """Every command says the same of a setting that cannot be used."""
    home.touch()
    ended = here(*words)
    assert (ended.code, "EXPIRYTRACK_HOME" in ended.sentence) == (1, True)
