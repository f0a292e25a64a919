"""The expirytrack.toml of a new home: all settings, described, and without effect until a line is taken out."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

from expirytrack_dagster.settings import Settings, is_secret, load_settings
from expirytrack_dagster.settings.template import template

if TYPE_CHECKING:
    from pathlib import Path

NAME = re.compile(r"^# (?=\w+ = )", re.MULTILINE)


def test_it_names_every_setting_but_secrets() -> None:
    """One line each, in the order of the settings."""
    names = list(tomllib.loads(NAME.sub("", template())))
    assert sorted(names) == sorted(name for name, about in Settings.model_fields.items() if not is_secret(about))
    assert max(map(len, template().splitlines())) <= 120


def test_it_changes_nothing(home: Path) -> None:
    """As it is written, and with every line taken out of its comment: what it shows are the defaults."""
    before = load_settings()
    home.mkdir()
    for text in (template(), NAME.sub("", template())):
        (home / "expirytrack.toml").write_text(text, encoding="utf-8")
        assert load_settings() == before
