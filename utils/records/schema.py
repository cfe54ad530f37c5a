"""Schema files: `data/streams/<name>.json` keeps the fields and the named roles of a stream for every consumer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import portalocker

from utils.app import shared_files
from utils.app.errors import ToolkitError, Unavailable
from utils.records.codec import OWN, Field
from utils.records.stream import BUZZ, Stream, checked_name

LOCK_WAIT_S = 10.0

_NUMBERS = ("number", "integer")
_ROLES = {"by": ("text",), "value": _NUMBERS, "histogram": _NUMBERS, "time": ("timestamp", *_NUMBERS, "text")}
"""The types that a field in this role may have. A date alone is a text, and a time all the same."""


class _File(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a schema file holds."""

    fields: dict[str, Literal["text", "integer", "number", "boolean", "timestamp", "json"]]
    by: str | None = None
    value: str | None = None
    histogram: str | None = None
    zones: tuple[float, float] | None = None
    time: str | None = None


def schema_path(name: str, folder: Path) -> Path:
    """Where the schema file of a stream is."""
    return folder / f"{checked_name(name)}.json"


def known(name: str, folder: Path) -> Stream | None:
    """The stream as its schema file describes it; None if there is no file. Buzz needs none.

    Raises ToolkitError that names the file and what is wrong with it.
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
        raise ToolkitError(f"{path} is no schema of a stream: {error}; correct it or delete it") from error
    fields = tuple(Field(*each) for each in found.fields.items())
    stream = Stream(name, fields=fields, **_roles(found))
    check_roles(stream, f"{path}")
    return stream


def declare(stream: Stream, folder: Path) -> Stream:
    """Write the schema file of a stream, or add to it the fields that the stream has gained; the stream as it is now.

    What the file already says stays: the first declaration wins, and so does an edit by hand. Only an integer field
    widens to number. Raises ToolkitError that names the field, both types and the file where types clash.
    """
    if stream.name == BUZZ.name:
        if set(stream.fields) != set(BUZZ.fields):
            raise ToolkitError("stream buzz has the fields of Message: give a stream of other fields another name")
        return stream
    path = schema_path(stream.name, folder)
    check_roles(stream, f"stream {stream.name}")
    before = known(stream.name, folder)
    merged = _merged(before, stream, path)
    if before is None or (before.fields, _roles(before)) != (merged.fields, _roles(merged)):
        with _locked(folder, stream.name):  # another producer may declare at the same time
            merged = _merged(known(stream.name, folder), stream, path)
            _write(merged, path)
    return merged


def _roles(described: Stream | _File) -> dict[str, Any]:
    return {role: getattr(described, role) for role in (*_ROLES, "zones")}


def _merged(before: Stream | None, stream: Stream, path: Path) -> Stream:
    """The declared stream with what its schema file says."""
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
    named = {role: value for role, value in _roles(before).items() if value is not None}
    return replace(stream, fields=tuple(Field(*each) for each in types.items()), **named)


def check_roles(stream: Stream, where: str) -> None:
    """Raise ToolkitError, beginning with `where`, if a role names no field of the right type."""
    types = {field.name: field.type for field in stream.fields if field.name not in OWN}
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
    except portalocker.LockException as error:
        raise Unavailable(f"the schema file of stream {name} is locked by another program: try again") from error
    except OSError as error:
        raise ToolkitError(f"{folder} cannot be written: {error.strerror}") from error


def _write(stream: Stream, path: Path) -> None:
    """Replace a file at once: a reader sees the old or the new one, never a part."""
    fields: dict[str, Any] = {field.name: field.type for field in stream.fields}
    text = msgspec.json.format(msgspec.json.encode(_File(fields, **_roles(stream))), indent=2) + b"\n"
    shared_files.replace(path, text)
