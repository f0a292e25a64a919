"""Where values come from, which win, how each is told, and that nothing is ignored."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from expirytrack_dagster.address import FORMS
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.settings import (
    PROFILES,
    UPSTOX_API_URL,
    RateLimit,
    Settings,
    files_looked_for,
    load_settings,
    tell_settings,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_defaults_are_the_limits_of_upstox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any setting: the real API, its documented limits, no token, and ./data as an absolute path."""
    monkeypatch.delenv("EXPIRYTRACK_HOME")
    settings = load_settings()
    assert settings.api_url == UPSTOX_API_URL
    assert ",".join(map(str, settings.rate_limits)) == "50/1,500/60,2000/1800"
    assert settings.access_token is None
    assert settings.home == Path.cwd() / "data"
    assert settings.home.is_absolute()
    assert settings.database == settings.home / "expirytrack.duckdb"
    assert settings.state_address.path == settings.home / "state.sqlite"


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither text, repr nor JSON of the settings holds the token, nor an error that is about it or another key."""
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "eyJ-secret")
    settings = load_settings()
    assert settings.access_token is not None
    assert settings.access_token.get_secret_value() == "eyJ-secret"
    assert "eyJ-secret" not in f"{settings} {settings!r} {settings.model_dump_json()}"
    monkeypatch.setenv("EXPIRYTRACK_WORKERS", "many")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "eyJ-secret" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(access_token=["eyJ-secret"])
    assert "eyJ-secret" not in str(caught.value)
    assert "EXPIRYTRACK_ACCESS_TOKEN" in str(caught.value)


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable set to nothing, as shells and compose files do, leaves the default."""
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "")
    monkeypatch.setenv("EXPIRYTRACK_WORKERS", "")
    settings = load_settings()
    assert (settings.access_token, settings.workers) == (None, 10)


