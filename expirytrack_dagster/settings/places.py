"""Where everything lies: the settings of places, and the paths that follow from them.

The home, the addresses of the archive, of the state database and of Dagster's records, the folders below the home, and
whether what lies there is encrypted, belong here; everything else that a user may set, to `model.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from expirytrack_dagster.address import FORMS, Address, parse_address, standard
from expirytrack_dagster.settings.values import DATA_PATH, PREFIX, Allowed, check_data_path, check_server
from expirytrack_dagster.state_address import FORMS as STATE_FORMS
from expirytrack_dagster.state_address import StateAddress, parse_state_address


def _check_encryption(encryption: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 -- pydantic's form of a check
    """Refuse to encrypt what cannot be; the address stands before this setting and is checked already."""
    address = info.data.get("warehouse")
    if encryption and isinstance(address, Address) and address.kind == "sqlite":
        message = f"the archive {address} cannot be encrypted: use off, or a duckdb: address as {PREFIX}WAREHOUSE"
        raise ValueError(message)
    return encryption


def _check_dagster(url: str | None) -> str | None:
    return None if url is None else check_server(url)


class Places(BaseModel):
    """The part of the settings that says where things lie."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    home: Path = Field(Path("data"), description="Everything that is written at run time lies below this folder.")
    warehouse: Annotated[
        Address | None,
        BeforeValidator(parse_address),
        Allowed(f"{FORMS}, such as sqlite:data/expirytrack.sqlite"),
    ] = Field(
        None,
        description="Where the archive is: duckdb:PATH; sqlite:PATH for development; or a lake, which many write at "
        "once, ducklake:sqlite:PATH on one machine and ducklake:postgres:CONNINFO (without a password) on many; "
        "expirytrack.duckdb below home if unset.",
    )
    data_path: Annotated[str | None, AfterValidator(check_data_path), Allowed(DATA_PATH)] = Field(
        None,
        description="Where the files of a lake lie: a folder, or s3://BUCKET/PREFIX/; `lake` below home if unset. An "
        "object store's keys, region and address are those of the AWS_ variables.",
    )
    data_path_insecure: bool = Field(
        default=False,
        description="Speak plain http with the object store of AWS_ENDPOINT_URL on another machine, on a network that "
        "is yours alone.",
    )
    snapshot_days: float = Field(
        30.0, gt=0, le=36_500, description="Days for which a lake keeps what it was, to be asked with --snapshot."
    )
    dagster: Annotated[
        str | None,
        AfterValidator(_check_dagster),
        Allowed("an address such as postgresql://USER@HOST:5432/DATABASE"),
    ] = Field(
        None,
        description="Database of PostgreSQL in which Dagster keeps runs, events and schedules, for several machines; "
        "that of the state if unset, and files below home where that is one. No password in it.",
    )
    state: Annotated[StateAddress | None, BeforeValidator(parse_state_address), Allowed(STATE_FORMS)] = Field(
        None,
        description="Where the state database is: sqlite:PATH, or postgresql://USER@HOST:PORT/DATABASE where several "
        "hosts share it; state.sqlite below home if unset.",
    )
    encryption: Annotated[bool, AfterValidator(_check_encryption)] = Field(
        default=False,
        description="Keep the archive, staged batches and kept answers encrypted, with keys of the vault.",
    )
    open_home: bool = Field(
        default=False,
        description="Go on although other users can read the home, where its disk keeps no rights (network drives).",
    )
    backups: Path | None = Field(
        None, description="Folder of backups, best on another disk; `backups` below the home if not given."
    )

    @property
    def database(self) -> Path:
        """The archive's file, or that of a lake's catalogue; raises `ConfigurationError` where it is on a server."""
        return self.address.path

    @property
    def address(self) -> Address:
        """Where the archive is."""
        return self.warehouse or standard("duckdb", self.home)

    @property
    def state_address(self) -> StateAddress:
        """Where the state database is."""
        return self.state or StateAddress.of_file(self.home / "state.sqlite")

    @property
    def dagster_server(self) -> str | None:
        """The database of PostgreSQL in which Dagster keeps its records, None where they are files below the home."""
        follows = self.state_address.place if self.state_address.kind == "postgresql" else None
        return self.dagster or follows

    @property
    def answers(self) -> Path:
        """The SQLite file of kept answers; encrypted ones have a file of their own."""
        return self.home / "cache" / ("sealed.sqlite" if self.encryption else "answers.sqlite")

    @property
    def staging(self) -> Path:
        """Folder of answered batches that wait for their cell's transaction."""
        return self.home / "staging"

    @property
    def vault(self) -> Path:
        """The encrypted file of secrets and keys."""
        return self.home / "vault.bin"

    @property
    def vault_keys(self) -> Path:
        """Folder of the key file that opens the vault where there is neither a keyring nor a passphrase."""
        return self.home / "keys"

    @property
    def reports(self) -> Path:
        """Folder of the validation reports, one JSON file a cell."""
        return self.home / "reports"

    @property
    def published(self) -> Path:
        """Folder of the copy of the archive that readers use."""
        return self.home / "published"

    @property
    def backup_folder(self) -> Path:
        """Folder of backups."""
        return self.backups.expanduser().resolve() if self.backups else self.home / "backups"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.home / "audit.jsonl"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance that the command line and the UI share."""
        return self.home / "dagster"
