"""Statements in words for tests that look behind the product: `?` stands for a value, on either engine."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import TextClause


def sql(words: str, *values: Any) -> TextClause:
    """Return a statement of these words with its values bound."""
    numbers = count()
    named = "".join(f":v{next(numbers)}" if letter == "?" else letter for letter in words)
    return text(named).bindparams(**{f"v{number}": value for number, value in enumerate(values)})
