"""What `expirytrack verify` proves, without a request: the whole archive, or one cell for the Dagster job.

The questions are `warehouse/verify.py`, sessions are judged by `quality/continuity.py`; here the answers become
findings: how bad each is, in words, and what to do about it. Nothing is changed, and nothing of Dagster is known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.quality.continuity import assess_continuity
from expirytrack_dagster.quality.outcome import plural
from expirytrack_dagster.warehouse.verify import Fact, Snapshot, Totals, underlyings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date
    from pathlib import Path

    from expirytrack_dagster.warehouse.connection import Warehouse


class Severity(StrEnum):
    """How bad a finding is: the first two mean that the archive is not proven."""

    CONTRADICTION = "contradiction"
    MISSING = "missing"
    WARNING = "warning"
    NOTE = "note"


UNPROVEN = frozenset({Severity.CONTRADICTION, Severity.MISSING})


class Meaning(NamedTuple):
    """What a kind of fact means: `words` follow the number of `noun`s, `advice` names the cell's symbol and date."""

    severity: Severity
    noun: str
    words: str
    advice: str


_COLLECT = "Run: expirytrack collect {symbol} --expiry {expiry}"
_REFETCH = "Run: expirytrack collect {symbol} --expiry {expiry} --refetch"
_RESTORE = "Restore a backup: no run leaves this behind"
_BAD, _GAP, _WARN, _NOTE = Severity.CONTRADICTION, Severity.MISSING, Severity.WARNING, Severity.NOTE

