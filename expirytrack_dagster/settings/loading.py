"""Where values come from: the defaults, the profile, two places of `expirytrack.toml`, the environment; later ones win.

Reading the sources, their order, what each value's source is, and one sentence for what cannot be used belong here.
Which settings there are is `model.py`.

`expirytrack.toml` is looked for in the home and in the working folder; where both have one, both count, and the
working folder's goes before. In the file names have no prefix, and a relative path counts from the file's own folder.
Nothing misspelt is ignored: a name that is no setting is an error in a file, and in the environment if it is like one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError

from expirytrack_dagster import address, state_address
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings.model import ELSEWHERE, PROFILES, Settings
from expirytrack_dagster.settings.values import PREFIX, allowed, is_path, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE = "expirytrack.toml"


@dataclass(frozen=True, slots=True)
class Layer:
    """The values of one source as they were found there; `origin` is how a person is told of it."""

    origin: str
    values: Mapping[str, object] = field(default_factory=dict)
    file: Path | None = None

    def name_of(self, key: str) -> str:
        """Return a setting's name as it is written in this source."""
        return key if self.file else f"{PREFIX}{key.upper()}"

    @property
    def place(self) -> str:
        """Say where the name stands, behind it; nothing for the environment, whose names tell it."""
        return f" in {self.file}" if self.file else ""


@dataclass(frozen=True, slots=True)
class Told:
    """A setting with its value and where that comes from: `default`, a profile, a file's path, the environment."""

    name: str
    value: str | float | bool | None
    origin: str
    description: str
    allowed: str


def load_settings(**overrides: object) -> Settings:
    """Read the settings of this process.

    The home becomes an absolute path, so that a later change of folder does not move it.

    Args:
        overrides: Values that go before every other source.

    Raises:
        ConfigurationError: a value cannot be used, or a name is no setting; one sentence for each names the key, where
            it stands, the value and what is allowed. Or a file cannot be read, or the home can be no folder.
    """
    return _settings_of(_layers(overrides))


def tell_settings() -> list[Told]:
    """Return every setting with its value and origin; secrets are masked. Raises like `load_settings`."""
    layers = _layers({})
    settings = _settings_of(layers)
    told = []
    for name, about in Settings.model_fields.items():
        source = _source_of(name, layers)
        origin = source.origin if source else "default"
        value = written(getattr(settings, name))
        told.append(Told(name, value, origin, about.description or "", allowed(about)))
    return told


def files_looked_for() -> list[Path]:
    """Return where `expirytrack.toml` is looked for, the strongest first; neither needs to be there."""
    home, here = load_settings().home / FILE, Path(FILE).absolute()
    return [here] if _same(home, here) else [here, home]


def written(value: object) -> str | float | bool | None:
    """Return a setting's value as it is written in a file; a secret is masked."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "(set, not shown)" if isinstance(value, SecretStr) else str(value)


def _layers(overrides: Mapping[str, object]) -> list[Layer]:
    """Read all sources; the strongest comes first."""
    given = Layer("argument", overrides)
    environment = Layer("environment", _of_environment())
    here = _of_file(Path(FILE))
    stronger = [given, environment, here]
    home = (_source_of("home", stronger) or Layer("default", {"home": Settings.model_fields["home"].default})).values
    if (own := _of_home(home["home"])) is not None and not _same(own.file, here.file):
        stronger.append(own)
    source = _source_of("profile", stronger)
    profile = str(source.values["profile"]) if source else str(Settings.model_fields["profile"].default)
    return [*stronger, Layer(f"profile {profile}", PROFILES.get(profile, {}))]


def _source_of(key: str, layers: list[Layer]) -> Layer | None:
    """Return the strongest source that has a value."""
    return next((layer for layer in layers if key in layer.values), None)


def _of_environment() -> dict[str, object]:
    """Return what is set for this program; names like none of its settings are another's, with whom it shares this."""
    named = {
        name[len(PREFIX) :].lower(): value for name, value in os.environ.items() if name.upper().startswith(PREFIX)
    }
    known = Settings.model_fields.keys() | ELSEWHERE
    return _without_nothing({key: value for key, value in named.items() if key in known or _nearest(key)})


