"""What to do about each error, for the page of errors; a test holds that none is missing and none is left over.

The sentence that an error carries knows the case at hand and says it better; these are for who reads up on a class.
"""

from __future__ import annotations

ADVICE = {
    "NetworkError": "Nothing at once: it is tried again with growing pauses. If it stays, look at the network and "
    "`EXPIRYTRACK_API_URL`.",
    "ServerError": "Nothing at once: it is tried again. If it stays, Upstox has an outage: try again later.",
    "RateLimited": "Nothing: every process pauses and goes on. If it recurs, another program uses the same account; "
    "lower `EXPIRYTRACK_RATE_LIMITS`.",
    "EdgeBlocked": "Wait; lower `EXPIRYTRACK_RATE_BURST` if it recurs. A proxy or VPN may be what is refused.",
    "TruncatedResponse": "Nothing: it is asked again.",
    "CircuitOpen": "Wait until the pause is over (`expirytrack status` counts it down), then run the command again.",
    "NotSent": "Nothing at once: it is tried again. If it stays, `expirytrack alerts test` says which channel "
    "fails, and why.",
    "StateLocked": "Run the command again; close programs that hold `state.sqlite` open.",
    "StateUnreachable": "See that the server of `EXPIRYTRACK_STATE` runs and lets you in, then run the command again.",
    "StateLost": "Run the command again; if it stays, the server or the network ends connections.",
    "VaultBusy": "Run the command again; another login or rotation is under way.",
    "CellBusy": "Wait for the other run of this cell, or cancel it in the Dagster UI; `collect` waits by itself.",
    "CellLost": "Nothing: the host that has the cell now goes on. If it recurs, look why this one falls silent for "
    "minutes: a machine that sleeps, or a network that is cut.",
    "RequestRefused": "Read the sentence: it names Upstox's code. The rest of the cell goes on, and the contract is "
    "asked for again by the schedule `refresh`.",
    "DateRangeRefused": "Nothing: a narrower window is tried and remembered.",
    "UnfitData": "Look at the failing check in the UI. Nothing was written; collect the cell again, or raise "
    "`EXPIRYTRACK_QUARANTINE_THRESHOLD` when so many bad rows are acceptable.",
    "AuthenticationError": "`expirytrack login`.",
    "TokenMissing": "`expirytrack login`, or set `EXPIRYTRACK_ACCESS_TOKEN`.",
    "TokenExpired": "`expirytrack login`: every token dies at 03:30 IST.",
    "TokenRejected": "`expirytrack login`; unset an `EXPIRYTRACK_ACCESS_TOKEN` that is old, since it goes first.",
    "LoginFailed": "Log in again. Key, secret and redirect address must be those of the developer page.",
    "AnswerNotBelieved": "Nothing: the login still waits for its own answer.",
    "PlanRequired": "Activate the Plus plan in your Upstox account, then log in again.",
    "CertificateRefused": "Look at the clock and at proxies that open TLS; with `EXPIRYTRACK_PINS`, at the pins. "
    "Nothing was sent.",
    "MalformedResponse": "Collect again; if it stays, the API has changed: report it with the message.",
    "ConfigurationError": "Correct the setting or argument that the sentence names.",
    "QueryRefused": "Ask with one SELECT over the archive's own tables.",
    "VaultError": "Read the sentence; [Security](../security.md) explains the vault.",
    "VaultLocked": "Give `EXPIRYTRACK_PASSPHRASE`, or unlock the keyring, of the user who made the vault.",
    "VaultDamaged": "Restore `vault.bin` from a backup; or, unless the archive is encrypted, move it "
    "away and log in again.",
    "UnsafeFile": "Close the file to other users, or remove the link, as the sentence says.",
    "StorageError": "Read the sentence: it names the file.",
    "DatabaseLocked": "Close the program that the sentence names; a notebook or a DuckDB shell holds the archive open.",
    "DatabaseUnreachable": "See that the server of `EXPIRYTRACK_WAREHOUSE` and the store of `EXPIRYTRACK_DATA_PATH` "
    "can be reached, then run the command again.",
    "DatabaseCorrupt": "`expirytrack restore` the last backup; what came later is collected again.",
    "EncryptionMismatch": "Set `EXPIRYTRACK_ENCRYPTION` as the archive is, or convert it with "
    "`expirytrack encrypt` or `decrypt`.",
    "WrongKey": "Give the vault that belongs to this archive: restore both from one backup.",
    "SchemaTooNew": "Install the newer version that has written the file.",
    "SealBroken": "Take another copy of the file; this one cannot be trusted.",
    "BackupRefused": "Take another backup, or another place for it, as the sentence says.",
    "DiskFull": "Make room; what was stored is whole, and the same command goes on where it stopped.",
}
