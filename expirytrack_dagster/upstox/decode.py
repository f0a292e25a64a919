"""Candles from the bytes of an answer to typed columns, without a Python object for each value.

Only decoding belongs here; what the values must satisfy belongs to `quality/`. There are two ways to one result:

- The fast way takes the compact form that the API sends. It cuts the array of candles out of the body, turns its row
  separators into line ends and lets Arrow's CSV reader parse it with fixed column types. A CSV reader accepts more than
  JSON does, so every character and every pair of neighbours is checked first; what is doubtful goes the other way.
- The strict way decodes any JSON with msgspec and gives either the same columns or the error that names what is wrong.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from expirytrack_dagster.errors import MalformedResponse
from expirytrack_dagster.upstox.refusals import excerpt
from expirytrack_dagster.upstox.wire import check_success, unreadable

CANDLES_SCHEMA = pa.schema(
    [
        pa.field("ts", pa.timestamp("us", "UTC"), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("open", "high", "low", "close")),
        pa.field("volume", pa.int64()),
        pa.field("open_interest", pa.int64()),
    ]
)
"""Columns of a candle: `ts` is the start of the bar, prices are in rupees, volume and open interest in units."""


def decode_candles(body: bytes) -> pa.Table:
    """Return the candles of an answer in the order received, as `CANDLES_SCHEMA`.

    Every value but the time may be null: whether such a row is any good is not decided here.

    Raises:
        TruncatedResponse: the body is no JSON or is cut off.
        MalformedResponse: it is JSON of another shape.
    """
    table = _decode_fast(body)
    return _decode_strictly(body) if table is None else table


# --- the strict way ---------------------------------------------------------------------------------------------------

_Whole = int | float | None
_Price = float | None
_Row = tuple[Annotated[datetime, msgspec.Meta(tz=True)], _Price, _Price, _Price, _Price, _Whole, _Whole]


class _Data(msgspec.Struct):
    candles: list[_Row] | None  # null means none; a missing field must not pass for an empty contract


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None


_ANSWER = msgspec.json.Decoder(_Answer)


def _decode_strictly(body: bytes) -> pa.Table:
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        unreadable(error, body)
    check_success(answer.status, body)
    rows = (answer.data and answer.data.candles) or []
    columns = zip(*rows, strict=True) if rows else ((),) * len(CANDLES_SCHEMA)
    try:
        ts, *prices, volume, open_interest = columns
        # Importing pandera sets PYARROW_IGNORE_TIMEZONE, and Arrow then takes times by what their clock shows.
        moments = [moment.astimezone(UTC) for moment in ts]
        values = [moments, *prices, _whole(volume), _whole(open_interest)]
        arrays = [pa.array(column, field.type) for column, field in zip(values, CANDLES_SCHEMA, strict=True)]
    except (ValueError, OverflowError) as error:  # ArrowInvalid is a ValueError
        raise MalformedResponse(f"A number or time is out of range ({error}): {excerpt(body)}") from error
    return pa.Table.from_arrays(arrays, schema=CANDLES_SCHEMA)


def _whole(values: tuple[_Whole, ...]) -> list[int | None]:
    """Accept 31125.0 for 31125, since JSON does not tell them apart, but not 31125.5."""
    for value in values:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(f"{value} is not a whole number")
    return [None if value is None else int(value) for value in values]


# --- the fast way -----------------------------------------------------------------------------------------------------

_OPEN, _CLOSE = b'"candles":[[', b"]]"
_TS_END = b'+05:30",'
_TS_LENGTH = len('"2025-08-01T15:29:00+05:30"')

# Every character that may occur has a class below 16; two neighbours make one byte.
_CLASSES = {"0": b"0", "9": b"123456789", ",": b",", "-": b"-", ".": b".", "\n": b"\n", '"': b'"', ":": b":", "+": b"+"}
_CLASSES |= {"T": b"T", "n": b"n", "u": b"u", "l": b"l", "?": b""}
_CODE = {name: code for code, name in enumerate(_CLASSES)}
_TO_CODE = bytes(
    next((_CODE[name] for name, members in _CLASSES.items() if byte in members), _CODE["?"]) for byte in range(256)
)
# D stands for any digit. Pairs that only a timestamp may have are harmless in numbers: Arrow refuses them there.
_PAIRS = 'DD D, D. .D ,D ,- -D D- D: :D DT TD D+ +D D" "D ", D\n \n" ,n nu ul ll l, l\n'
_ALLOWED_PAIRS = bytes(
    _CODE[a] << 4 | _CODE[b]
    for pair in _PAIRS.split(" ")
    for a, b in product(*("09" if name == "D" else name for name in pair))
)
_DIGITS = (_CODE["0"], _CODE["9"])
_COMMA_ZERO = _CODE[","] << 4 | _CODE["0"]
_COMMA_MINUS = _CODE[","] << 4 | _CODE["-"]

_CONVERT = csv.ConvertOptions(
    column_types=CANDLES_SCHEMA, null_values=["null"], strings_can_be_null=False, quoted_strings_can_be_null=False
)
_PARSE = csv.ParseOptions(double_quote=False, ignore_empty_lines=False)


class _Envelope(msgspec.Struct):
    status: str
    data: dict[str, msgspec.Raw]


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def _decode_fast(body: bytes) -> pa.Table | None:
    """Return the candles, or None where the strict way has to decide."""
    start, end = body.find(_OPEN) + len(_OPEN), body.rfind(_CLOSE)
    if start < len(_OPEN) or end < start or not _is_documented_envelope(body, start, end):
        return None
    rows = body[start:end]
    if b"\n" in rows:
        return None
    text = rows.replace(b"],[", b"\n")
    if not _is_documented_rows(text):
        return None
    read = csv.ReadOptions(column_names=CANDLES_SCHEMA.names, use_threads=False, block_size=len(text) + 1)
    try:
        table = csv.read_csv(pa.BufferReader(text), read_options=read, parse_options=_PARSE, convert_options=_CONVERT)
    except pa.ArrowInvalid:
        return None
    prices = table.columns[1:5]
    if table["ts"].null_count or not all(pc.all(pc.is_finite(price), min_count=0).as_py() for price in prices):
        return None
    return table.cast(CANDLES_SCHEMA)


def _is_documented_envelope(body: bytes, start: int, end: int) -> bool:
    """Say whether the part that was cut out is `data.candles` of a success, and nothing else can be."""
    envelope = body[: start - len("[[")] + b"[]" + body[end + len(_CLOSE) :]
    if b"\\" in envelope or envelope.count(b'"candles"') != 1:
        return False  # an escaped or repeated name: the strict way knows which one counts
    try:
        answer = _ENVELOPE.decode(envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return answer.status == "success" and "candles" in answer.data


def _is_documented_rows(text: bytes) -> bool:
    """Say whether lines of candles consist of an IST timestamp and numbers as JSON writes them.

    What is left to Arrow: that a timestamp is a real one, a number has one dot at most, `null` is spelled in full, and
    a line has seven fields.
    """
    codes = np.frombuffer(text.translate(_TO_CODE), np.uint8)
    pairs = codes[:-1] << 4 | codes[1:]
    if pairs.tobytes().translate(None, _ALLOWED_PAIRS):
        return False
    ends = np.flatnonzero(codes == _CODE["\n"])
    quotes = np.flatnonzero(codes == _CODE['"'])
    starts = np.concatenate(([0], ends + 1))
    if (
        not np.array_equal(quotes[::2], starts)
        or not np.array_equal(quotes[1::2], starts + _TS_LENGTH - 1)
        or text.count(_TS_END) != len(starts)
        or codes[-1] not in (*_DIGITS, _CODE["l"])
    ):
        return False
    return not (_zero_leads(codes, np.flatnonzero(pairs == _COMMA_ZERO) + 1) or _minus_zero_leads(codes, pairs))


def _minus_zero_leads(codes: np.ndarray, pairs: np.ndarray) -> bool:
    after_minus = np.flatnonzero(pairs == _COMMA_MINUS) + 2
    return _zero_leads(codes, after_minus[codes[after_minus] == _CODE["0"]])


def _zero_leads(codes: np.ndarray, zeros: np.ndarray) -> bool:
    """Say whether a digit follows any of these zeros, each the first of its number: JSON has no 007."""
    following = codes[np.minimum(zeros + 1, len(codes) - 1)][zeros + 1 < len(codes)]
    return bool(np.isin(following, _DIGITS).any())
