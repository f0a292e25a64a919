"""An export is whole or absent, proved by its manifest, replaces nothing by accident, and is noted in the audit log."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.errors import ConfigurationError, ExpiryTrackError, StorageError
from expirytrack_dagster.export import exporting
from expirytrack_dagster.export.manifest import MANIFEST, check
from expirytrack_dagster.export.selection import Interval, Selection
from expirytrack_dagster.export.target import check_target
from expirytrack_dagster.security.audit import AuditLog
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.versions import candles_version
from expirytrack_dagster_tests.unit.export.conftest import MONTHLY, WEEKLY, fill

if TYPE_CHECKING:
    from collections.abc import Callable

    from expirytrack_dagster_tests.unit.export.conftest import Shop


TABLES = ("expiries", "contracts", "contract_status")


def told(made: exporting.Exported) -> dict[str, Any]:
    """Return the manifest as it stands on disk."""
    found: dict[str, Any] = json.loads((made.target / MANIFEST).read_text(encoding="utf-8"))
    return found


def names(folder: Path) -> set[str]:
    """Return what lies in a folder; nothing in one that was never made."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_the_manifest_says_what_there_is(shop: Shop) -> None:
    """Every file with its rows, size and hash; each cell with its version; what was chosen, and the schema's one."""
    steps: list[tuple[int, int]] = []
    made = shop.export("parquet", progress=lambda done, total: steps.append((done, total)))
    manifest = told(made)
    assert manifest["schema_version"] == 1
    assert manifest["about"]["selection"]["interval"] == "1minute"
    assert [(cell["underlying"], cell["expiry"], cell["complete"]) for cell in manifest["cells"]] == [
        ("M&M", "2025-08-28", False), ("NIFTY", "2025-08-28", True), ("NIFTY", "2025-09-02", True),
    ]  # fmt: skip
    with shop.warehouse.reading() as connection:
        for cell in manifest["cells"]:
            of_cell = {name: cell[name] for name in ("underlying", "expiry")}
            assert cell["version"] == candles_version(connection, of_cell)
    rows = {file["path"]: file["rows"] for file in manifest["files"]}
    assert rows["NIFTY/2025-09-02/candles.parquet"] == manifest["cells"][2]["bars"]
    assert steps[-1][0] == steps[-1][1] == made.bars
    proof = check(made.target)
    assert (proof.files, proof.problems) == (6, [])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), "NIFTY/2025-09-02/candles.csv has changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "instead of"),
        (Path.unlink, "NIFTY/2025-09-02/candles.csv is missing"),
        (lambda path: path.with_name("more.csv").touch(), "NIFTY/2025-09-02/more.csv is not in the manifest"),
    ],
    ids=["changed", "cut", "removed", "added"],
)
def test_a_check_finds_what_is_wrong(shop: Shop, harm: Callable[[Path], object], problem: str) -> None:
    """In the export itself, and in a folder of exports."""
    made = shop.export("csv", expiries=[WEEKLY])
    harm(made.target / "NIFTY" / str(WEEKLY) / "candles.csv")
    (found,) = check(made.target).problems
    assert problem in found
    (found,) = check(made.target.parent).problems
    assert found.startswith("out/")


def test_a_zip_is_checked_without_unpacking(shop: Shop) -> None:
    """A member that was exchanged is found, and so is a damaged one."""
    made = shop.export("csv", to="out.zip", expiries=[WEEKLY])
    assert check(made.target).problems == []
    with zipfile.ZipFile(made.target) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(made.target, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content.replace(b"24300", b"24301") if name.endswith("candles.csv") else content)
    assert check(made.target).problems == ["NIFTY/2025-09-02/candles.csv has changed"]
    data = bytearray(made.target.read_bytes())
    at = data.index(b"openalgo_symbol")
    data[at : at + 8] = b"XXXXXXXX"
    made.target.write_bytes(data)
    assert len(check(made.target).problems) == 1


