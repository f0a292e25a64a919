"""Logins as a person does them: `expirytrack login` in a terminal, the dialog in a real browser, a click on Approve."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import date
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.sandbox.running import Running, running
from expirytrack_dagster.sandbox.switches import App
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.servers import free_port, this_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def page() -> Iterator[Page]:
    """Open a page of a real browser, or skip where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser.new_page()
        finally:
            browser.close()


@pytest.fixture
def upstox() -> Iterator[Running]:
    """Serve a sandbox that takes no token but those of its own logins."""
    with running(SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 10)), tokens=("nobody has this",)) as sandbox:
        yield sandbox


@pytest.fixture
def environment(upstox: Running, home: Path) -> dict[str, str]:
    """Return the environment of a process with an app, a port of its own, and no token."""
    app = upstox.sandbox.switches.app
    return {name: value for name, value in os.environ.items() if not name.startswith("EXPIRYTRACK_")} | {
        "EXPIRYTRACK_HOME": str(home),
        "EXPIRYTRACK_API_URL": upstox.url,
        "EXPIRYTRACK_CLIENT_ID": app.client_id,
        "EXPIRYTRACK_CLIENT_SECRET": app.client_secret,
        "EXPIRYTRACK_REDIRECT_URI": f"http://127.0.0.1:{free_port()}/callback",
    }


def begin(environment: dict[str, str], *options: str, expected: str = "http") -> tuple[subprocess.Popen[str], str]:
    """Start a login, and return it with the line that it prints and that begins like this, such as its address."""
    process = subprocess.Popen(
        [*this_program(), "login", *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = next((line.strip() for line in process.stdout if line.startswith(expected)), "")
    if not line:
        raise AssertionError(process.communicate()[1])
    return process, line


def test_a_person_logs_in(upstox: Running, environment: dict[str, str], page: Page) -> None:
    """The browser shows the dialog and, after the click, that it is done; the command says so too and ends well."""
    process, address = begin(environment, "--no-browser")
    try:
        page.goto(address)
        assert page.title() == "Sandbox login"
        page.get_by_role("button", name="Approve").click()
        page.get_by_text("You are logged in.").wait_for(timeout=30_000)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert "Logged in as SB0001" in out
    assert [entry.endpoint for entry in upstox.requests()] == ["dialog", "token", "profile"]
    shown = subprocess.run([*this_program(), "token"], env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0
    assert "lives until 03:30 IST" in shown.stdout


def test_a_person_says_no(upstox: Running, environment: dict[str, str], page: Page, home: Path) -> None:
    """The browser and the command say the same sentence; the exit code is 4, no code was exchanged, nothing is kept."""
    process, address = begin(environment, "--no-browser")
    try:
        page.goto(address)
        page.get_by_role("button", name="Deny").click()
        page.get_by_text("Upstox did not let the login pass").wait_for(timeout=30_000)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 4
    assert err == "Upstox did not let the login pass (The user denied the request): run the login again.\n"
    assert [entry.endpoint for entry in upstox.requests()] == ["dialog"]
    assert not (home / "vault.bin").exists()


def test_a_person_approves(upstox: Running, environment: dict[str, str], page: Page) -> None:
    """The request for approval waits on a page; after the click the webhook brings the token, and all end well."""
    notifier = f"http://127.0.0.1:{free_port()}/notify"
    upstox.switch(app=App(notifier_url=notifier))
    environment["EXPIRYTRACK_NOTIFIER_URL"] = notifier
    process, line = begin(environment, "--approve", expected="Upstox sends the token to")
    try:
        assert notifier in line
        page.goto(f"{upstox.url}/_sandbox/approvals")
        page.get_by_role("button", name="Approve").click()
        page.get_by_text(f"{notifier} answered 200").wait_for(timeout=30_000)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert "Logged in as SB0001" in out
