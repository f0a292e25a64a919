"""All settings in one typed object: defaults, then the profile, then `expirytrack.toml`, then the environment.

`model.py` has the settings, `places.py` those of where things lie, `values.py` how values are written, `loading.py`
where they come from.
"""

from expirytrack_dagster.settings.loading import Told, files_looked_for, load_settings, tell_settings
from expirytrack_dagster.settings.model import (
    DEFAULT_ACCOUNT,
    ELSEWHERE,
    INSTRUMENTS_PATH,
    NOTIFIER_URL,
    PROFILES,
    Settings,
)
from expirytrack_dagster.settings.values import (
    PREFIX,
    SERVER_DRIVER,
    UPSTOX_API_URL,
    RateLimit,
    allowed,
    is_loopback,
    is_secret,
    parse_rate_limits,
)

__all__ = [
    "DEFAULT_ACCOUNT",
    "ELSEWHERE",
    "INSTRUMENTS_PATH",
    "NOTIFIER_URL",
    "PREFIX",
    "PROFILES",
    "SERVER_DRIVER",
    "UPSTOX_API_URL",
    "RateLimit",
    "Settings",
    "Told",
    "allowed",
    "files_looked_for",
    "is_loopback",
    "is_secret",
    "load_settings",
    "parse_rate_limits",
    "tell_settings",
]
