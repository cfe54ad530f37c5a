"""Lines of one stream to records, rows and canonical rows, and back. No I/O; SQL only as column values.

A record that was read is a row-struct: every field of the stream, each optional, then `extra` (the JSON text of an
object with everything that has no column or does not fit its column), `producer_id` and `sequence`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

from utils.app import local_time
from utils.records.row_types import NONE, OWN, RESERVED, TYPES, attribute_of, row_type, without_none

GROUP_LINES = 64

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_FIRST_US = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND

_FLOATS, _BOOLEANS = frozenset((float, type(None))), frozenset((bool, type(None)))

encoder = msgspec.json.Encoder()
_object = Decoder(dict[str, Raw])


class Field(msgspec.Struct, frozen=True):
    """A field of a stream; `type` is one of text, integer, number, boolean, timestamp, json."""

    name: str
    type: str


class Rules(msgspec.Struct, frozen=True):
    """What one stream asks beyond its types: narrower `types`, `required` fields and what fills in the others.

    `fill` changes a record in place; it raises ValueError if the record cannot be one of this stream.
    """

    types: Mapping[str, Any] = {}
    required: frozenset[str] = frozenset()
    fill: Callable[[Any], None] | None = None


def with_columns(fields: Iterable[Field]) -> Iterator[Field]:
    """The fields that have a column; the others live in `extra`, on the wire they are like any other."""
    seen = set(RESERVED)
    for field in fields:
        odd = not field.name.strip() or any(each in '"\\\x7f' or each < " " for each in field.name)
        if not odd and field.name.lower() not in seen:
            seen.add(field.name.lower())
            yield field


@lru_cache(maxsize=8_192)
def microseconds(text: str) -> int | None:
    """Microseconds since 1970 UTC of a timestamp; local time where it has no zone; None if it is none."""
    try:
        instant = datetime.fromisoformat(text)
        found = ((instant if instant.tzinfo else local_time.in_utc(instant)) - EPOCH) // MICROSECOND
    except (ValueError, OverflowError):
        return None
    return found if _FIRST_US <= found <= _LAST_US else None  # its day in UTC may be outside of the calendar


def epoch_s(text: str | None) -> float | None:
    """Seconds since 1970 of a timestamp; None if it is none."""
    found = None if text is None else microseconds(text)
    return None if found is None else found / 1e6


def instant_text(instant_us: int) -> str:
    """RFC 3339 UTC text of microseconds since 1970, with milliseconds, or with microseconds where it has some.

    Raises ValueError outside of the years 1 to 9999.
    """
    if not _FIRST_US <= instant_us <= _LAST_US:
        raise ValueError(f"an instant outside of the years 1 to 9999: {instant_us} microseconds since 1970")
    precision = "microseconds" if instant_us % 1000 else "milliseconds"
    return (EPOCH + instant_us * MICROSECOND).isoformat(timespec=precision)[:-6] + "Z"


class Codec:
    """Translates the lines of one stream. It keeps no state of what it has read, so all threads may share it."""

    def __init__(self, fields: Iterable[Field], rules: Rules | None = None) -> None:
        self.fields = tuple(with_columns(fields))
        self.columns: tuple[str, ...] = (*(field.name for field in self.fields), *OWN)
        rules = rules or Rules()
        self._fill = rules.fill
        self.types = tuple(rules.types.get(field.name, TYPES[field.type]) for field in self.fields)
        needed = [field.name in rules.required for field in self.fields]
        self._required = [number for number, each in enumerate(needed) if each]
        self.read_types = tuple(without_none(t) if each else t for t, each in zip(self.types, needed, strict=True))
        attributes = [attribute_of(field.name, number) for number, field in enumerate(self.fields)] + list(OWN)
        types = [*self.types, *OWN.values()]
        self._attributes = attributes
        columns = list(zip(attributes, types, self.columns, strict=True))
        self.type = row_type(columns, frozenset(), strict=True)
        self._strict = Decoder(row_type(columns, rules.required, strict=True))
        self._lenient = Decoder(row_type(columns, frozenset(), strict=False))
        self._known = {name: (attribute, Decoder(kind)) for attribute, kind, name in columns if attribute != "extra"}
        self._json_names = frozenset(field.name for field in self.fields if field.type == "json")
        self._json = [each for each, field in zip(attributes, self.fields, strict=False) if field.type == "json"]
        self._instants = [
            (each, field.name)
            for each, field in zip(attributes, self.fields, strict=False)
            if field.type == "timestamp"
        ]

    def decode_lines(self, data: bytes, *, trusted: bool = False) -> list[Any]:
        """Records of JSON lines that each hold one object, at C speed where all fit the stream.

        `trusted` says that each line does hold one. Raises ValueError with the reason if a line holds anything else.
        """
        records = self._decode_group(data, trusted)
        if records is None:
            lines = data.split(b"\n")
            if not lines[-1]:
                lines.pop()
            records = []
            for start in range(0, len(lines), GROUP_LINES):
                group = lines[start : start + GROUP_LINES]
                records += self._decode_group(b"\n".join(group) + b"\n") or map(self.decode, group)
        return records

    def _decode_group(self, data: bytes, trusted: bool = False) -> list[Any] | None:
        """Records of lines that all fit; None if at least one needs a closer look."""
        try:
            records = self._strict.decode_lines(data)
        except (ValueError, RecursionError):
            return None
        # The fast decoder does not look at line ends. Inside of JSON no "}" is followed by "{".
        if not (trusted or len(records) == data.count(b"\n") == data.count(b"}\n{") + 1):
            return None
        for attribute, _ in self._instants:
            for text in set(map(attrgetter(attribute), records)):
                if text is not None and microseconds(text) is None:
                    return None
        for attribute in self._json:
            if any(bytes(value) == b"null" for value in map(attrgetter(attribute), records)):
                return None
        return records if not self._json or _is_utf8(data) else None

    def decode(self, line: bytes | str) -> Any:
        """The record of one JSON object; what does not fit goes to `extra`. Raises ValueError with the reason."""
        return self._filled(self.decode_any(line))

    def decode_any(self, line: bytes | str) -> Any:
        """`decode` for any JSON object, also one without what every record of this stream must have."""
        data = line.encode() if isinstance(line, str) else line
        try:
            data.decode()  # the decoder does not check what it leaves as it is
            try:
                return self._checked(self._strict.decode(data), [])
            except msgspec.ValidationError:
                members = _object.decode(data)
            left = [(name, raw) for name, raw in members.items() if name not in self._known]
            try:
                record = self._lenient.decode(data)
            except msgspec.ValidationError:  # some value does not fit
                record, left = self._by_member(members)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return self._checked(record, left)

    def _by_member(self, members: Mapping[str, Raw]) -> tuple[Any, list[tuple[str, Raw]]]:
        """A record of the members that fit, and the others in their order."""
        record, left = self.type(), []
        for name, raw in members.items():
            attribute, decoder = self._known.get(name, ("", None))
            if decoder is None:
                left.append((name, raw))
                continue
            try:
                setattr(record, attribute, decoder.decode(raw))
            except msgspec.ValidationError:
                left.append((name, raw))
        return record, left

    def _checked(self, record: Any, left: Sequence[tuple[str, Any]]) -> Any:
        """The record with absent values in one form and everything `left` in its `extra`."""
        for attribute in self._json:
            if bytes(getattr(record, attribute)) == b"null":
                setattr(record, attribute, NONE)
        for attribute, name in self._instants:
            text = getattr(record, attribute)
            if text is not None and microseconds(text) is None:
                left = [*left, (name, encoder.encode(text))]
                setattr(record, attribute, None)
        members = [encoder.encode(name) + b":" + bytes(raw) for name, raw in left if bytes(raw) != b"null"]
        if members:
            record.extra = (b"{" + b",".join(members) + b"}").decode()
        if (record.producer_id is None) != (record.sequence is None):
            record.producer_id = record.sequence = None
        return record

    def _filled(self, record: Any) -> Any:
        if self._fill is not None:
            self._fill(record)
        return record

    def value(self, record: Any, name: str) -> Any:
        """A field of a record by its name, which need not be an attribute's; None if the stream has no such column."""
        known = self._known.get(name)
        return getattr(record, known[0]) if known else None

    def row(self, record: Any) -> tuple[Any, ...]:
        """The record's values in the order of `columns`, JSON as text, None where a value is absent."""
        if not self._json:
            return msgspec.structs.astuple(record)
        return tuple(
            (bytes(value).decode() or None) if isinstance(value, Raw) else value
            for value in msgspec.structs.astuple(record)
        )

    def rows(self, records: Iterable[Any]) -> list[tuple[Any, ...]]:
        """`row` of each record."""
        return list(map(self.row if self._json else msgspec.structs.astuple, records))

    def columns_of(self, records: Sequence[Any]) -> list[Sequence[Any]]:
        """The values of records that were read, in the order of `columns`; JSON as text, None where one is absent."""
        found: list[Sequence[Any]] = [list(map(attrgetter(each), records)) for each in self._attributes]
        for number, field in enumerate(self.fields):
            if field.type == "json":
                found[number] = [bytes(value).decode() or None for value in found[number]]
        return found

    def from_columns(self, columns: Sequence[Sequence[Any]]) -> list[Any]:
        """The records of a table's columns, in the order of `columns`, whose values have the fields' types.

        JSON comes as text. Raises ValueError if a record cannot be one of this stream.
        """
        values = [
            [NONE if each is None else Raw(each) for each in column] if field.type == "json" else column
            for field, column in zip(self.fields, columns, strict=False)
        ]
        records = list(map(self.type, *values, *columns[len(values) :]))
        if any(None in columns[number] for number in self._required):
            return list(map(self._filled, records))
        return records

    def encode(self, record: Any) -> bytes:
        """The record as one JSON object without line end: the fields that have a value, then those of `extra`."""
        extra = _object.decode(record.extra.encode()) if record.extra else {}
        values = zip(self.columns, self.row(record), strict=True)
        members: dict[str, Any] = {
            name: Raw(value) if name in self._json_names else value
            for name, value in values
            if value is not None and name not in OWN and name not in extra
        }
        ids = {} if record.sequence is None else {"producer_id": record.producer_id, "sequence": record.sequence}
        return encoder.encode(members | extra | ids)

    def canonical(self, row: Sequence[Any]) -> bytes:
        """The same bytes for the same record from every sink; `hash` is no substitute, for hash(-1) == hash(-2)."""
        return self._canonical([row])[0]

    def canonical_lines(self, records: Iterable[Any]) -> list[bytes]:
        """`canonical` of the rows of records."""
        return self._canonical(self.rows(records))

    def _canonical(self, rows: Sequence[Sequence[Any]]) -> list[bytes]:
        columns = list(zip(*rows, strict=True))
        for number, field in enumerate(self.fields):
            column = columns[number]
            if field.type == "timestamp":
                instants = {v: microseconds(v) if isinstance(v, str) else v for v in set(column)}
                columns[number] = tuple(map(instants.__getitem__, column))
            elif field.type == "number" and (0.0 in column or not _FLOATS.issuperset(map(type, column))):
                # 1 is 1.0, and -0.0 is 0.0: SQLite keeps no sign
                columns[number] = tuple(v + 0.0 if isinstance(v, int | float) else v for v in column)
            elif field.type == "boolean" and not _BOOLEANS.issuperset(map(type, column)):
                columns[number] = tuple(bool(v) if v in (0, 1) else v for v in column)
        return encoder.encode_lines(list(zip(*columns, strict=True))).split(b"\n")[:-1]


def kept_fields(extras: Iterable[str | None]) -> Counter[str]:
    """How often each field went to `extra`, given that column."""
    return Counter(name for extra in extras if extra is not None for name in _object.decode(extra.encode()))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
