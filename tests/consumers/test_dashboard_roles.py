"""Any stream: roles of its fields with and without options, buffers, a part of a stream, STALE."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumers.dashboard.options import Buffers, DashboardOptions
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from producers import factory_producer, market_producer, sensor_producer
from tests.helpers import run_here
from utils import sinks
from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError
from utils.reading.expression import Expression
from utils.records.codec import Field
from utils.records.instants import instant_text
from utils.records.stream import BUZZ, Stream, declare
from utils.sources.base import Chunk

NOW = 1_800_000_000.0


def records_of(stream: Stream, values: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> list[Any]:
    return [stream.codec.decode(json.dumps(each).encode()) for each in values]


def snapshot_of(stream: Stream, values: list[dict[str, Any]], **options: Any) -> Snapshot:
    state = State(stream, "file", clock=lambda: NOW, **options)
    state.add(Chunk("f", "", "1", records_of(stream, values)))
    return state.snapshot()


def sensor_values(count: int) -> list[dict[str, Any]]:
    made = []
    for number, (_, reading) in zip(range(count), sensor_producer.readings(random.Random(5)), strict=False):
        timestamp = instant_text(int((NOW - count + number) * 1e6))
        made.append({"device": reading.device, "temperature_c": reading.temperature_c,
                     "humidity_pct": reading.humidity_pct, "battery_v": reading.battery_v,
                     "timestamp": timestamp})  # fmt: skip
    return made


@pytest.mark.parametrize("stream", [sensor_producer.SENSORS, market_producer.TICKS, factory_producer.PARTS])
def test_roles_of_the_examples_are_found_without_being_named(
    stream: Stream, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles are found from the records alone, without class and schema file."""
    makers = {"sensors": sensor_producer.readings, "ticks": market_producer.ticks, "parts": factory_producer.parts}
    codec, lines = stream.codec, []
    for number, (_, record) in zip(range(500), makers[stream.name](random.Random(2)), strict=False):
        record.timestamp = instant_text(int((NOW - 500 + number) * 1e6))
        values = {field.name: codec.value(record, field.name) for field in stream.fields}
        lines.append(json.dumps({name: value for name, value in values.items() if value is not None}))
    settings.data_path.mkdir(parents=True)
    settings.file_path(stream.name).write_text("\n".join(lines) + "\n")
    found = sinks.find_stream(stream.name, settings, "file")
    assert (found.by, found.value) == (stream.by, stream.value)
    declare(Stream(stream.name, fields=stream.fields), settings.schema_folder)  # a schema without roles
    bare = sinks.find_stream(stream.name, settings, "file")
    assert (bare.by, bare.value) == (None, None)
    chosen = sinks.with_chosen_roles(bare, settings, "file")
    assert (chosen.by, chosen.value) == (stream.by, stream.value)


