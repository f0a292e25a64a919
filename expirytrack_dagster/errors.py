"""Every error that ExpiryTrack raises on purpose, in one tree.

The three branches are the guide's classes. *Recoverable*: the same step may succeed later. *Partial*: some data is
missing or unfit and the rest goes on. *Critical*: the run stops at once, and what was staged is kept.

    ExpiryTrackError
    ├── RecoverableError                 retryable
    │   ├── NetworkError                 timeout, reset, refused connection
    │   ├── ServerError                  5xx, 423
    │   ├── RateLimited                  429; carries retry_after
    │   ├── EdgeBlocked                  an HTML page of the CDN instead of the API's answer
    │   ├── TruncatedResponse            the body ends in the middle, or is not JSON at all
    │   ├── CircuitOpen                  too many failures in a row; nobody asks for a while
    │   ├── StateBusy                    the state database cannot be used for a while
    │   │   ├── StateLocked              another process holds it
    │   │   ├── StateUnreachable         its server does not answer
    │   │   └── StateLost                the connection to its server broke in the middle of a transaction
    │   ├── VaultBusy                    another process keeps the vault's lock
    │   ├── NotSent                      an alert did not reach a channel; it is tried again later
    │   ├── CellBusy                     another run is collecting the same cell
    │   └── CellLost                     another host has taken a cell over from this one, which was silent
    ├── PartialError
    │   ├── RequestRefused               a 4xx about this one request; carries Upstox's code
    │   │   └── DateRangeRefused         UDAPI1148: the window is too wide
    │   └── UnfitData                    a contract list or a cell that must not be written
    └── CriticalError
        ├── AuthenticationError          exit code 4
        │   ├── TokenMissing
        │   ├── TokenExpired             past its time; known without asking
        │   ├── TokenRejected            UDAPI100050 and its kin
        │   ├── LoginFailed              a login that ended without a token
        │   │   └── AnswerNotBelieved    an answer that is not one to this login; the login goes on
        │   └── PlanRequired             UDAPI1149
        ├── CertificateRefused           the host cannot prove who it is, or its key is not a pinned one
        ├── MalformedResponse            JSON, but not of the documented shape
        ├── ConfigurationError           a setting, a symbol or a key that cannot be used
        ├── QueryRefused                 a query that would write or look outside, or is no SQL
        ├── VaultError                   secrets cannot be kept or given out
        │   ├── VaultLocked              what opens the vault is missing or is not the right one
        │   ├── VaultDamaged             the vault was altered, cut off, or is not a vault
        │   └── UnsafeFile               a secret's file is a link, or others than its owner may use it
        └── StorageError
            ├── DatabaseLocked           held open by another program for too long
            ├── DatabaseUnreachable      the server of a lake, or what keeps its files, does not answer
            ├── DatabaseCorrupt
            ├── EncryptionMismatch       encrypted, and the settings say plain; or the other way round
            ├── WrongKey                 encrypted with a key that the vault does not hold
            ├── SchemaTooNew             the file was written by a newer version
            ├── SealBroken               a sealed file is damaged, cut off, exchanged, or of another key
            ├── BackupRefused            a backup that cannot be made, or must not be restored
            └── DiskFull

Messages are one sentence that says what happened and what to do. Only classes and their data belong here; what each
Upstox code means is in `upstox/error_codes.py`.
"""

from __future__ import annotations

from typing import ClassVar


class ExpiryTrackError(Exception):
    """Base of the tree: `str(error)` is one sentence for the user."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class RecoverableError(ExpiryTrackError):
    """The same step may succeed when tried again."""

    retryable = True


class NetworkError(RecoverableError):
    """No complete HTTP answer arrived."""


class ServerError(RecoverableError):
    """The API answered with a 5xx or 423 status."""

    def __init__(self, message: str, *, status: int) -> None:
        """Keep the HTTP status beside the sentence."""
        super().__init__(message)
        self.status = status


class RateLimited(RecoverableError):
    """The API answered 429; `retry_after` is the server's own wish in seconds, if it sent one."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """Keep the server's wish beside the sentence."""
        super().__init__(message)
        self.retry_after = retry_after


class EdgeBlocked(RecoverableError):
    """The content network before the API answered with a page of its own (Cloudflare 1010, 1015)."""

    def __init__(self, message: str, *, status: int) -> None:
        """Keep the HTTP status beside the sentence."""
        super().__init__(message)
        self.status = status


class TruncatedResponse(RecoverableError):
    """The body is cut off or is no JSON; another try may bring it whole."""


class CircuitOpen(RecoverableError):
    """Too many requests failed in a row; none is sent until the pause is over."""


class StateBusy(RecoverableError):
    """The state database cannot be used for a while, which says nothing of what was to be written."""


class StateLocked(StateBusy):
    """Another process held the state database for too long."""


class StateUnreachable(StateBusy):
    """The server that keeps the state database did not answer for as long as we wait."""


class StateLost(StateBusy):
    """The connection to the state database broke; nothing of the transaction that was open has been kept."""


class VaultBusy(RecoverableError):
    """Another process kept the vault's lock for longer than we wait."""


