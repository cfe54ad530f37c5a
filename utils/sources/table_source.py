"""Base of the SQL sources: reads a table in the order of its row numbers, and decodes the rows."""

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Raw

from utils.app.errors import Absent, ToolkitError
from utils.records.codec import MAX_INT64, Codec, Field, ProducerId, SequenceNumber, encoder, object_decoder
from utils.records.record import Invalid
from utils.records.stream import Stream
from utils.records.table import Table
from utils.sources.base import Chunk, Resume, decode_all

Row = tuple[Any, ...]
"""The row number, then the values of the selected columns."""

FIRST = -(2**63)
CHUNK_BYTES = 8 * 1024 * 1024  # about: a chunk of large records has fewer than `max_records`
GROUP_ROWS = 64
_KNOWN = {"JSON": "json", "BOOLEAN": "boolean"}  # column types without which a value would be misread

_json = msgspec.json.Decoder(Raw)


class NotUtf8(str):
    """A text whose bytes are not UTF-8, decoded to surrogates. JSON cannot contain it."""

    __slots__ = ()


class TableSource:
    """Source of `table`, by default the stream's, in the order of its row numbers. Subclasses implement `fetch`.

    A position is `row:crc` of the last handled row. If that row is gone or differs, the table was rebuilt and the
    partition begins again. A column that was added since changes nothing. A row is decoded like its JSON line.
    """

    def __init__(self, path: Path, stream: Stream, resume: Resume, table: str = "", lines: Codec | None = None) -> None:
        """`lines` is a codec to use instead of the stream's."""
        self._path, self._resume = path, resume
        self._table, self._codec, self._is_fed = Table(stream), lines or stream.codec, lines is not None
        self._table.name = table or self._table.name
        self._position: str | None = None  # what `resume` returned, or the end of the last chunk
        self.detail = str(path)

    def fetch(self, first: int | None, count: int) -> tuple[Sequence[Field], Sequence[Row]]:
        """Return the columns, and at most `count` rows in order, from row number `first` on; None = only the last row.

        Raises Absent, Unavailable, ToolkitError.
        """
        raise NotImplementedError

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next rows. See Source."""
        if self._position is None:
            self._position = self._resume(self._partition)
        if self._position == "end":
            return self._go_to_end()
        if not self._position:
            fields, rows = self.fetch(FIRST, max_records)
        else:
            number = self._position.partition(":")[0]
            first = int(number) if number.removeprefix("-").isdecimal() else 0  # a wrong position matches no row
            fields, rows = self.fetch(first, max_records + 1)
            if not rows or _position(rows[0]) != self._position:
                return self._chunk("", [], [])
            rows = rows[1:]
        return self._chunk(_position(rows[-1]), *self._decode(fields, rows)) if rows else None

    def tables(self) -> list[str]:
        """Return the names of the tables in the file. Raises as `fetch`."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what the subclass keeps open between polls. See Source."""

    @property
    def _partition(self) -> str:
        return self._path.name if self._table.has_id else f"{self._path.name}/{self._table.name}"

    def _go_to_end(self) -> Chunk:
        try:
            _, rows = self.fetch(None, 1)
        except Absent:
            rows = []
        return self._chunk(_position(rows[0]) if rows else "", [], [])

    def _chunk(self, end: str, records: list[Any], invalid: list[Invalid]) -> Chunk:
        start, self._position = self._position, end
        assert start is not None
        return Chunk(self._partition, start, end, records, invalid)

    # For fetch

    def _columns(self, existing: Mapping[str, str]) -> list[tuple[str, Field]]:
        """Return name and field of each existing column: a field of the stream, or one of the column's own type."""
        known = {field.name.lower(): field for field in self._table.fields}
        return [
            (name, known.get(name.lower()) or Field(name, _KNOWN.get(kind.upper(), "text")))
            for name, kind in existing.items()
            if not (self._table.has_id and name.lower() == "id")
        ]

    def _missing(self, tables: Sequence[str]) -> Absent:
        found = ", ".join(tables)
        others = f" (it has {found})" if found else ""
        return Absent(f"{self._path} has no table {self._table.name} yet{others}")

    def _unnumbered(self) -> ToolkitError:
        name = f"{self._table.name} in {self._path}"
        return ToolkitError(f"{name} has no row numbers to follow (a view has none): name a table")

    # Rows

    def _decode(self, fields: Sequence[Field], rows: Sequence[Row]) -> tuple[list[Any], list[Invalid]]:
        """Return the records of rows, and the invalid rows."""
        if not self._is_fed and (found := self._fitting(fields, rows)) is not None:
            return found, []
        records, invalid = list[Any](), list[Invalid]()
        for start in range(0, len(rows), GROUP_ROWS):  # so that a row which does not fit slows only its group
            group = rows[start : start + GROUP_ROWS]
            found = None if self._is_fed else self._fitting(fields, group)
            records += self._by_line(fields, group, invalid) if found is None else found
        return records, invalid

    def _fitting(self, fields: Sequence[Field], rows: Sequence[Row]) -> list[Any] | None:
        """Return the records of rows if all values fit their columns, None if a value may not fit."""
        size, codec = len(rows), self._codec
        members: dict[str, Sequence[Any]] = {}
        for field, column in zip(fields, list(zip(*rows, strict=True))[1:], strict=True):
            if column.count(None) == size:
                continue
            if field.type == "json" and not set(map(type, column)) <= {str, NoneType}:
                return None
            if field.type == "boolean" and set(map(type, column)) <= {int, NoneType} and set(column) <= {0, 1, None}:
                members[field.name] = [value if value is None else bool(value) for value in column]
            members.setdefault(field.name, column)
        ids = members.pop("producer_id", None), members.pop("sequence", None)
        texts = {field.name: members.pop(field.name, ()) for field in codec.fields if field.type == "json"}
        found = codec.fitting_columns(members, size)  # None if `extra` has a value
        try:
            producer_ids, sequences = msgspec.convert(ids, tuple[list[ProducerId], list[SequenceNumber]])
            nulls = [bytes(_json.decode(text)) for column in texts.values() for text in column if text is not None]
        except (ValueError, TypeError, RecursionError):  # a row without ids, or a text that is no JSON
            return None
        if found is None or b"null" in nulls:
            return None
        for number, field in enumerate(codec.fields):
            found[number] = texts.get(field.name) or found[number]
        return codec.from_columns([*found, [None] * size, producer_ids, sequences])

    def _by_line(self, fields: Sequence[Field], rows: Sequence[Row], invalid: list[Invalid]) -> list[Any]:
        """Decode rows as JSON lines. Return the records, and add invalid rows to `invalid`."""
        lines: dict[str, bytes] = {}
        for row in rows:
            where, members = f"{self._partition} row {row[0]}", dict[str, Any]()
            try:
                for field, value in zip(fields, row[1:], strict=True):
                    member = None if value is None else json_value(field.type, value)
                    if field.name == "extra" and isinstance(member, Raw) and bytes(member)[:1] == b"{":
                        members.update(object_decoder.decode(member))
                    elif member is not None:
                        members[field.name] = member
                lines[where] = encoder.encode(members)
            except (ValueError, TypeError, RecursionError) as error:
                reason = "text that is not UTF-8" if NotUtf8 in set(map(type, row)) else str(error)
                invalid.append(Invalid(where, reason, repr(row[1:]).encode("utf-8", "backslashreplace")))
        records, others = decode_all(self._codec, list(lines.values()), lines)
        invalid += others
        return records


