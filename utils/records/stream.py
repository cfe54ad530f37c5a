"""A stream: a named sequence of records of one type, with the roles that its fields have for charts and alerts."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Meta

from utils.app.config import BUZZ as DEFAULT_STREAM
from utils.app.errors import ToolkitError
from utils.records import sentiment
from utils.records.codec import Codec, Field
from utils.records.record import Message, Record
from utils.records.row_types import MAX_INT64, OWN

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,59}")
_TAKEN = re.compile(r"sqlite.*|pragma_.*|json_each|json_tree|streamed_messages|buzzline_db")  # by SQLite and by buzz
_SIMPLE: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    datetime.datetime: "timestamp",
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
        return Codec(self.fields, _BUZZ_TYPES, _fill_buzz) if self.name == DEFAULT_STREAM else Codec(self.fields)

    def describe(self, record: Any) -> str:
        """A record in one line for people: `by`, then the other fields that have a value."""
        if self.name == DEFAULT_STREAM:
            return f"{record.author}: {record.message} ({record.sentiment:.2f})"
        values = dict(zip(self.codec.columns, self.codec.row(record), strict=True))
        shown = [values.pop(self.by)] if self.by and values.get(self.by) is not None else []
        hidden = ("timestamp", *OWN)
        shown += [f"{name}={value}" for name, value in values.items() if value is not None and name not in hidden]
        return " ".join(map(str, [*shown, record.extra] if record.extra else shown))


def declared_fields(record: type[Record]) -> tuple[Field, ...]:
    """The fields of a class and their types, `timestamp` last."""
    hints = get_type_hints(record, include_extras=True)
    names = [name for name in record.__struct_fields__ if name not in OWN and name != "timestamp"]
    return (*(Field(name, _type_of(hints[name])) for name in names), Field("timestamp", "timestamp"))


def _type_of(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type_of(arguments[0])
    if origin is Literal:
        return "text" if all(isinstance(each, str) for each in arguments) else "json"
    if origin in (Union, UnionType):
        kinds = {_type_of(each) for each in arguments if each is not type(None)}
        if kinds == {"integer", "number"}:
            return "number"
        return kinds.pop() if len(kinds) == 1 else "json"
    return _SIMPLE.get(hint, "json")


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
