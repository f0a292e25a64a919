"""Secrets that a person gives: at a hidden prompt, or line by line on standard input where nobody sits.

Nothing typed is shown or quoted; what a secret is good for is up to the command that asks.
"""

from __future__ import annotations

import getpass
import sys

from expirytrack_dagster.errors import ConfigurationError


def asked(question: str) -> str:
    """Return a secret.

    Raises:
        ConfigurationError: nothing was given.
    """
    try:
        answer = getpass.getpass(question) if sys.stdin.isatty() else sys.stdin.readline()
    except EOFError:
        answer = ""
    answer = answer.rstrip("\r\n")
    if not answer.strip():
        raise ConfigurationError("Nothing was given: nothing was changed.")
    return answer


def asked_twice(question: str) -> str:
    """Return a new secret, given twice so that it is not mistyped.

    Raises:
        ConfigurationError: nothing was given, or not the same twice.
    """
    first = asked(question)
    if asked("The same again: ") != first:
        raise ConfigurationError("The two are not the same: nothing was changed.")
    return first
