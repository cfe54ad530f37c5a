"""Expressions over records equal SQLite's WHERE, and they reach nothing but the record."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.app.errors import ToolkitError
from utils.reading.expression import Expression
from utils.records.codec import Field
from utils.records.stream import BUZZ, Stream

SENSORS = Stream(
    "sensors",
    fields=(
        Field("device", "text"),
        Field("temperature_c", "number"),
        Field("ok", "boolean"),
        Field("a b", "text"),
        Field("tags", "json"),
    ),
)


def records(*found: dict[str, Any]) -> list[Any]:
    return SENSORS.codec.decode_lines(b"".join(msgspec.json.encode(each) + b"\n" for each in found))


COLD, HOT, ABSENT = records(
    {"device": "boiler 1", "temperature_c": 19.5, "ok": True, "a b": "x", "tags": {"floor": 2}},
    {"device": "Boiler 2", "temperature_c": 30, "ok": False, "tags": [1]},
    {"device": 'it\'s "new"', "temperature_c": "n/a"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature_c > 24", [False, True, False]),
        ("NOT temperature_c > 24", [True, False, False]),
        ("temperature_c IS NULL", [False, False, True]),
        ("ok", [True, False, False]),
        ("device LIKE 'boiler%' AND ok", [True, False, False]),
        ("1", [True, True, True]),
        ("NULL", [False, False, False]),
        ("'text'", [False, False, False]),
        ("temperature_c IN (30, 31)", [False, True, False]),
        ("\"a b\" = 'x'", [True, False, False]),
        ("device = 'it''s \"new\"'", [False, False, True]),
        ("tags ->> '$.floor' = 2", [True, False, False]),
        ("json_extract(extra, '$.temperature_c') = 'n/a'", [False, False, True]),
        ("TEMPERATURE_C BETWEEN 1 AND 20 -- a remark", [True, False, False]),
        ("1) OR (0", [True, True, True]),
        ("0) OR (temperature_c > 24", [False, True, False]),
        ("max(temperature_c, 25) = 30", [False, True, False]),
    ],
)
def test_matches(text: str, expected: list[bool]) -> None:
    assert Expression(SENSORS, text).matches([COLD, HOT, ABSENT]) == expected


def test_fields_may_have_the_names_of_constants() -> None:
    odd = Stream("odd", fields=(Field("true", "boolean"), Field("false", "boolean"), Field("null", "text")))
    found = odd.codec.decode_lines(b'{"true":false,"false":true,"null":"x"}\n{}\n')
    assert Expression(odd, "\"null\" = 'x'").matches(found) == [True, False]


def test_no_records() -> None:
    assert Expression(BUZZ, "sentiment > 0.5").matches([]) == []


@given(st.lists(st.tuples(st.none() | st.integers(-3, 3), st.sampled_from("abc")), max_size=30), st.integers(1, 30))
def test_equals_python_in_chunks_of_any_size(values: list[tuple[int | None, str]], size: int) -> None:
    found = records(*({"temperature_c": number, "device": device} for number, device in values))
    asked = Expression(SENSORS, "temperature_c > 0 AND device <> 'b'")
    hits = [hit for start in range(0, len(found), size) for hit in asked.matches(found[start : start + size])]
    assert hits == [number is not None and number > 0 and device != "b" for number, device in values]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "temperature_c >",
        "temprature_c > 24",
        '"temprature_c" > 24',
        "sum(temperature_c) > 1",
        "row_number() OVER () > 1",
        "temperature_c > ?",
        "temperature_c, ok",
        "temperature_c > 24 /* open",
        "1) LIMIT (1",
        "1)) FROM record LIMIT 1 /*",
        "1) THEN 1 END FROM record LIMIT 1 /*",
        "1) /*",
        "1) THEN 1 ELSE 0 END)) /*",
        "1) THEN 1 ELSE 0 END), more AS (CASE WHEN (1",
        "1; DROP TABLE record",
        "\0",
        "\ud800",
    ],
)
def test_an_invalid_expression_is_one_line_that_names_the_fields(text: str) -> None:
    with pytest.raises(
        ToolkitError, match=r"device, temperature_c, ok, a b, tags, extra, producer_id, sequence$"
    ) as error:
        Expression(SENSORS, text)
    assert "\n" not in str(error.value)


def test_the_fields_of_a_wide_stream_stay_one_line() -> None:
    wide = Stream("wide", fields=tuple(Field(f"field_{n}", "number") for n in range(500)))
    with pytest.raises(ToolkitError, match=r"no such column: x; use the fields field_0, .*, field_39, …$"):
        Expression(wide, "x > 1")


@pytest.mark.parametrize(
    "text",
    [
        "1; ATTACH '{path}' AS other",
        "1; PRAGMA database_list",
        "(SELECT count(*) FROM record) > 1",
        "(SELECT 1)",
        "(VALUES (1))",
        "1 IN (SELECT name FROM sqlite_master)",
        "1 IN sqlite_master",
        "EXISTS (SELECT * FROM pragma_database_list)",
        "EXISTS (SELECT * FROM json_each('[1]'))",
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n)",
        "load_extension('{path}')",
        "readfile('{path}')",
        "writefile('{path}', 'x')",
        "rowid = 1",
        "CURRENT_TIMESTAMP > '2026'",
        "random() > 0",
        "datetime('now') > device",
        "unixepoch() > 0",
        "1) UNION SELECT (1",
        "randomblob(10) > 0",
    ],
)
def test_access_to_anything_but_the_record_is_rejected(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with pytest.raises(ToolkitError, match=r"is no expression"):
        Expression(SENSORS, text.format(path=path))
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    ["(" * 5_000 + "1" + ")" * 5_000, "+".join(["1"] * 30_000), "length(zeroblob(1000000000))", "NOT " * 5_000 + "1"],
)
def test_too_large_expressions_are_rejected(text: str) -> None:
    with pytest.raises(ToolkitError, match=r"is no expression|cannot be evaluated"):
        Expression(SENSORS, text).matches([HOT])


def test_a_record_that_cannot_be_evaluated_does_not_match_and_spoils_no_other(logged: list[str]) -> None:
    asked = Expression(SENSORS, "json_extract(device, '$.a') = 1")
    good, bad = records({"device": '{"a":1}'}, {"device": "no JSON"})
    assert asked.matches([good, bad, good, bad, bad, good]) == [True, False, True, False, False, True]
    assert asked.matches([bad, good]) == [False, True]
    assert [line for line in logged if "malformed JSON" in line] == logged and len(logged) == 1


TOKENS = [*"()'\"-/*;, 1=xn?\n", "SELECT", "FROM", "LIMIT", "THEN", "END", "OR"]


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map("".join))
def test_any_text_is_an_expression_or_one_error(text: str) -> None:
    """An expression has one answer per record, equal to SQLite's own CASE."""
    try:
        hits = Expression(SENSORS, text).matches([COLD, HOT, ABSENT])
    except ToolkitError:
        return
    with closing(sqlite3.connect(":memory:")) as plain:
        expected = [
            bool(plain.execute(f"SELECT CASE WHEN ({text}\n) THEN 1 ELSE 0 END").fetchone()[0]) for _ in range(3)
        ]
    assert hits == expected