def fetch_page(fetch_many: Callable[[int], Sequence[Row]], count: int) -> list[Row]:
    """Fetch at most `count` rows of a query, or fewer if they reach CHUNK_BYTES."""
    rows: list[Row] = []
    size = 0
    # In growing steps, beginning with one row, because the size of a step is known only when it is in memory.
    while size < CHUNK_BYTES and (step := fetch_many(min(1 + len(rows), GROUP_ROWS, count - len(rows)))):
        rows += step
        size += len(pickle.dumps(step))  # an estimate: adding up all values would take longer
        if len(rows) == count:
            break
    return rows


def _position(row: Row) -> str:
    """Return the position after a row."""
    values = [value for value in row if value is not None]
    return f"{row[0]}:{crc32(repr(values).encode('utf-8', 'backslashreplace'))}"


def json_value(kind: str, value: object) -> Any:
    """Return a column's value as a JSON member; bytes become base64. `kind` is the type of its field, or ""."""
    if kind == "json" and isinstance(value, str):
        try:
            return _json.decode(value)
        except ValueError:
            return value  # a text
    if kind == "boolean" and type(value) is int and value in (0, 1):
        return bool(value)
    if isinstance(value, int) and not FIRST <= value <= MAX_INT64:
        return Raw(str(value).encode())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