@pytest.mark.parametrize("name", ["../outside.csv", "/etc/passwd", "C:/x.csv", "a\\..\\..\\x.csv"])
def test_a_manifest_cannot_point_outside(shop: Shop, name: str) -> None:
    """Such a path is a fault of the manifest and is not opened."""
    made = shop.export("csv", expiries=[WEEKLY])
    manifest = told(made)
    manifest["files"][0]["path"] = name
    (made.target / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert any("lies outside" in problem for problem in check(made.target).problems)


def test_what_is_no_export_is_not_checked(shop: Shop, tmp_path: Path) -> None:
    """Neither an empty folder nor a file nor nothing; a manifest of a later schema or another program is a problem."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("empty", "file", "absent"):
        with pytest.raises(ConfigurationError, match="no export of ExpiryTrack"):
            check(tmp_path / name)
    made = shop.export("csv", expiries=[WEEKLY])
    for text in ("{", "[]", json.dumps(told(made) | {"schema_version": 2})):
        (made.target / MANIFEST).write_text(text, encoding="utf-8")
        assert len(check(made.target).problems) == 1


@pytest.mark.parametrize("to", ["out", "out.zip"])
def test_an_export_is_replaced_only_when_told(shop: Shop, to: str) -> None:
    """Without the word it stays as it is; with it, nothing of the old one is left."""
    made = shop.export("csv", to=to)
    with pytest.raises(ConfigurationError, match="--overwrite"):
        shop.export("csv", to=to)
    assert len(check(made.target).problems) == 0
    shop.export("csv", to=to, expiries=[WEEKLY], overwrite=True)
    assert check(made.target).files == 2
    assert names(shop.folder) == {to}


def test_what_is_no_export_is_never_replaced(shop: Shop) -> None:
    """Not even when told: other files, also beside an export; another program's manifest; a link."""
    made = shop.export("csv", to="export")
    (made.target / "thesis.txt").write_text("x")
    for name, content in (("home/thesis.txt", "x"), ("web/manifest.json", '{"name": "a page"}'), ("notes.zip", "x")):
        (shop.folder / name).parent.mkdir(exist_ok=True)
        (shop.folder / name).write_text(content)
    with zipfile.ZipFile(shop.folder / "page.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
    sound = shop.export("csv", to="sound").target
    (shop.folder / "link").symlink_to(sound)
    before = {path: path.read_bytes() for path in shop.folder.rglob("*") if path.is_file()}
    for to in ("export", "home", "web", "notes.zip", "page.zip", "link"):
        with pytest.raises(ConfigurationError, match="is no export of ExpiryTrack"):
            shop.export("csv", to=to, overwrite=True)
    assert {path: path.read_bytes() for path in shop.folder.rglob("*") if path.is_file()} == before


def test_a_relative_path_stays_below_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`..` may not lead out of it; a full path says where it leads."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for text in ("../out", "a/../../out", ".."):
        with pytest.raises(ConfigurationError, match="leads out of the present folder"):
            check_target(Path(text), overwrite=False)
    assert check_target(Path("a/../out"), overwrite=False).name == "out"
    assert check_target(tmp_path / "out", overwrite=False) == tmp_path / "out"


@pytest.mark.parametrize("to", ["out", "out.zip"])
def test_a_failure_leaves_nothing_or_what_was_there(shop: Shop, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """When the second cell cannot be written, the first is not there either, and the old export is whole."""
    made = shop.export("csv", to=to)
    before = check(made.target)

    def broken(_cell: object, _folder: Path) -> None:
        raise StorageError("no")

    monkeypatch.setitem(exporting.FORMATS, "feather", broken)
    for options in ({"to": to, "overwrite": True}, {"to": f"new-{to}"}):
        with pytest.raises(StorageError):
            shop.export("csv", "feather", **options)
    assert names(shop.folder) == {to}
    assert check(made.target) == before


def test_a_full_disk_is_one_sentence(shop: Shop) -> None:
    """A place that cannot be written is named."""
    (shop.folder).mkdir()
    (shop.folder / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written, and nothing was exported"):
        shop.export("csv", to="file/out")


def test_leftovers_of_killed_exports_are_cleared(shop: Shop) -> None:
    """Those of processes that are gone; a living one keeps its own, and a set-aside export comes back."""
    made = shop.export("csv", expiries=[WEEKLY])
    gone = 2**22 + 1  # above the largest process number of Linux
    for name in (f".out.{gone}.part", f".out.{os.getppid()}.part", f".other.{gone}.part"):
        (shop.folder / name).mkdir()
    shutil.move(made.target, shop.folder / f".out.{gone}.old")
    with pytest.raises(ConfigurationError, match="hold no candle"):
        shop.export("csv", selection=Selection(first_day=date(2030, 1, 1)))
    assert names(shop.folder) == {"out", f".out.{os.getppid()}.part", f".other.{gone}.part"}
    assert check(made.target).problems == []


KILLED = """
import sys, time
from pathlib import Path
from expirytrack_dagster.export import exporting
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse

def slow(cell, folder):
    print(folder, flush=True)
    time.sleep(60)

exporting.FORMATS["feather"] = slow
exporting.export(load_settings(), Warehouse(Path(sys.argv[1])), Path(sys.argv[2]), ["csv", "feather"], overwrite=True)
"""


def test_a_killed_export_leaves_the_old_one(shop: Shop, stocked: Path) -> None:
    """A process that dies in the middle: the target is what it was, and the next export clears away what is left."""
    made = shop.export("csv", expiries=[WEEKLY])
    before = check(made.target)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, stocked, made.target], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert ".part" in process.stdout.readline()
        process.kill()
    assert check(made.target) == before
    assert len(names(shop.folder)) == 2
    shop.export("csv", overwrite=True)
    assert names(shop.folder) == {"out"}
    assert check(made.target).files == 6


def test_an_encrypted_archive_is_exported_alike(shop: Shop, tmp_path: Path) -> None:
    """The files are plain and the same; the archive itself is not."""
    secret = type(shop)(Warehouse(tmp_path / "secret.duckdb", key=bytes(range(32))), shop.folder)
    fill(secret.warehouse, tmp_path)
    options = {"selection": Selection(at_the_money=1, interval=Interval.FIVE)}
    made = [each.export("csv", "feather", to=to, **options) for each, to in ((shop, "a"), (secret, "b"))]
    assert [file.sha256 for file in made[0].manifest.files] == [file.sha256 for file in made[1].manifest.files]
    assert b"NIFTY" not in secret.warehouse.database.read_bytes()


def test_an_export_is_noted_in_the_audit_log(shop: Shop) -> None:
    """Where to and how much; one that failed is not."""
    made = shop.export("csv", "lean", underlyings=["NIFTY"], expiries=[MONTHLY])
    with pytest.raises(ConfigurationError):
        shop.export("csv", underlyings=["NIFTY"])
    (entry,) = AuditLog(load_settings().audit).entries()
    assert entry is not None
    assert entry.event == "export"
    assert entry.details == {"target": str(made.target), "formats": "csv lean", "cells": 1, "bars": made.bars}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"underlyings": ["BANKNIFTY"]}, "no candle of BANKNIFTY; it has M&M, NIFTY"),
        ({"expiries": [date(2024, 1, 1)]}, "no candle of the chosen expiries"),
        ({"selection": Selection(kinds=frozenset({"PE"}), highest_strike=1.0)}, "hold no candle that matches"),
    ],
    ids=["underlying", "expiry", "selection"],
)
def test_nothing_to_export_is_an_error(shop: Shop, options: dict[str, Any], sentence: str) -> None:
    """And nothing is made."""
    with pytest.raises(ConfigurationError, match=sentence):
        shop.export("parquet", **options)
    assert names(shop.folder) == set()


