"""Any JSON object through the emitters into the sinks and back through their sources: nothing is lost or changed."""

import json
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.helpers import wait_until
from tests.records.test_codec import READ_AT, STREAM, moved, objects
from utils.app.config import Settings
from utils.app.errors import Absent
from utils.delivery.producing import session
from utils.records.codec import Field
from utils.records.infer import infer_stream
from utils.records.record import Batch, Line
from utils.records.stream import BUZZ, Stream
from utils.sinks import DEFAULT_RUN, EMBEDDED, SINKS, find_stream, source

PRODUCER_ID = "any-11111111-22222222"
KEY = "any-11111111"


def through(sink: str, stream: Stream, batches: list[Batch], place: Settings) -> list[Any]:
    """Emit the batches to a sink and return its records."""
    emitter = SINKS[sink].emitter(place, stream, KEY, "")
    try:
        assert emitter.last([PRODUCER_ID]) is None
        for batch in batches:
            emitter.emit(batch)
    finally:
        emitter.close()
    return contained(sink, stream, place)


def contained(sink: str, stream: Stream, place: Settings) -> list[Any]:
    """Return the records of a sink, as a source of this stream reads them."""
    found: list[Any] = []
    with closing(source(sink, place, stream, lambda partition: "", finished=True)) as reader:
        while chunk := reader.poll(100):
            assert not chunk.invalid
            found += chunk.records
    return found


def batches_of(given_objects: list[dict[str, Any]], stream: Stream, size: int) -> list[Batch]:
    lines = [Line(json.dumps(each).encode(), READ_AT) for each in given_objects]
    return [
        Batch.of_lines(lines[first : first + size], PRODUCER_ID, first + 1, stream.codec)
        for first in range(0, len(lines), size)
    ]


def check(given_objects: list[dict[str, Any]], stream: Stream, folder: Path, size: int = 4) -> None:
    place = Settings(data_dir=folder)
    wanted = [{name: value for name, value in moved(each).items() if value is not None} for each in given_objects]
    canonical = set()
    for sink in EMBEDDED:
        records = through(sink, stream, batches_of(given_objects, stream, size), place)
        assert [record.sequence for record in records] == list(range(1, len(wanted) + 1)), sink
        canonical.add(b"\n".join(stream.codec.canonical(stream.codec.columns_of(records))))
        if sink == "duckdb":
            continue  # it keeps instants, not their texts: only the canonical form is equal
        for record, want in zip(records, wanted, strict=True):
            found = json.loads(stream.codec.encode(record))
            assert (found.pop("producer_id"), found.pop("sequence")) == (PRODUCER_ID, record.sequence)
            assert found == want, sink
    assert len(canonical) == 1


