"""Columns of values that are at hand without a line of JSON: those of records that were made, and rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import NoneType
from typing import Any

import msgspec

from utils.records.codec import TYPES, Codec, Field
from utils.records.instants import are_instants

# The types of values that JSON gives back as they are. A subclass (an enumeration, say) is written in its own way.
_AS_JSON: dict[str, set[type]] = {
    "text": {str, NoneType},
    "timestamp": {str, NoneType},
    "integer": {int, NoneType},
    "number": {int, float, NoneType},
    "boolean": {bool, NoneType},
    "json": {NoneType},
}
_NEVER_NAN = {str, int, bool, NoneType}


def fitting(codec: Codec, members: Mapping[str, Sequence[Any]], size: int) -> list[Sequence[Any]] | None:
    """The columns of the fields, given the values that `size` records have by name, their ids left out.

    None if only their lines show them: a name has no column, or a value may not fit its column.
    """
    if members.keys() - {field.name for field in codec.fields}:
        return None
    found: list[Sequence[Any]] = []
    for field, kind in zip(codec.fields, codec.types, strict=True):
        column = _fitting(field, kind, members.get(field.name) or [None] * size)
        if column is None:
            return None
        found.append(column)
    return found


def _fitting(field: Field, kind: Any, column: Sequence[Any]) -> Sequence[Any] | None:
    """The column of values that a record has, None if one of them may not fit it."""
    types = set(map(type, column))
    if not types <= _AS_JSON[field.type] or (field.type == "timestamp" and not are_instants(column)):
        return None
    if float in types and not all(map(math.isfinite, filter(None, column))):
        return None
    if int in types or kind is not TYPES[field.type]:  # there are limits
        try:
            column = msgspec.convert(column, list.__class_getitem__(kind))
        except msgspec.ValidationError:
            return None
    return column


def columns_of_made(records: Sequence[Any], codec: Codec) -> list[Sequence[Any]] | None:
    """What `Codec.columns_of` gives for the lines of records that a producer made; None if only the lines show it."""
    kind: Any = type(records[0])
    config = kind.__struct_config__
    if config.omit_defaults or config.tag is not None or set(map(type, records)) != {kind}:
        return None
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    members = {name: list(map(attrgetter(attribute), records)) for name, attribute in names}
    ids = [members.pop(name, []) for name in ("producer_id", "sequence")]
    fields = fitting(codec, members, len(records))
    return None if fields is None else [*fields, [None] * len(records), *ids]


def check_finite(records: Sequence[Any]) -> None:
    """Raise ValueError that names the field if a record that was made holds a number that is not finite."""
    for record in records:
        for name, value in zip(record.__struct_fields__, msgspec.structs.astuple(record), strict=True):
            if type(value) not in _NEVER_NAN and not is_finite(value):
                raise ValueError(f"{name} holds a number that is not finite")


def is_finite(value: object) -> bool:
    """Whether all numbers in a value are finite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return value is None or isinstance(value, str | int) or is_finite(msgspec.to_builtins(value))
