"""Work that is timed, and the figure that says so beside its bar."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from expirytrack_dagster_tests.bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that some work takes, and what it returns."""
    began = time.perf_counter()
    answer = work()
    return time.perf_counter() - began, answer


def within(name: str, seconds: float, bar: float, note: str) -> Figure:
    """Return a figure of seconds that have a bar in seconds."""
    return Figure(
        name=name,
        value=1000 * seconds,
        unit="ms",
        bar=f"<= {1000 * bar:,.0f} ms",
        passed=seconds <= bar,
        note=note,
    )
