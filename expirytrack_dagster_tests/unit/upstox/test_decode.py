"""Candles: both ways of decoding agree with each other and with orjson, and nothing damaged passes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from expirytrack_dagster.errors import MalformedResponse, TruncatedResponse
from expirytrack_dagster.upstox.decode import CANDLES_SCHEMA, _decode_fast, _decode_strictly, decode_candles

if TYPE_CHECKING:
    import pyarrow as pa

RECORDED = Path(__file__).parents[4] / "shared" / "realdata" / "upstox_recorded"
IST = timezone(timedelta(hours=5, minutes=30))
ROW = ["2025-08-01T15:29:00+05:30", 24618.9, 24624, 24612.1, 24618, 31125, 17059500]


def compact(rows: list[Any]) -> bytes:
    """Write an answer as the API does."""
    return orjson.dumps({"status": "success", "data": {"candles": rows}})


def orjson_reading(body: bytes) -> list[list[Any]] | None:
    """Read candles in the plainest way: rows of (UTC time, numbers), or None if the shape is another."""
    try:
        answer = orjson.loads(body)
        if answer["status"] != "success":
            return None
        data = answer["data"]
        candles = [] if data is None or data["candles"] is None else data["candles"]
        rows = [[datetime.fromisoformat(ts).astimezone(UTC), *values] for ts, *values in candles]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    for row in rows:
        prices, wholes = row[1:5], row[5:]
        if len(row) != 7 or not all(type(value) in {int, float, type(None)} for value in prices):
            return None
        if not all(value is None or (type(value) in {int, float} and value == int(value)) for value in wholes):
            return None
    return rows


def as_rows(table: pa.Table) -> list[list[Any]]:
    """Return a table as rows of plain values."""
    return [[row.pop("ts").astimezone(UTC), *row.values()] for row in table.to_pylist()]


def finite(low: float, high: float) -> st.SearchStrategy[float]:
    """Draw finite floats."""
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(  # noqa: DTZ001  the zone is given next
    lambda moment: moment.replace(microsecond=0, tzinfo=IST).isoformat()
)
PRICES = (
    finite(0, 1e6)
    | finite(-1e300, 1e300)
    | st.integers(0, 10**6)
    | st.decimals(0, 10**5, places=2).map(float)
    | st.none()
)
WHOLES = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**7) | st.none()
ROWS = st.lists(st.tuples(TIMES, PRICES, PRICES, PRICES, PRICES, WHOLES, WHOLES).map(list), max_size=8)


@given(ROWS, st.sampled_from([None, 0, 2]), st.sampled_from([(",", ":"), (", ", ": ")]), st.booleans())
def test_any_formatting_gives_what_orjson_reads(
    rows: list[Any],
    indent: int | None,
    separators: tuple[str, str],
    status_last: bool,  # noqa: FBT001  drawn by hypothesis, never called by hand
) -> None:
    """Compact or pretty, in either order of the fields, the table equals the plain reading."""
    data = {"data": {"candles": rows}}
    answer = {**data, "status": "success"} if status_last else {"status": "success", **data}
    body = json.dumps(answer, indent=indent, separators=separators).encode()
    table = decode_candles(body)
    assert table.schema == CANDLES_SCHEMA
    assert as_rows(table) == orjson_reading(body)
    assert table.equals(_decode_strictly(body))


def test_fast_way_takes_what_the_api_sends() -> None:
    """The compact form, floats, integers and nulls among it, never needs the strict way."""
    body = compact(
        [
            ROW,
            ["2025-08-01T09:15:00+05:30", 0.05, 1, 0.05, 0.5, 0, None],
            [*ROW[:5], None, -75],
            [ROW[0], None, *ROW[2:]],
        ]
    )
    fast = _decode_fast(body)
    assert fast is not None
    assert fast.equals(_decode_strictly(body))
    assert fast["ts"][0].as_py() == datetime(2025, 8, 1, 9, 59, tzinfo=UTC)


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded answers are not at {RECORDED}")
def test_recorded_answer_is_read_alike_in_both_ways() -> None:
    """The recorded pretty-printed answer and its compact form give the same 375 candles."""
    body = next(RECORDED.glob("expired_historical_candle*.json")).read_bytes()
    fast = _decode_fast(orjson.dumps(orjson.loads(body)))
    assert fast is not None
    assert fast.equals(decode_candles(body))
    assert as_rows(fast) == orjson_reading(body)
    assert fast.num_rows == 375


@pytest.mark.parametrize("body", [compact([]), b'{"status":"success","data":{"candles":null}}',
                                  b'{"status":"success","data":null}'])  # fmt: skip
def test_empty_answers_give_an_empty_table(body: bytes) -> None:
    """No candles is an answer, in every spelling."""
    assert decode_candles(body).num_rows == 0
    assert decode_candles(body).schema == CANDLES_SCHEMA


@pytest.mark.parametrize("end", range(len(compact([ROW, ROW]))))
def test_body_cut_off_anywhere_is_truncated(end: int) -> None:
    """No prefix of an answer passes for an answer."""
    with pytest.raises(TruncatedResponse):
        decode_candles(compact([ROW, ROW])[:end])


WRONG_FIELDS = [
    '"31125"', "true", "[]", "{}", "", "nan", "NaN", "inf", "Infinity", "-", "+5", "05", "-05", "00", ".5", "5.", "-.5",
    "1.2.3", "1-2", "1:2", "1T2", "1+2", "nul", "nulll", "null5", "5null", "0x1F", "1_000",
    "1 2", "\u0661", '"2025-08-01T15:29:00+05:30"',
    "9" * 400, "1e400", "--5", "5,5", "5],[5",
]  # fmt: skip


@pytest.mark.parametrize("field", range(1, 7))
@pytest.mark.parametrize("text", WRONG_FIELDS)
def test_wrong_numbers_never_pass(field: int, text: str) -> None:
    """A field that is no JSON number raises one of the two errors, whichever field it is."""
    values = [json.dumps(value) for value in ROW]
    values[field] = text
    body = compact([ROW, "@", ROW]).replace(b'"@"', f"[{','.join(values)}]".encode())
    with pytest.raises((MalformedResponse, TruncatedResponse)):
        decode_candles(body)


@pytest.mark.parametrize(
    "text",
    ["2025-08-01", "2025-08-01T15:29:00", "2025-13-01T15:29:00+05:30", "2025-02-29T15:29:00+05:30", "1754042340",
     "2025-08-01T15:29+05:30", "2025-08-01T15:29:00.12+05", "", "null", "0"],
)  # fmt: skip
def test_wrong_timestamps_never_pass(text: str) -> None:
    """A time that is not RFC 3339 with an offset is refused."""
    with pytest.raises(MalformedResponse):
        decode_candles(compact([ROW, [text, *ROW[1:]]]))


@pytest.mark.parametrize(
    "rows",
    [[ROW[:6]], [[*ROW, 1]], [ROW, []], [ROW, ROW[:1]], [[None, *ROW[1:]]], [5], ["x"],
     [{"ts": 1}], [[*ROW[:5], 1.5, 2]], [[*ROW[:5], 2**63, 2]], [[*ROW[:5], 1e19, 2]]],
)  # fmt: skip
def test_rows_of_another_shape_never_pass(rows: list[Any]) -> None:
    """Rows too short or too long, null times, fractions of a unit and numbers beyond 64 bits are malformed."""
    for body in (compact(rows), compact([ROW, *rows])) if rows != [[*ROW[:5], 2**63, 2]] else (compact(rows),):
        with pytest.raises(MalformedResponse):
            decode_candles(body)


def test_whole_numbers_may_be_written_as_floats() -> None:
    """31125.0 is 31125, and other offsets and UTC are the same instants."""
    body = compact([[*ROW[:5], 31125.0, None], ["2025-08-01T09:59:00Z", *ROW[1:]]])
    assert _decode_fast(body) is None
    table = decode_candles(body)
    assert table["volume"].to_pylist() == [31125, 31125]
    assert len(set(table["ts"].to_pylist())) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"success","data":{"candles":[]},"old":{"candles":[[%s]]}}',
        b'{"status":"success","data":{"x":{"candles":[[%s]]},"candles":null}}',
        b'{"status":"success","data":{"candles":[[%s]]},"data":null}',
        b'{"status":"success","data":{"candles":[[%s]],"\\u0063andles":[]}}',
        b'{"status":"success","x":"\\"candles\\":[[","data":{"candles":[[%s]]}}',
        b'{"status":"success","data":{"candles":[[%s]],"more":[[1]]}}',
    ],
)
def test_only_the_documented_place_counts(body: bytes) -> None:
    """Candles elsewhere, repeated or hidden by an escape are read as any JSON reader reads them."""
    body = body.replace(b"%s", compact([ROW])[len(b'{"status":"success","data":{"candles":[[') : -len(b"]]}}")])
    rows = (orjson.loads(body)["data"] or {}).get("candles") or []
    assert decode_candles(body).num_rows == len(rows)


@pytest.mark.parametrize("body", [b'{"status":"success"}', b'{"status":"success","data":{}}', b"{}", b"[]", b"null"])
def test_missing_fields_never_pass_for_an_empty_contract(body: bytes) -> None:
    """Only an explicit empty list or null means no candles."""
    with pytest.raises(MalformedResponse):
        decode_candles(body)


@pytest.mark.parametrize("status", ["error", "partial_success", ""])
def test_other_status_is_malformed(status: str) -> None:
    """A part of the candles never passes for all of them."""
    with pytest.raises(MalformedResponse):
        decode_candles(compact([ROW]).replace(b"success", status.encode()))


@given(st.data())
@example(data=None)
def test_damaged_bodies_give_an_error_or_the_plain_reading(data: st.DataObject | None) -> None:
    """Any byte changed, removed or inserted: never a table that differs from what orjson reads."""
    body = bytearray(compact([ROW, ["2025-08-01T09:15:00+05:30", 0.05, 10, -0.5, 100, 0, None]]))
    if data is not None:
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(body) - 1))
            new = data.draw(st.sampled_from(b'0123456789.,-+:T"[]{}nul \n\\eE\x00\xff'))
            match data.draw(st.sampled_from(["change", "insert", "remove"])):
                case "change":
                    body[place] = new
                case "insert":
                    body.insert(place, new)
                case _:
                    del body[place]
    try:
        table = decode_candles(bytes(body))
    except (MalformedResponse, TruncatedResponse):
        return
    assert as_rows(table) == orjson_reading(bytes(body))


@pytest.mark.parametrize("others", ["", "1"])
def test_time_zones_count_whatever_else_is_imported(monkeypatch: pytest.MonkeyPatch, others: str) -> None:
    """Importing pandera tells Arrow, by a variable of the process, to ignore time zones: candles must not move."""
    monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", others)
    moment = datetime(2025, 8, 1, 9, 59, tzinfo=UTC)
    for table in (decode_candles(compact([ROW])), _decode_strictly(compact([ROW]))):
        assert table["ts"].to_pylist() == [moment]
