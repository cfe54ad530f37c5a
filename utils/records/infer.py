"""Inference of a stream from its first records: types of fields from counted kinds of values, and roles. No I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import nlargest
from itertools import pairwise
from typing import Any

import msgspec

from utils.records.codec import MAX_EXACT, MAX_INT64, OWN_COLUMNS, Field, object_decoder
from utils.records.instants import microseconds
from utils.records.stream import Stream

ENOUGH = 0.9  # share of the values that must fit a type
CODES = 0.01  # if more than this share of the values is like 01001, the others are codes too, not numbers
MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "none", "-", "--", ".", "..", "?"))
"""Texts that stand for a missing value, in lowercase. They have no influence on the type of a field."""
MAX_FIELDS = 1_000  # objects with values as names have any number; SQLite takes 2,000 columns, PostgreSQL 1,600
TIMES = ("timestamp", "time", "ts", "date", "datetime", "created_at")
SHORTEST_INSTANT = 16  # characters: a date alone stays text, because as an instant its day depends on the zone
GROUPS = range(2, 21)  # number of different values of a field that divides records into groups
PER_GROUP = 5  # least average number of records of a group
WORDS_PER_GROUP = 2.5  # average words of a value; with more it is prose

_EPOCH_S, _EPOCH_MS = (1e8, 1e11), (1e11, 1e14)  # 1973 to 5138
_IDENTIFIER = re.compile(
    r"(^|[_\W])([gptu]?u?id|index|idx|key|zip|code|no|nr|order|seq\w*|lat\w*|lon\w*|lng|year|mmsi)$"
    r"|(?-i:[a-z]I[dD])$|[a-z]{4}id$",  # userid and taxiId, but no bid, paid or acid
    re.IGNORECASE,
)

Values = Mapping[str, Any]
"""A record as a mapping of names to decoded JSON values."""


def values_of(line: bytes | str) -> Values:
    """Decode a JSON object; a value that Python cannot represent (1e400) becomes an empty list."""
    found: dict[str, Any] = {}
    for name, raw in object_decoder.decode(line).items():
        try:
            found[name] = msgspec.json.decode(raw)
        except ValueError:
            found[name] = []
    return found


def infer_fields(records: Iterable[Values]) -> tuple[Field, ...]:
    """Infer the fields of records and their types, in the order of appearance, without `producer_id` and `sequence`.

    A field that is always null is left out; its first value will decide its type. If there are more than MAX_FIELDS,
    those with the most values are kept.
    """
    kinds: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in record.items():
            if value is not None and name not in OWN_COLUMNS:
                kinds.setdefault(name, Counter())[_kind(value)] += 1
    frequent = set(nlargest(MAX_FIELDS, kinds, key=lambda name: kinds[name].total()))
    return tuple(Field(name, _type_of(counted)) for name, counted in kinds.items() if name in frequent)


def _kind(value: Any) -> str:
    """Return the kind of a value. A "whole" number is exact as a float, an "integer" may be too large for that."""
    match value:
        case bool():
            return "boolean"
        case float():
            return "number"
        case int() if abs(value) <= MAX_INT64:
            return "whole" if abs(value) <= MAX_EXACT else "integer"
        case str():
            return _text_kind(value)
    return "json"


def _text_kind(text: str) -> str:
    if text.strip().lower() in MISSING:
        return "missing"
    if text[:1] == "0" and text[1:].isdecimal():
        return "code"
    return "timestamp" if len(text) >= SHORTEST_INSTANT and microseconds(text) is not None else "text"


def _type_of(kinds: Counter[str]) -> str:
    """Return the first type that enough values fit. Whole numbers are of type number: 20.5 may follow 20."""
    total = kinds.total() - kinds["missing"]
    if not total:
        return "text"
    fitting = {
        "number": kinds["whole"] + kinds["number"],
        "integer": kinds["whole"] + kinds["integer"],
        "boolean": kinds["boolean"],
        "timestamp": kinds["timestamp"],
        "text": kinds["text"] + kinds["timestamp"] + kinds["code"],
    }
    if kinds["code"] > CODES * total:
        del fitting["number"], fitting["integer"]
    elif kinds["integer"] > kinds["number"]:  # as floats the large integers would be rounded
        del fitting["number"]
    return next((name for name, count in fitting.items() if count >= ENOUGH * total), "json")


def instant_us(value: Any) -> int | None:
    """Convert a timestamp, epoch seconds or epoch milliseconds to microseconds since 1970; None for other values."""
    if isinstance(value, str):
        return microseconds(value)
    if isinstance(value, int | float):
        if _EPOCH_S[0] < value < _EPOCH_S[1]:
            return round(value * 1e6)
        if _EPOCH_MS[0] < value < _EPOCH_MS[1]:
            return round(value * 1e3)
    return None


def event_time_getter(stream: Stream) -> Callable[[Any], int | None]:
    """Return a function from a record of the stream to its event time, in microseconds since 1970, or None."""
    value, name = stream.codec.value, stream.time or "timestamp"
    return lambda record: instant_us(value(record, name))


def text_getter(stream: Stream, by: str | None) -> Callable[[Any], str]:
    """Return a function from a record of the stream to the text of its field `by`, "" if it is absent."""
    value = stream.codec.value

    def name(record: Any) -> str:
        found = value(record, by) if by else None
        return "" if found is None else str(found).replace("\0", "\ufffd")  # PostgreSQL stores no NUL

    return name


def time_field(found: Sequence[Field], records: Sequence[Values]) -> str | None:
    """Return the field with the event time, or None.

    It is the first of TIMES with time values, else the first timestamp, else the first text field with dates.
    """
    by_name = {field.name.lower(): field.name for field in reversed(found)}
    usual = [by_name[each] for each in TIMES if each in by_name]
    typed, texts = ([field.name for field in found if field.type == kind] for kind in ("timestamp", "text"))
    for name in (*usual, *typed, *texts):
        if name in typed or _are_times([value for record in records if (value := record.get(name)) is not None]):
            return name
    return None


def _are_times(values: Sequence[Any]) -> bool:
    return bool(values) and sum(instant_us(value) is not None for value in values) >= ENOUGH * len(values)


def with_roles(stream: Stream, records: Sequence[Values]) -> Stream:
    """Return the stream with a field inferred for each role that it does not name; None where no field suits.

    `by` is the first text field with few, short, repeated values; `value` the first number field that measures
    something, and `histogram` the second, else the same.
    """
    time = stream.time or time_field(stream.fields, records)
    fields = [field for field in stream.fields if field.name != time]
    columns = {
        field.name: [value for record in records if (value := record.get(field.name)) is not None] for field in fields
    }
    texts = [field.name for field in fields if field.type == "text"]
    numbers = [field.name for field in fields if field.type in ("number", "integer")]
    by = stream.by or next(
        (name for name in texts if _divides_records(columns[name]) and not _are_times(columns[name])), None
    )
    measures = [name for name in numbers if not _IDENTIFIER.search(name) and _is_measured(columns[name])]
    value = stream.value or next(iter(measures), None)
    histogram = stream.histogram or next((name for name in measures if name != value), value)
    return replace(stream, time=time, by=by, value=value, histogram=histogram)


def _divides_records(values: Sequence[Any]) -> bool:
    """Return whether a field's values are few, short and repeated, so that they divide records into groups."""
    texts = list(map(str, values))
    groups = len(set(texts))
    words = sum(len(text.split()) for text in texts)
    return groups in GROUPS and len(texts) >= PER_GROUP * groups and words <= WORDS_PER_GROUP * len(texts)


def _is_measured(values: Sequence[Any]) -> bool:
    """Return whether numbers look like measurements: more than two different ones, and not only increasing."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return len(set(numbers)) > 2 and any(after <= before for before, after in pairwise(numbers))


def infer_stream(name: str, records: Sequence[Values]) -> Stream:
    """Infer a stream, its fields and their roles, from its first records."""
    return with_roles(Stream(name, fields=infer_fields(records)), records)
