"""What the SQL sources share: paging a table by row number, and turning rows into records."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from zlib import crc32

import msgspec
from msgspec import Meta, Raw
from msgspec.json import Decoder

from utils.app.errors import Absent
from utils.records.codec import GROUP_LINES, Codec, Field, encoder, microseconds
from utils.records.record import Invalid
from utils.records.row_types import MAX_EXACT, OWN, TYPES
from utils.records.stream import Stream
from utils.records.table import Table, quoted
from utils.sources.base import Chunk, Resume, decode_each

Row = tuple[Any, ...]
"""Row number, then the values in the order of the selected columns."""

FIRST, LAST = -(2**63), 2**63 - 1
MAX_FLOAT = 1.7976931348623157e308
_FINITE = Annotated[float, Meta(ge=-MAX_FLOAT, le=MAX_FLOAT)]
_KNOWN = {"JSON": "json", "BOOLEAN": "boolean"}  # types of columns whose values need them to be understood
_NUMBER: Any = Annotated[int, Meta(ge=-MAX_EXACT, le=MAX_EXACT)] | _FINITE | None

_json = Decoder(Raw)
_object = Decoder(dict[str, Raw])


class Selection:
    """What is read of a table: the stream's columns, NULL where it has none, then those that the stream does not know.

    `expression(name, type, field type)` reads one column; the field type is "" where the stream has no such field.
    """

    def __init__(
        self, table: Table, existing: Mapping[str, str], expression: Callable[[str, str, str], str] | None = None
    ) -> None:
        expression = expression or (lambda name, kind, field_type: quoted(name))
        by_name = {name.lower(): name for name in existing}
        columns = []
        for field in table.fields:
            name = by_name.pop(field.name.lower(), None)
            columns.append("NULL" if name is None else expression(name, existing[name], field.type))
        if table.has_id:
            by_name.pop("id", None)
        self.others = tuple(Field(name, _KNOWN.get(existing[name].upper(), "text")) for name in by_name.values())
        self.sql = ", ".join([*columns, *(expression(name, existing[name], "") for name in by_name.values())])


class RowDecoder:
    """Turns rows into the records of a stream, with `lines` into what it makes of the lines of these records."""

    def __init__(self, stream: Stream, booleans: Any, lines: Codec | None = None) -> None:
        self._lines = lines
        self._codec, self._fields = stream.codec, Table(stream).fields
        self._names = frozenset(field.name for field in stream.codec.fields)
        own = {TYPES["number"]: _NUMBER, TYPES["boolean"]: booleans, TYPES["json"]: str | None}
        types = [own.get(kind, kind) for kind in self._codec.types]
        row: Any = tuple.__class_getitem__((int, *types, str | None, OWN["producer_id"], OWN["sequence"]))
        self._rows: Any = list.__class_getitem__(row)

    def decode(self, rows: Sequence[Row], others: Sequence[Field], where: str) -> tuple[list[Any], list[Invalid]]:
        """The records of rows, and the rows that are none; `others` are the columns behind the stream's."""
        records, invalid = self._records(rows, others, where)
        if self._lines:
            named = ((f"{where} near row {rows[-1][0]}", self._codec.encode(record)) for record in records)
            records, more = decode_each(self._lines, named)
            invalid += more
        return records, invalid

    def _records(self, rows: Sequence[Row], others: Sequence[Field], where: str) -> tuple[list[Any], list[Invalid]]:
        """All at once where all fit, else in groups, else one by one."""
        records: list[Any] = []
        invalid: list[Invalid] = []
        if not others:
            with suppress(ValueError):
                return self._together(rows), invalid
        for start in range(0, len(rows), GROUP_LINES):
            group = rows[start : start + GROUP_LINES]
            if not others:
                with suppress(ValueError):
                    records += self._together(group)
                    continue
            for row in group:
                try:
                    records.append(self._by_member(row, others))
                except ValueError as error:
                    invalid.append(Invalid(f"{where} row {row[0]}", str(error)))
        return records, invalid

    def _together(self, rows: Sequence[Row]) -> list[Any]:
        """The records of rows whose values all fit the stream. Raises ValueError if any does not."""
        _, *columns = map(list, zip(*msgspec.convert(rows, self._rows), strict=True))
        for number, field in enumerate(self._fields):
            column = columns[number]
            if field.type == "timestamp":
                if any(text is not None and microseconds(text) is None for text in set(column)):
                    raise ValueError(f"{field.name} is no timestamp")
            elif field.type == "boolean":
                columns[number] = [None if value is None else bool(value) for value in column]
            elif field.type == "json":
                _check_json(column, *((_object, self._names) if field.name == "extra" else (_json, frozenset())))
        *_, names, sequences = columns
        if (None in names or None in sequences) and [each is None for each in names] != [
            each is None for each in sequences
        ]:
            raise ValueError("half of the ids")
        return self._codec.from_columns(columns)

    def _by_member(self, row: Row, others: Sequence[Field]) -> Any:
        """The record of one row as its line would be read. Raises ValueError with the reason."""
        members = {
            field.name: _member(field, value)
            for field, value in zip(self._fields, row[1:], strict=False)
            if value is not None
        }
        ids = {name: members.pop(name) for name in ("producer_id", "sequence") if name in members}
        extra = _object.decode(members.pop("extra", Raw(b"{}")))
        unknown = zip(others, row[1 + len(self._fields) :], strict=True)
        members |= {
            field.name: value if isinstance(value, bytes) else _member(field, value)
            for field, value in unknown
            if value is not None
        }
        try:
            return self._codec.decode(encoder.encode(members | extra | ids))
        except (TypeError, OverflowError) as error:
            raise ValueError(str(error)) from error


