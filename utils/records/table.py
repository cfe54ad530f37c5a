"""The table `streamed_messages`, derived from Message's fields, in SQLite's and DuckDB's words."""

from collections.abc import Collection
from typing import Literal, get_args, get_type_hints

from utils.records.record import Message

TABLE = "streamed_messages"
COLUMNS: tuple[str, ...] = Message.__struct_fields__
ROW = ", ".join(COLUMNS)

Dialect = Literal["sqlite", "duckdb"]

_TYPES = {
    "sqlite": {"str": "TEXT", "float": "REAL", "int": "INTEGER", "id": "INTEGER PRIMARY KEY AUTOINCREMENT"},
    "duckdb": {
        "str": "VARCHAR",
        "float": "DOUBLE",
        "int": "BIGINT",
        "timestamp": "TIMESTAMP",
        "id": f"BIGINT DEFAULT nextval('{TABLE}_id')",
    },
}


def column_types(dialect: Dialect) -> dict[str, str]:
    """Column -> SQL type."""
    types = _TYPES[dialect]
    found = {}
    for name, hint in get_type_hints(Message).items():
        kind, *_ = get_args(hint) or (hint,)  # an optional field's own type comes before None
        found[name] = types.get(name, types[kind.__name__])
    return found


def create(dialect: Dialect) -> list[str]:
    """Statements that make the table where there is none."""
    columns = ", ".join(f"{name} {kind}" for name, kind in column_types(dialect).items())
    statements = [f"CREATE TABLE IF NOT EXISTS {TABLE} (id {_TYPES[dialect]['id']}, {columns})"]
    if dialect == "duckdb":
        statements.insert(0, f"CREATE SEQUENCE IF NOT EXISTS {TABLE}_id")
    return statements


def upgrade(dialect: Dialect, existing: Collection[str]) -> list[str]:
    """Statements that bring a table with the columns `existing` (perhaps buzzline's seven) up to date."""
    statements = [
        f"ALTER TABLE {TABLE} ADD COLUMN {name} {kind}"
        for name, kind in column_types(dialect).items()
        if name not in existing
    ]
    if dialect == "sqlite":
        statements.append(
            f"CREATE UNIQUE INDEX IF NOT EXISTS {TABLE}_identity ON {TABLE} (producer_id, sequence) "
            "WHERE producer_id IS NOT NULL"
        )
    return statements


def insert(rows: int = 1) -> str:
    """INSERT of `rows` rows with one placeholder per value, in the order of COLUMNS."""
    values = ", ".join([f"({', '.join('?' * len(COLUMNS))})"] * rows)
    return f"INSERT INTO {TABLE} ({ROW}) VALUES {values}"
