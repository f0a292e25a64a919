"""The built packages: what they carry, and that the wheel works outside the checkout as it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from datetime import date
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "expirytrack_dagster"
FROM_THE_TOP = {"expirytrack_dagster/dagster.yaml", "expirytrack_dagster/workspace.yaml"}
MARKET = SyntheticMarket(strikes=1, days=1, today=date(2025, 9, 10))


def carried() -> set[str]:
    """Return every file of the package in the sources, as a wheel names it."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def built(kind: str, source: Path, folder: Path) -> Path:
    """Build a package from a folder of sources, as pip and uv do."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution."""
    return built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source distribution alone, so that both are known to be whole."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return built("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel without its dependencies into an environment that sees the locked ones; return its command."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("there is no pip in this environment")
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    places = {"base": str(folder), "platbase": str(folder)}
    programs = Path(sysconfig.get_path("scripts", "venv", places))
    packages = Path(sysconfig.get_path("purelib", "venv", places))
    # A folder named in a .pth file is searched last, and its own .pth files, the editable project's, are not read.
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(next(programs.glob("python*"))), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    return programs / ("expirytrack.exe" if os.name == "nt" else "expirytrack")


@pytest.fixture
def run(program: Path, tmp_path: Path, home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the installed command in an empty folder."""
    (elsewhere := tmp_path / "elsewhere").mkdir()

    def command(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        ours = {"EXPIRYTRACK_HOME": str(home), **{f"EXPIRYTRACK_{key.upper()}": text for key, text in settings.items()}}
        return subprocess.run(
            [str(program), *words], cwd=elsewhere, env=os.environ | ours, capture_output=True, text=True, check=False
        )

    return command


def test_the_source_distribution_is_whole(sdist: Path) -> None:
    """Everything of the package, what the wheel takes from the top, and what a person needs to build and test it."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= carried()
    assert names >= {
        "dagster.yaml",
        "workspace.yaml",
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "requirements.txt",
    }
    assert {name.partition("/")[0] for name in names}.isdisjoint({".venv", "dist", ".git"})
    assert {name for name in names if name.startswith("data/")} <= {"data/README.md"}


def test_the_wheel_carries_what_is_read_at_run_time(wheel: Path) -> None:
    """Every file of the package with its SQL, and Dagster's configuration, which lies at the top of the sources."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == carried() | FROM_THE_TOP
    assert any(name.endswith(".sql") for name in names)


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Name, version, Pythons and the summary are those of pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert (metadata["Name"], metadata["Version"]) == (project["name"], project["version"])
    assert metadata["Summary"] == project["description"]
    assert set(metadata["Requires-Python"].split(",")) == set(project["requires-python"].split(","))


def test_the_installed_command_works(
    run: Callable[..., subprocess.CompletedProcess[str]], program: Path, home: Path
) -> None:
    """Version, a new home, a collection through Dagster and its proof, with no file of the checkout."""
    shown = run("--version")
    assert (shown.returncode, shown.stdout.split()[0]) == (0, "expirytrack"), shown.stderr
    made = run("init", "--json")
    assert made.returncode == 0, made.stderr
    assert len(json.loads(made.stdout)["made"]) == 3
    with running(MARKET) as upstox:
        words = ("collect", "NIFTY", "--expiry", "2025-08-28", "--json")
        collected = run(*words, api_url=upstox.url, access_token="x")
    assert (collected.returncode, json.loads(collected.stdout)["complete"]) == (0, True), collected.stderr
    verified = run("verify")
    assert verified.returncode == 0, verified.stdout
    assert (home / "dagster" / "dagster.yaml").read_bytes() == (ROOT / "dagster.yaml").read_bytes()
    python = next(program.parent.glob("python*"))
    found = subprocess.run(
        [str(python), "-c", "import expirytrack_dagster as p; print(p.__file__)"],
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout).is_relative_to(program.parents[1])
