"""Conversion between the JSON lines of a stream, its records and the values of its SQL columns. No I/O.

A decoded record is a msgspec struct with all fields of the stream, each optional, then `extra`, `producer_id` and
`sequence`. `extra` is a JSON object, as text, of all members that have no column or do not fit their column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from types import NoneType
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta, Raw
from msgspec.json import Decoder

from utils.records.instants import are_instants, instant_text, is_usual, microseconds

MAX_INT64 = 2**63 - 1
MAX_EXACT = 2**53  # up to here a 64-bit float represents each integer exactly
GROUP_LINES = 64  # lines that are decoded together once one of all does not fit

ABSENT = Raw()  # value of an absent `json` field; compare by identity

ProducerId = Annotated[str, Meta(min_length=1)]
SequenceNumber = Annotated[int, Meta(ge=1, le=MAX_INT64)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=MAX_INT64)]
_Exact = Annotated[int, Meta(ge=-MAX_EXACT, le=MAX_EXACT)]
TYPES: dict[str, Any] = {
    "text": str | None,
    "integer": _Int64 | None,
    "number": _Exact | float | None,
    "boolean": bool | None,
    "timestamp": str | None,
    "json": Raw,
}
OWN_COLUMNS = {
    "extra": None,  # a member of this name fits only if it is null
    "producer_id": ProducerId,
    "sequence": SequenceNumber,
}
"""The columns that follow the fields in every stream; each may be None. Only the codec fills `extra`."""
RESERVED_NAMES = (*OWN_COLUMNS, "rowid", "_rowid_", "oid")
# Python types whose values are the same after JSON. Subclasses, such as enumerations, may be encoded differently.
_AS_JSON: dict[str, set[type]] = {
    "text": {str, NoneType},
    "timestamp": {str, NoneType},
    "integer": {int, NoneType},
    "number": {int, float, NoneType},
    "boolean": {bool, NoneType},
    "json": {NoneType},
}

encoder = msgspec.json.Encoder()
object_decoder = Decoder(dict[str, Raw])


class Field(msgspec.Struct, frozen=True):
    """A field of a stream; `type` is one of text, integer, number, boolean, timestamp, json."""

    name: str
    type: str


def with_columns(fields: Iterable[Field]) -> Iterator[Field]:
    """Yield the fields that get an SQL column of their own. In SQL the values of the others are in `extra`."""
    seen = set(RESERVED_NAMES)
    for field in fields:
        odd = not field.name.strip() or any(each in '"\\\x7f' or each < " " for each in field.name)
        if not odd and field.name.lower() not in seen:
            seen.add(field.name.lower())
            yield field


class Codec:
    """Encoder and decoder of the lines of one stream. It has no mutable state, so threads may share it.

    `types` overrides the types of some fields. A type without None makes the field required: the callback `fill` sets
    a missing one in a decoded record, or raises ValueError if that is no record of the stream.
    """

    def __init__(
        self, fields: Iterable[Field], types: Mapping[str, Any] | None = None, fill: Callable[[Any], None] | None = None
    ) -> None:
        self.fields = tuple(with_columns(fields))
        self.types = tuple((types or {}).get(field.name, TYPES[field.type]) for field in self.fields)
        self._fill = fill
        attributes = [_attribute(field.name, number) for number, field in enumerate(self.fields)] + list(OWN_COLUMNS)
        names, kinds = [*(field.name for field in self.fields), *OWN_COLUMNS], [*self.types, *OWN_COLUMNS.values()]
        self.type = _row_type(attributes, kinds, names)
        self._decoder = Decoder(self.type)
        self._columns = {  # name -> attribute and decoder
            name: (attribute, Decoder(kind)) for name, attribute, kind in zip(names, attributes, kinds, strict=True)
        }
        of_fields = list(zip(self.fields, attributes, strict=False))
        self._json = [attribute for field, attribute in of_fields if field.type == "json"]
        self._instants = {attribute: field.name for field, attribute in of_fields if field.type == "timestamp"}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns: the fields, then `extra`, `producer_id` and `sequence`."""
        return tuple(self._columns)

    @property
    def is_flat(self) -> bool:
        """True if lines that fit the stream contain no nested arrays or objects."""
        return not self._json

    def decode_lines(self, data: bytes) -> list[Any]:
        """Decode JSON lines, at C speed if all of them fit the stream.

        Raises ValueError with the reason if a line is not exactly one JSON object.
        """
        return self.decode_each(data.removesuffix(b"\n").split(b"\n")) if data else []

    def decode_each(self, lines: Sequence[bytes]) -> list[Any]:
        """Decode lines that are already split, like `decode_lines`."""
        records = self.decode_strictly(lines)
        if records is None:
            records = []
            for start in range(0, len(lines), GROUP_LINES):
                group = lines[start : start + GROUP_LINES]
                records += self.decode_strictly(group) or map(self.decode, group)
        return records

    def decode_strictly(self, lines: Sequence[bytes]) -> list[Any] | None:
        """Decode lines at C speed if all of them fit; None if one may not, so that each needs `decode`."""
        data = b"\n".join(lines)
        try:
            records = self._decoder.decode_lines(data)
            if self._json:
                data.decode()  # the decoder does not check the UTF-8 of Raw values
        except (ValueError, RecursionError):
            return None
        # The decoder ignores line ends. Inside of an object "}" is never followed by "{", so no object spans two lines.
        if len(records) != len(lines) or not {line[:1] + line[-1:] for line in lines} <= {b"{}"}:
            return None
        absent = [[each is None for each in map(attrgetter(name), records)] for name in ("producer_id", "sequence")]
        if absent[0] != absent[1]:  # a record has both ids or none
            return None
        if not all(are_instants(map(attrgetter(attribute), records)) for attribute in self._instants):
            return None
        if any(bytes(value) == b"null" for attribute in self._json for value in map(attrgetter(attribute), records)):
            return None
        return records

    def decode(self, line: bytes) -> Any:
        """Decode one JSON object; members that do not fit go to `extra`. Raises ValueError with the reason."""
        record = self.decode_incomplete(line)
        if self._fill is not None:
            self._fill(record)
        return record

    def decode_incomplete(self, line: bytes) -> Any:
        """Decode one JSON object like `decode`, but leave missing required fields None."""
        try:
            line.decode()
            try:
                record, left = self._decoder.decode(line), dict[str, Any]()
            except msgspec.ValidationError:
                record, left = self._decode_members(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        for attribute in self._json:
            if bytes(getattr(record, attribute)) == b"null":
                setattr(record, attribute, ABSENT)
        for attribute, name in self._instants.items():
            text = getattr(record, attribute)
            if text is not None and microseconds(text) is None:
                left[name] = text
                setattr(record, attribute, None)
        if left:
            record.extra = encoder.encode(left).decode()
        if (record.producer_id is None) != (record.sequence is None):
            record.producer_id = record.sequence = None
        return record

    def _decode_members(self, line: bytes) -> tuple[Any, dict[str, Raw]]:
        """Return a record of the members that fit their column, and the other members in their order."""
        values: dict[str, Any] = dict.fromkeys(self.type.__struct_fields__) | dict.fromkeys(self._json, ABSENT)
        left = {}
        for name, raw in object_decoder.decode(line).items():
            attribute, decoder = self._columns.get(name, ("", None))
            with suppress(msgspec.ValidationError):
                if decoder is not None:
                    values[attribute] = decoder.decode(raw)
                    continue
            if bytes(raw) != b"null":
                left[name] = raw
        return self.type(**values), left

    def value(self, record: Any, name: str) -> Any:
        """Return the value that a record has in the column `name`; None if the stream has no such column."""
        column = self._columns.get(name)
        return getattr(record, column[0]) if column else None

    def columns_of(self, records: Sequence[Any]) -> list[Sequence[Any]]:
        """Return the values of decoded records, one sequence per column; JSON as text, None where a value is absent."""
        found: list[Sequence[Any]] = [list(map(attrgetter(each), records)) for each in self.type.__struct_fields__]
        for number, field in enumerate(self.fields):
            if field.type == "json":
                found[number] = [bytes(value).decode() or None for value in found[number]]
        return found

    def rows(self, records: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the values of decoded records, one tuple per record."""
        return list(zip(*self.columns_of(records), strict=True))

    def fitting_columns(self, members: Mapping[str, Sequence[Any]], size: int) -> list[Sequence[Any]] | None:
        """Return the columns of the fields for `size` records, given the values of each member but the ids.

        None if a member has no column or a value may not fit its column: then only the encoded lines show the columns.
        """
        if members.keys() - {field.name for field in self.fields}:
            return None
        found: list[Sequence[Any]] = []
        for field, kind in zip(self.fields, self.types, strict=True):
            column = _fitting(field, kind, members.get(field.name) or [None] * size)
            if column is None:
                return None
            found.append(column)
        return found

    def from_columns(self, columns: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the records of the columns that `columns_of` returned."""
        values = list(columns)
        for number, field in enumerate(self.fields):
            if field.type == "json":
                values[number] = [ABSENT if each is None else Raw(each) for each in columns[number]]
        return list(map(self.type, *values))

    def encode(self, record: Any) -> bytes:
        """Encode a record as a JSON object without line end: fields that have a value, members of `extra`, ids."""
        extra = object_decoder.decode(record.extra) if record.extra else {}
        members: dict[str, Any] = {
            field.name: value
            for field, value in zip(self.fields, msgspec.structs.astuple(record), strict=False)
            if value is not None and value is not ABSENT
        }
        ids = {} if record.sequence is None else {"producer_id": record.producer_id, "sequence": record.sequence}
        return encoder.encode(members | extra | ids).replace(b"\n", b" ")  # Raw JSON may have line ends

    def lines(self, records: Sequence[Any]) -> list[str]:
        """Encode records like `encode`, but as texts and at C speed."""
        *lines, _ = encoder.encode_lines(records).decode().split("\n")
        if len(lines) != len(records):  # Raw JSON has line ends between its values
            return [self.encode(record).decode() for record in records]
        return [
            self.encode(record).decode() if record.extra else line for record, line in zip(records, lines, strict=True)
        ]

    def canonical(self, columns: Iterable[Sequence[Any]]) -> list[bytes]:
        """Encode records, given as columns. Equal records have equal bytes, even if they come from different sinks."""
        columns = list(columns)
        for number, field in enumerate(self.fields):
            column = columns[number]
            if field.type == "timestamp":
                unusual = {v: us for v in set(column) if v and not is_usual(v) and (us := microseconds(v)) is not None}
                texts = {v: instant_text(us) for v, us in unusual.items()}
                columns[number] = [texts.get(v, v) for v in column]
            elif field.type == "number":  # integers become floats; -0.0 becomes 0.0, as in SQLite
                columns[number] = [v if v is None else v + 0.0 for v in column]
        return encoder.encode_lines(list(zip(*columns, strict=True))).split(b"\n")[:-1]


def _fitting(field: Field, kind: Any, column: Sequence[Any]) -> Sequence[Any] | None:
    """Return the values as a column of the field, or None if one of them may not fit."""
    types = set(map(type, column))
    if not types <= _AS_JSON[field.type] or (field.type == "timestamp" and not are_instants(column)):
        return None
    if float in types and not all(map(math.isfinite, filter(None, column))):
        return None
    if int in types or kind is not TYPES[field.type]:  # the type has limits, which `convert` checks
        try:
            column = msgspec.convert(column, list.__class_getitem__(kind))
        except msgspec.ValidationError:
            return None
    return column


def _attribute(name: str, number: int) -> str:
    """Return the attribute name of a field: its own name if that is a usable identifier, else one by its number."""
    usable = name.isidentifier() and name.isascii() and not name.startswith(("_", "field_"))
    return name if usable else f"field_{number}"


def _row_type(attributes: Sequence[str], kinds: Sequence[Any], names: Sequence[str]) -> Any:
    """Create the struct type of decoded records. The fields after the last one that cannot be None have defaults."""
    optional = [kind is Raw or NoneType in get_args(kind) for kind in kinds[: -len(OWN_COLUMNS)]]
    required = max((number for number, may_be_absent in enumerate(optional) if not may_be_absent), default=-1)
    shape: list[Any] = [
        (attribute, kind) if number <= required else (attribute, kind, ABSENT if kind is Raw else None)
        for number, (attribute, kind) in enumerate(zip(attributes, kinds, strict=True))
    ]
    rename = dict(zip(attributes, names, strict=True))
    return msgspec.defstruct("Row", shape, gc=False, forbid_unknown_fields=True, omit_defaults=True, rename=rename)
