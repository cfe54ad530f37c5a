"""A condition over the fields of a record: SQL that SQLite checks once and evaluates a chunk at a time."""

import re
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from loguru import logger

from utils.app.errors import ToolkitError
from utils.records.stream import Stream
from utils.records.table import Table, quoted

MAX_CPU_S = 10.0  # for one call
FIELDS_SHOWN = 40
_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_LENGTH: 2_000_000,  # no text or blob is longer: a record has at most 256 KiB
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 1,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
# Not a function of the record; with them a restart would change what was found.
_NO_FUNCTIONS = ("random", "randomblob", "load_extension", "changes", "total_changes", "last_insert_rowid")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)\"""")
_OURS = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE}  # nothing inside of a SELECT can be one
# A text that closes our brackets, or leaves a comment open, does not fit both. WHERE takes no aggregate.
_TRUE, _CHECK = "SELECT CASE WHEN ({}\n) THEN 1 END FROM record", "SELECT 1 FROM record WHERE ({}\n)"


class Expression:
    """Tells which records fulfil an expression such as `temperature_c > 24 AND device LIKE 'boiler%'`.

    It reads the columns of its record and calls functions of SQLite, nothing else: no other row, table or file. Its
    calls end after 10 s of processor time. Raises ToolkitError that names the fields if it cannot be evaluated.
    Use it from one thread at a time.
    """

    def __init__(self, stream: Stream, text: str) -> None:
        self.text = text
        self._stream, self._columns = stream, Table(stream).columns
        self._used: set[str] = set()
        self._selects, self._deadline_s, self._failed = 0, 0.0, False
        self._connection = self._open(Table(stream))
        try:
            self._check()
        except (sqlite3.Error, ValueError) as error:  # ValueError: a NUL, or half a surrogate pair
            self._connection.close()
            raise self._wrong(error) from error
        self._places = [place for place, name in enumerate(self._columns) if name in self._used] or [0]
        columns = ", ".join(quoted(self._columns[place]) for place in self._places)
        marks = ", ".join("?" * len(self._places))
        self._insert = f"INSERT INTO record ({columns}) VALUES ({marks})"

    def _open(self, table: Table) -> sqlite3.Connection:
        """An empty table in memory, and a connection that can do no more than use it."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        columns = [f"{quoted(name)} {kind}" for name, kind in table.typed("sqlite")]
        connection.execute(f"CREATE TABLE record ({', '.join(columns)})")
        for limit, most in _LIMITS.items():
            connection.setlimit(limit, most)
        connection.set_authorizer(self._authorize)
        connection.set_progress_handler(lambda: time.thread_time() > self._deadline_s, 1_000)
        return connection

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        allowed = action in _OURS
        if action == sqlite3.SQLITE_SELECT:
            self._selects += 1
            allowed = self._selects == 1
        elif action == sqlite3.SQLITE_READ:
            allowed = first == "record" and second in ("", *self._columns)  # "": it needs no column
            self._used.add(second or "")
        elif action == sqlite3.SQLITE_FUNCTION:
            allowed = (second or "").lower() not in _NO_FUNCTIONS
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _check(self) -> None:
        known = {name.lower() for name in self._columns}
        for name in _QUOTED.findall(self.text):
            if name and name.replace('""', '"').lower() not in known:  # SQLite would take it for a text
                raise ValueError(f"no such column: {name}")
        for statement in (_CHECK, _TRUE):
            self._selects, self._deadline_s = 0, time.thread_time() + MAX_CPU_S
            self._connection.execute(statement.format(self.text))

    def _wrong(self, error: Exception) -> ToolkitError:
        reason = "it may read its record and nothing else" if "not authorized" in str(error) else str(error)
        more = ", …" if len(self._columns) > FIELDS_SHOWN else ""
        fields = ", ".join(self._columns[:FIELDS_SHOWN]) + more
        return ToolkitError(f"{self.text!r} is no expression over a record of {self._stream.name}: {reason}; "
                            f"use the fields {fields}")  # fmt: skip

    def matches(self, records: Sequence[Any]) -> list[bool]:
        """For each record, whether the expression is true; where a value that it needs is absent, it is not.

        A record for which it cannot be evaluated (malformed JSON, an overflow) does not match; the first is logged.
        Raises ToolkitError if it takes too long.
        """
        self._deadline_s = time.thread_time() + MAX_CPU_S
        return self._evaluate(self._stream.codec.rows(records))

    def _evaluate(self, rows: Sequence[tuple[Any, ...]]) -> list[bool]:
        execute, self._selects = self._connection.execute, 0  # the library may compile a statement again
        try:
            self._connection.executemany(self._insert, ([row[place] for place in self._places] for row in rows))
            return [hit is not None for (hit,) in execute(_TRUE.format(self.text))]
        except sqlite3.Error as error:
            if time.thread_time() > self._deadline_s:
                raise ToolkitError(f"{self.text!r} takes over {MAX_CPU_S:g} s for one chunk: simplify it") from error
            if len(rows) == 1:
                if not self._failed:
                    logger.warning(
                        "{!r} cannot be evaluated for some records, which do not match: {}", self.text, error
                    )
                self._failed = True
                return [False]
            execute("DELETE FROM record")
            half = len(rows) // 2
            return self._evaluate(rows[:half]) + self._evaluate(rows[half:])
        finally:
            execute("DELETE FROM record")
