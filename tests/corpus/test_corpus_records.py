"""Records as others write them: read with what is missing filled in, or refused with a reason; never fatal."""

import json
import math
import re
import string
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import make_batch
from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.emitters.file_emitter import FileEmitter
from utils.records import sentiment
from utils.records.record import MAX_INT64, Message, decode_lines, decode_record, encode_lines, from_mapping
from utils.sources.file_source import FileSource

WHOLE = {
    "message": "hi", "author": "Ann", "timestamp": "2026-01-02T03:04:05.678Z", "category": "c", "sentiment": 0.25,
    "keyword_mentioned": "k", "message_length": 2, "producer_id": "p-1", "sequence": 7,
}  # fmt: skip

READABLE: list[tuple[str, dict[str, Any]]] = [
    (json.dumps(WHOLE), {"sequence": 7, "producer_id": "p-1", "sentiment": 0.25}),
    ('{"message": "hi"}', {"author": "Unknown", "message_length": 2, "sentiment": sentiment.score("hi")}),
    ('{"message": ""}', {"message": "", "message_length": 0}),
    ('{"message": "hi", "author": ""}', {"author": "Unknown"}),
    ('{"message": "hi", "author": null}', {"author": "Unknown"}),
    ('{"message": "hi", "timestamp": null}', {"timestamp": ""}),
    ('{"message": "hi", "timestamp": "2025-01-29 14:35:20"}', {"timestamp": "2025-01-29 14:35:20"}),
    ('{"message": "hi", "timestamp": "yesterday"}', {"timestamp": "yesterday"}),
    ('{"message": "hi", "sentiment": null}', {"sentiment": sentiment.score("hi")}),
    ('{"message": "hi", "sentiment": "0.75"}', {"sentiment": 0.75}),
    ('{"message": "hi", "sentiment": 1}', {"sentiment": 1.0}),
    ('{"message": "hi", "sentiment": 1e-400}', {"sentiment": 0.0}),
    ('{"message": "hi", "message_length": "42"}', {"message_length": 42}),
    ('{"message": "hi", "message_length": 3.0}', {"message_length": 3}),
    ('{"message": "hi", "message_length": 9223372036854775807}', {"message_length": MAX_INT64}),
    ('{"message": "hi", "more": {"deep": [1, 2]}}', {"message": "hi"}),
    ('{"message": "hi", "message": "again"}', {"message": "again"}),
    ('{"message": "hi", "producer_id": "p"}', {"producer_id": None, "sequence": None}),
    ('{"message": "hi", "sequence": 5}', {"producer_id": None, "sequence": None}),
    ('{"message": "hi", "producer_id": "p", "sequence": "5"}', {"producer_id": "p", "sequence": 5}),
    ('{"message": "hi", "producer_id": "", "sequence": 5}', {"producer_id": None, "sequence": None}),
    ('  {"message": "hi"}\r', {"message": "hi"}),
    ('{"message": "\\u00e9\\ud83e\\udd80"}', {"message": "é🦀", "message_length": 2}),
    ('{"message": "a\\u0000b"}', {"message": "a\0b"}),
    ('{"message": "line\\nbreak"}', {"message": "line\nbreak"}),
    ('{"message": "true"}', {"message": "true"}),
]
UNREADABLE: list[tuple[bytes, str]] = [
    (b"", "truncated"),
    (b"   ", "truncated"),
    (b"not JSON", "malformed"),
    (b"{", "truncated"),
    (b'{"message": "hi"', "truncated"),
    (b'{"message": "hi', "truncated"),
    (b'{"message": "hi"}}', "malformed|trailing"),
    (b'{"message": "hi"} {"message": "ho"}', "malformed|trailing"),
    (b"{'message': 'hi'}", "malformed"),
    (b'{message: "hi"}', "malformed"),
    (b'{"message": "hi",}', "malformed"),
    (b'{"message" "hi"}', "malformed"),
    (b'{"message": hi}', "malformed"),
    (b'{"message": "hi", "sentiment": NaN}', "malformed"),
    (b'{"message": "hi", "sentiment": Infinity}', "malformed"),
    (b'{"message": "hi", "sentiment": .5}', "malformed"),
    (b"null", "Expected `object`, got `null`"),
    (b"true", "Expected `object`, got `bool`"),
    (b"3", "Expected `object`, got `int`"),
    (b'"message"', "Expected `object`, got `str`"),
    (b"[]", "Expected `object`, got `array`"),
    (b'[{"message": "hi"}]', "Expected `object`, got `array`"),
    (b"{}", "missing required field `message`"),
    (b'{"Message": "hi"}', "missing required field `message`"),
    (b'{"message": null}', r"Expected `str`, got `null` - at `\$.message`"),
    (b'{"message": 3}', r"Expected `str`, got `int` - at `\$.message`"),
    (b'{"message": ["hi"]}', r"Expected `str`, got `array` - at `\$.message`"),
    (b'{"message": {"text": "hi"}}', r"Expected `str`, got `object` - at `\$.message`"),
    (b'{"message": "hi", "author": 3}', r"at `\$.author`"),
    (b'{"message": "hi", "timestamp": 1700000000}', r"at `\$.timestamp`"),
    (b'{"message": "hi", "category": []}', r"at `\$.category`"),
    (b'{"message": "hi", "sentiment": 1.01}', r"Expected `float` <= 1.0 - at `\$.sentiment`"),
    (b'{"message": "hi", "sentiment": -0.5}', r"Expected `float` >= 0.0 - at `\$.sentiment`"),
    (b'{"message": "hi", "sentiment": "good"}', r"at `\$.sentiment`"),
    (b'{"message": "hi", "sentiment": "nan"}', r"at `\$.sentiment`"),
    (b'{"message": "hi", "sentiment": "inf"}', r"at `\$.sentiment`"),
    (b'{"message": "hi", "sentiment": 1e400}', "out of range|malformed|at `"),
    (b'{"message": "hi", "message_length": -1}', r"at `\$.message_length`"),
    (b'{"message": "hi", "message_length": 2.5}', r"at `\$.message_length`"),
    (b'{"message": "hi", "message_length": 9223372036854775808}', r"at `\$.message_length`"),
    (b'{"message": "hi", "message_length": 1e30}', r"at `\$.message_length`"),
    (b'{"message": "hi", "producer_id": "p", "sequence": 0}', r"at `\$.sequence`"),
    (b'{"message": "hi", "producer_id": "p", "sequence": -3}', r"at `\$.sequence`"),
    (b'{"message": "hi", "producer_id": "p", "sequence": 18446744073709551616}', r"at `\$.sequence`"),
    (b'{"message": "hi", "producer_id": 5, "sequence": 1}', r"at `\$.producer_id`"),
    (b'{"message": "\xff\xfe"}', "utf-8|malformed|UTF-8"),
    (b'{"message": "\\ud800"}', "truncated|malformed"),
    (b'{"message": "tab\there"}', "malformed|invalid"),
    (b'\xef\xbb\xbf{"message": "hi"}', "malformed"),
    (b'\xff\xfe{\x00"\x00', "malformed"),
    (b"\x00" * 20, "malformed"),
    (b"\x1f\x8b\x08\x00", "malformed"),
    (b"[" * 100_000, "Expected `object`, got `array`"),
    (b'{"message": "hi", "more": ' + b"[" * 100_000, "nested too deeply"),
    (b'{"message": "hi", "sentiment": "0.5", "more": ' + b'{"a":' * 100_000, "nested too deeply"),
    (b'{"message": "\\q"}', "malformed|invalid escape"),
]


