"""Schema files: `data/streams/<name>.json` keeps the fields and the named roles of a stream for every consumer."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import portalocker

from utils.app import in_turn
from utils.app.errors import ToolkitError, Unavailable
from utils.records.codec import Field
from utils.records.row_types import OWN
from utils.records.stream import BUZZ, Stream, checked_name

LOCK_WAIT_S = 10.0

_Type = Literal["text", "integer", "number", "boolean", "timestamp", "json"]
_ROLES = {  # and the types that a field in this role may have
    "by": ("text",),
    "value": ("number", "integer"),
    "histogram": ("number", "integer"),
    "time": ("timestamp", "number", "integer"),
}


class _File(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a schema file holds."""

    fields: dict[str, _Type]
    by: str | None = None
    value: str | None = None
    histogram: str | None = None
    zones: tuple[float, float] | None = None
    time: str | None = None


_decoder = msgspec.json.Decoder(_File)


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
        found = _decoder.decode(in_turn.in_turn(path.read_bytes))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ToolkitError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ToolkitError(f"{path} is no schema of a stream: {error}; correct it or delete it") from error
    fields = tuple(Field(field, kind) for field, kind in found.fields.items())
    stream = Stream(
        name,
        by=found.by,
        value=found.value,
        histogram=found.histogram,
        zones=found.zones,
        time=found.time,
        fields=fields,
    )
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
    if _as_file(merged) == (before and _as_file(before)):
        return merged
    with _locked(folder, stream.name):  # another producer may declare at the same time
        merged = _merged(known(stream.name, folder), stream, path)
        _write(path, msgspec.json.format(msgspec.json.encode(_as_file(merged)), indent=2) + b"\n")
    return merged


def _merged(before: Stream | None, stream: Stream, path: Path) -> Stream:
    """The declared stream with what its schema file says."""
    if before is None:
        return stream
    types = {field.name: field.type for field in before.fields}
    for field in stream.fields:
        kind = types.setdefault(field.name, field.type)
        if {kind, field.type} == {"integer", "number"}:
            types[field.name] = "number"
        elif kind != field.type:
            raise ToolkitError(
                f"field {field.name} of stream {stream.name} is {field.type}, but {kind} in {path}: "
                "give it its old type or another name"
            )
    return replace(
        stream,
        fields=tuple(Field(name, kind) for name, kind in types.items()),
        **{role: getattr(before, role) or getattr(stream, role) for role in (*_ROLES, "zones")},
    )


def check_roles(stream: Stream, where: str) -> None:
    """Raise ToolkitError, beginning with `where`, if a role names no field of the right type."""
    types = {field.name: field.type for field in stream.fields if field.name not in OWN}
    for role, allowed in _ROLES.items():
        name = getattr(stream, role)
        if name is not None and types.get(name) not in allowed:
            found = f"which is {types[name]}" if name in types else "which is no field"
            raise ToolkitError(f"{where}: {role} names {name}, {found}; name a field of type {' or '.join(allowed)}")
    if stream.zones and not -math.inf < stream.zones[0] < stream.zones[1] < math.inf:
        raise ToolkitError(f"{where}: zones are {list(stream.zones)}; give two limits, the lower first")


def _as_file(stream: Stream) -> _File:
    fields: dict[str, _Type] = {field.name: field.type for field in stream.fields}  # type: ignore[misc]
    return _File(fields, stream.by, stream.value, stream.histogram, stream.zones, stream.time)


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


def _write(path: Path, data: bytes) -> None:
    """Replace a file at once: a reader sees the old or the new one, never a part."""
    draft = path.with_suffix(".new")
    with draft.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    in_turn.replace(draft, path)
