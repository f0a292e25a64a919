"""The pages of the reference, each made from the code that it describes, so that none can go out of date.

To add a page: a function that returns its Markdown, in `PAGES` under its path, and that path in `zensical.toml`.
What is said by hand and not by code belongs into `docs/`.
"""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import typer
from pydantic_core import PydanticUndefined

from expirytrack_dagster import archive, errors
from expirytrack_dagster.cli import app
from expirytrack_dagster.settings import PREFIX, PROFILES, Settings, allowed
from expirytrack_dagster.upstox.error_codes import ERROR_CODES
from expirytrack_dagster.warehouse.migrate import migrate, migrations
from expirytrack_dagster_tests.docsite.advice import ADVICE
from expirytrack_dagster_tests.docsite.markdown import code, one_line, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dagster as dg

_GENERATED = "<!-- Made by `make docs` from the code; edit the code, not this page. -->\n\n"


def settings_page() -> str:
    """Every setting: its variable, its default, its bounds and its sentence."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is PydanticUndefined else _default(field.default)
        rows.append((code(PREFIX + name.upper()), code(default), allowed(field), field.description or ""))
    profiles = [
        (code(name), ", ".join(f"`{key}` = `{value}`" for key, value in values.items()) or "the defaults below")
        for name, values in PROFILES.items()
    ]
    return (
        "# Settings\n\nWhere a value comes from, and what files look like, is told by "
        "[Change settings](../settings.md); `expirytrack config show` has the values of this machine.\n\n"
        + table(("profile", "sets"), profiles)
        + "\n"
        + table(("variable", "default", "allowed", "what"), rows)
    )


def _default(value: object) -> str:
    if value is None or value in ((), ""):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def commands_page() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    root: Any = typer.main.get_command(app)
    text = (
        f"# Commands\n\n{root.help}\n\nExit codes: 0 done and complete, 1 an error, 2 wrong usage, 3 finished but not "
        "complete, 4 no valid token or no Plus plan.\n\n"
    )
    for path, command, context in _commands(root, typer.Context(root, info_name="expirytrack")):
        text += f"## {path}\n\n{one_line(command.help or inspect.getdoc(command.callback))}\n\n"
        usage = " ".join([path, *command.collect_usage_pieces(context)])
        text += f"```text\n{usage}\n```\n\n"
        records = [record for param in command.params if (record := param.get_help_record(context))]
        if records:
            text += table(("argument or option", "what"), [(code(name), what) for name, what in records]) + "\n"
    return text


def _commands(group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    for name, command in sorted(group.commands.items()):
        inner = typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from _commands(command, inner)
        else:
            yield inner.command_path, command, inner


def tables_page() -> str:
    """Every table of the archive with its columns, from the comments in its schema."""
    text = (
        "# Tables and views\n\nWhat the archive's DuckDB file holds; the reader in Python has the same. Times are UTC, "
        "the start of a bar; volume and open interest are units of the underlying, not lots.\n\n"
    )
    with duckdb.connect() as memory:
        migrate(memory, Path("the archive"))
        for name, comment in memory.execute(
            "SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal ORDER BY 1"
        ).fetchall():
            columns = memory.execute(
                "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? "
                "ORDER BY column_index",
                [name],
            ).fetchall()
            rows = [(code(column), code(kind), what or "") for column, kind, what in columns]
            text += f"## {name}\n\n{comment}\n\n" + table(("column", "type", "what"), rows) + "\n"
        views = memory.execute(
            "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal ORDER BY view_name"
        ).fetchall()
    text += "## Views\n\n" + table(("view", "what"), [(code(name), what) for name, what in views])
    return text


def macros_page() -> str:
    """Every macro with the comment above it in the migration that made it last."""
    found: dict[str, tuple[str, str]] = {}
    for step in migrations():
        for comment, name, arguments in re.findall(
            r"((?:^-- .*\n)+)CREATE (?:OR REPLACE )?MACRO (\w+)\(([^)]*)\)", step.sql, re.MULTILINE
        ):
            found[name] = (arguments, " ".join(line.removeprefix("-- ") for line in comment.splitlines()))
    text = "# Macros\n\nQuestions by name, in SQL. [Asking the archive](../queries.md) shows each of them at work.\n\n"
    return text + table(("macro", "what"), [(code(f"{name}({args})"), what) for name, (args, what) in found.items()])


def python_page() -> str:
    """Every function of the reader in Python."""
    text = f"# The reader in Python\n\n{_prose(archive.__doc__)}\n"
    for name, member in vars(archive).items():
        if inspect.isfunction(member) and member.__module__ == archive.__name__ and not name.startswith("_"):
            signature = re.sub(r"'(?=[^']*')|(?<=\w)'", "", str(inspect.signature(member)))
            text += f"\n## {name}\n\n```text\n{name}{signature}\n```\n\n{_prose(inspect.getdoc(member))}\n"
    return text


def _prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: its sections become lists, its examples code."""
    lines = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        if line in {"Args:", "Raises:", "Returns:"}:
            lines.append(f"**{line.removesuffix(':')}**\n")
        elif entry := re.match(r"    (\w+): (.*)", line):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def assets_page() -> str:
    """Every asset with its checks, every job, schedule and sensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from expirytrack_dagster.definitions import build_defs  # noqa: PLC0415 -- Dagster takes seconds to import

        graph = (defs := build_defs()).get_repository_def().asset_graph
    text = "# Assets, checks and jobs\n\nWhat the Dagster UI shows, and what each part promises.\n"
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        parents = ", ".join(f"`{parent.to_user_string()}`" for parent in sorted(node.parent_keys)) or "the API"
        text += (
            f"\n## {key.to_user_string()}\n\n{one_line(node.description)}\n\nMade from {parents}, by {_grid(node)}.\n"
        )
        checks = sorted((check for check in graph.asset_check_keys if check.asset_key == key), key=lambda c: c.name)
        if checks:
            rows = [(code(check.name), one_line(graph.get_check_spec(check).description)) for check in checks]
            text += "\n" + table(("check", "what it says"), rows)
    running: list[tuple[str, str, str]] = [
        (code(job.name), "job", one_line(job.description)) for job in defs.jobs or [] if job.description
    ]
    schedules: Any = defs.schedules or []
    running += [
        (code(each.name), f"schedule, `{each.cron_schedule}`", one_line(each.description)) for each in schedules
    ]
    sensors: Any = defs.sensors or []
    running += [
        (code(each.name), f"sensor, every {each.minimum_interval_seconds or 30} s", one_line(each.description))
        for each in sensors
    ]
    return text + "\n## Jobs, schedules and sensors\n\n" + table(("name", "kind", "what"), running)


def _grid(node: dg.AssetNode | Any) -> str:
    kind = type(node.partitions_def).__name__
    return {"MultiPartitionsDefinition": "underlying and expiry", "NoneType": "the archive as a whole"}.get(
        kind, "underlying"
    )


def errors_page() -> str:
    """Every error with what to do about it, and every code of Upstox that is known."""
    text = (
        "# Errors, and what to do\n\nEvery error is one sentence that says what happened and what to do; here is what "
        "to do about each kind.\n"
    )
    for branch, meaning in _BRANCHES.items():
        rows = []
        for error in leaves():
            if issubclass(error, branch):
                again = " Tried again." if error.retryable and branch is not errors.RecoverableError else ""
                rows.append(
                    (code(error.__name__), error.exit_code, one_line(error.__doc__) + again, ADVICE[error.__name__])
                )
        text += f"\n## {branch.__name__.removesuffix('Error')}\n\n{meaning}\n\n"
        text += table(("error", "exit", "what happened", "what to do"), rows)
    text += "\n## Codes of Upstox\n\n"
    known = [(code(number), code(kind.__name__), sentence) for number, (kind, sentence) in sorted(ERROR_CODES.items())]
    return text + table(("code", "becomes", "what it says, and what to do"), known)


def leaves() -> list[type[errors.ExpiryTrackError]]:
    """Return the errors that are raised, in the order of the tree: all but the base and its branches."""
    abstract = {"ExpiryTrackError", "RecoverableError", "StateBusy", "PartialError", "CriticalError"}
    known = [member for name, member in vars(errors).items() if inspect.isclass(member) and name not in abstract]
    return [error for error in known if issubclass(error, errors.ExpiryTrackError)]


_BRANCHES = {
    errors.RecoverableError: "Tried again with growing pauses; it becomes an error of yours only if it stays.",
    errors.PartialError: "Something is missing or unfit, and the rest goes on.",
    errors.CriticalError: "The run stops at once, and what has arrived is kept.",
}

PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
    "reference/tables.md": tables_page,
    "reference/macros.md": macros_page,
    "reference/python.md": python_page,
    "reference/assets.md": assets_page,
    "reference/errors.md": errors_page,
}
"""Paths below `docs/` and what makes them."""


def write(folder: Path) -> None:
    """Write every page of the reference below a folder."""
    for path, page in PAGES.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_GENERATED + page(), encoding="utf-8")