def test_selections_that_choose_nothing_are_refused(shop: Shop) -> None:
    """An end before its beginning, a format that is none, a width that LEAN does not read."""
    for options in (
        {"first_day": date(2025, 2, 1), "last_day": date(2025, 1, 1)},
        {"first_time": time(10), "last_time": time(9)},
        {"lowest_strike": 2.0, "highest_strike": 1.0},
    ):
        with pytest.raises(ConfigurationError, match="Nothing lies between"):
            Selection(**options)
    with pytest.raises(ConfigurationError, match="is no format"):
        shop.export("xlsx")
    with pytest.raises(ConfigurationError, match="1minute"):
        shop.export("lean", selection=Selection(interval=Interval.FIVE))


@pytest.mark.parametrize(
    "changes",
    [
        [f"UPDATE {table} SET underlying = '../../etc' WHERE underlying = 'M&M'" for table in TABLES],  # noqa: S608 - constants
        ["UPDATE contracts SET trading_symbol = '=cmd|'' /C calc''!A0'"],
        ["UPDATE contracts SET trading_symbol = 'a,\"b'"],
    ],
    ids=["underlying", "formula", "quote"],
)
def test_hostile_names_are_refused(shop: Shop, stocked: Path, tmp_path: Path, changes: list[str]) -> None:
    """A name that would leave the folder, run as a formula or break a line of CSV is never written."""
    copy = tmp_path / "copy.duckdb"
    shutil.copy(stocked, copy)
    hostile = type(shop)(Warehouse(copy), shop.folder)
    with hostile.warehouse.writing() as connection:
        for change in changes:
            connection.execute(change)
    for name in exporting.FORMATS:
        with pytest.raises(ExpiryTrackError, match="not exported"):
            hostile.export(name)
    assert names(shop.folder) == set()