@pytest.mark.proof(
    "a record arrives whole: every field, typed in SQL, unchanged on the wire",
    "random objects through every sink and back",
    full=6,
)
@given(st.lists(objects, min_size=1, max_size=10))
@hypothesis_settings(deadline=None, max_examples=6)
@example([{"x": 1, "when": "2025-11-02T01:30:00"}, {"x": None, "when": None}, {"x": 0.5, "j": [None, {"a": "\x00"}]}])
@example([{"n": 2**63 - 1, "x": 2**53, "id": -(2**63)}, {"n": 2**63, "x": 2**53 + 1, "id": 1.5}])
@example([{f"field {number}": number for number in range(60)}])
def test_any_object_comes_back_from_every_sink(given_objects: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        check(given_objects, STREAM, Path(folder))


@pytest.mark.full
@given(st.lists(objects, min_size=1, max_size=10))
@hypothesis_settings(deadline=None, max_examples=6)
def test_any_object_comes_back_through_inferred_fields(given_objects: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        check(given_objects, infer_stream("any", [*given_objects, {"timestamp": READ_AT}]), Path(folder))


@pytest.mark.parametrize("sink", EMBEDDED)
def test_a_stream_without_a_schema_file_is_inferred_from_any_source(sink: str, settings: Settings) -> None:
    given_objects = [
        {"device": f"d{number % 3}", "x": number % 7 / 4, "n": number % 5, "more": {"a": number}, "when": READ_AT}
        for number in range(60)
    ]
    declared = Stream("odd", fields=infer_stream("odd", given_objects).fields)
    with pytest.raises(Absent):
        find_stream("odd", settings, sink)
    records = through(sink, declared, batches_of(given_objects, declared, 60), settings)
    found = find_stream("odd", settings, sink)
    types = {field.name: field.type for field in found.fields}
    json_type = "text" if sink == "sqlite" else "json"  # a column of text in SQLite
    assert types.pop("more") == json_type
    assert types == {"device": "text", "x": "number", "n": "number", "when": "timestamp", "timestamp": "timestamp"}
    assert (found.by, found.value, found.histogram, found.time) == ("device", "x", "n", "timestamp")
    with closing(source(sink, settings, found, lambda partition: "", finished=True)) as reader:
        chunk = reader.poll(100)
    assert chunk is not None
    assert [(record.device, record.x, record.n) for record in chunk.records] == [
        (record.device, record.x, record.n) for record in records
    ]
    assert not any(record.extra for record in chunk.records)


@pytest.mark.parametrize("sink", EMBEDDED)
def test_values_in_extra_move_to_a_field_that_the_stream_gains(sink: str, settings: Settings) -> None:
    given_objects: list[dict[str, Any]] = [
        {"device": "a", "ph": 6.5},
        {"device": "b", "ph": "n/a"},
        {"device": "c", "odd": 1},
    ]
    before = Stream("odd", fields=(Field("device", "text"), Field("timestamp", "timestamp")))
    through(sink, before, batches_of(given_objects, before, 3), settings)
    gained = Stream("odd", fields=(*before.fields, Field("ph", "number")))
    assert [(record.device, record.ph, record.extra) for record in contained(sink, gained, settings)] == [
        ("a", 6.5, None),
        ("b", None, '{"ph":"n/a"}'),
        ("c", None, '{"odd":1}'),
    ]


def test_a_row_that_is_no_record_is_rejected_alone(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [b'{"message":"a"}', b'{"text":"no message"}', b'{"message":"b","likes":NaN}', b'{"message":"c","likes":1}']
    with session(BUZZ, "lines", settings, sinks=("file",), run=DEFAULT_RUN, stop=threading.Event()) as opened:
        batch, rejected = opened.batch([Line(line, READ_AT) for line in lines])
        assert [line.line for line, _ in rejected] == lines[1:3]
        opened.append(batch)
    assert opened.code == 0
    assert "acknowledged 2; in extra: likes 1; file 2 delivered" in capsys.readouterr().out
    found = [json.loads(line) for line in settings.live_path.read_text().splitlines()]
    assert [(record["message"], record["sequence"]) for record in found] == [("a", 1), ("c", 2)]
    assert all(record["timestamp"] for record in found)


@pytest.mark.parametrize("sink", EMBEDDED)
def test_a_field_is_added_while_a_reader_is_connected(sink: str, settings: Settings) -> None:
    before = Stream("odd", fields=(Field("device", "text"), Field("timestamp", "timestamp")))
    gained = Stream("odd", fields=(*before.fields, Field("ph", "number"), Field("ok", "boolean")))
    first, second = (
        Batch.of_lines([Line(line, READ_AT)], PRODUCER_ID, number, stream.codec)
        for number, line, stream in [(1, b'{"device":"a"}', before), (2, b'{"device":"b","ph":6.5,"ok":true}', gained)]
    )
    through(sink, before, [first], settings)
    with closing(source(sink, settings, before, lambda partition: "")) as reader:
        chunk = reader.poll(100)
        assert chunk is not None
        assert [record.device for record in chunk.records] == ["a"]
        emitter = SINKS[sink].emitter(settings, gained, KEY, "")
        assert emitter.last([PRODUCER_ID]) == (PRODUCER_ID, 1)
        emitter.emit(second)
        emitter.close()
        found: list[Any] = []

        def read() -> list[Any]:
            if chunk := reader.poll(100):
                found.extend(chunk.records)
            return found

        wait_until(read)
    assert [(record.device, json.loads(record.extra)) for record in found] == [("b", {"ph": 6.5, "ok": True})]
    records = contained(sink, gained, settings)
    assert [(record.device, record.ph, record.ok) for record in records] == [("a", None, None), ("b", 6.5, True)]
