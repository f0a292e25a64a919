"""A machine that works by itself: schedules and sensors are asked, and what they request is run in order of priority.

The daemon cannot follow an injected clock, so this takes its place: the real definitions on a real instance, their
ticks evaluated as the daemon does, run keys honoured, runs executed one after another. Nothing else is touched.
"""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from expirytrack_dagster.backfill import track
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.instance import open_instance
from expirytrack_dagster.ist import IST
from expirytrack_dagster.resources import UpstoxResource
from expirytrack_dagster.sandbox.running import running
from expirytrack_dagster.sandbox.synthetic import SyntheticMarket
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from expirytrack_dagster.sandbox.running import Running
    from expirytrack_dagster.settings import Settings


QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class NightClock:
    """A clock that a test sets; it goes on by a millisecond at each look, so that no two moments are the same."""

    def __init__(self) -> None:
        """Begin long ago."""
        self.seconds = 0.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        self.seconds += 0.001
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.seconds += seconds

    def set(self, moment: datetime) -> None:
        """Move to a moment; never back."""
        assert moment.timestamp() >= self.seconds
        self.seconds = moment.timestamp()


CLOCK = NightClock()


class NightUpstox(UpstoxResource):
    """The API by the clock of the night."""

    def clock(self) -> NightClock:
        """Return the one clock of the test; Dagster copies resources, so it lies in the module."""
        return CLOCK


class RollingMarket(SyntheticMarket):
    """A market whose list reaches back a number of days, by the clock of the night."""

    reach = 9

    @property
    def today(self) -> date:
        """Return the day in India."""
        return datetime.fromtimestamp(CLOCK.seconds, IST).date()

    def expiries(self, underlying_key: str) -> list[date] | None:
        """Return what is listed today."""
        listed = super().expiries(underlying_key)
        return None if listed is None else [day for day in listed if (self.today - day).days <= self.reach]


def india(day: int, hour: int, minute: int = 0) -> datetime:
    """Return a moment of October 2024 in India."""
    return datetime(2024, 10, day, hour, minute, tzinfo=IST)


def token_until(dies: datetime) -> str:
    """Return a token that says when it dies, as Upstox's do."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": int(dies.timestamp())}).encode()).decode().rstrip("=")
    return f"e30.{claims}.{int(dies.timestamp())}"


@dataclass
class Machine:
    """An always-on machine; `runs` are (job, partition, success) in the order of execution, `failures` say why."""

    settings: Settings
    instance: dg.DagsterInstance
    upstox: Running
    defs: dg.Definitions
    runs: list[tuple[str, str, bool]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    used_keys: set[str] = field(default_factory=set)
    cursors: dict[str, str | None] = field(default_factory=dict)

    @property
    def resources(self) -> dict[str, Any]:
        """Return the resources of the definitions."""
        return dict(self.defs.resources or {})

    def schedule(self, name: str) -> dg.SkipReason | int:
        """Evaluate a schedule now and run what it requests; return how many runs, or why none."""
        context = dg.build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=datetime.fromtimestamp(CLOCK.seconds, UTC),
            resources=self.resources,
            repository_def=self.defs.get_repository_def(),
        )
        with context:
            tick = self.defs.resolve_schedule_def(name).evaluate_tick(context)
        return self._run(tick)

    def sensor(self, name: str) -> dg.SkipReason | int:
        """Evaluate a sensor now and run what it requests; return how many runs, or why none."""
        return self._run(self._tick(name))

    def sensor_events(self, name: str) -> list[Any]:
        """Evaluate a sensor now and return the events that it reports."""
        return list(self._tick(name).asset_events)

    def sensor_until_idle(self, name: str) -> dg.SkipReason:
        """Evaluate a sensor again and again until it skips, and return why."""
        for _ in range(50):
            outcome = self.sensor(name)
            if isinstance(outcome, dg.SkipReason):
                return outcome
            CLOCK.seconds += 60
        raise AssertionError(f"{name} did not come to rest")

    def table(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the archive's answer to a query."""
        with Warehouse(self.settings.database).reading() as connection:
            return connection.execute(sql).fetchall()

    def _tick(self, name: str) -> Any:
        context = dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.instance.get_ref(),
            cursor=self.cursors.get(name),
            resources=self.resources,
            repository_def=self.defs.get_repository_def(),
        )
        with context:
            tick = self.defs.resolve_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = tick.cursor
        return tick

    def _run(self, tick: Any) -> dg.SkipReason | int:
        requests = [request for request in tick.run_requests or [] if request.run_key not in self.used_keys]
        if not requests:
            return dg.SkipReason(tick.skip_message or "every run key was used before")
        self.used_keys |= {request.run_key for request in requests}
        for request in sorted(requests, key=lambda request: -int(request.tags["dagster/priority"])):
            name = request.job_name or ("expiry_fetch" if "|" not in request.partition_key else "historical_data_fetch")
            result = self.defs.resolve_job_def(name).execute_in_process(
                instance=self.instance,
                partition_key=request.partition_key,
                tags={key: value for key, value in request.tags.items() if not key.startswith("dagster/partition")},
                run_config=QUIET,
                raise_on_error=False,
            )
            self.runs.append((name, request.partition_key, result.success))
            for failure in result.get_step_failure_events():
                own = failure.step_failure_data.user_failure_data
                told = own.description if own else str(failure.step_failure_data.error)[:2000]
                self.failures.append(f"{request.partition_key}: {told}")
        return len(requests)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    """Return a function that sets up a machine with some tracked underlyings at a moment."""
    opened = ExitStack()

    def start(moment: datetime, symbols: list[str], token: str, market: SyntheticMarket | None = None) -> Machine:
        CLOCK.seconds = moment.timestamp()
        upstox = opened.enter_context(running(market or RollingMarket(strikes=1, days=1), limits=()))
        monkeypatch.setenv("EXPIRYTRACK_API_URL", upstox.url)
        monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", token)
        monkeypatch.setenv("EXPIRYTRACK_WORKERS", "1")
        settings = load_settings()
        ready = Machine(
            settings, opened.enter_context(open_instance(settings)), upstox, build_defs(upstox=NightUpstox())
        )
        for symbol in symbols:
            track(settings, ready.instance, symbol)
        return ready

    with opened:
        yield start
