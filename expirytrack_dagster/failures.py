"""How a foreseeable error ends a Dagster run: with its one sentence, and with what the command line needs to know.

Assets and I/O managers raise errors of the tree; only this module turns them into Dagster's own.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from expirytrack_dagster.errors import ExpiryTrackError

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR_METADATA = "error"
EXIT_CODE_METADATA = "exit_code"


@contextmanager
def readable_failures() -> Iterator[None]:
    """Turn an error of the tree into a Dagster failure: its one sentence, no traceback of ours, no blind retry."""
    try:
        yield
    except ExpiryTrackError as error:
        raise dg.Failure(
            description=str(error),
            metadata={ERROR_METADATA: type(error).__name__, EXIT_CODE_METADATA: error.exit_code},
            allow_retries=error.retryable,
        ) from None
