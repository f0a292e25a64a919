"""The check `access_token` on `coverage`: there is a token, and it lives long enough to be of use.

Run by hand or after `coverage`; the sensor `token_life` records the same result when it changes.
"""

from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from expirytrack_dagster.resources import UpstoxResource
from expirytrack_dagster.settings import Settings

COVERAGE = dg.AssetKey("coverage")
ACCESS_TOKEN = "access_token"  # noqa: S105 -- the name of a check


@dataclass(frozen=True, slots=True)
class JudgedToken:
    """What is known of the token; `standing` is good, dying or dead, and names the death, so that a new one differs."""

    standing: str
    passed: bool
    sentence: str
    severity: dg.AssetCheckSeverity
    minutes_left: float | None

    @property
    def metadata(self) -> dict[str, float]:
        """Return the number that the UI plots."""
        return {} if self.minutes_left is None else {"minutes_left": self.minutes_left}

    @property
    def evaluation(self) -> dg.AssetCheckEvaluation:
        """Return the result as an event without a run."""
        return dg.AssetCheckEvaluation(
            asset_key=COVERAGE,
            check_name=ACCESS_TOKEN,
            passed=self.passed,
            severity=self.severity,
            description=self.sentence,
            metadata=self.metadata,
        )


def judged_token(settings: Settings, now: datetime) -> JudgedToken:
    """Judge the token at a moment (UTC); how soon is soon, the settings say, as they do for `status`."""
    from expirytrack_dagster.upstox.tokens import token_state

    state = token_state(settings, now)
    left = None if state.seconds_left is None else round(state.seconds_left / 60, 1)
    if not state.usable:
        return JudgedToken(
            f"dead {state.expires_at}", passed=False, sentence=state.sentence, severity=_ERROR, minutes_left=left
        )
    if left is not None and left <= settings.token_warning_minutes:
        return JudgedToken(
            f"dying {state.expires_at}",
            passed=False,
            sentence=f"The access token dies in {left:.0f} minutes: log in again afterwards, or collection stops.",
            severity=dg.AssetCheckSeverity.WARN,
            minutes_left=left,
        )
    return JudgedToken(
        f"good {state.expires_at}", passed=True, sentence=state.sentence, severity=_ERROR, minutes_left=left
    )


_ERROR = dg.AssetCheckSeverity.ERROR


@dg.asset_check(
    asset=COVERAGE,
    name=ACCESS_TOKEN,
    description="There is an access token, and it outlives EXPIRYTRACK_TOKEN_WARNING_MINUTES.",
)
def access_token(upstox: UpstoxResource) -> dg.AssetCheckResult:
    """Judge the token as it is now."""
    judged = judged_token(upstox.settings(), upstox.now())
    return dg.AssetCheckResult(
        passed=judged.passed, severity=judged.severity, description=judged.sentence, metadata=judged.metadata
    )