def _nearest(key: str) -> str | None:
    """Return the setting that a name is most like; None where it is like none."""
    return next(iter(difflib.get_close_matches(key, Settings.model_fields, n=1)), None)


def _of_file(path: Path) -> Layer:
    try:
        path = path.absolute()
        values = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from None
    anchored = {key: _anchored(key, value, path.parent) for key, value in _without_nothing(values).items()}
    return Layer(str(path), anchored, path)


def _without_nothing(values: dict[str, Any]) -> dict[str, object]:
    """Leave out what is set to nothing, as shells and compose files do; a name that is no setting stays to be told."""
    return {key: value for key, value in values.items() if value != "" or key not in Settings.model_fields}


def _of_home(home: object) -> Layer | None:
    """Return the file of a home, which cannot name another one; None where the home cannot be one, as is said later.

    Raises:
        ConfigurationError: the file cannot be read, or names another home.
    """
    try:
        folder = Path(str(home)).expanduser()
    except RuntimeError:
        return None
    found = _of_file(folder / FILE)
    values = dict(found.values)
    if "home" in values and not _same(Path(str(values.pop("home"))), folder):
        raise ConfigurationError(
            f'home in {found.file} is another folder than the one in which the file lies: write home = "." or nothing.'
        )
    return Layer(found.origin, values, found.file)


def _anchored(key: str, value: object, folder: Path) -> object:
    """Let a relative path of a file count from the file's folder, wherever the program is started."""
    if key == "warehouse" and isinstance(value, str):
        return address.anchored(value, folder)
    if key == "data_path" and isinstance(value, str) and "://" not in value and not value.startswith("~"):
        return str(folder / value)
    if key == "state" and isinstance(value, str):
        return state_address.anchored(value, folder)
    about = Settings.model_fields.get(key)
    if about is None or not is_path(about) or not isinstance(value, str) or value.startswith("~"):
        return value
    return str(folder / value)


def _same(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)


def _settings_of(layers: list[Layer]) -> Settings:
    strangers = [sentence for layer in layers for sentence in _strangers(layer)]
    if strangers:
        raise ConfigurationError(" ".join(strangers))
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values |= layer.values
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(" ".join(_complaint(one, layers) for one in error.errors())) from None
    return settings.model_copy(update={"home": _usable_home(settings.home, layers)})


def _strangers(layer: Layer) -> Iterator[str]:
    """Yield a sentence for each name that is no setting, without its value, which may be a secret."""
    for key in layer.values:
        if key in Settings.model_fields:
            continue
        name = f"{layer.name_of(key)}{layer.place} is no setting"
        if key in ELSEWHERE:
            yield f"{name}: {ELSEWHERE[key]}."
        elif near := _nearest(key):
            yield f"{name}: did you mean {layer.name_of(near)}?"
        else:
            yield f"{name}: `expirytrack config show` lists all; remove it or correct its name."


def _complaint(error: Any, layers: list[Layer]) -> str:
    """Say what is wrong with a value: the name as it is written where it stands, the value, and what is allowed."""
    key = str(error["loc"][0])
    about = Settings.model_fields[key]
    source = _source_of(key, layers) or layers[0]
    value = "" if is_secret(about) else f" ({address.without_password(repr(source.values[key]))})"
    own = error["type"] == "value_error"  # raised by a check of ours, whose sentence says it all
    wrong = error["msg"].removeprefix("Value error, ") if own else f"use {allowed(about)}"
    return f"{source.name_of(key)}{value}{source.place}: {wrong}."


def _usable_home(home: Path, layers: list[Layer]) -> Path:
    """Return the home as an absolute path; what is there, or the nearest above it that is, has to be a folder."""
    source = _source_of("home", layers) or layers[0]
    name = f"{source.name_of('home')} ({str(home)!r}){source.place}"
    try:
        absolute = home.expanduser().resolve()
        nearest = next(place for place in (absolute, *absolute.parents) if os.path.lexists(place))
        is_folder = nearest.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # of no such user, a link to itself, an impossible name
        raise ConfigurationError(f"{name} cannot be used: {error}.") from None
    if not is_folder:
        raise ConfigurationError(f"{name} cannot be used, {nearest} is no folder: name another.")
    return absolute
