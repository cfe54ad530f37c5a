"""The codec with any JSON object: nothing is lost, lines stay as they are, and every database returns the record."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from utils.records import sentiment
from utils.records.codec import OWN_COLUMNS, Codec, Field
from utils.records.external import stamp
from utils.records.instants import instant_text, microseconds
from utils.records.record import Batch
from utils.records.stream import BUZZ, Stream
from utils.records.table import Table, quoted

READ_AT = "2026-11-23T19:04:05.123Z"
FIELDS = (
    Field("device", "text"),
    Field("n", "integer"),
    Field("x", "number"),
    Field("ok", "boolean"),
    Field("when", "timestamp"),
    Field("j", "json"),
    Field("Air Temp °C", "number"),
    Field("class", "text"),
    Field("id", "integer"),
    Field("message", "text"),
    Field("encode", "text"),
    Field("a.b", "text"),
    Field("select", "number"),
    Field("É", "text"),
    Field("field_6", "text"),
    # These have no column:
    Field("extra", "text"),
    Field("Device", "text"),
    Field('q"', "text"),
    Field("back\\slash", "text"),
    Field("tab\t", "text"),
    Field("RowID", "integer"),
    Field("oid", "integer"),
    Field(" ", "text"),
    Field("timestamp", "timestamp"),
)
STREAM = Stream("odd", fields=FIELDS)
CODEC = STREAM.codec


@pytest.fixture(autouse=True, scope="module")
def zone() -> Iterator[None]:
    """Set a zone with summer time, so that instants and local times differ."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "America/New_York"
    _new_zone()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    _new_zone()


def _new_zone() -> None:
    if hasattr(time, "tzset"):
        time.tzset()
    microseconds.cache_clear()


# Names and values -----

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
instants = st.one_of(
    st.datetimes(timezones=st.none()).map(str),
    st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat()),
    st.sampled_from(
        ["2025-10-07", "n/a", "2025-10-07T18:00:00.123456789Z", "2025-11-02T01:30:00", "9999-12-31T23:59:59.999999"]
    ),
    st.sampled_from(["0001-01-01", "1e5", "2025-10-07T18:00:00+05:30", ""]),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    instants,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)
names = st.one_of(
    st.sampled_from([field.name for field in FIELDS]),
    st.sampled_from(["rowid", "DEVICE", "field_0", "producer_id", "sequence", "é", "source_producer_id"]),
    texts,
)
objects = st.dictionaries(names, values, max_size=60)
small_objects = st.dictionaries(names, values, max_size=9)


def moved(given_object: dict[str, Any]) -> dict[str, Any]:
    """Return the record as it is on the wire, without its new ids: its own ids renamed, an event time added."""
    found = dict(given_object)
    for name in ("producer_id", "sequence"):
        value, target = found.pop(name, KeyError), f"source_{name}"
        while value is not KeyError:
            found[target], value, target = value, found.get(target, KeyError), f"source_{target}"
    if found.get("timestamp") is None:
        found["timestamp"] = READ_AT
    return found


def stamped(given_objects: Sequence[dict[str, Any]], ascii_only: bool = False, indent: int | None = None) -> bytes:
    sources = (json.dumps(each, ensure_ascii=ascii_only, indent=indent).encode() for each in given_objects)
    return b"".join(stamp(source, "p", number, READ_AT) for number, source in enumerate(sources, 1))


