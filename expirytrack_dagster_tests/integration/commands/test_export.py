"""`expirytrack export` and the asset `parquet_archive` on a cell that was collected from a sandbox."""

from __future__ import annotations

import io
import json
import sys
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.export.manifest import check
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.partitions import cell_key
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.symbology import openalgo, upstox
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

MARKET = SyntheticMarket(strikes=3, days=2, today=date(2025, 9, 15))


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collect a monthly cell once and return its home."""
    home = tmp_path_factory.mktemp("collected")
    with running(MARKET) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {"HOME": str(home), "API_URL": server.url, "ACCESS_TOKEN": "x"}.items():
            patch.setenv(f"EXPIRYTRACK_{name}", value)
        patch.setattr(sys, "argv", ["expirytrack", "collect", "NIFTY", "--expiry", "2025-08-28"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return home


@pytest.fixture
def run(collected: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack WORDS` on the collected home: exit code, output, errors."""
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(collected))
    monkeypatch.setenv("EXPIRYTRACK_API_URL", "http://127.0.0.1:9")  # nobody listens: asking would fail

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), told.out, told.err

    return command


def archived(home: Path, sql: str) -> int:
    """Return the number that answers a query."""
    with Warehouse(home / "expirytrack.duckdb").reading() as connection:
        (value,) = connection.execute(sql).fetchone() or (0,)
    return int(value)


def test_every_format_is_made_and_proved(run: Command, collected: Path, tmp_path: Path) -> None:
    """One command makes all of them; a later one proves them; nothing asks the API."""
    target = tmp_path / "out"
    formats = [word for name in ("parquet", "csv", "feather", "nautilus", "lean") for word in ("--format", name)]
    code, out, _ = run("export", "nifty", "--to", str(target), *formats, "--json")
    report = json.loads(out)
    assert (code, report["incomplete"]) == (0, [])
    assert report["bars"] == archived(collected, "SELECT count(*) FROM candles")
    assert {path.name for path in target.iterdir()} == {
        "parquet",
        "csv",
        "feather",
        "nautilus",
        "lean",
        "manifest.json",
    }
    code, out, _ = run("export", "--check", str(target))
    assert (code, out.startswith("Whole: ")) == (0, True)
    (target / "csv" / "NIFTY" / "2025-08-28" / "candles.csv").write_text("x")
    code, out, _ = run("export", "--check", str(target), "--json")
    assert (code, json.loads(out)["whole"]) == (3, False)


def test_options_narrow_what_is_written(run: Command, tmp_path: Path) -> None:
    """Strikes at the money, an hour of the day, calls alone, in bars of 15 minutes, as a zip."""
    target = tmp_path / "some.zip"
    code, out, _ = run(
        *("export", "--to", str(target), "--format", "csv", "--atm", "1", "--type", "CE", "--after", "10:00"),
        *("--before", "10:59", "--interval", "15minute", "--expiry", "2025-08-28", "--from", "2025-08-28"),
    )
    assert (code, target.is_file()) == (0, True)
    assert "bars of 1 cell in 2 files" in out
    frame = pd.read_csv(f"zip://NIFTY/2025-08-28/candles.csv::file://{target}")
    assert set(frame["option_type"]) == {"CE"}
    assert set(frame["time"]) == {"10:00:00", "10:15:00", "10:30:00", "10:45:00"}
    assert set(frame["date"]) == {"2025-08-28"}
    for name, openalgo_name in zip(frame["trading_symbol"], frame["openalgo_symbol"], strict=True):
        assert upstox.parse(name) == openalgo.parse(openalgo_name)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("--to", "x", "--check", "x"), 2),
        (("--to", "x", "--type", "FX"), 2),
        (("--to", "x", "--after", "25:00"), 2),
        (("--to", "x", "--interval", "2minute"), 2),
        (("--to", "x", "--format", "xlsx"), 1),
        (("--to", "../x"), 1),
        (("--check", "absent"), 1),
        (("BANKNIFTY", "--to", "x"), 1),
        (("../etc", "--to", "x"), 1),
    ],
    ids=str,
)
def test_wrong_words_are_one_sentence(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    """Usage is code 2, what cannot be done code 1; nothing is written."""
    monkeypatch.chdir(tmp_path)
    found, out, err = run("export", *words)
    assert (found, out) == (code, "")
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_volatilities_show_their_smile_in_the_catalogue(run: Command) -> None:
    """A picture small enough for the event log; the tables without volatilities have none."""
    del run  # sets the home
    job = build_defs().resolve_job_def("derivation")
    with open_instance(load_settings()) as instance:
        result = job.execute_in_process(instance=instance, partition_key=cell_key("NIFTY", "2025-08-28"))
    shown = {
        event.materialization.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
    }
    assert "smile" not in shown["option_chain"]
    markdown = str(shown["implied_volatility"]["smile"].value)
    assert markdown.startswith("![smile](data:image/png;base64,")
    assert len(markdown) < 50_000


def test_the_asset_leaves_nothing_plain_beside_an_encrypted_archive(
    run: Command, collected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to do instead, before it reads or writes anything."""
    del run  # sets the home
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "true")
    job = build_defs().resolve_job_def("parquet_export")
    folder = collected / "parquet_archive" / "NIFTY" / "2025-08-21"
    with open_instance(load_settings()) as instance:
        result = job.execute_in_process(
            instance=instance, partition_key=cell_key("NIFTY", "2025-08-21"), raise_on_error=False
        )
    assert not result.success
    (failed,) = (event for event in result.all_events if event.is_step_failure)
    assert "'expirytrack export'" in str(failed.step_failure_data.error)
    assert not folder.exists()


def test_the_asset_replaces_its_cell(run: Command, collected: Path) -> None:
    """Files with a manifest below the home; a second materialization leaves one whole copy; lineage is from candles."""
    del run  # sets the home
    job = build_defs().resolve_job_def("parquet_export")
    folder = collected / "parquet_archive" / "NIFTY" / "2025-08-28"
    with open_instance(load_settings()) as instance:
        for _ in range(2):
            result = job.execute_in_process(instance=instance, partition_key=cell_key("NIFTY", "2025-08-28"))
            assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    rows = archived(collected, "SELECT count(*) FROM candles WHERE expiry = '2025-08-28'")
    assert metadata["dagster/partition_row_count"].value == rows
    assert len(pd.read_parquet(folder / "candles.parquet")) == rows
    assert {path.name for path in folder.iterdir()} == {"candles.parquet", "contracts.parquet", "manifest.json"}
    assert {path.name for path in folder.parent.iterdir()} == {"2025-08-28"}
    assert check(folder).problems == []
    asset = build_defs().resolve_assets_def("parquet_archive")
    assert asset.asset_deps[dg.AssetKey("parquet_archive")] == {dg.AssetKey("candles")}
