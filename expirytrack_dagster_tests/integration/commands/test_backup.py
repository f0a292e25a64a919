"""`expirytrack backup` and `restore` on a home that a real collection has filled, or is filling."""

from __future__ import annotations

import getpass
import io
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from expirytrack_dagster import backup as backups
from expirytrack_dagster.backup import back_up, own_openers, restore
from expirytrack_dagster.cli import main
from expirytrack_dagster.collect.tracking import tracked
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.errors import BackupRefused, DatabaseCorrupt, DiskFull
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.switches import Switches
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.security.audit import AuditLog, record
from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.verification import verify_archive
from expirytrack_dagster.warehouse.connection import Warehouse, open_warehouse
from expirytrack_dagster.warehouse.sums import table_sums

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

MARKET = SyntheticMarket(strikes=2, days=1, today=date(2025, 9, 1))
NIFTY = "NSE_INDEX|Nifty 50"
EXPIRY = date(2025, 8, 21)
DIE_AT = """
import pkgutil, psutil, sys
setattr(pkgutil.resolve_name(sys.argv.pop(1)), sys.argv.pop(1), lambda *_, **__: psutil.Process().kill())
from expirytrack_dagster.cli import main
main()
"""
ENOUGH = 3  # backups in the midst of a collection


class Terminal(io.StringIO):
    """A standard input at which somebody sits."""

    def isatty(self) -> bool:
        """Return that somebody does."""
        return True


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collect a cell with bad rows, once, and return its home."""
    rows = MARKET.option_contracts(NIFTY, EXPIRY) or []
    home = tmp_path_factory.mktemp("collected")
    switches = Switches(planted=(Plant((str(rows[0]["instrument_key"]),)),))
    with running(MARKET, switches=switches) as upstox, pytest.MonkeyPatch.context() as patch:
        for name, value in {"HOME": str(home), "API_URL": upstox.url, "ACCESS_TOKEN": "x"}.items():
            patch.setenv(f"EXPIRYTRACK_{name}", value)
        patch.setattr(sys, "argv", ["expirytrack", "collect", "NIFTY", "--expiry", "2025-08-21"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return home


@pytest.fixture
def filled(collected: Path, home: Path) -> Path:
    """Give this test's home a copy of the collected one, with something in the vault and in the audit log."""
    shutil.copytree(collected, home)
    settings = load_settings()
    open_vault(settings).put("client", b"secret of the client")
    record(settings, "login", account="main")
    return home


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack WORDS` in this process: exit code, output, errors."""

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


def test_a_restored_home_is_equal_and_lives(filled: Path, tmp_path: Path, run: Command) -> None:
    """Tables, findings, tracked symbols, vault, audit log and Dagster's runs are all there; both logs say so."""
    code, out, _ = run("backup", "--json")
    made = json.loads(out)
    assert (code, made["proven"], made["removed"]) == (0, True, [])
    code, out, _ = run("restore", made["path"], "--into", str(tmp_path / "new"), "--json")
    result = json.loads(out)
    assert (code, result["compared"], result["rows"]) == (0, True, made["rows"])
    old, new = load_settings(), load_settings(home=tmp_path / "new")
    assert table_sums(Warehouse(new.database)) == table_sums(Warehouse(old.database))
    assert verify_archive(Warehouse(new.database), new.staging) == verify_archive(Warehouse(old.database), old.staging)
    assert tracked(open_state(new)) == tracked(open_state(old))
    assert open_vault(new).get("client") == b"secret of the client"
    assert open_vault(new).data_key("backup") == open_vault(old).data_key("backup")
    before, after = (list(AuditLog(place.audit).entries()) for place in (old, new))
    assert before[:-1] == after[:-1] != []
    assert [entries[-1] and entries[-1].event for entries in (before, after)] == ["backup", "restore"]
    assert not AuditLog(new.audit).verify().damage
    reports = [folder / "reports" / "NIFTY" / "2025-08-21.json" for folder in (filled, tmp_path / "new")]
    assert reports[0].read_bytes() == reports[1].read_bytes()
    with open_instance(old) as one, open_instance(new) as other:
        assert other.get_runs_count() == one.get_runs_count() > 0
    assert not (filled / "snapshot").exists()
    if os.name == "posix":
        assert not any(path.stat().st_mode & 0o077 for path in filled.glob("backups/**/*"))


@pytest.mark.parametrize("opener", ["recovery key", "passphrase"])
def test_a_new_machine_needs_what_a_person_kept(
    filled: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch, opener: str
) -> None:
    """Without the old home's vault nothing opens it; with the recovery key or the passphrase all comes back."""
    if opener == "passphrase":
        monkeypatch.setenv("EXPIRYTRACK_PASSPHRASE", "correct horse")
        shutil.rmtree(filled / "keys", ignore_errors=True)
        (filled / "vault.bin").unlink()
        open_vault(load_settings()).put("client", b"secret of the client")
    archive = back_up(load_settings(), tmp_path / "disk").path
    key = run("backup", "--show-key")[1].strip()
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(tmp_path / "machine"))
    monkeypatch.delenv("EXPIRYTRACK_PASSPHRASE", raising=False)
    code, out, err = run("restore", str(archive))
    assert (code, out) == (1, "")
    assert err.endswith(f"{archive} does not open with the recovery key or passphrase that was given.\n")
    assert not (tmp_path / "machine").exists()
    name, value = ("RECOVERY_KEY", key) if opener == "recovery key" else ("PASSPHRASE", "correct horse")
    monkeypatch.setenv(f"EXPIRYTRACK_{name}", value)
    code, out, err = run("restore", str(archive))
    assert code == 0, err
    assert "every table and file is equal to what was copied" in out
    assert open_vault(load_settings()).get("client") == b"secret of the client"
    assert run("verify")[0] == 0


@pytest.mark.usefixtures("filled")
def test_a_person_is_asked_for_what_opens_it(tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal the recovery key may be typed, in small letters too; what is wrong is refused."""
    archive = str(back_up(load_settings(), tmp_path / "disk").path)
    key = run("backup", "--show-key")[1].strip()
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(tmp_path / "machine"))
    monkeypatch.setattr(sys, "stdin", Terminal())
    for typed, expected in ((key[::-1], 1), ("a passphrase", 1), (f" {key.lower()} ", 0)):
        monkeypatch.setattr(getpass, "getpass", lambda _, typed=typed: typed)
        assert run("restore", archive)[0] == expected
    assert open_vault(load_settings()).get("client") == b"secret of the client"


def test_an_encrypted_archive_comes_back_encrypted(
    filled: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that knows nothing of it: the archive's key comes with the backup, and is told to be needed."""
    plain = back_up(load_settings()).rows
    (filled / "expirytrack.duckdb").unlink()
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on")
    with open_warehouse(load_settings()).writing() as connection:
        connection.execute("INSERT INTO expiries VALUES ('NIFTY', DATE '2025-08-21', 'NSE_INDEX|Nifty 50', now())")
    made = back_up(load_settings(), tmp_path / "disk")
    assert made.rows["expiries"] == 1 < plain["expiries"]
    monkeypatch.setenv("EXPIRYTRACK_RECOVERY_KEY", run("backup", "--show-key")[1].strip())
    monkeypatch.delenv("EXPIRYTRACK_ENCRYPTION")
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(tmp_path / "machine"))
    code, out, _ = run("restore", str(made.path))
    assert code == 0
    assert "Its archive is encrypted: set EXPIRYTRACK_ENCRYPTION to suit." in out
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on")
    assert table_sums(open_warehouse(load_settings()))["expiries"].rows == 1


@pytest.mark.usefixtures("filled")
def test_showing_the_recovery_key_is_noted(run: Command, home: Path) -> None:
    """The key itself stands nowhere in the log."""
    key = run("backup", "--show-key")[1].strip()
    assert len(key.split("-")) == 14
    assert "recovery_key_shown" in (home / "audit.jsonl").read_text(encoding="utf-8")
    assert key not in (home / "audit.jsonl").read_text(encoding="utf-8")


def damage(path: Path, kind: str) -> None:
    """Spoil a backup."""
    content = path.read_bytes()
    middle = len(content) // 2
    spoilt = {
        "cut in the middle": content[:middle],
        "last byte gone": content[:-1],
        "a byte more": content + b"\0",
        "a bit flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "version set back": content[:8] + b"\0" + content[9:],
        "foreign": b"SQLite format 3\0" + content,
        "empty": b"",
    }
    path.write_bytes(spoilt[kind])


@pytest.mark.parametrize(
    "kind",
    ["cut in the middle", "last byte gone", "a byte more", "a bit flipped", "version set back", "foreign", "empty"],
)
def test_a_spoilt_backup_is_refused_whole(filled: Path, tmp_path: Path, run: Command, kind: str) -> None:
    """One sentence, exit code 1, and nothing is left anywhere."""
    archive = back_up(load_settings(), tmp_path / "disk").path
    damage(archive, kind)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("restore", str(archive), "--into", str(tmp_path / "new"))
    assert (code, out) == (1, "")
    assert str(archive) in err.splitlines()[-1]  # a busy machine may have drawn a bar above
    assert "Traceback" not in err
    assert sorted(path for path in tmp_path.rglob("*") if path.suffix != ".lock") == [
        path for path in before if path.suffix != ".lock"
    ]
    assert filled.exists()


@pytest.mark.usefixtures("filled")
def test_only_an_empty_folder_is_restored_into(tmp_path: Path, run: Command) -> None:
    """A folder in use, a file, a link and a place without a parent are refused; an empty folder will do."""
    archive = back_up(load_settings()).path
    used, link = tmp_path / "used", tmp_path / "link"
    used.mkdir()
    (used / "letter").touch()
    for into in (used, used / "letter", tmp_path / "none" / "new"):
        code, _, err = run("restore", str(archive), "--into", str(into))
        assert code == 1
        assert "Traceback" not in err
    assert [path.name for path in used.iterdir()] == ["letter"]
    empty = tmp_path / "empty"
    empty.mkdir()
    if os.name == "posix":
        link.symlink_to(empty)
        assert run("restore", str(archive), "--into", str(link))[0] == 1
    assert not list(empty.iterdir())
    assert run("restore", str(archive), "--into", str(empty))[0] == 0
    assert (empty / "expirytrack.duckdb").exists()


@pytest.mark.parametrize("what", ["rows", "findings"])
def test_a_home_that_is_not_equal_gets_no_name(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Should the proof fail although every byte is what it was, nothing is left of the new home."""
    settings = load_settings()
    archive = back_up(settings).path
    if what == "rows":
        monkeypatch.setattr(backups, "table_sums", lambda _: {})
    else:
        monkeypatch.setattr(backups, "_told", lambda _: ["something else"])
    with pytest.raises(BackupRefused, match=r"are not those of the backup|finds something else"):
        restore(settings, archive, tmp_path / "new", own_openers(settings))
    assert {path.name for path in tmp_path.iterdir()} == {filled.name}


@pytest.mark.parametrize(
    ("name", "is_folder"), [("backup.lock", True), ("backups", False), ("snapshot", False), ("audit.lock", True)]
)
def test_something_else_in_the_place_of_what_a_backup_needs(
    filled: Path, run: Command, name: str, *, is_folder: bool
) -> None:
    """One sentence names it; nothing is made, and what stands there stays."""
    place = filled / name
    place.unlink(missing_ok=True)
    place.mkdir(mode=0o700) if is_folder else place.touch(mode=0o600)
    code, out, err = run("backup")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert name.partition(".")[0] in err
    assert place.is_dir() is is_folder
    assert not list(filled.glob("backups/*"))


@pytest.mark.usefixtures("filled")
def test_a_folder_keeps_as_many_as_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of ours go; what is foreign, broken or still being written stays, however old it looks."""
    monkeypatch.setenv("EXPIRYTRACK_BACKUP_KEEP", "2")
    disk = tmp_path / "disk"
    disk.mkdir()
    strangers = {"expirytrack-19990101T000000Z.backup", "letter.txt", "expirytrack-19990101T000000Z.backup.unfinished"}
    for name in strangers:
        (disk / name).write_text("not ours")
    settings = load_settings()
    made: list[Path] = []
    for _ in range(3):
        if made:
            made[-1].rename(disk / f"expirytrack-2000010{len(made)}T000000Z.backup")
            made[-1] = disk / f"expirytrack-2000010{len(made)}T000000Z.backup"
        made.append((last := back_up(settings, disk)).path)
    assert last.removed == made[:1]
    assert {path.name for path in disk.iterdir()} == strangers | {path.name for path in made[1:]}


def test_a_damaged_archive_is_not_backed_up_over_sound_ones(filled: Path) -> None:
    """A block that cannot be read is met while copying is proved; the older backup stays, and nothing new appears."""
    settings = load_settings()
    sound = back_up(settings).path
    with Warehouse(settings.database).reading() as connection:
        (block,) = connection.execute(
            "SELECT max(block_id) FROM pragma_storage_info('candles') WHERE block_id >= 0"
        ).fetchone() or (0,)
    with settings.database.open("r+b") as file:
        file.seek(3 * 4096 + int(block) * 262_144 + 1000)
        file.write(bytes(2000))
    with pytest.raises(DatabaseCorrupt):
        back_up(settings)
    assert list((filled / "backups").iterdir()) == [sound]
    assert not (filled / "snapshot").exists()


def test_contradictions_let_no_older_backup_go(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is made, because it is what there is; but what may be the last sound one stays."""
    monkeypatch.setenv("EXPIRYTRACK_BACKUP_KEEP", "1")
    settings = load_settings()
    first = back_up(settings).path
    first.rename(older := filled / "backups" / "expirytrack-20000101T000000Z.backup")
    with Warehouse(settings.database).writing() as connection:
        connection.execute("UPDATE candles SET close = close + 0.05")
    made = back_up(settings)
    assert (made.proven, made.removed) == (False, [])
    assert older.exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110 -- no path of ours
def test_a_full_disk_leaves_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence; neither a half backup nor a copy stays behind."""
    real = open

    def full(path: object, mode: str, **options: object) -> object:
        return real("/dev/full" if str(path).endswith(".unfinished") else path, mode.replace("x", "w"), **options)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(DiskFull, match="free some space"):
        back_up(load_settings())
    monkeypatch.undo()
    assert not list((filled / "backups").iterdir())
    assert not (filled / "snapshot").exists()


def killed_at(place: str, name: str, *words: str) -> None:
    """Run a command that is killed when it calls this function."""
    process = subprocess.run([sys.executable, "-c", DIE_AT, place, name, *words], check=False)
    assert process.returncode not in {0, 1}


@pytest.mark.parametrize("moment", ["os fsync", "expirytrack_dagster.backup _described"])
def test_a_killed_backup_leaves_what_the_next_one_removes(filled: Path, moment: str) -> None:
    """No file of a backup's name, and afterwards one whole backup and no copy of the home."""
    open_vault(load_settings()).data_key("backup")
    killed_at(*moment.split(), "backup")
    assert not list(filled.glob("backups/*.backup"))
    made = back_up(load_settings())
    assert list((filled / "backups").iterdir()) == [made.path]
    assert not (filled / "snapshot").exists()


def test_a_killed_restore_gives_no_home_its_name(filled: Path, tmp_path: Path) -> None:
    """What is not proved yet lies under another name, and the same command succeeds afterwards."""
    settings = load_settings()
    archive = back_up(settings).path
    killed_at("expirytrack_dagster.backup", "_proved", "restore", str(archive), "--into", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    assert restore(settings, archive, tmp_path / "new", own_openers(settings)).compared
    assert filled.exists()


@pytest.mark.usefixtures("filled")
def test_the_job_makes_the_same_backup(home: Path) -> None:
    """The nightly job is one step; its metadata name the file and what `verify` said."""
    settings = load_settings()
    definitions = build_defs()
    with open_instance(settings) as instance:
        result = definitions.resolve_job_def("backup").execute_in_process(instance=instance)
    assert result.success
    (output,) = (event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_OUTPUT)
    told = output.step_output_data.metadata
    assert str(told["verify"].value).startswith("Proven")
    assert [str(path) for path in (home / "backups").iterdir()] == [told["file"].value]
    schedule = definitions.resolve_schedule_def("nightly_backup")
    assert (schedule.job_name, schedule.cron_schedule, schedule.execution_timezone) == (
        "backup",
        "10 4 * * *",
        "Asia/Kolkata",
    )


@pytest.mark.timeout(900)
def test_a_backup_while_a_collection_runs_restores_proven(tmp_path: Path, home: Path) -> None:
    """Several backups in the midst of one cell: each restores equal to its copy, and can be collected to the end."""
    market = SyntheticMarket(strikes=12, days=1, today=date(2025, 9, 1))
    with running(market, limits=(), switches=Switches(delay_after=(0.0, 0.03))) as upstox:
        environment = os.environ | {
            "EXPIRYTRACK_API_URL": upstox.url,
            "EXPIRYTRACK_ACCESS_TOKEN": "x",
            "EXPIRYTRACK_RATE_LIMITS": "100000/1",
            "EXPIRYTRACK_BATCH_ROWS": "5000",
        }
        command = [sys.executable, "-m", "expirytrack_dagster", "collect", "NIFTY", "--expiry", "2025-08-21"]
        process = subprocess.Popen([*command, "--expiry", "2025-08-14"], env=environment, stderr=subprocess.DEVNULL)
        settings = load_settings()
        made: list[backups.Backup] = []
        while process.poll() is None:
            if len(made) < ENOUGH and len(upstox.sandbox.log) > 25 * (len(made) + 1):
                made.append(back_up(settings, tmp_path / str(len(made))))
            time.sleep(0.01)
        assert process.returncode == 0
        assert len(made) >= 2
        final = table_sums(Warehouse(settings.database))
        for number, one in enumerate(made):
            new = tmp_path / f"new-{number}"
            result = restore(settings, one.path, new, own_openers(settings))
            assert result.compared
            assert result.rows == one.rows
            finding = verify_archive(Warehouse(new / "expirytrack.duckdb"), new / "staging").findings
            assert not [found for found in finding if found.severity == "contradiction"]
        assert {one.rows["candles"] for one in made} != {final["candles"].rows}
        first = tmp_path / "new-0"
        again = subprocess.run(
            [*command, "--expiry", "2025-08-14"], env=environment | {"EXPIRYTRACK_HOME": str(first)}, check=False
        )
        assert again.returncode == 0
        assert table_sums(Warehouse(first / "expirytrack.duckdb"))["candles"] == final["candles"]
    assert home.exists()
