"""Several processes at one home: a kill loses a moment's figures at most, no line of the log is torn or lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from expirytrack_dagster.cli import app
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.observe import logs, store
from expirytrack_dagster.observe.endpoint import serving
from expirytrack_dagster.observe.metrics import MetricsCollector
from expirytrack_dagster.processes import this_host
from expirytrack_dagster.servers import free_port
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import StateDatabase

if TYPE_CHECKING:
    from pathlib import Path

STORED = "expirytrack_candles_stored_total"
COUNTING = """
import time
from expirytrack_dagster.observe.metrics import metrics
from expirytrack_dagster.observe.recorder import recording
from expirytrack_dagster.settings import load_settings
with recording(load_settings(), "the run", every=0.1):
    metrics().candles_stored.inc(5)
    print("counted", flush=True)
    time.sleep(60)
"""
WRITING = """
import logging, sys
from expirytrack_dagster.observe import logs
from expirytrack_dagster.security.access import close_what_is_made
from expirytrack_dagster.settings import load_settings
close_what_is_made()
logs.begin(load_settings().model_copy(update={"log_files": 20}), sys.argv[1])
handler = next(h for h in logging.getLogger().handlers if isinstance(h, logs.JsonLines))
handler._written.maxBytes = 50_000
for number in range(400):
    logging.getLogger("expirytrack_dagster.x").info("line %d %s", number, "x" * 100)
"""


def test_a_kill_loses_what_was_not_saved_alone(home: Path) -> None:
    """The table holds what a killed process had counted up to its last save."""
    with subprocess.Popen([sys.executable, "-c", COUNTING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "counted\n"
        with StateDatabase(home / "state.sqlite") as state:
            deadline = time.monotonic() + 20
            while not (saved := store.latest(state, [STORED])[STORED]) and time.monotonic() < deadline:
                time.sleep(0.05)
            process.kill()
    assert [(one.value, one.run_id) for one in saved] == [(5, "the run")]


def test_no_line_is_torn_or_lost(home: Path) -> None:
    """Three processes write and rotate the same file: every line is there once, and whole."""
    home.mkdir()
    writers = [subprocess.Popen([sys.executable, "-c", WRITING, f"p{number}"]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    files = sorted((home / "logs").glob(f"{logs.FILE}*"))
    assert len(files) > 3
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    written = sorted((line["program"], int(line["message"].split()[1])) for line in lines)
    assert written == [(f"p{process}", number) for process in range(3) for number in range(400)]
    if sys.platform != "win32":
        assert all(file.stat().st_mode & 0o077 == 0 for file in files)


@pytest.fixture
def measured(home: Path) -> Path:
    """Give a home with some figures."""
    collector = MetricsCollector()
    collector.candles_stored.inc(5)
    collector.insert_seconds.labels("candles").observe(0.2)
    collector.memory_bytes.set(123)
    collector.breaker.labels("account").set(0)
    with StateDatabase(home / "state.sqlite") as state:
        store.save(state, None, time.time(), collector=collector)
    return home


@pytest.mark.usefixtures("measured")
def test_the_endpoint_serves_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Prometheus reads is the table: sums, buckets, gauges by process; a taken port is a sentence."""
    port = free_port()
    monkeypatch.setenv("EXPIRYTRACK_METRICS_PORT", str(port))
    with serving(load_settings()) as address:
        assert address == f"http://127.0.0.1:{port}/metrics"
        text = httpx.get(address).text
        with pytest.raises(ConfigurationError, match=f"{port}.*EXPIRYTRACK_METRICS_PORT"), serving(load_settings()):
            pass
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert families["expirytrack_candles_stored"].type == "counter"
    assert samples[STORED,] == 5
    assert families["expirytrack_insert_seconds"].type == "histogram"
    buckets = [value for (name, *_), value in samples.items() if name == "expirytrack_insert_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == samples["expirytrack_insert_seconds_count", "candles"] == 1
    assert samples["expirytrack_breaker", "account"] == 0
    (memory,) = families["expirytrack_memory_bytes"].samples
    assert (memory.value, memory.labels) == (123, {"host": this_host(), "pid": str(os.getpid())})
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_the_command_shows_the_home(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For people, as JSON, and as Prometheus reads it; a home without figures says so; no port is a sentence."""
    monkeypatch.setenv("COLUMNS", "120")
    runner = CliRunner()
    with StateDatabase(measured / "state.sqlite") as state, monkeypatch.context() as elsewhere:
        elsewhere.setattr(store, "this_host", lambda: "two~2b")
        elsewhere.setattr(os, "getpid", lambda: 1)
        collector = MetricsCollector()
        collector.memory_bytes.set(456)
        store.save(state, None, time.time(), collector=collector)
    shown = runner.invoke(app, ["metrics"])
    assert shown.exit_code == 0
    assert "candles_stored_total" in shown.output
    assert "mean of 1" in shown.output
    memory = [line.split()[:-2] for line in shown.output.splitlines() if line.startswith("memory_bytes")]
    own = f"memory_bytes pid {os.getpid()}".split()
    assert memory == [own, ["memory_bytes", "pid", "1,", "on", "two~2b"]]
    found = json.loads(runner.invoke(app, ["metrics", "--json"]).output)["metrics"]
    assert {"name": STORED, "labels": {}, "value": 5.0, "pid": None}.items() <= next(
        one for one in found if one["name"] == STORED
    ).items()
    assert f"{STORED} 5.0" in runner.invoke(app, ["metrics", "--prometheus"]).output
    refused = runner.invoke(app, ["metrics", "--serve"])
    assert isinstance(refused.exception, ConfigurationError)
    (measured / "state.sqlite").unlink()
    assert "Nothing was measured yet" in runner.invoke(app, ["metrics"]).output
