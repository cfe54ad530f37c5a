"""What the SQL sources share: paging a table by row number, and turning rows into records."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Raw

from utils.app.errors import Absent
from utils.records.codec import encoder, instant_text, microseconds
from utils.records.record import Invalid
from utils.records.stream import Stream
from utils.records.table import Table, family, quoted
from utils.sources.base import Chunk, Resume

Row = tuple[Any, ...]
"""Row number, then the values in the order of the selected columns."""

FIRST, LAST = -(2**63), 2**63 - 1
_TYPES: dict[str, Any] = {
    "text": str | None,
    "integer": int | None,
    "number": int | float | None,
    "boolean": bool | None,
    "timestamp": str | int | None,
    "json": str | None,
}


class Selection:
    """What is read of a table: the stream's columns, NULL where it has none, then those that the stream lacks."""

    def __init__(self, table: Table, existing: Mapping[str, str]) -> None:
        by_name = {name.lower(): name for name in existing}
        expressions = []
        for field in table.fields:
            name = by_name.pop(field.name.lower(), None)
            kind = existing[name] if name else ""
            if name is None:
                expressions.append("NULL")
            elif family(kind) == "timestamp" and kind.startswith("TIMESTAMP"):
                expressions.append(f"epoch_us({quoted(name)})")
            elif kind == "FLOAT":
                # As the emitter widens the column, or else its widening would make every row another one.
                expressions.append(f"round({quoted(name)}::DOUBLE, 6)")
            else:
                expressions.append(quoted(name))
        if table.has_id:
            by_name.pop("id", None)
        self.others = tuple(by_name.values())
        self.sql = ", ".join([*expressions, *(_as_text(name, existing[name]) for name in self.others)])
        self.texts = [quoted(name) for name, kind in existing.items() if family(kind) == "text"]


def _as_text(name: str, kind: str) -> str:
    """The expression of a column that its stream does not know; DuckDB's instants become RFC 3339 text."""
    if kind.startswith("TIMESTAMP"):
        return f"strftime(make_timestamp(epoch_us({quoted(name)})), '%Y-%m-%dT%H:%M:%S.%fZ')"
    return quoted(name)


class TableSource:
    """Reads a stream's table in the order of its row numbers; subclasses fetch.

    A position is `row:crc` of the last handled row. If that row is gone or differs, the table was
    rebuilt and the partition begins again. A column that was added since changes nothing.
    """

    booleans: Any = bool | None  # what a boolean column gives

    def __init__(self, path: Path, stream: Stream, resume: Resume) -> None:
        self.detail = str(path)
        self._path, self._resume = path, resume
        self._table, self._codec = Table(stream), stream.codec
        self.others: tuple[str, ...] = ()
        self._position: str | None = None  # as it was given to or by the loop
        self._row, self._crc = FIRST, 0

    def fetch(self, first: int, count: int) -> Sequence[Row]:
        """At most `count` rows with numbers from `first` on, in order. Raises Absent, Unavailable, ToolkitError.

        Sets `others`, the names of the columns behind the stream's.
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
        records, invalid = self._decode(rows)
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

    def _decode(self, rows: Sequence[Row]) -> tuple[list[Any], list[Invalid]]:
        if not self.others:
            with suppress(ValueError):  # at least one row needs a closer look
                return self._codec.from_columns(self._columns(rows)), []
        records, invalid = [], []
        for row in rows:
            try:
                records.append(self._by_member(row))
            except ValueError as error:
                invalid.append(Invalid(f"{self._partition} row {row[0]}", str(error)))
        return records, invalid

    def _columns(self, rows: Sequence[Row]) -> list[Sequence[Any]]:
        """The columns of rows as records hold their values. Raises ValueError if any value does not fit."""
        fields = self._table.fields
        types: list[Any] = [int, *self._codec.types, *(_TYPES[field.type] for field in fields[-3:])]
        for number, field in enumerate(fields, 1):
            if field.type in ("boolean", "timestamp", "json"):
                types[number] = self.booleans if field.type == "boolean" else _TYPES[field.type]
        row_type: Any = tuple.__class_getitem__(tuple(types))
        columns: list[Sequence[Any]] = list(zip(*msgspec.convert(rows, list.__class_getitem__(row_type)), strict=True))
        for number, field in enumerate(fields, 1):
            if field.type == "timestamp":
                instants = {value: _instant(value) for value in set(columns[number])}
                columns[number] = [instants[value] for value in columns[number]]
            elif field.type == "boolean" and self.booleans is not _TYPES["boolean"]:
                columns[number] = [None if value is None else bool(value) for value in columns[number]]
        return columns[1:]

    def _by_member(self, row: Row) -> Any:
        """A record of a row that has other columns, or values that do not fit. Raises ValueError with the reason."""
        members: dict[str, Any] = {}
        for name, value in zip((*self._table.columns, *self.others), row[1:], strict=True):
            if value is None:
                continue
            if isinstance(value, bytes | bytearray | memoryview):
                raise ValueError(f"column {name} holds a BLOB")
            members[name] = value
        for field in self._table.fields:
            value = members.get(field.name)
            if value is None:
                continue
            if field.type == "json":
                if not isinstance(value, str):
                    raise ValueError(f"column {field.name} holds no JSON")
                members[field.name] = Raw(value)
            elif field.type == "timestamp" and isinstance(value, int):
                members[field.name] = instant_text(value)
            elif field.type == "boolean" and value in (0, 1):
                members[field.name] = bool(value)
        extra = bytes(members.pop("extra", b"")).strip()
        try:
            line = encoder.encode(members)
        except (TypeError, OverflowError) as error:
            raise ValueError(str(error)) from error
        if extra:
            line = line[:-1] + b"," * bool(members) + extra[1:]
        return self._codec.decode(line)


def _instant(value: str | int | None) -> str | None:
    """A timestamp as text, from text or microseconds since 1970. Raises ValueError for text that is none."""
    if isinstance(value, int):
        return instant_text(value)
    if value is not None and microseconds(value) is None:
        raise ValueError(f"{value!r} is no timestamp")
    return value


def _fingerprint(row: Row) -> tuple[int, int]:
    values = [value for value in row if value is not None]
    return row[0], crc32(repr(values).encode("utf-8", "backslashreplace"))
