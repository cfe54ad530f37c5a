"""The columns of records that a producer made, without reading their lines."""

from collections.abc import Sequence
from functools import lru_cache
from math import isfinite
from operator import attrgetter
from types import NoneType
from typing import Any, NamedTuple

import msgspec

from utils.records.codec import Codec, microseconds

# What JSON gives back as it is. A subclass of these (an enumeration, say) or a Decimal is written in its own way.
_PLAIN: dict[str, frozenset[type]] = {
    "text": frozenset((str, NoneType)),
    "timestamp": frozenset((str, NoneType)),
    "integer": frozenset((int, NoneType)),
    "number": frozenset((int, float, NoneType)),
    "boolean": frozenset((bool, NoneType)),
    "json": frozenset((NoneType,)),
}


class _Column(NamedTuple):
    attribute: str | None  # of the record; None if its class has no such field
    plain: frozenset[type]
    values: Any  # the type that the decoder checks the values against, of a list
    kind: str  # of the field


@lru_cache(maxsize=256)
def _plan(kind: type[msgspec.Struct], codec: Codec) -> tuple[_Column, ...]:
    """How the fields of a class become columns; nothing if a line has more or other members than they."""
    config = kind.__struct_config__
    attributes = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    attributes = {name: each for name, each in attributes.items() if name not in ("producer_id", "sequence")}
    fields = {field.name for field in codec.fields}
    if attributes.keys() - fields or config.omit_defaults or config.tag is not None or config.array_like:
        return ()
    columns = []
    for field, values in zip(codec.fields, codec.read_types, strict=True):
        checked: Any = list[None] if field.type == "json" else list[values]  # type: ignore[valid-type]
        columns.append(_Column(attributes.get(field.name), _PLAIN[field.type], checked, field.type))
    return tuple(columns)


def columns_of_made(records: Sequence[Any], codec: Codec) -> list[Sequence[Any]] | None:
    """What `Codec.columns_of` gives for the lines of these records.

    None if they must be read to know it, or if a number is not finite.
    """
    kind: type[msgspec.Struct] = type(records[0])
    plan = _plan(kind, codec)
    if not plan or {kind} != set(map(type, records)):
        return None
    columns: list[Sequence[Any]] = []
    for attribute, plain, values, field_kind in plan:
        column: list[Any] = list(map(attrgetter(attribute), records)) if attribute else [None] * len(records)
        if not plain.issuperset(map(type, column)):
            return None
        try:
            columns.append(msgspec.convert(column, values))
        except msgspec.ValidationError:
            return None
        if field_kind == "number" and not all(map(isfinite, filter(None, column))):
            return None
        if field_kind == "timestamp" and any(text is not None and microseconds(text) is None for text in set(column)):
            return None
    ids = [record.producer_id for record in records], [record.sequence for record in records]
    return [*columns, [None] * len(records), *ids]
