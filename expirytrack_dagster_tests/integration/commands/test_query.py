"""`expirytrack query` on the command line, and attacks that are typed where a symbol or a key belongs."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from expirytrack_dagster.cli import main
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import open_warehouse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

NUMBERS = "SELECT i AS number, 'a, \"b\"' AS text, TIMESTAMPTZ '2025-08-21 03:45:00+00' AS ts FROM range(250) r(i)"
INJECTIONS = ("'; DROP TABLE candles; --", "NIFTY' OR '1'='1", "../../etc", "NIFTY/../..", "NIFTY\0", "N" * 200)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `expirytrack WORDS` in this process: exit code, output, errors."""

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["expirytrack", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), told.out, told.err

    return command


def test_rows_are_printed_as_table_json_and_csv(run: Command) -> None:
    """A table is cut at a hundred rows and says so; JSON and CSV are whole unless told otherwise."""
    code, out, err = run("query", NUMBERS)
    assert (code, len(out.splitlines())) == (0, 101)
    assert "2025-08-21 03:45:00+00:00" in out
    assert err == "There are more rows: --limit shows some, --csv and --json all.\n"
    rows = json.loads(run("query", NUMBERS, "--json")[1])
    assert (len(rows), rows[7]) == (250, {"number": 7, "text": 'a, "b"', "ts": "2025-08-21 03:45:00+00:00"})
    assert len(json.loads(run("query", NUMBERS, "--json", "--limit", "3")[1])) == 3
    assert json.loads(run("query", "SELECT 1 LIMIT 0", "--json")[1]) == []
    lines = list(csv.reader(io.StringIO(run("query", NUMBERS, "--csv")[1])))
    assert (lines[0], len(lines), lines[1][1]) == (["number", "text", "ts"], 251, 'a, "b"')
    assert run("query", "SELECT 1", "--csv", "--json")[0] == 2


def test_a_query_that_writes_is_refused(run: Command) -> None:
    """Exit code 1 and one sentence."""
    code, out, err = run("query", "DELETE FROM candles")
    assert (code, out) == (1, "")
    assert err == "DELETE is not for reading: the archive is only read here, and nothing was changed.\n"


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize(
    "words",
    [("track",), ("untrack",), ("collect",), ("verify",), ("quarantine", "list"), ("quarantine", "discard")],
    ids=" ".join,
)
def test_sql_and_paths_for_a_symbol_are_refused(run: Command, home: Path, words: tuple[str, ...], text: str) -> None:
    """Before anything is asked or written."""
    code, out, err = run(*words, text)
    assert (code, out) == (1, "")
    assert "is no symbol" in err
    assert err.count("\n") == 1
    assert not home.exists()


@pytest.mark.parametrize("text", INJECTIONS[:5])
def test_sql_and_paths_for_a_key_are_refused(run: Command, text: str) -> None:
    """A key is of the documented form, or matches nothing; the tables are all there."""
    code, out, err = run("track", "NIFTY", "--key", text)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert run("quarantine", "list", "NIFTY", "--key", text)[1] == "Nothing in quarantine matches.\n"
    assert run("quarantine", "discard", "NIFTY", "--key", text, "--yes")[0] == 0
    with open_warehouse(load_settings()).reading() as connection:
        assert connection.execute("SELECT count(*) FROM candles").fetchone() == (0,)
