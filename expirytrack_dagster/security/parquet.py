"""Parquet files encrypted by Parquet's own means (AES-GCM, footer included), bound to the cell that they belong to.

The two names of a file's folder, underlying and expiry, are part of what is proved at reading: a file moved to another
cell does not open. DuckDB 1.5.5 does not read such files, for want of exactly this binding: they are read with pyarrow.
A key of None stands for plain files throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyarrow.parquet import encryption

if TYPE_CHECKING:
    from pathlib import Path

    from pyarrow.parquet import FileDecryptionProperties, FileEncryptionProperties

    from expirytrack_dagster.settings import Settings

_KINDS = {b"PARE": True, b"PAR1": False}


def staging_key(settings: Settings) -> bytes | None:
    """Return the key of this home's staged batches; None when the settings leave them plain. Raises like the vault."""
    if not settings.encryption:
        return None
    from expirytrack_dagster.security.vault import open_vault  # noqa: PLC0415  -- only who encrypts pays for it

    return open_vault(settings).data_key("staging")


def encrypting(key: bytes | None, path: Path) -> FileEncryptionProperties | None:
    """Return what `pyarrow.parquet.write_table` takes as `encryption_properties`."""
    if key is None:
        return None
    return encryption.create_encryption_properties(key, aad_prefix=_cell(path), store_aad_prefix=False)


def decrypting(key: bytes | None, path: Path) -> FileDecryptionProperties | None:
    """Return what pyarrow's readers of Parquet take as `decryption_properties`."""
    return None if key is None else encryption.create_decryption_properties(key, aad_prefix=_cell(path))


def is_encrypted(path: Path) -> bool | None:
    """Say from its first bytes whether this Parquet file is encrypted; None if it is no Parquet file at all."""
    with path.open("rb") as file:
        return _KINDS.get(file.read(4))


def _cell(path: Path) -> bytes:
    return f"{path.parent.parent.name}/{path.parent.name}".encode()
