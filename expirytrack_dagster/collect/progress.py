"""What a collection tells about its progress while it works.

Only the contract between the collector and whoever shows it: bars of the command line are in `cli/`, log lines of a
Dagster run in `resources.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import logging

    from expirytrack_dagster.collect.contract import Answer


class Progress(Protocol):
    """Follows the contracts of one cell."""

    def begin(self, label: str, total: int) -> None:
        """Start: so many contracts have to be asked."""

    def advance(self, answer: Answer) -> None:
        """One more contract is answered."""

    def end(self) -> None:
        """Nothing more will come, for better or worse."""


class ProgressSource(Protocol):
    """Gives a follower to each cell: the run's log, or bars on a terminal."""

    def following(self, log: logging.Logger) -> Progress:
        """Return a follower for the next cell; `log` is the run's."""
        ...
