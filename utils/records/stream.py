"""Streams: named sequences of records of one type, whose fields may have roles in charts and alerts.

The schema file `data/streams/<name>.json` describes a stream's fields and roles to every consumer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import portalocker
from msgspec import Meta, inspect

from utils.app import shared_files
from utils.app.config import DEFAULT_STREAM
from utils.app.errors import ToolkitError
from utils.records import sentiment
from utils.records.codec import MAX_INT64, OWN_COLUMNS, Codec, Field
from utils.records.record import Message, Record

LOCK_WAIT_S = 10.0

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,59}")
_TAKEN = re.compile(r"sqlite.*|pragma_.*|json_each|json_tree|streamed_messages|buzzline_db")  # by SQLite and buzz
_SIMPLE: dict[type, str] = {
    inspect.StrType: "text",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.DateTimeType: "timestamp",
}

_NUMBERS = ("number", "integer")
_ROLES = {"by": ("text",), "value": _NUMBERS, "histogram": _NUMBERS, "time": ("timestamp", *_NUMBERS, "text")}
"""The types that a field in each role may have. A date alone is a text, so `time` takes text too."""


def checked_name(name: str) -> str:
    """Return `name`, or raise ToolkitError if it cannot be the name of a stream."""
    if not _NAME.fullmatch(name):
        raise ToolkitError(
            f"{name!r} cannot name a stream: use at most 60 lowercase letters, digits, _ and -, a letter first"
        )
    if _TAKEN.fullmatch(name):
        raise ToolkitError(f"{name!r} cannot name a stream: SQLite or buzz uses this name; choose another one")
    return name


@dataclass(frozen=True)
class Stream:
    """A stream's fields and their roles.

    Declare it by the class of its records, `Stream("sensors", Reading, by="device", value="temperature_c")`, or by its
    `fields`. Roles: `by` is a text field (one bar and one line per value), `value` and `histogram` are number fields,
    `zones` are two limits of `value`, `time` is the field with the event time.
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
        """Encoder and decoder of the stream's lines."""
        return _codec(self.fields, self.name == DEFAULT_STREAM)

    def describe(self, record: Any) -> str:
        """Format a record as one line for people: the field `by`, then all others that have a value."""
        if self.name == DEFAULT_STREAM:
            return f"{record.author}: {record.message} ({record.sentiment:.2f})"
        (row,) = self.codec.rows([record])
        values = {name: each for name, each in zip(self.codec.columns, row, strict=True) if each is not None}
        shown = [values.pop(self.by)] if self.by in values else []
        hidden = ("timestamp", "producer_id", "sequence")
        shown += [f"{name}={value}" for name, value in values.items() if name not in hidden]
        return " ".join(map(str, shown))


@lru_cache(maxsize=64)
def _codec(fields: tuple[Field, ...], is_buzz: bool) -> Codec:
    """Return the same codec for all streams with the same fields, so that their records have the same type."""
    return Codec(fields, _BUZZ_TYPES, _fill_buzz) if is_buzz else Codec(fields)


def declared_fields(record: type[Record]) -> tuple[Field, ...]:
    """Return the fields of a record class with their types, `timestamp` last."""
    found = inspect.type_info(record)
    assert isinstance(found, inspect.StructType)
    declared = [field for field in found.fields if field.name not in (*OWN_COLUMNS, "timestamp")]
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
    """Fill the missing fields of a buzz message. Raises ValueError without `message`, the only required one."""
    if record.message is None:
        others = "feed_producer makes a stream of records of another kind"
        raise ValueError(f"Object missing required field `message` of the stream buzz; {others}")
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


