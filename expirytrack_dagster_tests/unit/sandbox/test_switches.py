"""Switches from JSON, and which request a fault hits."""

import pytest

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox.planting import Plant
from expirytrack_dagster.sandbox.switches import App, Fault, FaultCounter, Switches, changed


def test_named_switches_change_and_others_stay() -> None:
    """A JSON object sets what it names."""
    switches = changed(Switches(plus=False), '{"faults":[{"kind":500,"every":7}],"planted":[{"contracts":["k"]}]}')
    assert switches == Switches(plus=False, faults=(Fault(500, every=7),), planted=(Plant(("k",)),))
    assert changed(switches, '{"app":{"user_id":"AB1"}}').app == App(user_id="AB1")


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        '{"plus":1}',
        '{"pluss":true}',
        '{"faults":[{"kind":"nonsense"}]}',
        '{"faults":[{"kind":500,"every":0}]}',
    ],
)
def test_what_cannot_be_set_is_refused(document: str) -> None:
    """Broken JSON, unknown names, wrong types and impossible counts are errors, not silence."""
    with pytest.raises(ConfigurationError):
        changed(Switches(), document)


def hits(fault: Fault, targets: list[str], endpoint: str = "candles") -> list[bool]:
    """Return which of the requests a fault hits."""
    counter = FaultCounter((fault,))
    return [counter.pick(endpoint, target, edge=False) is not None for target in targets]


def test_every_and_times() -> None:
    """Every third request is hit, twice."""
    assert hits(Fault(500, every=3, times=2), [""] * 12) == [False, False, True] * 2 + [False] * 6


def test_tokens_match_key_or_exchange_token() -> None:
    """Only the chosen instruments are counted and hit."""
    key = "NSE_FO|7|28-08-2025"
    assert hits(Fault("reset", tokens=("7",)), [key, "NSE_FO|8|28-08-2025", ""]) == [True, False, False]
    assert hits(Fault("reset", tokens=(key,), every=2), [key, "x", key]) == [False, False, True]


def test_endpoints_match() -> None:
    """A fault of one endpoint leaves the others alone."""
    assert hits(Fault("empty", endpoints=("expiries",)), [""], "profile") == [False]
    assert hits(Fault("empty", endpoints=("expiries",)), [""], "expiries") == [True]


def test_unknown_kind() -> None:
    """A misspelt fault in a test fails there, not by never hitting."""
    with pytest.raises(ConfigurationError, match="truncate"):
        Fault("truncat")  # type: ignore[arg-type]  # what is tested
