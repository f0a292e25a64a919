"""`expirytrack login`, `logout` and `token`: the account's access token, from the person's side.

Only options, questions, waiting and printing: what is believed is `upstox/auth.py`, how long a token lives
`upstox/tokens.py`. No token, code or secret is printed or taken from the command line, where others could read it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import webbrowser
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.commands.secret import asked
from expirytrack_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.upstox.auth import AuthManager
    from expirytrack_dagster.upstox.oauth import App
    from expirytrack_dagster.upstox.tokens import AccessToken, TokenState

AccountOption = Annotated[
    str | None, typer.Option("--account", metavar="NAME", help="Your own name for the Upstox account.")
]
MINUTE = 60.0


def login(
    account: AccountOption = None,
    *,
    paste: Annotated[bool, typer.Option("--paste", help="Take a token that you copied, from a hidden prompt.")] = False,
    approve: Annotated[
        bool, typer.Option("--approve", help="Ask for your approval in the Upstox app instead of a browser.")
    ] = False,
    browser: Annotated[
        bool, typer.Option(help="Open the browser; without it, open the printed address yourself.")
    ] = True,
    minutes: Annotated[float, typer.Option(help="How long to wait for you.", min=0.1, max=24 * 60)] = 10.0,
) -> None:
    """Log in to Upstox and keep the token of the day in the vault."""
    from expirytrack_dagster import console
    from expirytrack_dagster.upstox.auth import AuthManager

    if paste and approve:
        raise typer.BadParameter("--paste and --approve are two ways of the same: take one.")
    settings = _settings(account)
    if paste:
        pasted = asked("Access token: ")
        with console.err.status("Asking Upstox whose token this is"):  # where the limits are used up, that has to wait
            token = asyncio.run(AuthManager(settings).accept_pasted(pasted))
    else:
        manager = AuthManager(settings, _app(settings))
        token = (
            _approved(settings, manager, minutes)
            if approve
            else _redirected(settings, manager, minutes, open_browser=browser)
        )
    console.say(f"Logged in as {token.user_id} (account '{token.account}'). {_state_of(settings, token).sentence}")
    _say_if_set(settings, "is set and goes before the token just stored: unset it.")


def logout(account: AccountOption = None) -> None:
    """Revoke an account's token at Upstox and delete it here; exit code 3 if Upstox could not be reached."""
    from expirytrack_dagster import console
    from expirytrack_dagster.upstox.auth import AuthManager

    settings = _settings(account)
    with console.err.status("Ending the token at Upstox"):
        goodbye = asyncio.run(AuthManager(settings).logout())
    _say_if_set(settings, "is set and goes on being used: unset it.")
    if goodbye.not_revoked is not None:
        console.say(
            f"The token is forgotten here, but Upstox was not told and takes it until 03:30 IST: {goodbye.not_revoked}",
            to=console.err,
            style="yellow",
        )
        raise typer.Exit(3)
    forgotten = f"Account '{settings.account}' is logged out, its token forgotten."
    console.say(forgotten if goodbye.forgotten else f"Account '{settings.account}' had no token here.")


def token(account: AccountOption = None, *, as_json: JsonOption = False) -> None:
    """Show whether there is a usable token and until when, never the token; exit code 4 if there is none."""
    from expirytrack_dagster import console
    from expirytrack_dagster.upstox.tokens import token_state

    settings = _settings(account)
    state = token_state(settings)
    if as_json:
        console.out.print_json(json.dumps(state.as_json()))
    else:
        console.say(state.sentence, style=_style(settings, state))
    raise typer.Exit(0 if state.usable else 4)


def warn_of_token(settings: Settings, seconds_needed: float | None = None) -> None:
    """Say on standard error that the token will die before the work ends, or soon, where nothing tells how long it is.

    Args:
        settings: They name the account, and how soon is soon.
        seconds_needed: An estimate of the work.
    """
    from expirytrack_dagster import console
    from expirytrack_dagster.upstox.tokens import in_india, token_state

    state = token_state(settings)
    needed = settings.token_warning_minutes * MINUTE if seconds_needed is None else seconds_needed
    if state.usable and not state.lasts(needed) and state.expires_at is not None:
        about = "" if seconds_needed is None else f" of about {seconds_needed / MINUTE:,.0f} minutes"
        console.say(
            f"The token dies at {in_india(state.expires_at)}, before this work{about} may be done: what has arrived "
            "by then is kept; log in again after that and run the same command.",
            to=console.err,
            style="yellow",
        )


def _say_if_set(settings: Settings, words: str) -> None:
    from expirytrack_dagster import console

    if settings.access_token:
        console.say(f"EXPIRYTRACK_ACCESS_TOKEN {words}", to=console.err, style="yellow")


def _settings(account: str | None) -> Settings:
    return load_settings() if account is None else load_settings(account=account)


def _state_of(settings: Settings, token: AccessToken) -> TokenState:
    """Return the state of the token just stored, even where another one goes before it."""
    from expirytrack_dagster.upstox.tokens import token_state

    return token_state(settings.model_copy(update={"access_token": None, "account": token.account}))


def _style(settings: Settings, state: TokenState) -> str | None:
    if not state.usable:
        return "red"
    return None if state.lasts(settings.token_warning_minutes * MINUTE) else "yellow"


def _app(settings: Settings) -> App | None:
    """Return the app of the account, asked for where it is not known and somebody is there to answer."""
    from expirytrack_dagster.upstox.auth import find_app
    from expirytrack_dagster.upstox.oauth import App

    known = find_app(settings)
    if known is not None or not sys.stdin.isatty():
        return known
    client_id = settings.client_id or typer.prompt("API key of your app").strip()
    return App(client_id=client_id, client_secret=asked("API secret of your app: ").strip())


def _redirected(settings: Settings, manager: AuthManager, minutes: float, *, open_browser: bool) -> AccessToken:
    from expirytrack_dagster import console
    from expirytrack_dagster.upstox.callback import callback_receiver

    address = manager.initiate_auth()
    with callback_receiver(settings, manager) as receiver:
        console.say(f"Log in to Upstox at this address:\n{address}")
        if open_browser:
            with suppress(webbrowser.Error):  # then the printed address has to do
                webbrowser.open(address)
        with console.waiting("Waiting for your login") as tell:
            return receiver.wait(minutes * MINUTE, tell)


def _approved(settings: Settings, manager: AuthManager, minutes: float) -> AccessToken:
    from expirytrack_dagster import console
    from expirytrack_dagster.upstox.callback import notification_receiver
    from expirytrack_dagster.upstox.tokens import in_india

    with notification_receiver(settings, manager) as receiver:  # before the user can be quicker than we are
        approval = asyncio.run(manager.refresh_token())
        console.say(
            "Approve the request in the Upstox app or in WhatsApp; it stands until "
            f"{in_india(approval.lapses_at)}.\nUpstox sends the token to {approval.notifier_url}, which must lead to "
            f"{settings.notifier_url} on this machine."
        )
        stands = (approval.lapses_at - datetime.now(tz=UTC)).total_seconds()
        with console.waiting("Waiting for your approval") as tell:
            return receiver.wait(min(minutes * MINUTE, stands), tell)