@pytest.mark.parametrize(("line", "fields"), READABLE)
def test_readable_records(line: str, fields: dict[str, Any]) -> None:
    message = decode_record(line.encode())
    assert {name: getattr(message, name) for name in fields} == fields
    assert isinstance(message, Message)
    encode_lines([message])


@pytest.mark.parametrize(("line", "pattern"), UNREADABLE)
def test_unreadable_records_have_a_reason(line: bytes, pattern: str) -> None:
    with pytest.raises(ValueError, match=re.compile(pattern, re.IGNORECASE)):
        decode_record(line)


def test_a_file_of_all_of_them_is_read_once_with_every_reason(tmp_path: Path) -> None:
    """Blank lines are no records."""
    path = tmp_path / "all.jsonl"
    bad = [line for line, _ in UNREADABLE if line.strip() and b"\n" not in line]
    good = [line.encode() for line, _ in READABLE]
    path.write_bytes(b"\n".join([*bad, b"", *good, b" "]) + b"\n")
    source = FileSource([path], lambda partition: "")
    messages, invalid = [], []
    while chunk := source.poll(10):
        messages += chunk.records
        invalid += chunk.invalid
    source.close()
    assert len(messages) == len(good)
    assert len(invalid) == len(bad)
    assert all(each.where.startswith("all.jsonl byte ") and each.reason for each in invalid)