class _File(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Contents of a schema file."""

    fields: dict[str, Literal["text", "integer", "number", "boolean", "timestamp", "json"]]
    by: str | None = None
    value: str | None = None
    histogram: str | None = None
    zones: tuple[float, float] | None = None
    time: str | None = None


def schema_path(name: str, folder: Path) -> Path:
    """Return the path of a stream's schema file."""
    return folder / f"{checked_name(name)}.json"


def load_stream(name: str, folder: Path) -> Stream | None:
    """Read a stream from its schema file; None if there is no file. Buzz needs no file.

    Raises ToolkitError with the file's path and the reason if it cannot be read or is not valid.
    """
    path = schema_path(name, folder)
    if name == BUZZ.name:
        return BUZZ
    try:
        found = msgspec.json.decode(shared_files.retried(path.read_bytes), type=_File)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ToolkitError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ToolkitError(f"{path} is not a valid schema file: {error}; correct it or delete it") from error
    fields = tuple(Field(*each) for each in found.fields.items())
    stream = Stream(name, fields=fields, **roles_of(found))
    check_roles(stream, f"{path}")
    return stream


def declare(stream: Stream, folder: Path) -> Stream:
    """Write a stream's schema file, or add new fields to it, and return the stream that it describes then.

    Fields and roles that the file already has stay as they are, whether declared before or edited by hand. Only an
    integer field is widened to number. Raises ToolkitError with field, types and file if two types do not fit.
    """
    if stream.name == BUZZ.name:
        if set(stream.fields) != set(BUZZ.fields):
            raise ToolkitError("stream buzz has the fields of Message: give a stream of other fields another name")
        return stream
    path = schema_path(stream.name, folder)
    check_roles(stream, f"stream {stream.name}")
    before = load_stream(stream.name, folder)
    merged = _merged(before, stream, path)
    if before is None or (before.fields, roles_of(before)) != (merged.fields, roles_of(merged)):
        with _locked(folder, stream.name):  # another producer may declare at the same time
            merged = _merged(load_stream(stream.name, folder), stream, path)
            _write(merged, path)
    return merged


def roles_of(described: Stream | _File) -> dict[str, Any]:
    """Return the roles: the field name of each, and the two limits of `zones`; None for a role that is not named."""
    return {role: getattr(described, role) for role in (*_ROLES, "zones")}


def _merged(before: Stream | None, stream: Stream, path: Path) -> Stream:
    """Merge a declared stream into `before`, the stream of its schema file or None."""
    if before is None:
        return stream
    types = {field.name: field.type for field in before.fields}
    for field in stream.fields:
        kind = types.setdefault(field.name, field.type)
        if {kind, field.type} == set(_NUMBERS):
            types[field.name] = "number"
        elif kind != field.type:
            raise ToolkitError(
                f"field {field.name} of stream {stream.name} is {field.type}, but {kind} in {path}: "
                "give it its old type or another name"
            )
    named = {role: value for role, value in roles_of(before).items() if value is not None}
    return replace(stream, fields=tuple(Field(*each) for each in types.items()), **named)


def check_roles(stream: Stream, where: str) -> None:
    """Raise ToolkitError, with `where` first, if a role names no field or one of the wrong type, or zones are wrong."""
    types = {field.name: field.type for field in stream.fields}
    for role, allowed in _ROLES.items():
        name = getattr(stream, role)
        if name is not None and types.get(name) not in allowed:
            found = f"which is {types[name]}" if name in types else "which is no field"
            usable = ", ".join(each for each, kind in types.items() if kind in allowed) or "there is none"
            wanted = f"name a field of type {' or '.join(allowed)} ({usable})"
            raise ToolkitError(f"{where}: {role} names {name}, {found}; {wanted}")
    if stream.zones and not -math.inf < stream.zones[0] < stream.zones[1] < math.inf:
        raise ToolkitError(f"{where}: zones are {list(stream.zones)}; give two limits, the lower first")


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with portalocker.Lock(folder / f".{name}.lock", timeout=LOCK_WAIT_S, check_interval=0.01):
            yield
    except (OSError, portalocker.LockException) as error:
        raise ToolkitError(f"the schema file of stream {name} cannot be written: {error}") from error


def _write(stream: Stream, path: Path) -> None:
    """Write the schema file of a stream atomically."""
    fields: dict[str, Any] = {field.name: field.type for field in stream.fields}
    text = msgspec.json.format(msgspec.json.encode(_File(fields, **roles_of(stream))), indent=2) + b"\n"
    shared_files.replace(path, text)
