"""`expirytrack alerts ...`: what is wrong and what was, whether the channels take messages, and their secrets.

Only options, questions and printing: what is judged is `observe/readings.py`, who is told `observe/deliveries.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.commands.secret import asked
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from expirytrack_dagster.observe.alerts import Alert
    from expirytrack_dagster.observe.notifiers import Secret

alerts = typer.Typer(
    name="alerts",
    invoke_without_command=True,
    help="Show current and recent alerts, test the channels, and keep their secrets.",
)

SecretName = Literal["smtp-password", "webhook-url", "telegram-token"]
LimitOption = Annotated[int, typer.Option("--last", min=1, max=1000, help="How many past alerts to show.")]
ForgetOption = Annotated[bool, typer.Option("--forget", help="Remove it from the vault instead.")]


@alerts.callback()
def show(context: typer.Context, limit: LimitOption = 10, *, as_json: JsonOption = False) -> None:
    """Show current alerts, recent ones that are over, and the channels."""
    if context.invoked_subcommand is not None:
        return
    from expirytrack_dagster import console
    from expirytrack_dagster.observe.alerts import recent, standing
    from expirytrack_dagster.observe.deliveries import ChannelState, channel_states, in_india, measure
    from expirytrack_dagster.observe.notifiers import channels
    from expirytrack_dagster.state import open_state

    settings = load_settings()
    state = open_state(settings)
    stand = standing(state)
    over = [alert for alert in recent(state, limit + len(stand)) if alert.recovered_at is not None][:limit]
    told, known = channels(settings), channel_states(state)
    found = [known.get(notifier.channel, ChannelState(notifier.channel)) for notifier in told.notifiers]
    if as_json:
        report = {
            "standing": [_as_json(alert) for alert in stand],
            "over": [_as_json(alert) for alert in over],
            "channels": [asdict(one) | {"delivered_at": _iso(one.delivered_at)} for one in found],
            "problem": told.problem,
        }
        console.out.print_json(json.dumps(report))
        return
    for alert in stand:
        console.say(f"{alert.sentence}", style="yellow")
        console.say(f"  since {in_india(alert.raised_at)}: {measure(alert)}")
        console.say(f"  {alert.todo}")
    if not stand:
        console.say("No alert stands.")
    if over:
        console.say("\nOver:")
    for alert in over:
        end = f" to {in_india(alert.recovered_at)}" if alert.recovered_at else ""
        console.say(f"  {in_india(alert.raised_at)}{end}: {alert.sentence}", style="dim")
    console.say("")
    for one in found:
        last = f"last used at {in_india(one.delivered_at)}" if one.delivered_at else "not used yet"
        waits = f", {one.waiting} wait" if one.waiting else ""
        console.say(f"{one.channel + ':':<10}{last}{waits}", style="yellow" if one.error else None)
        if one.error:
            console.say(f"          {one.error}", style="yellow")
    if told.problem:
        console.say(f"The vault does not open, so there may be more channels: {told.problem}", style="yellow")


@alerts.command("test")
def try_channels(*, as_json: JsonOption = False) -> None:
    """Send a test message to every channel; exit code 1 if one does not take it."""
    from expirytrack_dagster import console
    from expirytrack_dagster.errors import NotSent
    from expirytrack_dagster.observe.deliveries import hasten, trial_message
    from expirytrack_dagster.observe.notifiers import channels
    from expirytrack_dagster.state import open_state

    settings, now = load_settings(), datetime.now(tz=UTC)
    told, state, failures = channels(settings), open_state(settings), dict[str, str | None]()
    for notifier in told.notifiers:
        failures[notifier.channel] = None
        try:
            with console.err.status(f"Sending by {notifier.channel}"):
                notifier.send(trial_message(now))
            hasten(state, notifier.channel, now)
        except NotSent as refusal:
            failures[notifier.channel] = str(refusal)
    if as_json:
        report = {"channels": failures, "problem": told.problem}
        console.out.print_json(json.dumps(report))
    else:
        for channel, failure in failures.items():
            console.say(f"{channel + ':':<10}{failure or 'taken'}", style="red" if failure else None)
        if told.problem:
            console.say(f"The vault does not open, so there may be more channels: {told.problem}", style="red")
    raise typer.Exit(1 if told.problem or any(failures.values()) else 0)


@alerts.command()
def secret(name: Annotated[SecretName, typer.Argument(help="Which secret.")], *, forget: ForgetOption = False) -> None:
    """Keep a secret of a channel in the vault, from a hidden prompt or standard input."""
    from expirytrack_dagster import console
    from expirytrack_dagster.observe.notifiers import forget_secret, keep_secret
    from expirytrack_dagster.security import audit

    settings = load_settings()
    setting: dict[SecretName, Secret] = {
        "smtp-password": "smtp_password",
        "webhook-url": "webhook_url",
        "telegram-token": "telegram_token",
    }
    if forget:
        there = forget_secret(settings, setting[name])
        audit.record(settings, "alert_secret_forgotten", name=name)
        console.say(f"{name} is forgotten." if there else f"There was no {name} in the vault.")
        return
    keep_secret(settings, setting[name], asked(f"{name}: ").strip())
    audit.record(settings, "alert_secret_kept", name=name)
    console.say(f"{name} is kept in the vault. Try it: expirytrack alerts test")


def _as_json(alert: Alert) -> dict[str, object]:
    return asdict(alert) | {"raised_at": _iso(alert.raised_at), "recovered_at": _iso(alert.recovered_at)}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