def test_later_sources_win(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Default < profile < expirytrack.toml < environment < argument."""
    assert load_settings().workers == 10
    monkeypatch.setenv("EXPIRYTRACK_PROFILE", "development")
    assert load_settings().workers == PROFILES["development"]["workers"] == 2
    assert load_settings().log_level == "DEBUG"
    (folder / "expirytrack.toml").write_text('workers = 3\nrate_limits = "7/1"\n')
    assert (load_settings().workers, load_settings().rate_limits) == (3, (RateLimit(1, 7),))
    assert load_settings().log_level == "DEBUG"
    monkeypatch.setenv("EXPIRYTRACK_WORKERS", "4")
    assert load_settings().workers == 4
    assert load_settings(workers=5).workers == 5


def test_the_file_may_name_the_profile(folder: Path) -> None:
    """A profile in expirytrack.toml counts like one in the environment."""
    (folder / "expirytrack.toml").write_text('profile = "development"\n')
    assert load_settings().workers == 2


@pytest.mark.parametrize("content", [b"workers = ", b"\xff\xfe"], ids=["syntax", "encoding"])
def test_a_broken_file_is_one_sentence(folder: Path, content: bytes) -> None:
    """A file that is no TOML is named, without a traceback of the parser."""
    (folder / "expirytrack.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^/\S+/expirytrack.toml cannot be read: "):
        load_settings()


@pytest.mark.parametrize(
    ("name", "advice"),
    {
        "wrokers": "did you mean {workers}?",
        "rate_limit": "did you mean {rate_limits}?",
        "encrypton": "did you mean {encryption}?",
        "acess_token": "did you mean {access_token}?",
        "connection_pool_size": "there is no pool to size",
        "xyzzy": "`expirytrack config show` lists all",
    }.items(),
)
def test_a_name_that_is_no_setting_is_told(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, advice: str
) -> None:
    """A misspelt name is an error, not silence, in the file as in the environment; its value may be a secret."""
    known = {field: field for field in Settings.model_fields}
    (folder / "expirytrack.toml").write_text(f'{name} = "eyJ-secret"\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    sentence = str(caught.value)
    assert sentence.startswith(f"{name} in {folder / 'expirytrack.toml'} is no setting: {advice.format(**known)}")
    (folder / "expirytrack.toml").unlink()
    monkeypatch.setenv(f"EXPIRYTRACK_{name.upper()}", "eyJ-secret")
    if name == "xyzzy":
        assert load_settings().profile == "production"  # the environment is shared with other programs
        return
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    variables = {field: f"EXPIRYTRACK_{field.upper()}" for field in known}
    assert str(caught.value).startswith(f"EXPIRYTRACK_{name.upper()} is no setting: {advice.format(**variables)}")
    assert "eyJ-secret" not in sentence + str(caught.value)


def test_a_home_has_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch, folder: Path, home: Path) -> None:
    """It counts wherever the program is started; the working folder's goes before, and neither hides the other."""
    home.mkdir()
    (home / "expirytrack.toml").write_text("workers = 3\nmax_retries = 4\n")
    assert (load_settings().workers, load_settings().max_retries) == (3, 4)
    (folder / "expirytrack.toml").write_text("workers = 5\n")
    assert (load_settings().workers, load_settings().max_retries) == (5, 4)
    assert files_looked_for() == [folder / "expirytrack.toml", home / "expirytrack.toml"]
    monkeypatch.delenv("EXPIRYTRACK_HOME")
    assert load_settings().max_retries == 3
    (folder / "expirytrack.toml").write_text(f'home = "{home.as_posix()}"\n')
    assert load_settings().max_retries == 4


def test_a_home_that_is_the_working_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Its file may say so, and is read once."""
    monkeypatch.delenv("EXPIRYTRACK_HOME")
    (folder / "expirytrack.toml").write_text('home = "."\nworkers = 3\n')
    settings = load_settings()
    assert (settings.home, settings.workers) == (folder.resolve(), 3)
    assert files_looked_for() == [folder / "expirytrack.toml"]


def test_a_home_names_no_other_home(home: Path) -> None:
    """Its file may name the folder in which it lies; another one would make two homes of one."""
    home.mkdir()
    (home / "expirytrack.toml").write_text('home = "."\n')
    assert load_settings().home == home.resolve()
    (home / "expirytrack.toml").write_text('home = "elsewhere"\n')
    with pytest.raises(ConfigurationError, match=r"home in .* is another folder than the one in which the file lies"):
        load_settings()


def test_a_path_of_a_file_counts_from_its_folder(home: Path) -> None:
    """Wherever the program is started; `~` and absolute paths stay what they are."""
    home.mkdir()
    (home / "expirytrack.toml").write_text('backups = "saved"\nsigning_key = "~/key.pem"\n')
    settings = load_settings()
    assert (settings.backups, settings.signing_key) == (home / "saved", Path("~/key.pem"))


def test_each_value_tells_its_origin(monkeypatch: pytest.MonkeyPatch, folder: Path, home: Path) -> None:
    """Default, profile, each file by its path, environment; secrets are masked wherever they stand."""
    home.mkdir()
    (home / "expirytrack.toml").write_text('workers = 3\nmax_retries = 4\nclient_secret = "eyJ-secret"\n')
    (folder / "expirytrack.toml").write_text('workers = 5\nprofile = "development"\n')
    monkeypatch.setenv("EXPIRYTRACK_CACHE", "off")
    monkeypatch.setenv("EXPIRYTRACK_ACCESS_TOKEN", "eyJ-secret")
    told = {one.name: (one.value, one.origin) for one in tell_settings()}
    assert list(told) == list(Settings.model_fields)
    assert told["timeout"] == (30, "default")
    assert told["rate_limits"] == ("10/1,100/60,500/1800", "profile development")
    assert told["workers"] == (5, str(folder / "expirytrack.toml"))
    assert told["max_retries"] == (4, str(home / "expirytrack.toml"))
    assert told["cache"] == (False, "environment")
    assert told["home"] == (str(home.resolve()), "environment")
    assert told["client_id"] == (None, "default")
    assert told["access_token"] == ("(set, not shown)", "environment")
    assert "eyJ-secret" not in str(told)


def test_settings_cannot_be_changed_and_can_be_pickled() -> None:
    """Settings are a value: frozen, and the same after a trip to another process."""
    settings = load_settings(access_token="x")
    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 3  # type: ignore[misc] # the point of the test
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 -- our own bytes


def test_a_home_below_the_user_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`~` is the user's folder, and a relative home does not move when the process does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load_settings(home="~/archive").home == (tmp_path / "archive").resolve()


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_home_that_can_be_no_folder(tmp_path: Path, below: str) -> None:
    """A file in its place or above it is named, and nothing is made of it."""
    (file := tmp_path / "file").write_text("a letter")
    with pytest.raises(
        ConfigurationError, match=r"EXPIRYTRACK_HOME \(.*\) cannot be used, .*file is no folder"
    ) as caught:
        load_settings(home=file / below)
    assert "\n" not in str(caught.value)
    assert file.read_text() == "a letter"


def test_a_home_of_nobody(tmp_path: Path) -> None:
    """An unknown user, and a link that leads to itself."""
    (loop := tmp_path / "loop").symlink_to(loop)
    for home in ("~nobody-of-that-name/data", loop, loop / "below"):
        with pytest.raises(ConfigurationError, match="EXPIRYTRACK_HOME"):
            load_settings(home=home)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("postgres:x", f"'postgres:x' is not of the form {FORMS}."),
        ("data/a.duckdb", f"'data/a.duckdb' is not of the form {FORMS}."),
        ("ducklake:sqlite:", "'ducklake:sqlite:' names no file: it is ducklake:sqlite: and a path, such as "),
        ("ducklake:postgres:lake", "'ducklake:postgres:lake' names no database: write ducklake:postgres:dbname=lake "),
        ("sqlite:", "'sqlite:' names no file: it is sqlite: and a path, such as sqlite:data/expirytrack.sqlite."),
        ("sqlite:~nobody-here/a", "'sqlite:~nobody-here/a' cannot be used: "),
    ],
)
def test_an_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, value: str, wrong: str) -> None:
    """With what is wrong and how one is written."""
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", value)
    with pytest.raises(ConfigurationError, match=re.escape(f"EXPIRYTRACK_WAREHOUSE ({value!r}): {wrong}")):
        load_settings()


def test_the_archive_is_where_its_address_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the home if nothing is said; from a file, a relative path counts from the file's folder."""
    assert load_settings().database == load_settings().home / "expirytrack.duckdb"
    home = folder / "elsewhere"
    home.mkdir()
    (home / "expirytrack.toml").write_text('warehouse = "sqlite:a.sqlite"\n')
    monkeypatch.setenv("EXPIRYTRACK_HOME", str(home))
    assert str(load_settings().address) == f"sqlite:{home / 'a.sqlite'}"
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", "duckdb:b")
    assert str(load_settings().address) == f"duckdb:{folder / 'b'}"


@pytest.mark.parametrize(
    "place",
    [
        "postgresql://desk:hunter2@db/lake",
        "postgres://desk:hunter2@db:5432/lake?sslmode=require",
        "postgresql://desk@db/lake?password=hunter2",
        "dbname=lake host=db password=hunter2",
        "dbname=lake password = 'hunter2'",
        "dbname=lake PASSWORD=hunter2",
        "dbname=lake sslpassword=hunter2",
        "postgresql://desk@db/lake?pass%77ord=hunter2",
    ],
)
def test_no_password_stands_in_an_address(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """However it is written, it is refused, and the sentence does not repeat it."""
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", f"ducklake:postgres:{place}")
    with pytest.raises(ConfigurationError, match=r"no password may stand in an address.*PGPASSWORD") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", place)
    with pytest.raises(ConfigurationError, match="is not of the form") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_a_lake_is_named_with_the_place_of_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue in a file or on a server; a folder of a settings file counts from there, a bucket from nowhere."""
    (folder / "expirytrack.toml").write_text('warehouse = "ducklake:sqlite:c.sqlite"\ndata_path = "rows"\n')
    settings = load_settings()
    assert (str(settings.address), settings.data_path) == (
        f"ducklake:sqlite:{folder / 'c.sqlite'}",
        str(folder / "rows"),
    )
    for server in ("dbname=lake host=db.local user='the desk'", "postgresql://desk@db.local:5433/lake", "service=lake"):
        monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", f"ducklake:postgres:{server}")
        assert load_settings().address.place == server
    for place in ("s3://bucket", "s3://bucket/a/b/"):
        monkeypatch.setenv("EXPIRYTRACK_DATA_PATH", place)
        assert load_settings().data_path == place
    for wrong in ("gs://bucket/a", "s3://", "s3://Bucket!/", "s3://bucket/a?versionId=1"):
        monkeypatch.setenv("EXPIRYTRACK_DATA_PATH", wrong)
        with pytest.raises(ConfigurationError, match=r"EXPIRYTRACK_DATA_PATH .*: use a path of a folder, or s3://"):
            load_settings()


def test_a_sqlite_archive_is_not_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says which of the two to change."""
    monkeypatch.setenv("EXPIRYTRACK_WAREHOUSE", "sqlite:a")
    monkeypatch.setenv("EXPIRYTRACK_ENCRYPTION", "on")
    with pytest.raises(
        ConfigurationError, match=r"^EXPIRYTRACK_ENCRYPTION \('on'\): the archive sqlite:/\S+/a cannot be"
    ):
        load_settings()
