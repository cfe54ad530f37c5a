"""Streams as classes and as schema files: declared, read back, edited by hand, broken, extended, conflicting."""

import errno
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import portalocker
import pytest

from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.records.codec import Field
from utils.records.record import Message, Record
from utils.records.stream import BUZZ, Stream, declare, declared_fields, load_stream, schema_path


class Reading(Record):
    device: str
    temperature_c: float
    count: int = 0
    ok: bool = True


class Grown(Reading):
    humidity_pct: float = 0.0


class Wider(Record):
    device: str
    temperature_c: float
    count: float = 0
    ok: bool = True


class Clashing(Record):
    device: int
    temperature_c: float


SENSORS = Stream("sensors", Reading, by="device", value="temperature_c", zones=(18, 24))


@pytest.fixture
def folder(settings: Settings) -> Path:
    return settings.schema_folder


def edit(folder: Path, text: str, name: str = "sensors") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


# Classes and names -----


def test_types_of_a_class_are_types_of_fields() -> None:
    class Everything(Record):
        text: str
        whole: int | None
        number: float
        both: int | float
        flag: bool
        at: datetime
        kind: Literal["a", "b"]
        level: Literal[1, 2]
        limited: Annotated[float, msgspec.Meta(ge=0)]
        items: list[int]
        more: dict[str, Any]
        either: str | int

    assert {field.name: field.type for field in declared_fields(Everything)} == {
        "text": "text", "whole": "integer", "number": "number", "both": "number", "flag": "boolean", "at": "timestamp",
        "kind": "text", "level": "json", "limited": "number", "items": "json", "more": "json", "either": "json",
        "timestamp": "timestamp",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a", "sensors", "my_stream-2", "x" * 60])
def test_names_of_streams(name: str) -> None:
    assert Stream(name).name == name


@pytest.mark.parametrize("name", ["", "Sensors", "2d", "_x", "a b", "a/b", "../a", "a.b", "é", "x" * 61, "a\n", 'a"'])
def test_an_invalid_stream_name_is_one_line(name: str, folder: Path) -> None:
    for make in (Stream, lambda name: load_stream(name, folder)):
        with pytest.raises(ToolkitError, match="cannot name a stream: use at most 60 lowercase letters") as raised:
            make(name)
        assert raised.value.exit_code == 2
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["sqlite", "sqlite_x", "pragma_table_info", "streamed_messages", "buzzline_db"])
def test_a_name_that_a_table_or_topic_has_already_is_one_line(name: str) -> None:
    with pytest.raises(ToolkitError, match="choose another one"):
        Stream(name)


# Written and read back -----


def test_a_declared_stream_is_read_back(folder: Path) -> None:
    assert load_stream("sensors", folder) is None
    declared = declare(SENSORS, folder)
    assert declared == SENSORS
    found = load_stream("sensors", folder)
    assert found is not None
    assert (found.by, found.value, found.histogram, found.zones, found.time) == (
        "device", "temperature_c", None, (18, 24), None,
    )  # fmt: skip
    assert found.fields == SENSORS.fields
    assert found.codec.columns == SENSORS.codec.columns


def test_the_file_is_for_people(folder: Path) -> None:
    declare(SENSORS, folder)
    assert json.loads(schema_path("sensors", folder).read_text()) == {
        "fields": {
            "device": "text", "temperature_c": "number", "count": "integer", "ok": "boolean", "timestamp": "timestamp",
        },
        "by": "device",
        "value": "temperature_c",
        "zones": [18.0, 24.0],
    }  # fmt: skip
    assert schema_path("sensors", folder).read_text().count("\n") > 5


def test_declaring_again_writes_nothing(folder: Path) -> None:
    declare(SENSORS, folder)
    path = schema_path("sensors", folder)
    before = path.stat()
    declare(SENSORS, folder)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_buzz_is_known_without_a_file(folder: Path) -> None:
    assert declare(BUZZ, folder) is load_stream("buzz", folder) is BUZZ
    assert not folder.exists()


def test_buzz_with_other_fields_is_one_line(folder: Path) -> None:
    class Liked(Message):
        likes: int

    with pytest.raises(ToolkitError, match="another name"):
        declare(Stream("buzz", Liked), folder)


# Added and changed fields -----


def test_a_field_that_the_class_gained_is_added(folder: Path) -> None:
    declare(SENSORS, folder)
    declared = declare(Stream("sensors", Grown, histogram="humidity_pct"), folder)
    found = load_stream("sensors", folder)
    assert found is not None
    assert found.fields == declared.fields == (*SENSORS.fields, Field("humidity_pct", "number"))
    assert (found.by, found.histogram, found.zones) == ("device", "humidity_pct", (18, 24))


def test_a_field_that_the_class_lost_stays(folder: Path) -> None:
    declare(Stream("sensors", Grown), folder)
    assert Field("humidity_pct", "number") in declare(SENSORS, folder).fields


def test_an_integer_widens_to_number_and_stays_one(folder: Path) -> None:
    declare(SENSORS, folder)
    for stream in (Stream("sensors", Wider), SENSORS):
        assert Field("count", "number") in declare(stream, folder).fields
        found = load_stream("sensors", folder)
        assert found is not None
        assert Field("count", "number") in found.fields