def same(one: object, other: object) -> bool:
    """Return whether both are equal with the same types: 1 is neither 1.0 nor true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


# On the wire -----


@given(small_objects, st.booleans(), st.sampled_from([None, 2]))
@settings(deadline=None)
@example({"producer_id": 1, "source_producer_id": 2, "source_source_producer_id": 3}, False, None)
@example({"timestamp": None, "sequence": None}, False, None)
def test_a_line_keeps_its_bytes_and_gets_ids_and_event_time(
    given_object: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    source = json.dumps(given_object, ensure_ascii=ascii_only, indent=indent).encode()
    line = stamp(source, "p", 7, READ_AT)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    found = json.loads(line, object_pairs_hook=_no_name_twice)
    assert (found.pop("producer_id"), found.pop("sequence")) == ("p", 7)
    assert same(found, moved(given_object))
    plain = not {"producer_id", "sequence"} & given_object.keys() and given_object.get("timestamp", "") is not None
    if indent is None and given_object and plain:
        assert line.startswith(source[:-1])


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), pairs
    return found


@pytest.mark.parametrize(
    "source",
    [
        b'{"a":1e2,"b":1.10,"c":0.1234567890123456789012345,"d":123456789012345678901234567890,"e":1e400}',
        b'{ "a" : "\\u00e9\\/" ,"b":[ 1, 2 ]}',
        b'{"z":1,"a":2,"z":3}',
    ],
)
def test_no_number_no_escape_and_no_order_changes(source: bytes) -> None:
    assert stamp(source, "p", 1, READ_AT).startswith(source[:-1] + b",")


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r"])
def test_pretty_json_loses_white_space_alone(line_end: bytes) -> None:
    line = stamp(b'{\n  "a": 1e2,\n  "b": "\\u00e9 x"\n}'.replace(b"\n", line_end), "p", 1, READ_AT)
    assert line.startswith(b'{"a":1e2,"b":"\\u00e9 x",')


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"cpu is 7", "not a JSON object"),
        (b'{"a":1', "truncated"),
        (b'{"a":1} {"b":2}', "trailing characters"),
        (b'{"a":"x\ny"}', "invalid character"),
        (b'{"a":"x\x00y"}', "invalid character"),
        (b'{"a":NaN}', "NaN or Infinity"),
        (b'{"b":[1,-Infinity]}', "NaN or Infinity"),
        (b'{"a":Infinity}', "NaN or Infinity"),
        (b'{"a":"\xff"}', "UTF-8 at byte 6"),
        (b'{"\xff":1}', "UTF-8 at byte 2"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8 at byte 6"),
        (b'{"a":"\\ud800"}', "lone surrogate"),
        (b'{"a":"\\udc00"}', "lone surrogate"),
        (b'{"a":["\\ud800\\u0041"]}', "lone surrogate"),
        (b'{"\\ud83d":1}', "lone surrogate"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested too deeply"),
        (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
        (b'{"a":"' + b"x" * (256 * 1024) + b'"}', "over the limit of 262144"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_line_that_no_sink_can_store_is_rejected_with_its_reason(source: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        stamp(source, "p", 1, READ_AT)


def test_limits_are_allowed() -> None:
    long = b'{"a":"' + b"x" * (256 * 1024 - 8) + b'"}'
    deep = b'{"a":' + b"[" * 99 + b"]" * 99 + b"}"
    for source in (long, deep, b'{"a":"' + b"[" * 200 + b'"}', b'{"a":"\\ud83d\\ude00"}', b"{ }", b' {"a":1}\r\n'):
        line = stamp(source, "p", 1, READ_AT)
        assert CODEC.decode_lines(line)[0].sequence == 1


# Lines, records, rows -----


@pytest.mark.full
@given(st.lists(small_objects, min_size=1, max_size=4))
@settings(deadline=None)
def test_the_three_ways_to_decode_agree(given_objects: list[dict[str, Any]]) -> None:
    data = stamped(given_objects)
    lines = data.splitlines(keepends=True)
    together = CODEC.rows(CODEC.decode_lines(data))
    assert together == CODEC.rows([CODEC.decode(line) for line in lines])
    alone = CODEC.rows([CODEC.decode_lines(line)[0] for line in lines])
    assert together == alone
    # A member with an unknown name forces decoding field by field.
    marked = [CODEC.decode(line.rstrip()[:-1] + b',"unknown to all":null}') for line in lines]
    assert together == CODEC.rows(marked)


@pytest.fixture(scope="module")
def sqlite() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for statement in Table(STREAM).create("sqlite"):
            connection.execute(statement)
        yield connection


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        for statement in Table(STREAM).create("duckdb"):
            connection.execute(statement)
        yield connection


def _types(codec: Codec) -> list[str]:
    return [*(field.type for field in codec.fields), "text", "text", "integer"]


def _through_sqlite(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    connection.execute("DELETE FROM odd")
    marks = ", ".join("?" * len(Table(STREAM).columns))
    connection.executemany(f"INSERT INTO odd ({Table(STREAM).row}) VALUES ({marks})", rows)
    found = connection.execute(f"SELECT {Table(STREAM).row} FROM odd ORDER BY sequence").fetchall()
    boolean = CODEC.columns.index("ok")  # the source converts its 0 and 1
    known = {None: None, 0: False, 1: True}
    return [(*row[:boolean], known[row[boolean]], *row[boolean + 1 :]) for row in found]


def _through_duckdb(connection: duckdb.DuckDBPyConnection, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    types = _types(CODEC)
    marks = ", ".join("make_timestamp(?::BIGINT)" if kind == "timestamp" else "?" for kind in types)
    instants_us = [
        [
            microseconds(value) if kind == "timestamp" and value is not None else value
            for kind, value in zip(types, row, strict=True)
        ]
        for row in rows
    ]
    wanted = ", ".join(
        f"epoch_us({quoted(name)})" if kind == "timestamp" else quoted(name)
        for name, kind in zip(CODEC.columns, types, strict=True)
    )
    connection.execute("DELETE FROM odd")
    connection.executemany(f"INSERT INTO odd VALUES ({marks})", instants_us)
    found = connection.execute(f"SELECT {wanted} FROM odd ORDER BY sequence").fetchall()
    return [
        tuple(
            instant_text(value) if kind == "timestamp" and value is not None else value
            for kind, value in zip(types, row, strict=True)
        )
        for row in found
    ]


@pytest.mark.full
@given(st.lists(objects, min_size=1, max_size=3))
@settings(deadline=None, max_examples=100)
@example([{"x": -0.0, "n": 0, "j": -0.0}, {"x": 1, "select": 1.0, "j": 1.0}])
@example([{"x": 2**53, "n": 2**63 - 1, "Air Temp °C": -(2**53)}, {"x": 2**53 + 1, "n": 2**63}])
@example([{"when": "2025-11-02T01:30:00", "message": "a\x00b\ud7ff", "j": {"\x00": "\x00"}}])
def test_databases_give_back_the_same_record_and_nothing_is_lost(
    sqlite: sqlite3.Connection, duck: duckdb.DuckDBPyConnection, given_objects: list[dict[str, Any]]
) -> None:
    records = CODEC.decode_lines(stamped(given_objects))
    rows = CODEC.rows(records)
    canonical = CODEC.canonical(CODEC.columns_of(records))
    for found in (_through_sqlite(sqlite, rows), _through_duckdb(duck, rows)):
        assert canonical == CODEC.canonical(zip(*found, strict=True))
    assert CODEC.rows(CODEC.from_columns(list(zip(*rows, strict=True)))) == rows
    for given_object, record, row in zip(given_objects, records, rows, strict=True):
        wanted = {name: value for name, value in moved(given_object).items() if value is not None}
        columns = {
            field.name: json.loads(value) if field.type == "json" else value
            for field, value in zip(CODEC.fields, row, strict=False)
            if value is not None
        }
        extra = json.loads(record.extra) if record.extra else {}
        assert not columns.keys() & extra.keys()
        assert {name: value for name, value in (columns | extra).items()} == wanted
        again = json.loads(CODEC.encode(record))
        assert (again.pop("producer_id"), again.pop("sequence")) == ("p", record.sequence)
        assert again == wanted


@pytest.mark.full
@given(st.lists(objects, min_size=1, max_size=3), st.integers(0, 3))
@settings(deadline=None)
def test_values_in_extra_are_counted_by_name(given_objects: list[dict[str, Any]], odd: int) -> None:
    lines = stamped([{**each, "odd": odd} for each in given_objects])
    batch = Batch("p", len(given_objects), len(given_objects), lines, CODEC)
    assert batch.extra_counts["odd"] == len(given_objects)
    assert batch.extra_counts.total() == sum(len(json.loads(record.extra)) for record in batch.records)


def test_every_record_with_all_values_in_their_columns_has_no_extra() -> None:
    data = stamped([{"device": "a", "n": 1, "x": 2, "ok": True, "when": "2025-10-07", "j": [1], "select": 1.5}])
    (record,) = CODEC.decode_lines(data)
    assert record.extra is None
    assert (record.device, record.n, record.x, record.ok) == ("a", 1, 2, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 1.5), ("n", "1"), ("n", True), ("n", 2**63), ("n", -(2**63) - 1), ("x", "n/a"), ("x", False),
        ("x", 2**53 + 1), ("ok", 1), ("ok", "true"), ("when", "n/a"), ("when", 1739919827), ("device", 7),
        ("device", ["a"]), ("class", {}), ("extra", "x"), ("extra", {}), ("Device", "b"), ('q"', "c"),
        ("RowID", 1), ("rowid", 1), ("oid", 1), ("_rowid_", 1), ("back\\slash", 1), ("tab\t", 1), (" ", 1), ("", 1),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_in_extra(name: str, value: object) -> None:
    (record,) = CODEC.decode_lines(stamped([{name: value}]))
    assert json.loads(record.extra) == {name: value}
    assert CODEC.rows([record])[0][:-4] == (None,) * (len(CODEC.columns) - 4)


def test_null_is_absent_everywhere() -> None:
    for given_object in ({"x": None, "j": None, "unknown": None, "extra": None}, {"j": None}):
        (record,) = CODEC.decode_lines(stamped([given_object]))
        assert json.loads(CODEC.encode(record)) == {"timestamp": READ_AT, "producer_id": "p", "sequence": 1}
        assert set(CODEC.rows([record])[0]) == {None, READ_AT, "p", 1}


@pytest.mark.parametrize(
    ("line", "x", "extra"),
    [
        (b'{"x":1,"x":2}', 2, None),
        (b'{"x":1,"x":null}', None, None),
        (b'{"x":"a","x":2}', 2, None),
        (b'{"x":1,"x":"a"}', None, '{"x":"a"}'),
        (b'{"y":1,"y":2}', None, '{"y":2}'),
        (b'{"x":1,"y":1,"x":2,"y":null}', 2, None),
    ],
)
def test_of_a_name_twice_in_an_object_the_last_value_counts(line: bytes, x: object, extra: str | None) -> None:
    """Every JSON reader does so; the line keeps both."""
    for record in (CODEC.decode(line), *CODEC.decode_lines(line + b"\n")):
        assert (record.x, record.extra) == (x, extra)


def test_values_beyond_python_stay_text_in_extra_and_json() -> None:
    line = b'{"x":1e400,"j":[1e400],"y":1e-400,"z":12345678901234567890123.0}'
    record = CODEC.decode(line)
    assert record.x is None
    assert bytes(record.j) == b"[1e400]"
    assert record.extra == '{"x":1e400,"y":1e-400,"z":12345678901234567890123.0}'


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.text().map(str.encode) | objects.map(lambda each: json.dumps(each).encode()[:-1]))
def test_no_bytes_can_do_more_than_be_invalid(data: bytes) -> None:
    for read in (CODEC.decode, BUZZ.codec.decode, lambda data: stamp(data, "p", 1, READ_AT)):
        try:
            read(data)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize(
    "data",
    [
        b'{"x":1}{"x":2}\n',
        b'{"x":1} {"x":2}\n\n',
        b'{"x":\n1}\n',
        b'{"x":1}\n[]\n',
        b'{"x":1}\nnull\n',
        b'{"x":1}\n\n{"x":2}\n',
        b'{"x":1}\n{"x"\n',
        b'{"x":1}\n{"device":"\xff"}\n',
        b'{"x":1}\n{"unknown":"\xff"}\n',
        b'{"x":1}\n{"j":"\xff"}\n',
    ],
)
def test_a_chunk_with_a_line_that_is_no_object_is_rejected(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        CODEC.decode_lines(data)


def test_of_many_records_only_the_odd_one_has_an_extra() -> None:
    data = b"".join(b'{"x":%d%b}\n' % (number, b',"odd":1' if number == 777 else b"") for number in range(1, 2_001))
    records = CODEC.decode_lines(data)
    assert [record.x for record in records] == list(range(1, 2_001))
    assert [record.x for record in records if record.extra] == [777]


@pytest.mark.parametrize("ids", ['"producer_id": "a-1"', '"sequence": 3'])
def test_a_record_with_one_of_both_ids_has_none(ids: str) -> None:
    for codec in (CODEC, BUZZ.codec):
        whole = '"message":"a","author":"","category":"","sentiment":0,"keyword_mentioned":"","message_length":1'
        line = f"{{{whole},{ids}}}"
        for found in (codec.decode(line.encode()), *codec.decode_lines(line.encode() + b"\n")):
            assert (found.producer_id, found.sequence) == (None, None)


def test_ids_of_different_records_are_not_combined() -> None:
    found = CODEC.decode_lines(b'{"producer_id":"a-1"}\n{"sequence":3}\n')
    assert [(each.producer_id, each.sequence) for each in found] == [(None, None)] * 2


@pytest.mark.parametrize(
    ("one", "other"), [("b'x'", '"x"'), (1, True), (1, "1"), (None, "null"), ("a", b"a"), (1.5, "1.5")]
)
def test_canonical_forms_differ_where_types_do(one: object, other: object) -> None:
    columns = [(None, None)] * len(CODEC.columns)
    for place, field in enumerate(CODEC.fields):
        if field.type in ("text", "json", "integer"):
            forms = set(CODEC.canonical([*columns[:place], (one, other), *columns[place + 1 :]]))
            assert len(forms) == 2, field


def test_a_stream_without_fields_keeps_everything() -> None:
    bare = Stream("bare").codec
    assert bare.columns == tuple(OWN_COLUMNS)
    (record,) = bare.decode_lines(stamped([{"a": {"b": [1, None]}, "c": 1}]))
    assert json.loads(bare.encode(record))["a"] == {"b": [1, None]}


# Time -----


def test_timestamps() -> None:
    assert microseconds("2026-11-23T19:04:05.123Z") == 1795460645_123000
    assert microseconds("2026-11-23T19:04:05.123+05:30") == 1795460645_123000 - 19_800_000_000
    if hasattr(time, "tzset"):  # only tzset changes the zone
        assert microseconds("2026-11-23 19:04:05") == (1795460645 + 5 * 3_600) * 1_000_000  # local time
    assert microseconds("yesterday") is microseconds("") is None
    assert instant_text(1795460645123000) == "2026-11-23T19:04:05.123Z"
    assert instant_text(1795460645123456) == "2026-11-23T19:04:05.123456Z"


@given(st.datetimes(timezones=st.timezones()))
def test_an_instant_has_one_text_that_is_the_same_instant(at: Any) -> None:
    found = microseconds(at.isoformat())
    if found is not None:  # None is the first or last day of the calendar, which UTC may not have
        assert microseconds(instant_text(found)) == found


def test_instants_outside_of_the_calendar_are_none() -> None:
    for text in ("9999-12-31T23:59:59.999999-14:00", "0001-01-01T00:00:00+14:00"):
        assert microseconds(text) is None
    assert microseconds("9999-12-31T23:59:59.999999Z") == microseconds("9999-12-31T23:59:59.999999+00:00")
    for instant_us in (253_402_300_800_000_000, -62_135_596_800_000_001, 2**63 - 1):
        with pytest.raises(ValueError, match="outside of the years"):
            instant_text(instant_us)


# Buzz -----


def test_a_long_text_is_scored_by_its_beginning() -> None:
    longer_and_worse = "I love this! " * 100 + "x1 " * 50_000 + "but " + "good " * 50_000  # minutes if scored whole
    assert sentiment.score(longer_and_worse) == sentiment.score(longer_and_worse[: sentiment.MAX_CHARACTERS]) > 0.7
