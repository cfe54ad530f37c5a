"""Columns of values that are at hand without a line of JSON: those of records that were made, and rows of a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from types import NoneType
from typing import Any

import msgspec

from utils.records.codec import GROUP_LINES, TYPES, Codec, Field, encoder
from utils.records.instants import are_instants

ODD_ONE_IN = 64  # records; where more are odd, all are read

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


def _odd_rows(codec: Codec, members: Mapping[str, Sequence[Any]]) -> Iterator[int]:
    """The numbers of the rows that have a value for which `fitting` gives None; one may come several times."""
    for field, kind in zip(codec.fields, codec.types, strict=True):
        column = members.get(field.name, ())
        for start in range(0, len(column), GROUP_LINES):
            group = column[start : start + GROUP_LINES]
            if _fitting(field, kind, group) is None:
                yield from (n for n, value in enumerate(group, start) if _fitting(field, kind, [value]) is None)


def columns_of_made(records: Sequence[Any], codec: Codec) -> list[Sequence[Any]] | None:
    """What `Codec.columns_of` gives for the lines of records that a producer made, of which only odd ones are read.

    None if all must be read to know it. Raises ValueError for an odd one that no sink can store.
    """
    classes, size, few = set(map(type, records)), len(records), len(records) // ODD_ONE_IN
    kind: Any = type(records[0]) if len(classes) == 1 else Counter(map(type, records)).most_common(1)[0][0]
    config = kind.__struct_config__
    if config.omit_defaults or config.tag is not None:
        return None
    if len(classes) > 1:  # then those of other classes are taken out first, those with odd values in a second turn
        odd: Iterator[int] = (number for number, each in enumerate(records) if type(each) is not kind)
    else:
        names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
        members = {name: list(map(attrgetter(attribute), records)) for name, attribute in names}
        ids = [members.pop(name, []) for name in ("producer_id", "sequence")]
        fields = fitting(codec, members, size)
        if fields is not None:
            return [*fields, [None] * size, *ids]
        odd = _odd_rows(codec, members)
    numbers = set(islice(odd, few + 1))
    if not 0 < len(numbers) <= few:
        return None
    usual = columns_of_made([each for number, each in enumerate(records) if number not in numbers], codec)
    if usual is None:
        return None
    columns = list(map(list, usual))
    for number in sorted(numbers):
        check_finite([records[number]])
        (row,) = codec.rows([codec.decode(encoder.encode(records[number]))])
        for column, value in zip(columns, row, strict=True):
            column.insert(number, value)
    return [*columns]


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
