"""What goes over the wire: the bodies of good answers, errors and pages, as bytes.

Belongs here: formats only. Which answer a request gets is decided in `server.py`. Shapes follow
docs/upstox-api.md; whole prices are written as integers (`24624` next to `24618.9`), as in the recorded answers.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import csv

from expirytrack_dagster.sandbox.bars import DAY, IST_OFFSET, Bars, Ints

NO_CANDLES = b'{"status":"success","data":{"candles":[]}}'
NO_DATA = b'{"status":"success","data":[]}'
WRONG_SHAPE = b'{"status":"success","data":"unexpected"}'
PROFILE = {
    "email": "sandbox@example.com",
    "exchanges": ["NSE", "NFO", "BSE", "BFO"],
    "products": ["D", "CO", "I"],
    "broker": "UPSTOX",
    "user_id": "SB0001",
    "user_name": "SANDBOX USER",
    "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
    "user_type": "individual",
    "poa": False,
    "ddpi": False,
    "is_active": True,
}


class Refusal(NamedTuple):
    """An answer that is no data: the HTTP status, Upstox's code and Upstox's message."""

    status: int
    code: str
    message: str

    def body(self) -> bytes:
        """Return the JSON with the old camelCase and the new snake_case keys, both of which Upstox sends today."""
        error = {
            "errorCode": self.code,
            "message": self.message,
            "propertyPath": None,
            "invalidValue": None,
            "error_code": self.code,
            "property_path": None,
            "invalid_value": None,
        }
        return msgspec.json.encode({"status": "error", "errors": [error]})


BAD_TOKEN = Refusal(401, "UDAPI100050", "Invalid token used to access API")


def bearer(authorization: str) -> str:
    """Return the token of an `Authorization` header, empty where there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def success(data: object) -> bytes:
    """Return the envelope of a good answer."""
    return msgspec.json.encode({"status": "success", "data": data})


def candles(bars: Bars) -> bytes:
    """Return the body of a candle answer, the candles in the order of `bars`.

    Arrow's CSV writer formats the columns and the line ends become the brackets between rows: no Python object is made
    for a row, which is six times as fast as `json.dumps` of lists.
    """
    if len(bars) == 0:
        return NO_CANDLES
    columns = [bars.open, bars.high, bars.low, bars.close, bars.volume, bars.open_interest]
    table = pa.table([_timestamps(bars.time), *columns], names=["t", "o", "h", "l", "c", "v", "i"])
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(include_header=False))
    rows: bytes = sink.getvalue().to_pybytes().replace(b"nan", b"null")  # a planted candle may lack a price
    return b'{"status":"success","data":{"candles":[[' + rows[:-1].replace(b"\n", b"],[") + b"]]}}"


def rows(bars: Bars) -> list[list[object]]:
    """Return the candles as a client reads them from the body, one list of seven values a candle."""
    read: list[list[object]] = msgspec.json.decode(candles(bars))["data"]["candles"]
    return read


def _timestamps(time: Ints) -> pa.Array:
    """Write times as `2025-08-01T09:15:00+05:30`, column by column of characters."""
    days, seconds = np.divmod(time + IST_OFFSET, DAY)
    unique, which = np.unique(days, return_inverse=True)
    dates = np.datetime_as_string(unique.astype("datetime64[D]")).astype("S10").view(np.uint8).reshape(-1, 10)
    text = np.empty((len(time), 25), np.uint8)
    text[:] = np.frombuffer(b"0000-00-00T00:00:00+05:30", np.uint8)
    text[:, :10] = dates[which]
    for column, value in ((11, seconds // 3600), (14, seconds // 60 % 60), (17, seconds % 60)):
        text[:, column] += (value // 10).astype(np.uint8)
        text[:, column + 1] += (value % 10).astype(np.uint8)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(25), len(time), [None, pa.py_buffer(text)])


def page(title: str, text: str) -> bytes:
    """Return a short HTML page, such as the content network or a maintenance host sends instead of JSON."""
    head, body = f"<head><title>{title}</title></head>", f"<body><h1>{title}</h1><p>{text}</p></body>"
    return f"<!DOCTYPE html><html>{head}{body}</html>".encode()