def _check_json(texts: Sequence[str | None], decoder: Decoder[Any], names: frozenset[str]) -> None:
    """Raise ValueError if a text is no JSON, or null, which stands for a value that is absent.

    Also if an object has one of `names`: what was in `extra` may have a field since.
    """
    for text in set(texts):
        if text is not None:
            found = decoder.decode(text)
            if text.strip() == "null":
                raise ValueError("null")
            if names and not names.isdisjoint(found):
                raise ValueError("extra has a field of the stream")


def _member(field: Field, value: object) -> Any:
    """The value of a column as a JSON member. Raises ValueError if it can be none."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"column {field.name} holds a BLOB")
    if field.type == "boolean" and type(value) is int and value in (0, 1):
        return bool(value)
    if field.type == "json":
        try:
            return _json.decode(value)  # type: ignore[arg-type]  # what is no text is a TypeError
        except (TypeError, msgspec.DecodeError) as error:
            raise ValueError(f"column {field.name} holds no JSON") from error
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return Raw(str(value).encode())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class TableSource:
    """Reads a stream's table, or the one that is named, in the order of its row numbers; subclasses fetch.

    A position is `row:crc` of the last handled row. If that row is gone or differs, the table was
    rebuilt and the partition begins again. A column that was added since changes nothing.
    """

    booleans: Any = bool | None  # what a boolean column gives

    def __init__(self, path: Path, stream: Stream, resume: Resume, table: str = "", lines: Codec | None = None) -> None:
        self._path, self._resume = path, resume
        self._table, self._decoder = Table(stream), RowDecoder(stream, self.booleans, lines)
        self._table.name = table or self._table.name
        self.others: tuple[Field, ...] = ()
        self._position: str | None = None  # as it was given to or by the loop
        self._row, self._crc = FIRST, 0

    @property
    def detail(self) -> str:
        """What exactly is read, for people."""
        return str(self._path)

    def fetch(self, first: int, count: int) -> Sequence[Row]:
        """At most `count` rows with numbers from `first` on, in order. Raises Absent, Unavailable, ToolkitError.

        Sets `others`, the columns behind the stream's.
        """
        raise NotImplementedError

    def fetch_last(self) -> Sequence[Row]:
        """The row with the highest number, or nothing. Raises like `fetch`."""
        raise NotImplementedError

    def poll(self, max_records: int) -> Chunk | None:
        """The next rows. See Source."""
        if self._position is None:
            self._position = self._resume(self._partition)
            self._seek(self._position)
        if self._position == "end":
            return self._go_to_end()
        resumed = self._row > FIRST or self._crc != 0
        rows = self.fetch(self._row, max_records + resumed)
        if resumed:
            if not rows or _fingerprint(rows[0]) != (self._row, self._crc):
                self._seek("")
                return self._chunk("", [], [])
            rows = rows[1:]
        if not rows:
            return None
        records, invalid = self._decoder.decode(rows, self.others, self._partition)
        return self._chunk(self._after(rows[-1]), records, invalid)

    def close(self) -> None:
        """Nothing is open between polls."""

    @property
    def _partition(self) -> str:
        return self._path.name if self._table.has_id else f"{self._path.name}/{self._table.name}"

    def _seek(self, position: str) -> None:
        """Take a stored position; one that cannot be understood never matches, so the partition begins again."""
        self._row, self._crc = FIRST, -1 if position else 0
        row, _, crc = position.partition(":")
        with suppress(ValueError):
            if FIRST <= int(row) <= LAST:
                self._row, self._crc = int(row), int(crc)

    def _after(self, row: Row) -> str:
        self._row, self._crc = _fingerprint(row)
        return f"{self._row}:{self._crc}"

    def _chunk(self, end: str, records: list[Any], invalid: list[Invalid]) -> Chunk:
        start, self._position = self._position, end
        assert start is not None
        return Chunk(self._partition, start, end, records, invalid)

    def _go_to_end(self) -> Chunk:
        try:
            last = self.fetch_last()
        except Absent:
            last = []
        end = self._after(last[0]) if last else ""
        if not last:
            self._seek("")
        return self._chunk(end, [], [])


def _fingerprint(row: Row) -> tuple[int, int]:
    values = [value for value in row if value is not None]
    return row[0], crc32(repr(values).encode("utf-8", "backslashreplace"))
