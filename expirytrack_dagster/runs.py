"""Run the assets from the command line: the same jobs, on the same instance, as the UI.

A run here is a Dagster run like any other and is seen in the UI; it happens in this process, so that progress can be
shown and its start costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

# The only way to ask for check results of partitions: Dagster 1.13 has no public name for the filter and the states.
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from expirytrack_dagster import partitions
from expirytrack_dagster.checks.specs import candles_checks, chain_checks, contracts_checks
from expirytrack_dagster.collect.leases import process_alive
from expirytrack_dagster.definitions import build_defs
from expirytrack_dagster.failures import EXIT_CODE_METADATA
from expirytrack_dagster.jobs import expiry_fetch, historical_data_fetch
from expirytrack_dagster.launcher import PROCESS_TAG
from expirytrack_dagster.processes import this_process
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.state import open_state
from expirytrack_dagster.upstox.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from expirytrack_dagster.collect.progress import ProgressSource

_CHECKS = [spec.key for spec in (*contracts_checks, *candles_checks, *chain_checks)]

# A terminal shows progress bars and one sentence; the events are in the UI.
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One check result, as the command line shows it."""

    asset: str
    name: str
    cell: str
    passed: bool
    summary: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run ended: `error` is one sentence when it failed."""

    run_id: str
    error: str | None
    exit_code: int
    checks: list[CheckLine] = field(default_factory=list)


class Runner:
    """Runs jobs on an instance, telling progress to whoever is given."""

    def __init__(self, instance: dg.DagsterInstance, progress: ProgressSource) -> None:
        """Build the definitions once for all runs."""
        self._instance = instance
        self._defs = build_defs(progress=progress)

    def discover(self, symbol: str) -> RunReport:
        """Materialize `expiries` of an underlying."""
        return self._run(expiry_fetch.name, symbol, symbol)

    def collect(self, symbol: str, expiry: str, *, refetch: bool = False) -> RunReport:
        """Materialize `contracts` and `candles` of a cell."""
        config = {"config": {"refetch": refetch}}
        return self._run(
            historical_data_fetch.name,
            partitions.cell_key(symbol, expiry),
            f"{symbol} {expiry}",
            {"contracts": config, "candles": config},
        )

    def launch(self, job: str, partition: str) -> RunReport:
        """Run one of the named jobs on a partition: a symbol, or a cell's key."""
        return self._run(job, partition, partition)

    def telling(self, cells: Iterable[tuple[str, date]]) -> set[tuple[str, date]]:
        """Return those of these cells that have a check which did not pass when it was last run, or was cut off."""
        keys: dict[str, tuple[str, date]] = {partitions.cell_key(cell[0], cell[1].isoformat()): cell for cell in cells}
        found = self._instance.event_log_storage.get_asset_check_partition_info(_CHECKS, partition_keys=[*keys])
        passed = AssetCheckExecutionRecordStatus.SUCCEEDED
        return {
            keys[info.partition_key]
            for info in found
            if info.partition_key and info.latest_execution_status is not passed
        }

    def recorded_checks(self, symbol: str, expiry: str) -> list[CheckLine] | None:
        """Return the last result of every check of a cell, whoever ran it; None when its last run was cut off."""
        key = partitions.cell_key(symbol, expiry)
        records = self._instance.event_log_storage.get_latest_asset_check_execution_by_key(
            _CHECKS, PartitionKeyFilter(key=key)
        )
        found = [records[check].evaluation for check in _CHECKS if check in records]
        # A run announces its checks when it starts: what a killed one leaves is the announcement.
        evaluations = [evaluation for evaluation in found if isinstance(evaluation, dg.AssetCheckEvaluation)]
        if len(evaluations) < len(found):
            return None
        return [_line(evaluation, f"{symbol} {expiry}") for evaluation in evaluations]

    def _run(self, job: str, partition: str, label: str, ops: dict[str, object] | None = None) -> RunReport:
        with open_state(load_settings()) as state, process_alive(state, SystemClock()):
            result = self._defs.resolve_job_def(job).execute_in_process(
                instance=self._instance,
                partition_key=partition,
                run_config={"ops": ops or {}, "loggers": _QUIET},
                tags={"expirytrack/started_by": "command line", PROCESS_TAG: this_process()},
                raise_on_error=False,
            )
        if _was_interrupted(result):
            raise KeyboardInterrupt  # Dagster takes Ctrl-C for a failure of the step; for us it ends everything
        checks = [_line(evaluation, label) for evaluation in result.get_asset_check_evaluations()]
        error, exit_code = _failure(result) if not result.success else (None, 0)
        return RunReport(result.run_id, error, exit_code, checks)


def _line(evaluation: dg.AssetCheckEvaluation, cell: str) -> CheckLine:
    return CheckLine(
        evaluation.asset_key.to_user_string(),
        evaluation.check_name,
        cell,
        evaluation.passed,
        evaluation.description or "",
    )


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(error is not None and error.cls_name == "DagsterExecutionInterruptedError" for error in errors)


def _failure(result: dg.ExecuteInProcessResult) -> tuple[str, int]:
    """Return the sentence and exit code of what made the run fail: our own failure, or an unexpected error."""
    errors = []
    for event in result.all_events:
        if event.is_step_failure:
            own = event.step_failure_data.user_failure_data
            if own is not None:
                code = own.metadata.get(EXIT_CODE_METADATA)
                return own.description or "The run failed.", (isinstance(code, dg.IntMetadataValue) and code.value) or 1
            errors.append(event.step_failure_data.error)
        elif event.is_job_failure:
            errors.append(event.job_failure_data.error)
    for error in errors:
        if error is not None:
            return f"Unexpected error: {(error.cause or error).message.strip()} Run {result.run_id} has the details.", 1
    return f"Run {result.run_id} failed: its log in the UI says why.", 1
