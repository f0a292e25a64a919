"""Processes that use one vault at once, and rotations that are killed on the way."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from expirytrack_dagster.security.vault import open_vault
from expirytrack_dagster.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

VAULT = (
    "import sys; from expirytrack_dagster.settings import load_settings; "
    "from expirytrack_dagster.security.vault import open_vault; vault = open_vault(load_settings())\n"
)
ROTATE = VAULT + "print('ready', flush=True)\nwhile True: vault.rotate()"
PUT = VAULT + "for n in range(20): vault.put(f'{sys.argv[1]}-{n:02}', b'x')"


def start(home: Path, program: str, *words: str) -> subprocess.Popen[str]:
    """Start a process that uses the vault of this home."""
    environment = os.environ | {"EXPIRYTRACK_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-c", program, *words], env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_do_not_lose_each_others_entries(home: Path) -> None:
    """Twenty entries of each, put at the same time while a third process changes the keys, are all there."""
    settings = load_settings(home=home)
    open_vault(settings).put("token", b"one")
    rotating = start(home, ROTATE)
    writers = [start(home, PUT, name) for name in ("a", "b")]
    try:
        assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    finally:
        rotating.kill()
        for process in (rotating, *writers):
            process.communicate()
    expected = sorted([f"{name}-{n:02}" for name in "ab" for n in range(20)] + ["token"])
    assert open_vault(settings).names() == expected


def test_a_killed_rotation_loses_nothing(home: Path) -> None:
    """Killed at twelve moments, the vault opens each time and holds what it held; at most orphaned key files stay."""
    settings, chance = load_settings(home=home), random.Random(4)  # noqa: S311  -- moments, not secrets
    open_vault(settings).put("token", b"one")
    for _ in range(12):
        process = start(home, ROTATE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.05, 0.9))
        process.kill()
        process.communicate()
        assert open_vault(settings).get("token") == b"one"
    open_vault(settings).rotate()
    assert open_vault(settings).get("token") == b"one"
