"""A condition over the fields of a record: SQL that SQLite checks once and evaluates a chunk at a time."""

import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from loguru import logger

from utils.app.errors import ToolkitError
from utils.records.stream import Stream
from utils.records.table import Table, quoted

MAX_TEXT_BYTES = 2_000_000  # that an expression makes; a record has at most 256 KiB
FIELDS_SHOWN = 40
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)\"""")
# A text that closes our brackets, or leaves a comment open, does not fit both. No field is called oid, some are `true`.
_COLUMN, _CHECK = "oid AS (CASE WHEN ({}\n) THEN 1 ELSE 0 END)", "SELECT 1 FROM record WHERE ({}\n)"


class Expression:
    """Tells which records fulfil an expression such as `temperature_c > 24 AND device LIKE 'boiler%'`.

    It is a generated column of a table in memory, so SQLite holds it to its record: no other row, table or file, no
    function that gives another value next time. Raises ToolkitError that names the fields if it cannot be evaluated.
    Use it from one thread at a time.
    """

    def __init__(self, stream: Stream, text: str) -> None:
        self.text, self._codec, self._failed = text, stream.codec, False
        table = Table(stream)
        # Of all columns those that it may use, or any one.
        self._places = [place for place, name in enumerate(table.columns) if name.lower() in text.lower()] or [0]
        names = ", ".join(quoted(table.columns[place]) for place in self._places)
        self._insert = f"INSERT INTO record ({names}) VALUES ({', '.join('?' * len(self._places))})"
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_TEXT_BYTES)
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in table.typed("sqlite"))
        try:
            for name in _QUOTED.findall(text):  # SQLite would take an unknown one for a text
                if name and name.replace('""', '"').lower() not in map(str.lower, table.columns):
                    raise ValueError(f"no such column: {name}")
            self._connection.execute(f"CREATE TABLE record ({columns}, {_COLUMN.format(text)})")
            self._connection.execute(_CHECK.format(text))
            self._connection.execute("INSERT INTO record DEFAULT VALUES")  # some functions are rejected when they run
            self._connection.execute("SELECT oid FROM record").fetchall()
        except (sqlite3.Error, ValueError) as error:  # ValueError: a NUL, or half a surrogate pair
            self._connection.close()
            fields = ", ".join(table.columns[:FIELDS_SHOWN]) + ", …" * (len(table.columns) > FIELDS_SHOWN)
            reason = str(error).replace("generated column", "expression")
            raise ToolkitError(
                f"{text!r} is no expression over a record of {stream.name}: {reason}; use the fields {fields}"
            ) from error

    def matches(self, records: Sequence[Any]) -> list[bool]:
        """For each record, whether the expression is true; where a value that it needs is absent, it is not.

        A record for which it cannot be evaluated (malformed JSON, an overflow) does not match; the first is logged.
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
