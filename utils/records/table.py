"""The table of a stream, and its SQL for SQLite and DuckDB."""

import re
from collections.abc import Mapping
from typing import Literal

from utils.app.config import DEFAULT_STREAM
from utils.app.errors import ToolkitError
from utils.records.codec import Field
from utils.records.stream import Stream

BUZZ_TABLE = "streamed_messages"

Dialect = Literal["sqlite", "duckdb"]

_OWN = (Field("extra", "json"), Field("producer_id", "text"), Field("sequence", "integer"))
_TYPES: dict[str, dict[Dialect, str]] = {
    "text": {"sqlite": "TEXT", "duckdb": "VARCHAR"},
    "integer": {"sqlite": "INTEGER", "duckdb": "BIGINT"},
    "number": {"sqlite": "REAL", "duckdb": "DOUBLE"},
    "boolean": {"sqlite": "BOOLEAN", "duckdb": "BOOLEAN"},
    "timestamp": {"sqlite": "TEXT", "duckdb": "TIMESTAMP"},
    "json": {"sqlite": "TEXT", "duckdb": "JSON"},
}
_IDS = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "duckdb": f"BIGINT DEFAULT nextval('{BUZZ_TABLE}_id')"}
_WHOLE = "U?(HUGE|BIG|SMALL|TINY)INT|U?INTEGER"
# By type of field: other column types (SQLite: affinities) that store its values unchanged, as regular expressions.
_SUITABLE: dict[Dialect, dict[str, str]] = {
    "sqlite": {
        "text": "BLOB",
        "integer": "NUMERIC|BLOB",
        "number": "INTEGER|NUMERIC|BLOB",
        "boolean": "INTEGER|NUMERIC|BLOB",
        "timestamp": "NUMERIC|BLOB",
        "json": "BLOB",
    },
    "duckdb": {"integer": _WHOLE, "timestamp": "VARCHAR", "json": "VARCHAR"},
}
_AFFINITIES = {"INTEGER": "INT", "TEXT": "CHAR|CLOB|TEXT", "BLOB": "BLOB|^$", "REAL": "REAL|FLOA|DOUB"}


def quoted(name: str) -> str:
    """Quote a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _affinity(declared: str) -> str:
    """Return the SQLite type affinity of a declared type (https://sqlite.org/datatype3.html); BLOB converts nothing."""
    matching = (name for name, words in _AFFINITIES.items() if re.search(words, declared, re.IGNORECASE))
    return next(matching, "NUMERIC")


def as_double(column: str, found: str) -> str | None:
    """Return the DuckDB expression that converts a column of type `found` to DOUBLE; None if that is no number type."""
    if found == "FLOAT":  # a 32-bit 0.3 cast to DOUBLE is 0.30000001192092896; cast from its text it is 0.3
        return f"{column}::VARCHAR::DOUBLE"
    return f"{column}::DOUBLE" if re.fullmatch(rf"{_WHOLE}|DECIMAL\(\d+,\d+\)", found) else None


class Table:
    """The table of a stream: a column per field, then `extra`, `producer_id` and `sequence`.

    Only buzz has a surrogate key `id`, as in buzzline-05. In other streams `id` can be a field of the user.
    """

    def __init__(self, stream: Stream) -> None:
        self.has_id = stream.name == DEFAULT_STREAM
        self.name = BUZZ_TABLE if self.has_id else stream.name
        self.fields: tuple[Field, ...] = (*stream.codec.fields, *_OWN)
        self.columns = tuple(field.name for field in self.fields)
        self.row = ", ".join(map(quoted, self.columns))

    def typed(self, dialect: Dialect) -> list[tuple[str, str]]:
        """Return the columns with their SQL types."""
        return [(field.name, _TYPES[field.type][dialect]) for field in self.fields]

    def create(self, dialect: Dialect) -> list[str]:
        """Return the statements that create the table if it does not exist."""
        columns = [("id", _IDS[dialect])] if self.has_id else []
        names = ", ".join(f"{quoted(name)} {kind}" for name, kind in [*columns, *self.typed(dialect)])
        sequence = [f"CREATE SEQUENCE IF NOT EXISTS {self.name}_id"] if self.has_id and dialect == "duckdb" else []
        return [*sequence, f"CREATE TABLE IF NOT EXISTS {quoted(self.name)} ({names})"]

    def upgrade(self, dialect: Dialect, existing: Mapping[str, str]) -> list[str]:
        """Return the statements that add missing columns to a table with the columns `existing` (name -> type).

        They widen DuckDB's numbers to DOUBLE. Raises ToolkitError with the column if its type cannot store its field.
        """
        statements = []
        alter = f"ALTER TABLE {quoted(self.name)}"
        by_name = {name.lower(): kind for name, kind in existing.items()}
        for field, (name, wanted) in zip(self.fields, self.typed(dialect), strict=True):
            column, found = quoted(name), by_name.get(name.lower())
            if found is None:
                statements.append(f"{alter} ADD COLUMN {column} {wanted}")
                continue
            kind = _affinity(found) if dialect == "sqlite" else found
            if wanted in (found, kind) or re.fullmatch(_SUITABLE[dialect].get(field.type, ""), kind):
                continue
            if field.type == "number" and (expression := as_double(column, found)):
                statements.append(f"{alter} ALTER {column} TYPE DOUBLE USING {expression}")
            else:
                raise ToolkitError(
                    f"column {name} of table {self.name} is {found}, its field is {field.type}: "
                    "change the field's type or name another file"
                )
        return statements

    def identity_index(self) -> str:
        """Return the statement for the unique index that keeps SQLite from storing a record twice."""
        return (
            f"CREATE UNIQUE INDEX IF NOT EXISTS {quoted(self.name + '_identity')} ON {quoted(self.name)} "
            "(producer_id, sequence) WHERE producer_id IS NOT NULL"
        )

    def insert(self, rows: int, *, with_extra: bool) -> str:
        """Return SQLite's INSERT of `rows` records of one run. Its first parameter is the producer_id of all of them.

        Then come the values of each record: its fields, its sequence and, `with_extra`, its `extra`. OR ABORT turns a
        constraint of an old table that would ignore or replace rows into an error.
        """
        extra = "?" if with_extra else "NULL"
        row = f"(?1, {'?, ' * (len(self.columns) - 2)}{extra})"
        names = ", ".join(map(quoted, ("producer_id", *self.columns[:-3], "sequence", "extra")))
        return f"INSERT OR ABORT INTO {quoted(self.name)} ({names}) VALUES {', '.join([row] * rows)}"
