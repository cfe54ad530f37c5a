"""Reads the table `streamed_messages` of a SQLite database that others write."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from utils.errors import ToolkitError
from utils.sources.rows import Missing, Row, TableSource, selected
from utils.sqlite import errors
from utils.table import TABLE

WAIT_S = 0.25


class SqliteSource(TableSource):
    """Opens read-only for each poll, so that a replaced database is noticed and nobody is held up.

    Rows are read in the order of their rowid: one inserted below the position is not seen.
    """

    name = "sqlite"

    def fetch(self, first: int, count: int) -> Sequence[Row]:
        return self._query("WHERE rowid >= ? ORDER BY rowid LIMIT ?", (first, count))

    def fetch_last(self) -> Sequence[Row]:
        return self._query("ORDER BY rowid DESC LIMIT 1", ())

    def _query(self, clause: str, values: tuple[int, ...]) -> Sequence[Row]:
        if not self._path.exists():
            raise Missing(f"{self._path} does not exist yet")
        if self._path.is_dir():
            raise ToolkitError(f"{self._path} is a folder; give the path of a SQLite database")
        uri = f"{self._path.resolve().as_uri()}?mode=ro"
        with errors(self._path), closing(sqlite3.connect(uri, uri=True, timeout=WAIT_S)) as connection:
            columns = {name: "" for _, name, *_ in connection.execute(f"PRAGMA table_info({TABLE})")}
            query = f"SELECT rowid, {selected(columns, self._path)} FROM {TABLE} {clause}"
            try:
                return connection.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if "UTF-8" not in str(error):
                    raise
            connection.text_factory = _text_or_bytes
            return connection.execute(query, values).fetchall()


def _text_or_bytes(data: bytes) -> str | bytes:
    """Text that is no UTF-8 stays bytes, which makes its row invalid instead of failing the page."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
