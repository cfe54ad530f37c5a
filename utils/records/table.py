"""The table of a stream in the words of SQLite and DuckDB."""

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
# Patterns of other types of existing columns that give back unchanged what a field puts in; SQLite's are affinities.
_WHOLE = "U?(HUGE|BIG|SMALL|TINY)INT|U?INTEGER"
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
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def _affinity(declared: str) -> str:
    """How SQLite converts what is stored in a column of this declared type; BLOB means that it does not."""
    found = (name for name, words in _AFFINITIES.items() if re.search(words, declared, re.IGNORECASE))
    return next(found, "NUMERIC")


def as_double(column: str, found: str) -> str | None:
    """The expression that makes a DuckDB column of numbers one of 64-bit floats; None if it holds no numbers."""
    if found == "FLOAT":  # 0.3 of 32 bits is not 0.3, but its text is
        return f"{column}::VARCHAR::DOUBLE"
    return f"{column}::DOUBLE" if re.fullmatch(rf"{_WHOLE}|DECIMAL\(\d+,\d+\)", found) else None


class Table:
    """Where a stream lives in a database: a column per field, `extra`, `producer_id` and `sequence`.

    Only buzz has a surrogate `id`, as buzzline had, so that a user's own `id` can be a column.
    """

    def __init__(self, stream: Stream) -> None:
        self.has_id = stream.name == DEFAULT_STREAM
        self.name = BUZZ_TABLE if self.has_id else stream.name
        self.fields: tuple[Field, ...] = (*stream.codec.fields, *_OWN)
        self.columns = tuple(field.name for field in self.fields)
        self.row = ", ".join(map(quoted, self.columns))

    def typed(self, dialect: Dialect) -> list[tuple[str, str]]:
        """The columns and their SQL types."""
        return [(field.name, _TYPES[field.type][dialect]) for field in self.fields]

    def create(self, dialect: Dialect) -> list[str]:
        """Statements that make the table where there is none."""
        columns = [("id", _IDS[dialect])] if self.has_id else []
        names = ", ".join(f"{quoted(name)} {kind}" for name, kind in [*columns, *self.typed(dialect)])
        sequence = [f"CREATE SEQUENCE IF NOT EXISTS {self.name}_id"] if self.has_id and dialect == "duckdb" else []
        return [*sequence, f"CREATE TABLE IF NOT EXISTS {quoted(self.name)} ({names})"]

    def upgrade(self, dialect: Dialect, existing: Mapping[str, str]) -> list[str]:
        """Statements that give a table with the columns `existing` (name -> type) what is missing.

        Raises ToolkitError that names the column if one has a type that cannot hold its field.
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
            if dialect == "duckdb" and field.type == "number" and (expression := as_double(column, found)):
                statements.append(f"{alter} ALTER {column} TYPE DOUBLE USING {expression}")
            else:
                raise ToolkitError(
                    f"column {name} of table {self.name} is {found}, its field is {field.type}: "
                    "change the field's type or name another file"
                )
        return statements

    def identity_index(self) -> str:
        """The statement that keeps SQLite from storing a record twice."""
        return (
            f"CREATE UNIQUE INDEX IF NOT EXISTS {quoted(self.name + '_identity')} ON {quoted(self.name)} "
            "(producer_id, sequence) WHERE producer_id IS NOT NULL"
        )

    def insert(self, rows: int, *, with_extra: bool) -> str:
        """SQLite's INSERT of rows of one run: its producer_id is the first value, the others are a row each.

        They come in the order of `columns`, but for `extra`, which is last or, where all of it is NULL, left out. OR
        ABORT: a constraint of an old table that would ignore or replace rows in silence is an error.
        """
        extra = "?" if with_extra else "NULL"
        row = f"(?1, {'?, ' * (len(self.columns) - 2)}{extra})"
        names = ", ".join(map(quoted, ("producer_id", *self.columns[:-3], "sequence", "extra")))
        return f"INSERT OR ABORT INTO {quoted(self.name)} ({names}) VALUES {', '.join([row] * rows)}"
