"""A stream: a named sequence of records of one type, with the roles that its fields have for charts and alerts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any

from msgspec import Meta, inspect

from utils.app.config import DEFAULT_STREAM
from utils.app.errors import ToolkitError
from utils.records import sentiment
from utils.records.codec import MAX_INT64, OWN, Codec, Field
from utils.records.record import Message, Record

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,59}")
_TAKEN = re.compile(r"sqlite.*|pragma_.*|json_each|json_tree|streamed_messages|buzzline_db")  # by SQLite and by buzz
_SIMPLE: dict[type, str] = {
    inspect.StrType: "text",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.DateTimeType: "timestamp",
}


def checked_name(name: str) -> str:
    """The name of a stream. Raises ToolkitError if it can be none."""
    if not _NAME.fullmatch(name):
        raise ToolkitError(
            f"{name!r} cannot name a stream: use lowercase letters, digits, _ and -, a letter first, at most 60"
        )
    if _TAKEN.fullmatch(name):
        raise ToolkitError(f"{name!r} cannot name a stream: SQLite or buzz uses this name; choose another one")
    return name


@dataclass(frozen=True)
class Stream:
    """What is known of a stream: its fields and their roles.

    Declare one by the class that its producer makes: `Stream("sensors", Reading, by="device", value="temperature_c")`;
    or by its `fields`. `by` names a text field (bars, a line each), `value` and `histogram` number fields, `zones`
    two limits of `value`, `time` the field that holds the event time.
    """

    name: str
    record: type[Record] | None = None
    by: str | None = None
    value: str | None = None
    histogram: str | None = None
    zones: tuple[float, float] | None = None
    time: str | None = None
    fields: tuple[Field, ...] = ()

    def __post_init__(self) -> None:
        checked_name(self.name)
        if self.record is not None and not self.fields:
            object.__setattr__(self, "fields", declared_fields(self.record))

    @cached_property
    def codec(self) -> Codec:
        """What reads and writes the lines of this stream."""
        return _codec(self.fields, self.name == DEFAULT_STREAM)

    def describe(self, record: Any) -> str:
        """A record in one line for people: `by`, then the other fields that have a value."""
        if self.name == DEFAULT_STREAM:
            return f"{record.author}: {record.message} ({record.sentiment:.2f})"
        (row,) = self.codec.rows([record])
        values = dict(zip(self.codec.columns, row, strict=True))
        shown = [values.pop(self.by)] if self.by and values.get(self.by) is not None else []
        hidden = ("timestamp", *OWN)
        shown += [f"{name}={value}" for name, value in values.items() if value is not None and name not in hidden]
        return " ".join(map(str, [*shown, record.extra] if record.extra else shown))


@lru_cache(maxsize=64)
def _codec(fields: tuple[Field, ...], is_buzz: bool) -> Codec:
    """One for all streams with these fields, so that the records of one are those of the other."""
    return Codec(fields, _BUZZ_TYPES, _fill_buzz) if is_buzz else Codec(fields)


def declared_fields(record: type[Record]) -> tuple[Field, ...]:
    """The fields of a class and their types, `timestamp` last."""
    found = inspect.type_info(record)
    assert isinstance(found, inspect.StructType)
    declared = [field for field in found.fields if field.name not in (*OWN, "timestamp")]
    return (*(Field(field.name, _type_of(field.type)) for field in declared), Field("timestamp", "timestamp"))


def _type_of(declared: inspect.Type) -> str:
    if isinstance(declared, inspect.LiteralType):
        return "text" if all(isinstance(each, str) for each in declared.values) else "json"
    if isinstance(declared, inspect.UnionType):
        kinds = {_type_of(each) for each in declared.types if not isinstance(each, inspect.NoneType)}
        if kinds == {"integer", "number"}:
            return "number"
        return kinds.pop() if len(kinds) == 1 else "json"
    return _SIMPLE.get(type(declared), "json")


def _fill_buzz(record: Any) -> None:
    """Complete a buzz message of another program: only the text `message` is required."""
    if record.message is None:
        raise ValueError("Object missing required field `message`")
    if record.author is None:
        record.author = "Unknown"
    if record.sentiment is None:
        record.sentiment = sentiment.score(record.message)
    if record.message_length is None:
        record.message_length = len(record.message)


_BUZZ_TYPES = {
    "message": str,
    "author": str,
    "sentiment": Annotated[float, Meta(ge=0, le=1)],
    "message_length": Annotated[int, Meta(ge=0, le=MAX_INT64)],
}

BUZZ = Stream(DEFAULT_STREAM, Message, by="author", value="sentiment", histogram="message_length", zones=(0.3, 0.7))
