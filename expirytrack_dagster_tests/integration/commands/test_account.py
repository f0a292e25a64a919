"""`login`, `logout` and `token` as a user meets them, and what a token's death does to a collection and a run."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import dagster as dg
import httpx
import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.failures import EXIT_CODE_METADATA
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.server import Sandbox
from expirytrack_dagster.sandbox.switches import App
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import free_port, this_program
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.tokens import daily_death, open_store
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 10))
NIFTY, EXPIRY = "NSE_INDEX|Nifty 50", date(2025, 8, 28)
CELL = ("collect", "NIFTY", "--expiry", "2025-08-28")
CONTRACTS = [
    str(row["instrument_key"])
    for row in [*(MARKET.option_contracts(NIFTY, EXPIRY) or ()), *(MARKET.future_contracts(NIFTY, EXPIRY) or ())]
]
ROWS = sum(len(MARKET.minutes(key) or ()) for key in CONTRACTS)
APP = App()
PASSPHRASE = "a long enough passphrase"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class NotATerminal(io.StringIO):
    """Standard input from a pipe."""


@pytest.fixture(scope="module")
def upstox() -> Iterator[Running]:
    """Serve one sandbox that takes pasted-token and the tokens of its logins."""
    with running(MARKET, tokens=("pasted-token", "environment-token")) as sandbox:
        yield sandbox


@pytest.fixture
def environment(upstox: Running, home: Path) -> dict[str, str]:
    """Return the environment of a process with an app, ports of its own, and no token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXPIRYTRACK_", "DAGSTER_"))}
    notifier = f"http://127.0.0.1:{free_port()}/notify"
    upstox.switch(app=App(notifier_url=notifier), ahead=0.0)
    ours = {
        "home": str(home),
        "api_url": upstox.url,
        "client_id": APP.client_id,
        "client_secret": APP.client_secret,
        "redirect_uri": f"http://127.0.0.1:{free_port()}/callback",
        "notifier_url": notifier,
        "passphrase": PASSPHRASE,
    }
    return kept | {f"EXPIRYTRACK_{name.upper()}": value for name, value in ours.items()} | {"COLUMNS": "80"}


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> Callable[..., Ended]:
    """Return a function that runs the command in this process, with a text at its standard input."""

    def run(*words: str, stdin: str = "", **settings: str) -> Ended:
        for name, value in (environment | {f"EXPIRYTRACK_{k.upper()}": v for k, v in settings.items()}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        monkeypatch.setattr(sys, "stdin", NotATerminal(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run


@contextmanager
def started(env: dict[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a process of its own while the block lasts."""
    with subprocess.Popen(
        [*this_program(), *words],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def printed_address(process: subprocess.Popen[str]) -> str:
    """Return the address that `login` prints; it listens by then."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("http"):
            return line.strip()
    raise AssertionError(process.communicate()[1])


def approve(upstox: Running, address: str, press: str = "approve") -> httpx.Response:
    """Do what a browser does: follow the address, press the button, follow where it leads."""
    form = dict(parse_qsl(urlsplit(str(httpx.get(address, follow_redirects=True).url)).query))
    return httpx.post(f"{upstox.url}/_sandbox/login", data=form | {"press": press}, follow_redirects=True)


def commands_of(pid: int) -> str:
    """Return the command line of a process as other users see it."""
    import psutil  # noqa: PLC0415 -- for this one look

    return " ".join(psutil.Process(pid).cmdline())


# login


def test_login_in_a_browser(upstox: Running, environment: dict[str, str]) -> None:
    """It prints the address, waits, and ends well after the approval; nothing that it shows is a secret."""
    with started(environment, "login", "--no-browser") as process:
        address = printed_address(process)
        shown = commands_of(process.pid)
        assert "You are logged in" in approve(upstox, address).text
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Logged in as SB0001 (account 'default'). The access token of account 'default' lives until 03:30 IST" in out
    token = open_store(load_settings(home=environment["EXPIRYTRACK_HOME"], passphrase=PASSPHRASE)).get("default")
    assert token is not None
    for secret in (APP.client_secret, token.secret.get_secret_value()):
        assert secret not in out + err + shown + address


def test_denying_the_login(upstox: Running, environment: dict[str, str], home: Path) -> None:
    """The command ends with exit code 4 and one sentence, and there is no vault."""
    with started(environment, "login", "--no-browser") as process:
        approve(upstox, printed_address(process), "deny")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert err == "Upstox did not let the login pass (The user denied the request): run the login again.\n"
    assert not (home / "vault.bin").exists()


def test_nobody_comes(here: Callable[..., Ended]) -> None:
    """After the time limit the command ends with exit code 4."""
    ended = here("login", "--no-browser", "--minutes", "0.1")
    assert (ended.code, ended.err) == (4, "No answer came within 0 minutes: run the login again.\n")


def test_login_by_approval(upstox: Running, environment: dict[str, str]) -> None:
    """It asks Upstox, names where the token must come, waits for the webhook, and ignores a stranger's body."""
    with started(environment, "login", "--approve") as process:
        deadline = time.monotonic() + 60
        while APP.client_id not in httpx.get(f"{upstox.url}/_sandbox/approvals").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        notifier = environment["EXPIRYTRACK_NOTIFIER_URL"]
        assert httpx.post(notifier, json={"client_id": "other"}).status_code == 400
        httpx.post(f"{upstox.url}/_sandbox/approvals", data={"client_id": APP.client_id})
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert notifier in out
    assert "Logged in as SB0001" in out
    assert "Something came that is no delivery of a token: it was ignored." in err


def test_pasting_into_a_pipe(here: Callable[..., Ended]) -> None:
    """The token is read from standard input, stored for a named account, and never shown."""
    ended = here("login", "--paste", "--account", "second", stdin="pasted-token\n")
    assert ended.code == 0, ended.err
    assert "account 'second'" in ended.out
    assert "pasted-token" not in ended.out + ended.err
    assert here("token", "--account", "second").code == 0
    assert here("token").code == 4
    assert here("token", account="second").code == 0


@contextmanager
def at_a_terminal(env: dict[str, str], *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command whose input and output is a terminal; yield it and the person's end."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    person, terminal = pty.openpty()
    with subprocess.Popen(
        [*this_program(), *words], env=env, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as process:
        os.close(terminal)
        try:
            yield process, person
        finally:
            process.kill()
            os.close(person)


def read_until(person: int, words: str) -> str:
    """Return what the terminal shows until these words come, or all of it where they never do."""
    shown, deadline = "", time.monotonic() + 60
    while words not in shown:
        readable, _, _ = select.select([person], [], [], deadline - time.monotonic())
        assert readable, shown
        try:
            shown += os.read(person, 4096).decode()
        except OSError:  # the other end is closed
            return shown
    return shown


def test_pasting_at_a_terminal(environment: dict[str, str]) -> None:
    """The prompt hides what is typed: the terminal never shows the token."""
    with at_a_terminal(environment, "login", "--paste") as (process, person):
        shown = read_until(person, "Access token: ")
        os.write(person, b"pasted-token\n")
        shown += read_until(person, "Asking Upstox whose token this is")
        shown += read_until(person, "from now.")
        assert process.wait(timeout=60) == 0, shown
    assert "Logged in as SB0001" in shown
    assert "pasted-token" not in shown


def test_an_app_is_asked_for_once(upstox: Running, environment: dict[str, str]) -> None:
    """Where no app is set, a person is asked for it, the secret hidden; the next login knows it from the vault."""
    del environment["EXPIRYTRACK_CLIENT_ID"], environment["EXPIRYTRACK_CLIENT_SECRET"]
    with at_a_terminal(environment, "login", "--no-browser") as (process, person):
        shown = read_until(person, "API key of your app")
        os.write(person, f"{APP.client_id}\n".encode())
        shown += read_until(person, "API secret of your app: ")
        os.write(person, f"{APP.client_secret}\n".encode())
        shown += read_until(person, "Waiting for your login")
        address = next(line for line in shown.splitlines() if line.startswith("http"))
        assert "You are logged in" in approve(upstox, address).text
        shown += read_until(person, "from now.")
        assert process.wait(timeout=60) == 0, shown
    assert APP.client_secret not in shown
    with started(environment, "login", "--no-browser") as again:
        assert "You are logged in" in approve(upstox, printed_address(again)).text
        assert again.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("stdin", "code", "words"),
    [("", 1, "Nothing was given"), ("two words", 4, "is no token"), ("wrong-token", 4, "UDAPI100050")],
)
def test_a_bad_paste(here: Callable[..., Ended], home: Path, stdin: str, code: int, words: str) -> None:
    """One sentence, which does not show what was pasted, and nothing is kept."""
    ended = here("login", "--paste", stdin=stdin)
    assert ended.code == code
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not stdin or stdin not in ended.err
    assert not (home / "vault.bin").exists()


def test_a_token_in_the_environment_is_pointed_out(here: Callable[..., Ended]) -> None:
    """Whoever logs in while one is set learns that it goes first."""
    ended = here("login", "--paste", stdin="pasted-token", access_token="environment-token")
    assert ended.code == 0
    assert "EXPIRYTRACK_ACCESS_TOKEN is set and goes before" in ended.err
    assert "EXPIRYTRACK_ACCESS_TOKEN is set and goes on being used" in here("logout", api_url="http://127.0.0.1:9").err


@pytest.mark.parametrize(
    ("words", "settings", "code", "sentence"),
    [
        (("login", "--paste", "--approve"), {}, 2, "two ways of the same"),
        (("login",), {"client_secret": ""}, 1, "EXPIRYTRACK_CLIENT_SECRET"),
        (("login",), {"redirect_uri": "https://example.com/cb"}, 1, "this machine cannot listen"),
        (("login",), {"redirect_uri": "http://example.com/cb"}, 1, "in the clear"),
        (("login",), {"redirect_uri": "http://127.0.0.1:1/cb?x=1"}, 1, "is not an address such as"),
        (("token", "--account", "../x"), {}, 1, "EXPIRYTRACK_ACCOUNT"),
        (("login", "--account", "a b"), {}, 1, "EXPIRYTRACK_ACCOUNT"),
    ],
)
def test_what_cannot_be(
    here: Callable[..., Ended], words: tuple[str, ...], settings: dict[str, str], code: int, sentence: str
) -> None:
    """Wrong usage and settings that cannot be used are sentences that name them."""
    ended = here(*words, **settings)
    assert ended.code == code
    assert sentence in ended.err


# token and logout


def test_the_state_of_the_token(here: Callable[..., Ended]) -> None:
    """`token` tells account, source, death in India and the time left, as text and as JSON, never the token."""
    assert here("login", "--paste", stdin="pasted-token").code == 0
    text, report = here("token"), here("token", "--json")
    assert (text.code, report.code) == (0, 0)
    assert text.out.startswith("The access token of account 'default' lives until 03:30 IST on ")
    told = json.loads(report.out)
    assert (told["account"], told["source"], told["usable"]) == ("default", "vault", True)
    assert datetime.fromisoformat(told["expires_at_ist"]).strftime("%H:%M %z") == "03:30 +0530"
    assert datetime.fromisoformat(told["expires_at"]) == daily_death(datetime.now(tz=UTC))
    assert 0 < told["minutes_left"] <= 24 * 60
    assert "pasted-token" not in text.out + report.out
    ended = here("token", "--json", access_token="environment-token")
    assert json.loads(ended.out)["source"] == "environment"
    assert json.loads(ended.out)["minutes_left"] is None


def test_no_usable_token(here: Callable[..., Ended], home: Path) -> None:
    """Missing or dead: exit code 4, and what to do."""
    ended = here("token", "--json")
    assert (ended.code, json.loads(ended.out)["usable"]) == (4, False)
    yesterday = datetime.now(tz=UTC) - timedelta(days=1)
    store = open_store(load_settings(home=home, passphrase=PASSPHRASE))
    store.put("default", "dead", "SB0001", yesterday, yesterday)
    ended = here("token")
    assert ended.code == 4
    assert "run `expirytrack login`" in ended.out


def test_logging_out(upstox: Running, here: Callable[..., Ended]) -> None:
    """The token is ended at Upstox and forgotten; a second time there is nothing to do."""
    with running(MARKET, tokens=("pasted-token",)) as own:
        assert here("login", "--paste", stdin="pasted-token", api_url=own.url).code == 0
        ended = here("logout", api_url=own.url)
        assert (ended.code, ended.out) == (0, "Account 'default' is logged out, its token forgotten.\n")
        assert own.sandbox.log[-1].endpoint == "logout"
    assert here("logout").out == "Account 'default' had no token here.\n"
    assert here("login", "--paste", stdin="pasted-token", api_url=upstox.url).code == 0
    ended = here("logout", api_url="http://127.0.0.1:9")
    assert ended.code == 3
    assert "forgotten here, but Upstox was not told" in ended.err
    assert here("token").code == 4


# The token's death


def test_status_tells_and_warns(here: Callable[..., Ended], home: Path) -> None:
    """`status` shows the token, as text and as JSON, whatever its state."""
    assert "Token:   No access token of account 'default'" in here("status").out
    here("login", "--paste", stdin="pasted-token")
    assert "Token:   The access token of account 'default' lives until" in here("status").out
    assert json.loads(here("status", "--json").out)["token"]["usable"] is True
    (home / "vault.bin").write_bytes(b"not a vault")
    ended = here("status")
    assert ended.code == 0
    assert "is not a vault" in ended.out


def test_collecting_with_the_vaults_token(here: Callable[..., Ended]) -> None:
    """A collection takes the token from the vault, and warns when the token may die before it ends."""
    assert here("login", "--paste", stdin="pasted-token").code == 0
    ended = here(*CELL, token_warning_minutes="1441")
    assert ended.code == 0, ended.err
    assert "The token dies at 03:30 IST on" in ended.err
    assert "what has arrived by then is kept" in " ".join(ended.err.split())
    assert "The token dies" not in here(*CELL, token_warning_minutes="0").err


def test_a_dead_token_asks_nothing(upstox: Running, here: Callable[..., Ended], home: Path) -> None:
    """With a token that died, `collect` ends with exit code 4 before any request."""
    yesterday = datetime.now(tz=UTC) - timedelta(days=1)
    open_store(load_settings(home=home, passphrase=PASSPHRASE)).put("default", "dead", "SB0001", yesterday, yesterday)
    before = len(upstox.requests())
    ended = here(*CELL)
    assert (ended.code, ended.out) == (4, "")
    assert "died at" in ended.err
    assert "run `expirytrack login`" in ended.err
    assert len(upstox.requests()) == before


def test_a_run_in_the_ui_says_what_to_do(
    upstox: Running, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token a materialization fails before any request: one sentence, exit code 4, and no retry."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    before = len(upstox.requests())
    with open_instance(settings) as instance:
        from expirytrack_dagster.backfill import track  # noqa: PLC0415 -- with this test's environment

        track(settings, instance, "NIFTY", NIFTY)
        result = (
            build_defs()
            .resolve_job_def("expiry_fetch")
            .execute_in_process(instance=instance, partition_key="NIFTY", raise_on_error=False)
        )
    (failure,) = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    assert failure is not None
    assert failure.description is not None
    assert "run `expirytrack login`" in failure.description
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert failure.metadata[EXIT_CODE_METADATA] == dg.IntMetadataValue(4)
    assert len(upstox.requests()) == before


def test_half_past_three_in_the_middle_of_a_collection(here: Callable[..., Ended], home: Path) -> None:
    """The night parks the cell: one refused request, no retry, nothing lost; with a new token the rest is asked."""
    night = daily_death(datetime.now(tz=UTC)).timestamp()
    sandbox = Sandbox(MARKET, wall=lambda: night - 60 if len(sandbox.log) < 12 else night)
    with running(sandbox) as upstox:
        url = upstox.url
        token = sandbox._authority.new_token("SB0001", plus=True)  # noqa: SLF001 -- a login of before
        settings = load_settings(home=home, passphrase=PASSPHRASE)
        open_store(settings).put("default", token, "SB0001", datetime.now(tz=UTC), daily_death(datetime.now(tz=UTC)))
        ended = here(*CELL, api_url=url, workers="1", max_retries="3")
        assert ended.code == 4
        (sentence,) = ended.err.splitlines()[-1:]
        assert "UDAPI100050" in sentence
        assert sentence.endswith("What arrived of NIFTY 2025-08-28 is kept: then run the same command again.")
        assert [entry.status for entry in upstox.requests()].count(401) == 1
        assert list((home / "staging").rglob("*.parquet"))
        with Warehouse(home / "expirytrack.duckdb").reading() as connection:
            assert connection.execute("SELECT count(*) FROM contract_status").fetchone() == (0,)
        fresh = sandbox._authority.new_token("SB0001", plus=True)  # noqa: SLF001 -- the login of the morning
        answered = {entry.path for entry in upstox.requests() if entry.status == 200 and entry.endpoint == "candles"}
        before = len(upstox.requests())
        open_store(settings).put("default", fresh, "SB0001", datetime.now(tz=UTC), daily_death(datetime.now(tz=UTC)))
        ended = here(*CELL, api_url=url, workers="1")
        assert ended.code == 0, ended.err
        again = [entry.path for entry in upstox.requests()[before:] if entry.endpoint == "candles"]
        assert not answered & set(again)
        good = [entry for entry in upstox.requests() if entry.status == 200]
        assert upstox.stats()["max_in_window"]["2000/1800"] == len(good), "both tokens count as one user"
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        assert connection.execute("SELECT count(*) FROM candles").fetchone() == (ROWS,)
