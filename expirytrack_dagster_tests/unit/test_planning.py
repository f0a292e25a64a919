"""When the plan takes the token to die: when it says so, else by the rule of the night."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from expirytrack_dagster.planning import token_dies
from expirytrack_dagster.settings import load_settings
from expirytrack_dagster.upstox.tokens import daily_death

MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  zone is given


@given(MOMENTS, st.integers(-600, 600))
def test_a_living_token_is_believed_and_no_other(now: datetime, minutes: int) -> None:
    """A dead token, and one that tells nothing, give the next half past three: a new one will die then."""
    dies = (now + timedelta(minutes=minutes)).replace(microsecond=0)
    claims = urlsafe_b64encode(f'{{"exp":{dies.timestamp():.0f}}}'.encode()).decode().rstrip("=")
    telling = load_settings(access_token=f"head.{claims}.signature")
    assert token_dies(telling, now) == (dies if dies > now else daily_death(now))
    assert token_dies(load_settings(access_token="opaque"), now) == daily_death(now)
