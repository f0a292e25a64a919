"""The validation report of one cell: what was received, what became of it, and what to do.

It is written from the verdict alone, before the cell is stored: as Markdown for the asset's metadata, and as JSON on
disk for programs and for a cell that was refused. Judging belongs to `verdict.py` and `quality/`.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expirytrack_dagster.collect.states import State
from expirytrack_dagster.errors import DiskFull, StorageError
from expirytrack_dagster.quality.outcome import plural

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from expirytrack_dagster.collect.verdict import CellVerdict
    from expirytrack_dagster.quality.outcome import CheckOutcome

EXAMPLES = 3
"""Failing rows shown for each rule."""

_ROWS = {
    "received": "rows_received",
    "candles": "dagster/partition_row_count",
    "quarantined": "quarantined",
    "duplicates": "exact_duplicates",
    "discarded": "discarded_in_review",
}
_BECAME = {
    "candles": "candles",
    "quarantined": "in quarantine",
    "duplicates": "exact duplicates",
    "discarded": "discarded in review",
}
_STATES = (*State, "unasked")


@dataclass(frozen=True, slots=True)
class CellReport:
    """A verdict with its cell (`expiry` an ISO date), its run, and when it was reached (UTC)."""

    underlying: str
    expiry: str
    run_id: str
    judged_at: datetime
    verdict: CellVerdict

    @property
    def todo(self) -> list[str]:
        """Sentences on what to do, the most pressing first; empty when nothing is."""
        collect = f"expirytrack collect {self.underlying} --expiry {self.expiry}"
        review = f"expirytrack quarantine list {self.underlying} --expiry {self.expiry}"
        numbers = self.verdict.numbers
        sentences = []
        if self.verdict.unfit is not None:
            sentences.append(
                f"The cell was not written ({self.verdict.unfit.name}): run `{collect} --refetch`, or raise "
                "EXPIRYTRACK_QUARANTINE_THRESHOLD to take it as it is."
            )
        elif numbers["completeness_percent"] < 100:  # noqa: PLR2004 -- per cent
            sentences.append(f"Contracts are missing: run `{collect}`, only these are asked.")
        if numbers["quarantined"]:
            sentences.append(f"Look at the rows in quarantine: `{review}`, then release or discard them.")
        if numbers["minutes_missing_across_chain"]:
            sentences.append(f"Minutes are missing across the chain: run `{collect} --refetch` if they matter.")
        return sentences

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        numbers = self.verdict.numbers
        return {
            "underlying": self.underlying,
            "expiry": self.expiry,
            "run_id": self.run_id,
            "judged_at": self.judged_at.isoformat(timespec="seconds"),
            "fit": self.verdict.unfit is None,
            "rows": {name: int(numbers[key]) for name, key in _ROWS.items()},
            "contracts": int(numbers["contracts"]),
            "states": {str(state): int(numbers[str(state)]) for state in _STATES},
            "compared_with_days": int(numbers["compared_with_days"]),
            "agreed_with_days_percent": numbers.get("agreed_with_days_percent"),
            "sessions": self.verdict.sessions.to_dict(orient="records"),
            "checks": [
                {
                    "name": outcome.name,
                    "passed": outcome.passed,
                    "fatal": outcome.fatal,
                    "summary": outcome.summary,
                    "counts": outcome.counts,
                    "examples": _examples(outcome),
                }
                for outcome in self.verdict.outcomes
            ],
            "todo": self.todo,
        }

    def as_markdown(self) -> str:
        """Return the report for people, about a screen long."""
        numbers = self.verdict.numbers
        rows = {name: f"{int(numbers[key]):,}" for name, key in _ROWS.items()}
        states = [f"{int(numbers[str(state)]):,} {str(state).replace('_', ' ')}" for state in _STATES]
        present = [text for text, state in zip(states, _STATES, strict=True) if numbers[str(state)]]
        parts = [
            f"### {self.underlying} {self.expiry}",
            f"**Rows** {rows['received']} received = "
            + " + ".join(f"{rows[name]} {words}" for name, words in _BECAME.items()),
            f"**Contracts** {int(numbers['contracts']):,} listed = {' + '.join(present) or 'none'}",
            f"**Proof by daily candles** {self._proofs()}",
            f"**Sessions** {self._sessions()}",
            _table(
                ("", "check", "what was found"),
                [(_mark(outcome), f"`{outcome.name}`", outcome.summary) for outcome in self.verdict.outcomes],
            ),
        ]
        for outcome in self.verdict.outcomes:
            examples = _examples(outcome)
            if examples:
                parts += [
                    f"**`{outcome.name}`**: {len(examples)} of the failing rows",
                    _table(tuple(examples[0]), [tuple(row.values()) for row in examples]),
                ]
        parts.append("**What to do** " + (" ".join(self.todo) or "Nothing."))
        return "\n\n".join(parts)

    def save(self, folder: Path) -> Path:
        """Write `SYMBOL/EXPIRY.json` below the folder, whole or not at all, and return its path.

        Raises:
            DiskFull: there is no room.
            StorageError: the folder cannot be written.
        """
        path = folder / self.underlying / f"{self.expiry}.json"
        unfinished = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFull(
                    f"No room is left for {path}: free some space and run again, nothing is lost."
                ) from error
            raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
        return path

    def _proofs(self) -> str:
        """Say how many contracts were compared with daily candles, and how many of these agreed."""
        compared = int(self.verdict.numbers["compared_with_days"])
        if not compared:
            return "no contract was compared"
        share = self.verdict.numbers["agreed_with_days_percent"]
        return f"{plural(compared, 'contract')} compared, {share:g} % agree"

    def _sessions(self) -> str:
        """Say how many sessions there are, by length, and in which of them minutes are missing."""
        sessions = self.verdict.sessions
        if sessions.empty:
            return "none: no contract traded"
        lengths = sessions["minutes"].value_counts().sort_index(ascending=False)
        by_length = ", ".join(f"{count:,} of {minutes:,} minutes" for minutes, count in lengths.head(EXAMPLES).items())
        more = f" and {plural(len(lengths) - EXAMPLES, 'other length')}" if len(lengths) > EXAMPLES else ""
        gaps = sessions[sessions["missing"] > 0]
        named = ", ".join(f"{day} ({missing:,})" for day, missing in zip(gaps["day"], gaps["missing"], strict=True))
        first, last = sessions["day"].iloc[0], sessions["day"].iloc[-1]
        text = f"{len(sessions):,} from {first} to {last}: {by_length}{more}"
        return f"{text}; minutes missing across the chain on {named}" if named else text


def _mark(outcome: CheckOutcome) -> str:
    if outcome.passed:
        return "pass"
    return "**FAIL**" if outcome.fatal else "warning"


def _examples(outcome: CheckOutcome) -> list[dict[str, Any]]:
    if outcome.passed:
        return []
    head = outcome.failing.head(EXAMPLES).astype(object)
    rows = head.where(head.notna(), None).to_dict(orient="records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: object) -> object:
    """Return what JSON knows: numbers stay numbers, anything else that is not text becomes text."""
    if hasattr(value, "item"):
        value = value.item()
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Lay out a Markdown table; a bar in a cell (instrument keys have two) would end it, so it is escaped."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