def test_any_other_change_of_a_type_is_one_line(folder: Path) -> None:
    declare(SENSORS, folder)
    before = schema_path("sensors", folder).read_bytes()
    with pytest.raises(ToolkitError) as raised:
        declare(Stream("sensors", Clashing), folder)
    for word in ("device", "integer", "text", str(schema_path("sensors", folder))):
        assert word in str(raised.value)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    assert schema_path("sensors", folder).read_bytes() == before


# Edited by hand -----


def test_an_edit_by_hand_counts_and_stays(folder: Path) -> None:
    edit(folder, '{"fields": {"device": "text", "temperature_c": "number", "room": "text"}, "by": "room"}')
    declared = declare(SENSORS, folder)
    assert declared.by == "room"
    assert [field.name for field in declared.fields] == [
        "device", "temperature_c", "room", "count", "ok", "timestamp",
    ]  # fmt: skip
    found = load_stream("sensors", folder)
    assert found is not None
    assert (found.by, found.value, found.fields) == ("room", "temperature_c", declared.fields)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ("{}", "`fields`"),
        ('{"fields": ["device"]}', r"\$\.fields"),
        ('{"fields": {"device": "str"}}', "'str'"),
        ('{"fields": {"device": "text"}, "by": "room"}', "by names room, which is no field; name a field of type text"),
        ('{"fields": {"n": "number"}, "by": "n"}', r"by names n, which is number; .* text \(there is none\)"),
        ('{"fields": {"device": "text"}, "value": "device"}', "value names device, which is text; .*number or integer"),
        ('{"fields": {"x": "boolean"}, "time": "x"}', "time names x, which is boolean"),
        ('{"fields": {"x": "number"}, "zones": [24, 18]}', "zones are"),
        ('{"fields": {"x": "number"}, "zones": [1]}', "zones"),
        ('{"fields": {"x": "number"}, "colour": "red"}', "colour"),
        ('{"fields": {"x": "number"}, "by": "\ud7ff"}', "no field"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(text: str, reason: str, folder: Path) -> None:
    edit(folder, text)
    uses: list[Callable[[], object]] = [lambda: load_stream("sensors", folder), lambda: declare(SENSORS, folder)]
    for use in uses:
        with pytest.raises(ToolkitError, match=reason) as raised:
            use()
        assert str(schema_path("sensors", folder)) in str(raised.value)
        assert raised.value.exit_code == 2
        assert "\n" not in str(raised.value)
    assert schema_path("sensors", folder).read_text(encoding="utf-8") == text


def test_a_file_that_is_no_text_is_one_line(folder: Path) -> None:
    folder.mkdir(parents=True)
    schema_path("sensors", folder).write_bytes(b'{"fields": {"\xff\xfe": "text"}}')
    with pytest.raises(ToolkitError, match=r"sensors\.json"):
        load_stream("sensors", folder)
    schema_path("sensors", folder).unlink()
    schema_path("sensors", folder).mkdir()
    with pytest.raises(ToolkitError, match=r"sensors\.json cannot be read"):
        load_stream("sensors", folder)


@pytest.mark.parametrize(
    "stream",
    [
        Stream("sensors", Reading, by="room"),
        Stream("sensors", Reading, by="count"),
        Stream("sensors", Reading, value="ok"),
        Stream("sensors", Reading, histogram="producer_id"),
        Stream("sensors", Reading, time="ok"),
        Stream("sensors", Reading, zones=(24, 18)),
        Stream("sensors", Reading, zones=(float("nan"), 18)),
    ],
)
def test_a_declared_role_that_suits_no_field_is_one_line(stream: Stream, folder: Path) -> None:
    with pytest.raises(ToolkitError, match="stream sensors: "):
        declare(stream, folder)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_one_line(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    settings.schema_folder.write_text("in the way")
    with pytest.raises(ToolkitError, match="streams"):
        declare(SENSORS, settings.schema_folder)


# Several producers at once -----


def test_fields_that_producers_add_at_once_are_all_kept(folder: Path) -> None:
    def add(number: int) -> Stream:
        names = ("device", "temperature_c", f"field_of_{number}")
        return declare(Stream("sensors", fields=tuple(Field(name, "number") for name in names)), folder)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(add, range(16)))
    found = load_stream("sensors", folder)
    assert found is not None
    assert {field.name for field in found.fields} == {"device", "temperature_c", *(f"field_of_{n}" for n in range(16))}
    assert not list(folder.glob(".sensors.json*"))


def test_a_description_has_every_field_with_a_value() -> None:
    stream = Stream("readings", Reading, by="device")
    record = stream.codec.decode(b'{"more":[1],"count":2,"device":"a","timestamp":"2026-11-23T19:04:05.123Z"}')
    assert stream.describe(record) == 'a count=2 extra={"more":[1]}'
    assert stream.describe(stream.codec.decode(b'{"count":2}')) == "count=2"


def test_a_schema_file_that_stays_locked_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.records.stream.LOCK_WAIT_S", 0.0)
    with (
        portalocker.Lock(tmp_path / ".sensors.lock"),
        pytest.raises(ToolkitError, match="schema file of stream sensors cannot be written: "),
    ):
        declare(SENSORS, tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", failing)
    with pytest.raises(ToolkitError, match=r"schema file of stream sensors cannot be written: .*Read-only"):
        declare(SENSORS, tmp_path / "streams")
