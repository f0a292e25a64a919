"""Where something is moved to: addresses as the settings write them, and an archive at one of them.

An address tells by its form whether it is of an archive or of a state database, but for `sqlite:PATH`, which is a form
of both: there `warehouse=` or `state=` before it says which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster.address import Address, parse_address
from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.state_address import POSTGRES, StateAddress, parse_state_address
from expirytrack_dagster.warehouse.connection import Warehouse
from expirytrack_dagster.warehouse.data_path import data_path
from expirytrack_dagster.warehouse.encryption import archive_key
from expirytrack_dagster.warehouse.stores import store_of

if TYPE_CHECKING:
    from expirytrack_dagster.settings import Settings

_WAREHOUSE, _STATE = "warehouse=", "state="


def parse_target(text: str) -> Address | StateAddress:
    """Return the address that a text means.

    Raises:
        ValueError: it is none, may mean two things, or holds a password; a sentence.
    """
    text = text.strip()
    if text.startswith("sqlite:"):
        message = (
            f"'{text}' may be the archive or the state database: write {_WAREHOUSE}{text} or {_STATE}{text}, whichever "
            "is meant"
        )
        raise ValueError(message)
    if text.startswith((_STATE, POSTGRES)):
        found = parse_state_address(text.removeprefix(_STATE))
    else:
        found = parse_address(text.removeprefix(_WAREHOUSE))
    if not isinstance(found, Address | StateAddress):
        raise TypeError(found)
    return found


def archive_at(settings: Settings, address: Address, data: str | None = None) -> tuple[Warehouse, Settings]:
    """Return the archive at an address, opened by nobody yet, and the settings that name it.

    Args:
        settings: whose archive will be moved there; a file is encrypted with the same key.
        address: where.
        data: where the files of a lake will lie; as the settings say if None.

    Raises:
        ConfigurationError: the archive is there already, a lake would share its folder with another one, or the kind
            cannot be encrypted.
    """
    there = settings.model_copy(update={"warehouse": address, "data_path": data or settings.data_path})
    if address.is_same(settings.address):
        raise ConfigurationError(f"The archive is at {address} already.")
    here, data_there = data_path(settings), data_path(there)
    if here is not None and data_there is not None and here.overlaps(data_there):
        raise ConfigurationError(
            "Two lakes cannot keep their files in one folder, nor one in that of the other, since each removes what it "
            "does not know: name another one with --data-path."
        )
    key = None if address.is_lake else archive_key(settings)
    return Warehouse(
        store_of(address, key, data_there, settings.home / "lake"), lock_timeout=settings.lock_timeout
    ), there
