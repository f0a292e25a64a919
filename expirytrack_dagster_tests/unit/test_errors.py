"""The exception tree: what the module draws is what there is, and every leaf says whether and how to go on."""

from __future__ import annotations

import inspect
import re

import pytest

from expirytrack_dagster import errors
from expirytrack_dagster.errors import ExpiryTrackError

CLASSES = {name: cls for name, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ExpiryTrackError)}


def drawn() -> dict[str, tuple[str | None, str]]:
    """Return each drawn class with the class under which it is drawn and the words beside it."""
    tree: dict[str, tuple[str | None, str]] = {}
    above: list[tuple[int, str]] = []
    for line in str(errors.__doc__).splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(?:\s{2,}(.*))?$", line)
        if match is None:
            continue
        depth = len(match[1])
        above = [entry for entry in above if entry[0] < depth]
        tree[match[2]] = (above[-1][1] if above else None, match[3] or "")
        above.append((depth, match[2]))
    return tree


def test_the_drawing_is_the_tree() -> None:
    """Every class is drawn once, under its own base."""
    bases = {name: None if cls is ExpiryTrackError else cls.__bases__[0].__name__ for name, cls in CLASSES.items()}
    assert {name: base for name, (base, _) in drawn().items()} == bases


def test_the_drawing_tells_what_may_be_retried() -> None:
    """The recoverable branch may be tried again; elsewhere only an archive that is locked or does not answer."""
    retryable = {name for name, cls in CLASSES.items() if cls.retryable}
    assert "retryable" in drawn()["RecoverableError"][1]
    recoverable = {name for name, cls in CLASSES.items() if issubclass(cls, errors.RecoverableError)}
    assert retryable == recoverable | {"DatabaseLocked", "DatabaseUnreachable"}


@pytest.mark.parametrize(("name", "cls"), CLASSES.items(), ids=CLASSES)
def test_every_exit_code_is_that_of_its_branch(name: str, cls: type[ExpiryTrackError]) -> None:
    """4 for the account, 3 for what is partial, 1 for everything else."""
    expected = 4 if issubclass(cls, errors.AuthenticationError) else 3 if issubclass(cls, errors.PartialError) else 1
    assert cls.exit_code == expected, name
    assert cls.__doc__


def test_an_error_is_its_sentence_and_keeps_its_data() -> None:
    """Text is the sentence alone; status, code and the server's wish are attributes."""
    refused = errors.RequestRefused("no", status=400, code="UDAPI100011")
    assert (str(refused), refused.status, refused.code) == ("no", 400, "UDAPI100011")
    assert errors.RateLimited("slow", retry_after=2.5).retry_after == 2.5
    assert errors.RateLimited("slow").retry_after is None
    assert errors.ServerError("broken", status=503).status == 503
    assert errors.EdgeBlocked("banned", status=403).status == 403
    with pytest.raises(errors.RequestRefused):
        raise errors.DateRangeRefused("too wide", status=400, code="UDAPI1148")
