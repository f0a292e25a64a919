"""The expirytrack.toml of a new home: every setting with its description and default, commented out.

It is generated from the settings, so that it cannot say anything else than they do; secrets are left out of it.
"""

from __future__ import annotations

import json
import textwrap

from expirytrack_dagster.settings.loading import written
from expirytrack_dagster.settings.model import Settings
from expirytrack_dagster.settings.values import allowed, is_secret

_WIDTH = 120
_HEAD = """\
# Settings of ExpiryTrack for the home in which this file lies; a line counts once its # is taken away. Over it go
# expirytrack.toml in the working folder, and over that the environment, where workers is called EXPIRYTRACK_WORKERS.
# `expirytrack config show` says where each value comes from. Secrets have no place here: `expirytrack login` keeps
# tokens and the app in the vault.

# Everything that is written at run time lies below this folder, the one of this file.
home = "."
"""


def template() -> str:
    """Return the file's text; with every # before a name taken away, it sets what is the default anyway."""
    parts = [_HEAD]
    for name, about in Settings.model_fields.items():
        if name == "home" or is_secret(about):
            continue
        what = allowed(about)
        words = about.description or ""
        if what not in {"text", "a path"}:
            words += f" Allowed: {what}."
        comment = textwrap.fill(words, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
        default = written(about.default)
        parts.append(f"{comment}\n# {name} = {json.dumps('' if default is None else default)}\n")
    return "\n".join(parts)
