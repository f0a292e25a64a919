"""The judgement of a token: good, dying or dead, by the same measure of "soon" as the command line's."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import pytest

from expirytrack_dagster.checks.token import judged_token
from expirytrack_dagster.settings import load_settings

NOW = datetime(2025, 9, 1, 14, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "warning", "standing"),
    [(61, 60, "good"), (60, 60, "dying"), (61, 90, "dying"), (1, 0, "good"), (0, 0, "dead"), (-5, 60, "dead")],
)
def test_soon_is_what_the_settings_say(left: float, warning: float, standing: str) -> None:
    """Minutes that are left, against those of the setting; the end itself is death."""
    dies = (NOW + timedelta(minutes=left)).timestamp()
    claims = urlsafe_b64encode(f'{{"exp":{dies:.0f}}}'.encode()).decode().rstrip("=")
    settings = load_settings(access_token=f"head.{claims}.signature", token_warning_minutes=warning)
    judged = judged_token(settings, NOW)
    assert judged.standing.partition(" ")[0] == standing
    assert judged.passed is (standing == "good")
