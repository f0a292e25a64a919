"""Log lines for programs: JSON, one file below the home for all processes, with run, cell and contract.

Whatever any library logs through the standard library is in it, Dagster's and httpx's records included. People look at
the console, which shows what it showed before. What a line is about is bound with `about` and follows tasks and threads
that asyncio starts. Secrets are struck out of every finished line; libraries that may log one are not heard.

The file is shared by processes that write and rotate it at any time, so that there is one place to look at:
`docs/decisions/0091-one-log-file-for-all-processes.md`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, MutableMapping

    from concurrent_log_handler import ConcurrentRotatingFileHandler

    from expirytrack_dagster.settings import Settings

FILE = "expirytrack.jsonl"
STRUCK_OUT = "[secret]"

_HEARD = ("expirytrack_dagster", "dagster", "httpx")
"""Whose lines are written below a warning; other libraries tell headers of requests, or what nobody reads."""

_SHORTEST = 6  # characters; a shorter secret would be found in ordinary words
_TELLING = re.compile(r"(?i:\bbearer\s+)[\w.~+/=-]{8,}|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*|(?i:\bcode=)[\w.~-]{6,}")
_HINTS = ("earer", "EARER", "eyJ", "ode=", "ODE=")
"""A line without any of these holds nothing of that shape; to look for them takes a hundredth of the time."""

_RUN_KEYS = {"run_id": "run", "job_name": "job", "step_key": "step"}


def begin(settings: Settings, program: str) -> None:
    """Let this process write its log lines; a second call takes the place of the first.

    Args:
        settings: where, from which level on, and how much of them is kept.
        program: what writes, such as `daemon`.
    """
    end()
    if not settings.log_mb:
        return
    root = logging.getLogger()
    root.addHandler(JsonLines(settings, program))
    root.addHandler(_Warnings(logging.WARNING))
    root.setLevel(settings.log_level)


def end() -> None:
    """Write no more; the standard library then does what it does by itself."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, JsonLines | _Warnings)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.WARNING)


@contextmanager
def about(**subject: str) -> Iterator[None]:
    """Bind what the lines of the block are about: `run`, `cell`, `contract`."""
    from structlog import contextvars  # noqa: PLC0415 -- a quarter of a second that --help need not wait for

    before = contextvars.get_contextvars()
    contextvars.bind_contextvars(**subject)
    try:
        yield
    finally:
        # Not by tokens: Dagster may end a generator in another context than the one that began it.
        contextvars.unbind_contextvars(*(subject.keys() - before.keys()))
        contextvars.bind_contextvars(**{name: before[name] for name in subject.keys() & before.keys()})


class JsonLines(logging.Handler):
    """Writes a line of JSON to the file that all processes share; nothing is opened between two lines."""

    def __init__(self, settings: Settings, program: str) -> None:
        """Write from the settings' level on; the file is made with the first line."""
        super().__init__(settings.log_level)
        self._folder = settings.home / "logs"
        self._bytes, self._files = settings.log_mb << 20, settings.log_files
        self._program = program
        self._secrets = sorted(_secrets(settings), key=len, reverse=True)

    @cached_property
    def _written(self) -> ConcurrentRotatingFileHandler:
        from concurrent_log_handler import ConcurrentRotatingFileHandler  # noqa: PLC0415 -- with the first line

        self._folder.mkdir(mode=0o700, exist_ok=True)

        class Silent(ConcurrentRotatingFileHandler):
            def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- the standard library's name
                """Show people no traceback for a line that could not be written."""

        handler = Silent(
            str(self._folder / FILE),
            maxBytes=self._bytes,
            backupCount=self._files,
            encoding="utf-8",
            newline="",
            keep_file_open=False,
        )
        handler.setFormatter(_formatter(self._program, self.concealed))
        return handler

    def filter(self, record: logging.LogRecord) -> bool:
        """Take warnings and errors of all, and what is below them of a few."""
        heard = record.levelno >= logging.WARNING or record.name.partition(".")[0] in _HEARD
        return heard and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; what cannot be written is lost, and the work goes on. A line alone makes no home."""
        with suppress(OSError):
            if self._folder.parent.is_dir():
                self._written.emit(record)

    def close(self) -> None:
        """Close what the rotation keeps open."""
        if "_written" in self.__dict__:
            self._written.close()
        super().close()

    def concealed(self, line: str) -> str:
        """Return a line without the secrets of the settings, and without what has the shape of one."""
        for secret in self._secrets:
            line = line.replace(secret, STRUCK_OUT)
        return _TELLING.sub(STRUCK_OUT, line) if any(hint in line for hint in _HINTS) else line


class RunRecords(logging.Handler):
    """Takes the records of a Dagster run, which bypass the loggers of the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on, if this process writes log lines."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, JsonLines) and record.levelno >= handler.level:
                handler.handle(record)


class _Warnings(logging.StreamHandler[Any]):
    """Shows people the warnings that the standard library shows when nobody else listens to a logger."""

    def __init__(self, level: int) -> None:
        """Write to standard error as it is at the time, like the standard library's last resort."""
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> Any:
        """Standard error; tests exchange it."""
        return sys.stderr

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out what a logger of its own shows already, such as Dagster's."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and logger.parent is not None:
            if logger.handlers:
                return False
            logger = logger.parent
        return bool(super().filter(record))


def _secrets(settings: Settings) -> Iterable[str]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        text = value.get_secret_value().strip() if isinstance(value, SecretStr) else ""
        if len(text) >= _SHORTEST:
            yield from {text, msgspec.json.encode(text).decode()[1:-1]}


def _formatter(program: str, concealed: Callable[[str], str]) -> logging.Formatter:
    """Return what makes a line of a record: plain values, in an order in which they are read."""
    import structlog  # noqa: PLC0415 -- with the first line

    def of_process(_: object, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
        record: logging.LogRecord = event["_record"]
        meta = getattr(record, "dagster_meta", None) or {}
        run = {ours: meta[theirs] for theirs, ours in _RUN_KEYS.items() if meta.get(theirs)}
        return {"program": program, "pid": os.getpid(), **run, **event}

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.ExtraAdder(["metrics", "cell", "contract", "run"]),
        ],
        processors=[
            of_process,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # As text: a traceback with the values of variables would tell secrets.
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            _in_order,
            structlog.processors.JSONRenderer(_as_json),
            lambda _, __, line: concealed(str(line)),
        ],
    )


def _as_json(event: dict[str, Any], **_: object) -> str:
    """Return a line, in a third of the time of the standard library; what JSON does not know becomes text."""
    return msgspec.json.encode(event, enc_hook=str).decode()


_FIRST = ("timestamp", "level", "program", "pid", "run", "cell", "contract", "logger", "message")


def _in_order(_: object, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    return {name: event[name] for name in _FIRST if name in event} | dict(event)
