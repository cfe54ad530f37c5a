"""Inference: types and roles of real streams."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.records.codec import Field
from utils.records.external import stamp
from utils.records.infer import MAX_FIELDS, infer_fields, infer_stream, instant_us, time_field, values_of, with_roles
from utils.records.record import Batch
from utils.records.stream import Stream

NOON = datetime(2025, 10, 7, 12, tzinfo=UTC)
EPOCH_S = int(NOON.timestamp())


def types(*values: Any) -> str:
    """Return the inferred type of a field with these values."""
    (found,) = infer_fields([{"f": value} for value in values])
    return found.type


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3], "number"),
        ([1, 2.5], "number"),
        ([1, 2**60], "integer"),
        ([1] * 50 + [0.5] * 49 + [2**60], "number"),
        ([2**70], "json"),
        ([True, False], "boolean"),
        ([True, 1], "json"),
        (["a", "b"], "text"),
        (["1", "2"], "text"),
        (["2025-10-07 18:00:00", "2025-10-07T18:00:01Z"], "timestamp"),
        (["2025-10-07 18:00:00"] * 9 + ["n/a"], "timestamp"),
        (["2025-10-07 18:00:00"] * 8 + ["soon"] * 2, "text"),
        (["2025-10-07"], "text"),
        ([1.5] * 9 + ["n/a"], "number"),
        ([1.5] * 8 + ["soon"] * 2, "json"),
        ([10001] * 97 + ["01001"] * 3, "json"),
        ([10001] * 99 + ["01001"], "number"),
        (["01001", "02"], "text"),
        ([1] * 94 + ["12"] * 2 + ["0"] * 2 + ["0:30"] * 2, "number"),
        ([{"a": 1}], "json"),
        ([[1], "a"], "json"),
        ([None, None, 1.5], "number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_ninety_percent_of_the_values_make_a_type(values: list[Any], kind: str) -> None:
    assert types(*values) == kind


@pytest.mark.parametrize("word", ["NA", "n/a", "#N/A", "NaN", "null", "None", "-", "--", ".", "..", "?", " ", ""])
def test_words_for_a_missing_value_make_no_type(word: str) -> None:
    assert types(*[1.5] * 2, *[word] * 9) == "number"
    assert types("2025-10-07 18:00:00", word, word) == "timestamp"
    assert types("a", word, word) == "text"
    assert types(word) == "text"


def test_a_field_without_a_value_has_no_type_yet() -> None:
    assert infer_fields([{"a": None, "b": 1}]) == (Field("b", "number"),)


def test_our_own_ids_are_no_fields() -> None:
    record = {"a": 1, "timestamp": NOON.isoformat(), "producer_id": "p", "sequence": 1, "extra": {}}
    assert [field.name for field in infer_fields([record])] == ["a", "timestamp"]


def test_a_field_that_first_comes_late_is_seen() -> None:
    assert [field.name for field in infer_fields([{"a": 1}] * 1_999 + [{"b": "x"}])] == ["a", "b"]


def test_names_without_end_are_no_columns() -> None:
    """Only the most frequent of very many names become columns: SQLite takes 2,000, PostgreSQL 1,600."""
    records = [{f"user {number}": number, "at": number} for number in range(3_000)]
    found = infer_fields([*records, records[7]])
    assert len(found) == MAX_FIELDS
    assert {Field("at", "number"), Field("user 7", "number")} < set(found)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers() | st.floats() | st.text() | st.none())))
def test_any_values_make_types_that_a_stream_may_have(records: list[dict[str, Any]]) -> None:
    stream = infer_stream("any", records)
    assert stream.codec.fields == stream.fields


def test_values_beyond_python_hide_no_record() -> None:
    found = values_of(b'{"a":1e400,"b":2,"c":' + b"9" * 5_000 + b"}")
    assert found["b"] == 2
    assert found["a"] == []


# Event time -----


@pytest.mark.parametrize(
    "value",
    [NOON.isoformat(), "2025-10-07T12:00:00Z", "2025-10-07 17:30:00+05:30", EPOCH_S, float(EPOCH_S), EPOCH_S * 1_000],
)
def test_texts_and_epochs_are_instants(value: Any) -> None:
    assert instant_us(value) == EPOCH_S * 1_000_000


@pytest.mark.parametrize("value", [None, True, "soon", 7, -5, 0.5, 1e8, 1e14, [], {}])
def test_other_values_are_no_instants(value: Any) -> None:
    assert instant_us(value) is None


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"ts": EPOCH_S, "timestamp": NOON.isoformat()}, "timestamp"),
        ({"created_at": NOON.isoformat(), "time": "2025-10-07 12:00"}, "time"),
        ({"Time": EPOCH_S * 1_000, "price": 7}, "Time"),
        ({"timestamp": "n/a", "ts": EPOCH_S}, "ts"),
        ({"date": "2025-10-07", "x": 1}, "date"),
        ({"x": 1, "seen": NOON.isoformat(), "left": NOON.isoformat()}, "seen"),
        ({"name": "a", "born on": "2025-10-07", "left on": "2025-10-08"}, "born on"),
        ({"born on": "2025-10-07", "seen": NOON.isoformat()}, "seen"),
        ({"name": "a", "time": "soon"}, None),
        ({"x": 1, "time": 12.5}, None),
    ],
    ids=str,
)
def test_the_event_time_is_found_by_name_and_value(record: dict[str, Any], name: str | None) -> None:
    assert time_field(infer_fields([record] * 10), [record] * 10) == name


def test_a_field_without_a_value_is_the_event_time_only_if_it_is_a_timestamp() -> None:
    fields = (Field("date", "text"), Field("at", "timestamp"))
    for records in ([], [{"at": NOON.isoformat()}]):
        assert time_field(fields, records) == "at"


def test_a_damaged_time_among_many_does_not_matter() -> None:
    records = [{"ts": EPOCH_S + number} for number in range(99)] + [{"ts": 0}]
    assert time_field(infer_fields(records), records) == "ts"


def test_the_declared_time_field_stays() -> None:
    records = [{"timestamp": NOON.isoformat(), "taken": EPOCH_S}] * 10
    assert with_roles(Stream("s", fields=infer_fields(records), time="taken"), records).time == "taken"


# Roles of real streams -----

AT = [(NOON + timedelta(seconds=7 * number)).strftime("%Y-%m-%d %H:%M:%S") for number in range(60)]
RNG = random.Random(1)
PROSE = ["I feel great today.", "There is still some pain left.", "It worked wonders for me.", "No change so far."]

SAMPLES: dict[str, tuple[list[dict[str, Any]], tuple[str | None, ...]]] = {  # records; time, by, value, histogram
    "machines": (
        [
            {"message": f"Machine {n} runs.", "author": f"Sensor-{n % 5}", "timestamp": AT[n], "sentiment": 0.58,
             "machine_id": n % 7, "temperature": round(RNG.gauss(70, 3), 2), "vibration": round(RNG.random(), 2)}
            for n in range(60)
        ],
        ("timestamp", "author", "temperature", "vibration"),
    ),
    "ticks": (
        [{"symbol": "ABC"[n % 3], "price": RNG.gauss(100, 3), "volume": RNG.randrange(900), "ts": EPOCH_S * 1_000 + n}
         for n in range(60)],
        ("ts", "symbol", "price", "volume"),
    ),
    "answers of patients": (
        [{"patient": str(20_000 + n), "feedback": RNG.choice(PROSE), "timestamp": AT[n], "mark": "+-o"[n % 3]}
         for n in range(60)],
        ("timestamp", "mark", None, None),
    ),
    "a festival": (
        [{"time": AT[n], "topic": "lights", "artist": f"Artist {n % 20}", "stage": ["Forest", "Valley"][n % 2]}
         for n in range(60)],
        ("time", "stage", None, None),
    ),
    "tasks of some days": (
        [{"begun": f"2025-10-0{n % 5 + 1}", "done": f"2025-10-0{n % 5 + 2}", "team": "AB"[n % 2]} for n in range(60)],
        ("begun", "team", None, None),
    ),
    "one computer": (
        [{"cpu": RNG.random(), "ram": 81.5, "disk": {"read": n}, "top": [{"name": "editor"}]} for n in range(60)],
        (None, None, "cpu", "cpu"),
    ),
    "one thermometer": (
        [{"timestamp": AT[n], "temperature": 3 + n % 9 / 10} for n in range(60)],
        ("timestamp", None, "temperature", "temperature"),
    ),
    "a shaft": (
        [{"timestamp": EPOCH_S + 5 * n, "vibration": RNG.random(), "status": ["ok", "warn"][n % 2]} for n in range(60)],
        ("timestamp", "status", "vibration", "vibration"),
    ),
    "vehicles": (
        [{"vehicleId": n % 4, "lat": RNG.random(), "longitude": RNG.random(), "speed": RNG.gauss(50, 9),
          "seq": n, "at": AT[n], "stop_no": n % 9, "odometer": 100 + n} for n in range(60)],
        ("at", None, "speed", "speed"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES)
def test_roles_are_those_that_a_person_would_choose(sample: str) -> None:
    records, roles = SAMPLES[sample]
    stream = infer_stream("sample", records)
    assert (stream.time, stream.by, stream.value, stream.histogram) == roles


@pytest.mark.parametrize("sample", SAMPLES)
def test_an_inferred_stream_holds_its_own_records_without_extra(sample: str) -> None:
    records, _ = SAMPLES[sample]
    stream = infer_stream("sample", records)
    lines = b"".join(stamp(json.dumps(record).encode(), "p", n, AT[0]) for n, record in enumerate(records, 1))
    kept = Batch("p", len(records), len(records), lines, stream.codec).extra_counts
    assert kept.keys() <= {"timestamp"}, "only a timestamp that was added to the line may be kept"


MEASURES = ("bid", "Bid", "paid", "citric acid", "humid", "speed")
IDENTIFIERS = ("id", "userId", "userid", "Pid", "uuid", "RatecodeID", "order_id", "Survey ResponseID")


@pytest.mark.parametrize("name", [*MEASURES, *IDENTIFIERS])
def test_an_identifier_measures_nothing(name: str) -> None:
    stream = infer_stream("any", [{name: "n/a"}, *({name: number % 7} for number in range(30))])
    assert stream.value == (name if name in MEASURES else None)


def test_declared_roles_stay() -> None:
    records, _ = SAMPLES["ticks"]
    stream = with_roles(Stream("s", fields=infer_fields(records), value="volume", zones=(1, 2)), records)
    assert (stream.value, stream.histogram, stream.by, stream.zones) == ("volume", "price", "symbol", (1, 2))
    records, _ = SAMPLES["machines"]
    stream = with_roles(Stream("s", fields=infer_fields(records), by="message", histogram="sentiment"), records)
    assert (stream.by, stream.histogram) == ("message", "sentiment")


def test_a_stream_without_records_has_no_roles() -> None:
    stream = infer_stream("empty", [])
    assert (stream.fields, stream.time, stream.by, stream.value, stream.histogram) == ((), None, None, None, None)
