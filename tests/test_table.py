"""The table in both dialects: made new, and brought up to date."""

import sqlite3
from contextlib import closing

import duckdb
import pytest

from tests.helpers import make_messages
from utils.records import table


@pytest.mark.parametrize("existing", [[], ["id", *table.COLUMNS[:7]], [*table.COLUMNS[:7]], [*table.COLUMNS]])
def test_sqlite_has_every_column_once_and_refuses_a_sequence_twice(existing: list[str]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        if existing:
            connection.execute(f"CREATE TABLE {table.TABLE} ({', '.join(existing)})")
        for statement in [*table.create("sqlite"), *table.upgrade("sqlite", existing or ["id", *table.COLUMNS])]:
            connection.execute(statement)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table.TABLE})")]
        assert [name for name in columns if name != "id"] == [*table.COLUMNS]
        row = make_messages(1, producer_id="ann-1")[0]
        values = [getattr(row, name) for name in table.COLUMNS]
        connection.execute(table.insert(), values)
        with pytest.raises(sqlite3.IntegrityError, match="sequence"):
            connection.execute(table.insert(), values)
        foreign = [*values[:7], None, None]
        connection.execute(table.insert(2), foreign + foreign)
        assert connection.execute(f"SELECT count(*) FROM {table.TABLE}").fetchone() == (3,)


@pytest.mark.parametrize("existing", [[], ["id", *table.COLUMNS[:7]], [*table.COLUMNS]])
def test_duckdb_has_every_column_once(existing: list[str]) -> None:
    with duckdb.connect() as database:
        if existing:
            database.execute(f"CREATE TABLE {table.TABLE} ({', '.join(f'{name} VARCHAR' for name in existing)})")
        for statement in table.upgrade("duckdb", existing) if existing else table.create("duckdb"):
            database.execute(statement)
        found = database.execute(f"SELECT column_name FROM (DESCRIBE {table.TABLE})").fetchall()
        assert [name for (name,) in found if name != "id"] == [*table.COLUMNS]