class NotSent(RecoverableError):
    """A message did not reach a channel of alerts, as far as can be told."""


class CellBusy(RecoverableError):
    """Another run is collecting the same cell."""


class CellLost(RecoverableError):
    """This process was silent for so long that another took its cell over; nothing may be written any more."""


class PartialError(ExpiryTrackError):
    """Something is missing or unfit; the rest goes on."""

    exit_code = 3


class RequestRefused(PartialError):
    """The API refused this one request for good; `code` is Upstox's, `status` the HTTP status."""

    def __init__(self, message: str, *, status: int, code: str | None) -> None:
        """Keep the HTTP status and Upstox's code beside the sentence."""
        super().__init__(message)
        self.status = status
        self.code = code


class DateRangeRefused(RequestRefused):
    """UDAPI1148: the API does not serve a window this wide."""


class UnfitData(PartialError):
    """A contract list or a whole cell that must not be written."""


class CriticalError(ExpiryTrackError):
    """Stop now: going on would waste requests or harm the archive."""


class AuthenticationError(CriticalError):
    """The API will not serve this account now."""

    exit_code = 4


class TokenMissing(AuthenticationError):
    """No access token is configured."""


class TokenExpired(AuthenticationError):
    """The access token has died, as its own time of death tells."""


class TokenRejected(AuthenticationError):
    """The access token is wrong, expired or of a kind that may not do this."""


class LoginFailed(AuthenticationError):
    """A login ended without a token: denied, too late, or of another Upstox user."""


class AnswerNotBelieved(LoginFailed):
    """Something came that is no answer to the login under way; nothing was changed, and the login still waits."""


class PlanRequired(AuthenticationError):
    """The account has no Upstox Plus plan (UDAPI1149)."""


class CertificateRefused(CriticalError):
    """The host's certificate is not trusted, or none of its keys is pinned; nothing was sent to it."""


class MalformedResponse(CriticalError):
    """Well-formed JSON that is not of the documented shape."""


class ConfigurationError(CriticalError):
    """A setting, symbol or key that cannot be used as it stands."""


class QueryRefused(CriticalError):
    """A query that does more than read the archive, or that the database does not understand."""


class VaultError(CriticalError):
    """Secrets cannot be kept or given out as things stand."""


class VaultLocked(VaultError):
    """The passphrase, the keyring's entry or the key file that opens the vault is missing or another one."""


class VaultDamaged(VaultError):
    """The vault's file was altered or cut off, or is none that this version reads."""


class UnsafeFile(VaultError):
    """A file that holds a secret is a link, belongs to somebody else, or is open to others."""


class StorageError(CriticalError):
    """The archive or the state database cannot be read or written."""


class DatabaseLocked(StorageError):
    """Another program kept the database open for longer than we wait."""

    retryable = True


class DatabaseUnreachable(StorageError):
    """What keeps a lake's catalogue or its files did not answer for as long as we wait."""

    retryable = True


class DatabaseCorrupt(StorageError):
    """A database file is damaged."""


class EncryptionMismatch(StorageError):
    """A file is encrypted and the settings say plain, or the other way round."""


class WrongKey(StorageError):
    """A database file is encrypted with another key than the vault's."""


class SchemaTooNew(StorageError):
    """The database was written by a newer version of ExpiryTrack."""


class SealBroken(StorageError):
    """A sealed file is not, byte for byte, what was sealed with this key for this use."""


class BackupRefused(StorageError):
    """A backup that is damaged, cut off or foreign, or a place where none can be made or restored."""


class DiskFull(StorageError):
    """There is no room left for what has to be written."""
