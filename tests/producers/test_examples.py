"""The example producers: repeatable, with the promised patterns and faults, typed in every sink."""

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice, pairwise
from typing import Any

import pytest

from producers import factory_producer, market_producer, sensor_producer
from tests.helpers import run_here
from utils.app.config import Settings
from utils.records.infer import with_roles
from utils.records.record import Batch, encode_records
from utils.records.stream import Stream, check_roles, load_stream
from utils.sinks import EMBEDDED, source

Make = Callable[[random.Random], Iterator[tuple[float, Any]]]

EXAMPLES: dict[str, tuple[Stream, Make]] = {
    "sensor": (sensor_producer.SENSORS, sensor_producer.readings),
    "market": (market_producer.TICKS, market_producer.ticks),
    "factory": (factory_producer.PARTS, factory_producer.parts),
}


@pytest.fixture(params=EXAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def take(name: str, count: int, seed: int = 1) -> list[Any]:
    return [record for _, record in islice(EXAMPLES[name][1](random.Random(seed)), count)]


def test_same_seed_same_bytes(name: str) -> None:
    assert encode_records(take(name, 500, seed=7)) == encode_records(take(name, 500, seed=7))
    assert encode_records(take(name, 500, seed=7)) != encode_records(take(name, 500, seed=8))


def test_records_are_not_shared_and_come_without_ids(name: str) -> None:
    made = take(name, 1_000)
    assert len({id(record) for record in made}) == len(made)
    assert {(record.timestamp, record.producer_id, record.sequence) for record in made} == {("", None, None)}


def test_every_value_fits_its_column(name: str) -> None:
    stream, _ = EXAMPLES[name]
    check_roles(stream, name)
    made = take(name, 2_000)
    for record in made:
        record.timestamp = "2026-11-23T19:04:05.123Z"
    assert not Batch.of_records(made, "p", 1, stream.codec).extra_counts


def test_inference_would_choose_the_declared_roles(name: str) -> None:
    stream, _ = EXAMPLES[name]
    columns = [field.name for field in stream.fields]
    records = [{column: getattr(record, column) for column in columns} for record in take(name, 2_000)]
    found = with_roles(Stream(stream.name, fields=stream.fields), records)
    assert (found.by, found.value) == (stream.by, stream.value)


def test_gaps_average_about_one_interval(name: str) -> None:
    gaps = [gap for gap, _ in islice(EXAMPLES[name][1](random.Random(1)), 20_000)]
    assert statistics.mean(gaps) == pytest.approx(1.0, abs=0.05)
    assert min(gaps) >= 0


# Patterns and faults -----


def test_faults_of_the_sensors_are_rare_and_plain() -> None:
    made = take("sensor", 40_000)
    faults = Counter(record.temperature_c for record in made if record.temperature_c in (None, 85.0))
    assert 50 < faults[None] < 200
    assert 50 < faults[85.0] < 200
    assert all(record.temperature_c < 40 for record in made if record.temperature_c not in (None, 85.0))
    assert all(0 < record.humidity_pct < 100 for record in made)


def test_crashes_of_the_market_are_rare_and_plain() -> None:
    made = take("market", 30_000)
    falls = 0
    for symbol in market_producer.SYMBOLS:
        prices = [record.price for record in made if record.symbol == symbol]
        changes = [after / before - 1 for before, after in pairwise(prices)]
        falls += sum(change < -0.08 for change in changes)
        assert min(prices) > 80 and max(prices) < 120
        assert statistics.median(map(abs, changes)) < 0.005
    assert 8 <= falls <= 40
    assert len({record.volume for record in made}) > 300
    assert all(record.volume >= 1 for record in made)


def test_bad_parts_are_rare_and_beyond_the_limits() -> None:
    made = take("factory", 30_000)
    assert all(record.passed == (record.lower_mm <= record.measure_mm <= record.upper_mm) for record in made)
    assert 100 < sum(not record.passed for record in made) < 320
    assert len({record.part for record in made}) == len(made)


# Through the sinks -----


@pytest.mark.full
def test_an_example_arrives_typed_in_every_sink(name: str, settings: Settings) -> None:
    stream, make = EXAMPLES[name]
    arguments = ["--count", "1000", "--interval", "0", "--seed", "3", "--sinks", *EMBEDDED]
    done = run_here(f"producers.{name}_producer", *arguments, settings=settings)
    assert done.returncode == 0, done.stderr
    assert "in extra" not in done.stdout
    found = load_stream(stream.name, settings.schema_folder)
    assert found is not None
    wanted = [record for _, record in islice(make(random.Random(3)), 1_000)]
    for sink in EMBEDDED:
        records: list[Any] = []
        with closing(source(sink, settings, found, lambda partition: "", finished=True)) as reader:
            while chunk := reader.poll(300):
                assert not chunk.invalid
                records += chunk.records
        assert [record.sequence for record in records] == list(range(1, 1_001)), sink
        for column in (field.name for field in stream.fields if field.name != "timestamp"):
            values = [getattr(record, column) for record in records]
            assert values == [getattr(record, column) for record in wanted], (sink, column)
            assert {type(value) for value in values} == {type(getattr(record, column)) for record in wanted}