REFUSED = [
    (Message("x" * 262_144, "a", "", "c", 0.5, "k", 1), "over the limit"),
    (Message("\ud800", "a", "", "c", 0.5, "k", 1), "not valid Unicode"),
    (Message("x", "\udfff", "", "c", 0.5, "k", 1), "not valid Unicode"),
    (Message("x", "a", "", "c", math.nan, "k", 1), "sentiment nan"),
    (Message("x", "a", "", "c", math.inf, "k", 1), "sentiment inf"),
    (Message("x", "a", "", "c", -0.1, "k", 1), "sentiment -0.1"),
    (Message("x", "a", "", "c", 0.5, "k", -1), "message_length -1"),
    (Message("x", "a", "", "c", 0.5, "k", 2**63), "message_length 9223372036854775808"),
]


@pytest.mark.parametrize(("message", "words"), REFUSED)
def test_what_no_sink_could_hold_is_refused_before_it_is_acknowledged(message: Message, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode_lines([message])


def test_a_deeply_nested_end_of_the_file_sink_stops_nobody(settings: Settings) -> None:
    deep = b'{"message": "ann-1", "more": ' + b"[" * 100_000
    settings.data_path.mkdir()
    settings.live_path.write_bytes(deep + b"\n" + deep)
    with closing(FileEmitter(settings.live_path)) as emitter:
        emitter.emit(make_batch(2, producer_id="ann-1"))
        assert emitter.last_sequence("ann-1") == 2
    array = settings.live_path.with_suffix(".json")
    array.write_bytes(b"[" * 100_000)
    with (
        closing(FileSource([array], lambda partition: "", finished=True)) as source,
        pytest.raises(ToolkitError, match="array"),
    ):
        source.poll(1)


MAPPINGS: list[tuple[dict[Any, Any], str]] = [
    ({}, "missing required field `message`"),
    ({"message": 3}, "Expected `str`"),
    ({"message": b"hi"}, "Expected `str`"),
    ({"message": "hi", "sentiment": "x"}, "sentiment"),
    ({"message": "hi", "message_length": [1]}, "message_length"),
    ({3: "hi"}, "missing required field `message`"),
]


@pytest.mark.parametrize(("record", "words"), MAPPINGS)
def test_mappings_that_are_no_records(record: dict[Any, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_mapping(record)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(Message.__struct_fields__)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_have_a_reason(data: bytes) -> None:
    read_or_refuse(data)


@given(st.dictionaries(names | text, anything, max_size=9))
def test_any_object_is_a_record_or_has_a_reason(record: dict[str, Any]) -> None:
    read_or_refuse(json.dumps(record).encode())


@given(st.data())
def test_any_change_of_a_record_is_a_record_or_has_a_reason(data: st.DataObject) -> None:
    line = bytearray(json.dumps(WHOLE).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(line) - 1))
        line[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([each.encode() for each in string.punctuation])
        )
    read_or_refuse(bytes(line))


def read_or_refuse(data: bytes) -> None:
    """What is read must be whole, storable, and the same when it is written and read again."""
    try:
        message = decode_record(data)
    except ValueError as error:
        assert str(error)
        return
    assert 0.0 <= message.sentiment <= 1.0
    assert 0 <= message.message_length <= MAX_INT64
    assert (message.producer_id is None) == (message.sequence is None)
    assert decode_lines(encode_lines([message])) == [message]


messages = st.builds(
    Message, text, text.filter(bool), text, text, st.floats(0, 1), text, st.integers(0, MAX_INT64),
    text.filter(bool), st.integers(1, MAX_INT64),
)  # fmt: skip


@given(messages)
def test_what_is_written_is_read_back(message: Message) -> None:
    line = encode_lines([message])
    assert line.count(b"\n") == 1
    assert decode_record(line) == decode_lines(line)[0] == message == from_mapping(msgspec.structs.asdict(message))
