"""What the SQL sources share: paging a table by row number, and turning rows into messages."""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints
from zlib import crc32

import msgspec

from utils.app.errors import Absent, ToolkitError
from utils.records.record import Invalid, Message, decode_each, from_mapping
from utils.records.table import COLUMNS, TABLE
from utils.sources.base import Chunk, Resume

Row = tuple[Any, ...]
"""Row number, then the values in the order of COLUMNS."""

FIRST, LAST = -(2**63), 2**63 - 1


def selected(existing: dict[str, str], path: Path) -> str:
    """Expressions for COLUMNS, from the columns (name -> type) that a table has; absent ones are NULL."""
    if not existing:
        raise Absent(f"{path} has no table {TABLE} yet")
    if "message" not in existing:
        raise ToolkitError(f"{path} has a table {TABLE} without a column message; name another file")
    expressions = [f'"{name}"' if name in existing else f"NULL AS {name}" for name in COLUMNS]
    for name, kind in existing.items():
        if kind == "FLOAT" and name in COLUMNS:
            # As the emitter widens the column, or else its widening would make every row another one.
            expressions[COLUMNS.index(name)] = f"round({name}::DOUBLE, 6) AS {name}"
    if existing.get("timestamp", "").startswith("TIMESTAMP"):
        text = "strftime(make_timestamp(epoch_us(timestamp)), '%Y-%m-%dT%H:%M:%S.%gZ') AS timestamp"
        expressions[COLUMNS.index("timestamp")] = text
    return ", ".join(expressions)


class TableSource:
    """Reads `streamed_messages` in the order of its row numbers; subclasses fetch.

    A position is `row:crc` of the last handled row. If that row is gone or differs, the table was
    rebuilt and the part begins again.
    """

    def __init__(self, path: Path, resume: Resume) -> None:
        self.detail = str(path)
        self._path, self._resume = path, resume
        self._position: str | None = None  # as it was given to or by the loop
        self._row, self._crc = FIRST, 0

    def fetch(self, first: int, count: int) -> Sequence[Row]:
        """At most `count` rows with numbers from `first` on, in order. Raises Absent, Unavailable, ToolkitError."""
        raise NotImplementedError

    def fetch_last(self) -> Sequence[Row]:
        """The row with the highest number, or nothing. Raises like `fetch`."""
        raise NotImplementedError

    def poll(self, max_records: int) -> Chunk | None:
        """The next rows. See Source."""
        if self._position is None:
            self._position = self._resume(self._path.name)
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
        messages, invalid = self._decode(rows)
        return self._chunk(self._after(rows[-1]), messages, invalid)

    def close(self) -> None:
        """Nothing is open between polls."""

    def _seek(self, position: str) -> None:
        """Take a stored position; one that cannot be understood never matches, so the part begins again."""
        self._row, self._crc = FIRST, -1 if position else 0
        row, _, crc = position.partition(":")
        with suppress(ValueError):
            if FIRST <= int(row) <= LAST:
                self._row, self._crc = int(row), int(crc)

    def _after(self, row: Row) -> str:
        self._row, self._crc = _fingerprint(row)
        return f"{self._row}:{self._crc}"

    def _chunk(self, end: str, messages: list[Message], invalid: list[Invalid]) -> Chunk:
        start, self._position = self._position, end
        assert start is not None
        return Chunk(self._path.name, start, end, messages, invalid)

    def _go_to_end(self) -> Chunk:
        try:
            last = self.fetch_last()
        except Absent:
            last = []
        end = self._after(last[0]) if last else ""
        if not last:
            self._seek("")
        return self._chunk(end, [], [])

    def _decode(self, rows: Sequence[Row]) -> tuple[list[Message], list[Invalid]]:
        try:
            return [Message(*row[1:]) for row in msgspec.convert(rows, _row_types())], []
        except msgspec.ValidationError:
            pass  # at least one row needs the patient way
        records = ((f"{self._path.name} row {row[0]}", dict(zip(COLUMNS, row[1:], strict=True))) for row in rows)
        return decode_each(records, from_mapping)


def _fingerprint(row: Row) -> tuple[int, int]:
    return row[0], crc32(repr(row).encode("utf-8", "backslashreplace"))


@lru_cache(maxsize=1)
def _row_types() -> Any:
    hints = get_type_hints(Message, include_extras=True)
    return list[tuple[int, *(hints[name] for name in COLUMNS)]]  # type: ignore[misc]  # made at run time
