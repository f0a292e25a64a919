"""`expirytrack metrics`: what was counted and measured in this home, for people, programs and Prometheus.

Only printing: what each figure means is `observe/metrics.py`, where it is kept `observe/store.py`.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from expirytrack_dagster.commands.options import JsonOption
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from rich.table import Table

    from expirytrack_dagster.observe.metrics import Metric
    from expirytrack_dagster.observe.store import Sample


def metrics(
    *,
    as_json: JsonOption = False,
    prometheus: Annotated[bool, typer.Option(help="Print what /metrics serves.")] = False,
    serve: Annotated[bool, typer.Option(help="Serve /metrics at EXPIRYTRACK_METRICS_PORT until Ctrl-C.")] = False,
) -> None:
    """Show the metrics of all processes of this home; no request is made."""
    from expirytrack_dagster import console
    from expirytrack_dagster.observe import store
    from expirytrack_dagster.observe.metrics import catalogue
    from expirytrack_dagster.state import open_state

    settings = load_settings()
    if serve:
        _serve()
        return
    state = open_state(settings)
    if prometheus:
        from prometheus_client.exposition import generate_latest

        from expirytrack_dagster.observe.endpoint import registry_of

        typer.echo(generate_latest(registry_of(state)).decode(), nl=False)
        return
    samples = store.latest(state, now=time.time())
    if as_json:
        found = [
            {
                "name": one.name,
                "labels": one.labels,
                "value": one.value,
                "saved_at": one.saved_at,
                "pid": one.pid,
                "host": one.host,
            }
            for several in samples.values()
            for one in several
        ]
        console.out.print_json(json.dumps({"metrics": found}))
    elif samples:
        console.out.print(_table(catalogue(), samples))
    else:
        console.say("Nothing was measured yet: the first run begins.")


def _serve() -> None:
    from expirytrack_dagster import servers
    from expirytrack_dagster.console import say
    from expirytrack_dagster.errors import ConfigurationError
    from expirytrack_dagster.observe.endpoint import serving
    from expirytrack_dagster.observe.recorder import recording

    settings = load_settings()
    with servers.stoppable(), serving(settings) as address, recording(settings):
        if address is None:
            raise ConfigurationError("EXPIRYTRACK_METRICS_PORT is not set: name a free port, such as 9464.")
        say(f"Metrics: {address}  (Ctrl-C ends it)")
        while True:
            time.sleep(0.5)


def _table(known: tuple[Metric, ...], samples: dict[str, list[Sample]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("of", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", overflow="fold")
    for metric in known:
        for labels, value, unit in _lines(metric, samples):
            table.add_row(metric.name.removeprefix("expirytrack_"), labels, value, unit)
    return table


def _lines(metric: Metric, samples: dict[str, list[Sample]]) -> list[tuple[str, str, str]]:
    """Return labels, value and unit of each series; of a histogram or a summary the mean, and of how many."""
    if metric.kind in {"counter", "gauge"}:
        shown = [one for one in samples.get(metric.name, ()) if one.value or metric.of != "process"]
        return [(_words(one), _number(one.value), metric.unit) for one in shown]
    sums = {_words(one): one.value for one in samples.get(f"{metric.name}_sum", ())}
    return [
        (_words(one), _number(sums.get(_words(one), 0.0) / one.value), f"{metric.unit}, mean of {one.value:,.0f}")
        for one in samples.get(f"{metric.name}_count", ())
        if one.value
    ]


def _words(sample: Sample) -> str:
    """Return what tells a series apart: its labels, its process, and its host if that is another one than this."""
    from expirytrack_dagster.processes import this_host

    process = [f"pid {sample.pid}"] if sample.pid else []
    host = [f"on {sample.host}"] if sample.host and sample.host != this_host() else []
    return ", ".join([*sample.labels.values(), *process, *host])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3f}"  # noqa: PLR2004 -- shown