MEANINGS = {
    "unasked": Meaning(_GAP, "contract", "listed and never asked for", _COLLECT),
    "unfinished": Meaning(_GAP, "contract", "partial, refused or failed", _COLLECT),
    "unsealed": Meaning(_GAP, "contract", "finished, but the cell is not sealed", _COLLECT),
    "counts": Meaning(_BAD, "contract", "whose candles are not those that its state counts", _REFETCH),
    "quarantine_counts": Meaning(_BAD, "contract", "whose bad rows are not those that its state counts", _REFETCH),
    "received": Meaning(_BAD, "contract", "whose rows received are not all accounted for", _REFETCH),
    "duplicates": Meaning(_BAD, "candle", "stored twice or more (contract and minute)", _REFETCH),
    "order": Meaning(_BAD, "contract", "not stored in one piece in ascending time", _REFETCH),
    "after_expiry": Meaning(_BAD, "candle", "after the expiry", _REFETCH),
    "orphan_rows": Meaning(_BAD, "row", "of contracts that are neither listed nor have a state", _RESTORE),
    "no_expiry": Meaning(_BAD, "contract", "of a date that is not among the expiries", _RESTORE),
    "seal": Meaning(_BAD, "cell", "not as it was sealed", _REFETCH),
    "missing_minutes": Meaning(_WARN, "minute", "missing across the chain", f"{_REFETCH}, if they matter"),
    "withdrawn": Meaning(
        _WARN, "contract", "held that the API lists no more", "Nothing to do: what was collected is kept"
    ),
    "staged": Meaning(_WARN, "batch", "staged and not in the archive: a run is under way or was stopped", _COLLECT),
    "uncollected": Meaning(
        _NOTE, "cell", "listed and not collected yet", "Run, if they are wanted: expirytrack collect {symbol}"
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the result; `found` and `advice` are sentences without a full stop."""

    kind: str
    severity: Severity
    underlying: str
    expiry: str
    count: int
    found: str
    advice: str


@dataclass(slots=True)
class Verification:
    """What was looked at, and what is not as it should be, the worst first."""

    totals: Totals = field(default_factory=Totals)
    findings: list[Finding] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Nothing is missing and nothing contradicts."""
        return not any(finding.severity in UNPROVEN for finding in self.findings)

    @property
    def summary(self) -> str:
        """One sentence."""
        totals = self.totals
        looked = (
            f"{totals.sealed:,} of {plural(totals.cells, 'listed cell')} sealed, "
            f"{plural(totals.contracts, 'contract')}, {plural(totals.candles, 'candle')}, "
            f"{plural(totals.quarantined, 'row')} in quarantine"
        )
        if self.proven:
            return f"Proven: every listed contract is accounted for and every row is where the books say ({looked})."
        bad = sum(finding.severity is Severity.CONTRADICTION for finding in self.findings)
        gaps = sum(finding.severity is Severity.MISSING for finding in self.findings)
        words = [plural(bad, "contradiction")] if bad else []
        words += [plural(gaps, "gap")] if gaps else []
        return f"Not proven: {' and '.join(words)} ({looked})."


def verify_archive(
    warehouse: Warehouse,
    staging: Path,
    symbol: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Verification:
    """Prove every cell of the archive, or of one underlying.

    Each underlying is read in one snapshot. Memory is that of a row a contract, not of the candles.

    Args:
        warehouse: the archive.
        staging: folder of staged batches.
        symbol: only this underlying.
        progress: told how many candles are done, and how many there are.

    Raises:
        ConfigurationError: the archive knows nothing of the symbol.
        StorageError: also DatabaseCorrupt; the file cannot be read.
    """
    sizes = underlyings(warehouse)
    if symbol is not None and symbol not in sizes:
        known = ", ".join(sizes) or "nothing yet"
        raise ConfigurationError(f"The archive has nothing of {symbol}: it holds {known}.")
    result = Verification()
    wanted = [symbol] if symbol else list(sizes)
    total, done = sum(sizes[name] for name in wanted), 0
    for name in wanted:
        for candles in _prove(warehouse, name, None, result):
            done += candles
            progress(done, total)
    result.findings += [finding for finding in _leftovers(staging) if symbol is None or finding.underlying == symbol]
    result.findings.sort(key=_weight)
    return result


def verify_cell(warehouse: Warehouse, underlying: str, expiry: date) -> Verification:
    """Prove one cell; what is staged for it is not looked at.

    Raises:
        StorageError: also DatabaseCorrupt; the file cannot be read.
    """
    result = Verification()
    for _ in _prove(warehouse, underlying, expiry, result):
        pass
    result.findings.sort(key=_weight)
    return result


def _prove(warehouse: Warehouse, underlying: str, expiry: date | None, result: Verification) -> Iterator[int]:
    """Add to the result; yield how many candles were read since."""
    with warehouse.reading() as connection:
        snapshot = Snapshot(connection, underlying, expiry)
        for day, candles in snapshot.cells().items():
            missing = assess_continuity(snapshot.read(day)).missing["ts"]
            if len(missing):
                first = missing.iloc[0].tz_convert("Asia/Kolkata").strftime("%Y-%m-%d %H:%M IST")
                result.findings.append(_finding(Fact("missing_minutes", underlying, day, len(missing), first)))
            yield candles
        result.totals += snapshot.totals()
        result.findings += [_finding(fact) for fact in snapshot.facts()]


def _finding(fact: Fact) -> Finding:
    meaning = MEANINGS[fact.kind]
    example = f", such as {fact.example}" if fact.example else ""
    return Finding(
        kind=fact.kind,
        severity=meaning.severity,
        underlying=fact.underlying,
        expiry=str(fact.expiry or ""),
        count=fact.count,
        found=f"{plural(fact.count, meaning.noun)} {meaning.words}{example}",
        advice=meaning.advice.format(symbol=fact.underlying, expiry=fact.expiry),
    )


def _leftovers(staging: Path) -> Iterator[Finding]:
    """Yield the cells with batches on disk; a cell's folder is staging/SYMBOL/EXPIRY."""
    for folder in sorted(staging.glob("*/*/")):
        files = len(list(folder.glob("batch-*.parquet")))
        if files:
            meaning = MEANINGS["staged"]
            symbol, day = folder.parent.name, folder.name
            batches = f"{files:,} batch" if files == 1 else f"{files:,} batches"
            yield Finding(
                "staged",
                meaning.severity,
                symbol,
                day,
                files,
                f"{batches} {meaning.words}",
                meaning.advice.format(symbol=symbol, expiry=day),
            )


def _weight(finding: Finding) -> tuple[int, str, str]:
    return list(Severity).index(finding.severity), finding.underlying, finding.expiry
