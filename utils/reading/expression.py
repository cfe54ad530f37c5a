"""SQL conditions over the fields of a record, which SQLite checks once and evaluates a chunk at a time."""

import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from loguru import logger

from utils.app.errors import ToolkitError
from utils.records.stream import Stream
from utils.records.table import Table, quoted

MAX_TEXT_BYTES = 2_000_000  # largest text within an expression; a record has at most 256 KiB
FIELDS_SHOWN = 40
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)\"""")
# An expression that closes our brackets or opens a comment fails in one of these. No field has a column `oid`.
_COLUMN, _CHECK = "oid AS (CASE WHEN ({}\n) THEN 1 ELSE 0 END)", "SELECT 1 FROM record WHERE ({}\n)"


class Expression:
    """An expression over a record, such as `temperature_c > 24 AND device LIKE 'boiler%'`.

    A generated column in memory: there SQLite allows no other row, table or file, and no function whose value changes.
    Raises ToolkitError with the names of the fields if it cannot be evaluated. For one thread at a time.
    """

    def __init__(self, stream: Stream, text: str) -> None:
        self.text, self._codec, self._failed = text, stream.codec, False
        table = Table(stream)
        # Columns that the expression may use; at least one, for the INSERT.
        self._places = [place for place, name in enumerate(table.columns) if name.lower() in text.lower()] or [0]
        names = ", ".join(quoted(table.columns[place]) for place in self._places)
        self._insert = f"INSERT INTO record ({names}) VALUES ({', '.join('?' * len(self._places))})"
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_TEXT_BYTES)
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in table.typed("sqlite"))
        try:
            for name in _QUOTED.findall(text):  # SQLite takes an unknown name in double quotes for a text
                if name and name.replace('""', '"').lower() not in map(str.lower, table.columns):
                    raise ValueError(f"no such column: {name}")
            self._connection.execute(f"CREATE TABLE record ({columns}, {_COLUMN.format(text)})")
            self._connection.execute(_CHECK.format(text))
            self._connection.execute("INSERT INTO record DEFAULT VALUES")  # some functions fail only when they run
        except (sqlite3.Error, ValueError) as error:  # ValueError: a NUL, or half a surrogate pair
            fields = ", ".join(table.columns[:FIELDS_SHOWN]) + (", …" if len(table.columns) > FIELDS_SHOWN else "")
            reason = str(error).replace("generated column", "expression")
            raise ToolkitError(
                f"{text!r} is no expression over a record of {stream.name}: {reason}; use the fields {fields}"
            ) from error

    def matches(self, records: Sequence[Any]) -> list[bool]:
        """Return for each record whether the expression is true. NULL, as of an absent value, is not.

        A record that it cannot be evaluated for (malformed JSON, an overflow) does not match; the first is logged.
        """
        rows = self._codec.rows(records)
        self._connection.execute("DELETE FROM record")
        try:
            self._connection.executemany(self._insert, ([row[place] for place in self._places] for row in rows))
            return [bool(hit) for (hit,) in self._connection.execute("SELECT oid FROM record")]
        except sqlite3.Error as error:
            if len(records) != 1:
                return [hit for record in records for hit in self.matches([record])]
            if not self._failed:
                logger.warning("{!r} cannot be evaluated for some records, which do not match: {}", self.text, error)
            self._failed = True
            return [False]
