"""Lines of one stream to records, rows and canonical rows, and back. No I/O; SQL only as column values.

A record that was read is a row-struct: every field of the stream, each optional, then `extra` (the JSON text of an
object with everything that has no column or does not fit its column), `producer_id` and `sequence`.
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
MAX_EXACT = 2**53  # what a column of 64-bit floats gives back unchanged
GROUP_LINES = 64

NONE = Raw()  # this one instance: it stands for a value that is absent

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
OWN = {
    "extra": None,
    "producer_id": Annotated[str, Meta(min_length=1)],
    "sequence": Annotated[int, Meta(ge=1, le=MAX_INT64)],
}
"""The columns that every stream has behind its fields, absent where they are None. Only the codec sets `extra`."""
RESERVED = (*OWN, "rowid", "_rowid_", "oid")
# The types of values that JSON gives back as they are. A subclass (an enumeration, say) is written in its own way.
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
    """The fields that have a column; the others live in `extra`, on the wire they are like any other."""
    seen = set(RESERVED)
    for field in fields:
        odd = not field.name.strip() or any(each in '"\\\x7f' or each < " " for each in field.name)
        if not odd and field.name.lower() not in seen:
            seen.add(field.name.lower())
            yield field


class Codec:
    """Translates the lines of one stream. It keeps no state of what it has read, so all threads may share it.

    `types` narrows the types of some fields. One that cannot be None is a field that every record has: `fill` sets it
    in a record where it is missing, and raises ValueError if that cannot be a record of the stream.
    """

    def __init__(
        self, fields: Iterable[Field], types: Mapping[str, Any] | None = None, fill: Callable[[Any], None] | None = None
    ) -> None:
        self.fields = tuple(with_columns(fields))
        self.types = tuple((types or {}).get(field.name, TYPES[field.type]) for field in self.fields)
        self._fill = fill
        attributes = [_attribute(field.name, number) for number, field in enumerate(self.fields)] + list(OWN)
        names, kinds = [*(field.name for field in self.fields), *OWN], [*self.types, *OWN.values()]
        self.type = _row_type(attributes, kinds, names)
        self._decoder = Decoder(self.type)
        self._known = {
            name: (attribute, Decoder(kind)) for name, attribute, kind in zip(names, attributes, kinds, strict=True)
        }
        own = list(zip(self.fields, attributes, strict=False))
        self._json = [attribute for field, attribute in own if field.type == "json"]
        self._instants = {attribute: field.name for field, attribute in own if field.type == "timestamp"}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the stream's columns: its fields, then those that every stream has."""
        return tuple(self._known)

    @property
    def is_flat(self) -> bool:
        """Whether what fits the stream has neither arrays nor objects."""
        return not self._json

    def decode_lines(self, data: bytes) -> list[Any]:
        """Records of JSON lines, at C speed where all fit the stream.

        Raises ValueError with the reason if a line holds anything but one object.
        """
        return self.decode_each(data.removesuffix(b"\n").split(b"\n")) if data else []

    def decode_each(self, lines: Sequence[bytes]) -> list[Any]:
        """`decode_lines` of lines that are split already."""
        records = self.decode_fitting(lines)
        if records is None:
            records = []
            for start in range(0, len(lines), GROUP_LINES):
                group = lines[start : start + GROUP_LINES]
                records += self.decode_fitting(group) or map(self.decode, group)
        return records

    def decode_fitting(self, lines: Sequence[bytes]) -> list[Any] | None:
        """Records of lines that all fit; None if at least one needs a closer look."""
        data = b"\n".join(lines)
        try:
            records = self._decoder.decode_lines(data)
            if self._json:
                data.decode()  # the decoder does not check what it leaves as it is
        except (ValueError, RecursionError):
            return None
        # The fast decoder does not look at line ends. Inside of JSON no "}" is followed by "{".
        if len(records) != len(lines) or not {line[:1] + line[-1:] for line in lines} <= {b"{}"}:
            return None
        ids = [[each is None for each in map(attrgetter(name), records)] for name in ("producer_id", "sequence")]
        if ids[0] != ids[1]:  # half an identity is none
            return None
        if not all(are_instants(map(attrgetter(attribute), records)) for attribute in self._instants):
            return None
        if any(bytes(value) == b"null" for attribute in self._json for value in map(attrgetter(attribute), records)):
            return None
        return records

    def decode(self, line: bytes) -> Any:
        """The record of one JSON object; what does not fit goes to `extra`. Raises ValueError with the reason."""
        record = self.decode_any(line)
        if self._fill is not None:
            self._fill(record)
        return record

    def decode_any(self, line: bytes) -> Any:
        """`decode` for any JSON object, also one without what every record of this stream must have."""
        try:
            line.decode()
            try:
                record, left = self._decoder.decode(line), dict[str, Any]()
            except msgspec.ValidationError:
                record, left = self._by_member(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        for attribute in self._json:
            if bytes(getattr(record, attribute)) == b"null":
                setattr(record, attribute, NONE)
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

    def _by_member(self, line: bytes) -> tuple[Any, dict[str, Raw]]:
        """A record of the members that fit, and the others in their order."""
        values: dict[str, Any] = dict.fromkeys(self.type.__struct_fields__) | dict.fromkeys(self._json, NONE)
        left = {}
        for name, raw in object_decoder.decode(line).items():
            attribute, decoder = self._known.get(name, ("", None))
            with suppress(msgspec.ValidationError):
                if decoder is not None:
                    values[attribute] = decoder.decode(raw)
                    continue
            if bytes(raw) != b"null":
                left[name] = raw
        return self.type(**values), left

    def value(self, record: Any, name: str) -> Any:
        """A field of a record by its name, which need not be an attribute's; None if the stream has no such column."""
        known = self._known.get(name)
        return getattr(record, known[0]) if known else None

    def columns_of(self, records: Sequence[Any]) -> list[Sequence[Any]]:
        """The values of records that were read, in the order of `columns`; JSON as text, None where one is absent."""
        found: list[Sequence[Any]] = [list(map(attrgetter(each), records)) for each in self.type.__struct_fields__]
        for number, field in enumerate(self.fields):
            if field.type == "json":
                found[number] = [bytes(value).decode() or None for value in found[number]]
        return found

    def rows(self, records: Sequence[Any]) -> list[tuple[Any, ...]]:
        """`columns_of` as tuples, one per record."""
        return list(zip(*self.columns_of(records), strict=True))

    def fitting(self, members: Mapping[str, Sequence[Any]], size: int) -> list[Sequence[Any]] | None:
        """The columns of the fields, given the values that `size` records have by name, their ids left out.

        None if only their lines show them: a name has no column, or a value may not fit its column.
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
        """The records of columns as `columns_of` gives them."""
        values = list(columns)
        for number, field in enumerate(self.fields):
            if field.type == "json":
                values[number] = [NONE if each is None else Raw(each) for each in columns[number]]
        return list(map(self.type, *values))

    def encode(self, record: Any) -> bytes:
        """The record as one JSON object without line end: the fields that have a value, then those of `extra`."""
        extra = object_decoder.decode(record.extra) if record.extra else {}
        members: dict[str, Any] = {
            field.name: value
            for field, value in zip(self.fields, msgspec.structs.astuple(record), strict=False)
            if value is not None and value is not NONE
        }
        ids = {} if record.sequence is None else {"producer_id": record.producer_id, "sequence": record.sequence}
        return encoder.encode(members | extra | ids).replace(b"\n", b" ")  # between values of another program's JSON

    def lines(self, records: Sequence[Any]) -> list[str]:
        """What `encode` gives for each of these records, as text."""
        *lines, _ = encoder.encode_lines(records).decode().split("\n")
        if len(lines) != len(records):  # JSON of another program has line ends between its values
            return [self.encode(record).decode() for record in records]
        return [
            self.encode(record).decode() if record.extra else line for record, line in zip(records, lines, strict=True)
        ]

    def canonical(self, columns: Iterable[Sequence[Any]]) -> list[bytes]:
        """The same bytes for the same record from every sink, by columns; no `hash` would do: hash(-1) == hash(-2)."""
        columns = list(columns)
        for number, field in enumerate(self.fields):
            column = columns[number]
            if field.type == "timestamp":
                unusual = {v for v in set(column) if isinstance(v, str) and not is_usual(v)}
                usual = {v: instant_text(us) for v in unusual if (us := microseconds(v)) is not None}
                columns[number] = [usual.get(v, v) for v in column] if usual else column
            elif field.type == "number" and (0.0 in column or not set(map(type, column)) <= {float, NoneType}):
                # 1 is 1.0, and -0.0 is 0.0: SQLite keeps no sign
                columns[number] = tuple(v + 0.0 if isinstance(v, int | float) else v for v in column)
            elif field.type == "boolean" and not set(map(type, column)) <= {bool, NoneType}:
                columns[number] = tuple(bool(v) if v in (0, 1) else v for v in column)
        return encoder.encode_lines(list(zip(*columns, strict=True))).split(b"\n")[:-1]


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


def _attribute(name: str, number: int) -> str:
    """The attribute that holds a field: its name where that can be one."""
    usable = name.isidentifier() and name.isascii() and not name.startswith(("_", "field_"))
    return name if usable else f"field_{number}"


def _row_type(attributes: Sequence[str], kinds: Sequence[Any], names: Sequence[str]) -> Any:
    """A row-struct type. Every field is optional, but for those up to the last one whose type knows no None."""
    optional = [kind is Raw or NoneType in get_args(kind) for kind in kinds[: -len(OWN)]]
    needed = max((number for number, may_be_absent in enumerate(optional) if not may_be_absent), default=-1)
    shape: list[Any] = [
        (attribute, kind) if number <= needed else (attribute, kind, NONE if kind is Raw else None)
        for number, (attribute, kind) in enumerate(zip(attributes, kinds, strict=True))
    ]
    rename = dict(zip(attributes, names, strict=True))
    return msgspec.defstruct("Row", shape, gc=False, forbid_unknown_fields=True, omit_defaults=True, rename=rename)