def test_a_stream_of_invalid_lines_has_records_that_cannot_be_read(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    settings.file_path("odd").write_text('[{"a": 1}]\n')
    with pytest.raises(Absent, match="no record that can be read yet"):
        sinks.find_stream("odd", settings, "file")


def test_roles_are_found_in_more_records_than_one_read_takes(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    with settings.file_path("odd").open("w") as file:
        file.writelines(json.dumps({"who": who, "filler": "x" * 150_000}) + "\n" for who in "ab" * 10)
    assert sinks.find_stream("odd", settings, "file").by == "who"


def test_roles_of_a_stream_without_records_stay_open(settings: Settings) -> None:
    bare = Stream("sensors", fields=sensor_producer.SENSORS.fields)
    assert sinks.with_chosen_roles(bare, settings, "file") == bare
    assert sinks.with_chosen_roles(BUZZ, settings, "file") is BUZZ


def test_each_by_value_has_its_series_and_its_own_anomalies() -> None:
    values = sensor_values(600)
    for number, each in enumerate(values):
        each["temperature_c"] = 21.0 if number % 7 else 21.2
        if each["device"] == "cellar":
            each["temperature_c"] -= 8  # usual for this device
    values[-5]["temperature_c"] = 85.0
    snapshot = snapshot_of(sensor_producer.SENSORS, values)
    assert [series.name for series in snapshot.series] == ["bedroom", "cellar", "kitchen", "office", "roof"]
    odd = {series.name: sum(series.anomalies) for series in snapshot.series}
    assert odd == dict.fromkeys(odd, 0) | {values[-5]["device"]: 1}
    assert all(len(series.values) == 30 and set(series.keys) == {series.name} for series in snapshot.series)


FORMS = [
    ((), [], "number", "number", 0),
    ((Field("note", "text"),), [{"note": "abc"}, {"note": "a"}], "note length", "note length", 30),
    (
        (Field("host", "text"), Field("Message", "text")),
        [{"host": "a", "Message": "b"}],
        "Message length",
        "Message length",
        30,
    ),
    ((Field("ok", "boolean"),), [{"ok": True}], "number", "number", 0),
    ((Field("ok", "boolean"), Field("place", "integer")), [{"ok": True, "place": 7}], "place", "place", 30),
]


@pytest.mark.parametrize(("fields", "values", "value", "histogram", "count"), FORMS)
def test_every_panel_has_a_form_without_its_field(
    fields: tuple[Field, ...], values: list[dict[str, Any]], value: str, histogram: str, count: int
) -> None:
    stream = Stream("bare", fields=fields)
    timed = [(values or [{}])[number % max(len(values), 1)] | {"producer_id": "feed-00000001-00000002",
             "sequence": number + 1} for number in range(40)]  # fmt: skip
    snapshot = snapshot_of(stream, timed)
    roles = snapshot.roles
    assert (roles.by, roles.value, roles.histogram) == ("producer", value, histogram)
    assert snapshot.groups == (("feed", 40),)
    assert sum(len(series.values) for series in snapshot.series) == len(snapshot.measured) == count


def test_values_that_are_no_numbers_are_left_out() -> None:
    odd = [None, True, "21", 1e200, -1e200]
    values = sensor_values(60)
    for each, wrong in zip(values, odd * 12, strict=True):
        each["temperature_c"] = wrong
    snapshot = snapshot_of(sensor_producer.SENSORS, values)
    assert (snapshot.total, snapshot.series) == (60, ())


def test_buffers_are_settings() -> None:
    snapshot = snapshot_of(sensor_producer.SENSORS, sensor_values(600), buffers=Buffers(20, 12, 4))
    assert (len(snapshot.flow), len(snapshot.measured)) == (20, 12)
    assert all(len(series.values) == 12 for series in snapshot.series)
    assert snapshot.series[0].rolling[-1] == pytest.approx(sum(snapshot.series[0].values[-4:]) / 4)
    assert snapshot.buffers == Buffers(20, 12, 4)


def test_where_shows_a_part_of_the_stream() -> None:
    stream, values = sensor_producer.SENSORS, sensor_values(100)
    expression = Expression(stream, "device = 'roof' AND humidity_pct > 0")
    snapshot = snapshot_of(stream, values, where=expression)
    assert snapshot.groups == (("roof", 20),)
    assert (snapshot.total, snapshot.received, snapshot.where) == (20, 100, expression.text)


def test_options_name_roles_and_errors_name_the_fields() -> None:
    stream = sensor_producer.SENSORS
    chosen = DashboardOptions(value="battery_v", zones=(2.5, 3.0)).roles(stream)
    assert (chosen.by, chosen.value, chosen.zones) == ("device", "battery_v", (2.5, 3.0))
    assert (
        DashboardOptions(value="battery_v").roles(stream).zones is None
    )  # those of the schema are for the temperature
    assert DashboardOptions().roles(stream) == replace(stream, fields=stream.fields)
    for wrong, message in (
        (
            DashboardOptions(by="battery_v"),
            r"by names battery_v, which is number; name a field of type text \(device\)",
        ),
        (DashboardOptions(value="nosuch"), r"type number or integer \(temperature_c, humidity_pct, battery_v\)"),
        (DashboardOptions(histogram="device"), r"type number or integer \(temperature_c, humidity_pct, battery_v\)"),
        (DashboardOptions(zones=(3.0, 2.0)), "the lower first"),
    ):
        with pytest.raises(ToolkitError, match=message):
            wrong.roles(stream)


@pytest.mark.parametrize(("every_s", "burst", "burst_s"), [(30, 200, 1), (60, 40, 10)])
def test_regular_bursts_are_live(every_s: int, burst: int, burst_s: int) -> None:
    now = NOW
    state = State(BUZZ, "file", clock=lambda: now)
    state.go_live()
    sequence, states = 0, []
    for second in range(every_s * 12):
        now = NOW + second
        if second % every_s <= burst_s:
            for _ in range(max(1, burst // (burst_s + 1))):
                sequence += 1
                line = {"message": "hello", "producer_id": "ann-1", "sequence": sequence}
                state.add(Chunk("f", "1", "1", records_of(BUZZ, [line])))
        if second > every_s * 3 and second % every_s == every_s - 1:  # at the end of a pause
            states.append(state.snapshot().status)
    assert set(states) == {"LIVE"}
    now += every_s * 6
    assert state.snapshot().status == "STALE"


@pytest.mark.full
def test_the_command_line_of_a_stream(settings: Settings, tmp_path: Path) -> None:
    settings.data_path.mkdir(parents=True)
    lines = "".join(json.dumps(each) + "\n" for each in sensor_values(60))
    settings.file_path("sensors").write_text(lines)
    module = "consumers.ragini_visual_consumer"
    options = ("--stream", "sensors", "--source", "file", "--frames", "2", "--refresh", "0.3", "--backend", "agg")
    done = run_here(module, *options, "--where", "device = 'roof'", "--value", "battery_v", "--zones", "2.5", "3",
                      "--points", "9", "--window", "9", "--rolling", "3", settings=settings)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "12 records" in done.stdout
    wrong = run_here(module, *options, "--where", "devic = 'roof'", settings=settings)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert "use the fields device" in wrong.stderr
