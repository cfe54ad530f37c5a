"""The table of a stream in both dialects: created, upgraded, or rejected."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

import duckdb
import pytest

from utils.app.errors import ToolkitError, Unavailable
from utils.records.codec import Field
from utils.records.stream import BUZZ, Stream
from utils.records.table import Dialect, Table, quoted

TYPES = ("text", "integer", "number", "boolean", "timestamp", "json")
READINGS = Stream("readings", fields=tuple(Field(name, name) for name in TYPES))
ROW = ("x", 5, 1.5, True, "2026-11-23T19:04:05.123Z", '{"a":1}', None, "ann-1", 1)
OWN = ["extra", "producer_id", "sequence"]


class Database:
    """An empty database of one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect: Dialect = dialect
        self.connection: Any = sqlite3.connect(":memory:") if dialect == "sqlite" else duckdb.connect()

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.connection.execute(statement)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.connection.execute(sql).fetchall()
        return found

    def insert(self, table: Table, *rows: Sequence[Any]) -> None:
        marks = ", ".join([f"({', '.join('?' * len(table.columns))})"] * len(rows))
        statement = f"INSERT INTO {quoted(table.name)} ({table.row}) VALUES {marks}"
        self.connection.execute(statement, list(chain.from_iterable(rows)))

    def columns(self, table: Table) -> dict[str, str]:
        return dict(self.query(f"SELECT name, type FROM pragma_table_info('{table.name}')"))

    def prepare(self, table: Table) -> list[str]:
        """Create or upgrade the table as the emitters do; return the statements."""
        existing = self.columns(table) if self.has(table) else {}
        statements = table.upgrade(self.dialect, existing) if existing else table.create(self.dialect)
        self.execute(*statements)
        return statements

    def has(self, table: Table) -> bool:
        schema = "sqlite_master" if self.dialect == "sqlite" else "duckdb_tables()"
        column = "name" if self.dialect == "sqlite" else "table_name"
        return bool(self.query(f"SELECT 1 FROM {schema} WHERE lower({column}) = '{table.name}'"))


@pytest.fixture(params=["sqlite", "duckdb"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(request.param)
    with closing(database.connection):
        yield database


def test_a_new_table_has_a_typed_column_per_field_and_its_own(database: Database) -> None:
    table = Table(READINGS)
    database.prepare(table)
    assert list(database.columns(table)) == [*TYPES, *OWN] == list(table.columns)
    database.insert(table, ROW, [None] * 9)
    assert database.query("SELECT integer + 1, number * 2, sequence FROM readings") == [(6, 3.0, 1), (None, None, None)]
    assert database.query("SELECT typeof(number) FROM readings")[0][0] in {"real", "DOUBLE"}
    assert database.prepare(table) == [], "nothing is to be done at a second start"


def test_buzz_has_the_columns_of_buzzline_first(database: Database) -> None:
    table = Table(BUZZ)
    database.prepare(table)
    assert table.name == "streamed_messages"
    assert list(database.columns(table)) == [
        *("id", "message", "author", "category", "sentiment", "keyword_mentioned", "message_length", "timestamp"),
        *OWN,
    ]
    database.insert(table, ["a", *[None] * 9], ["b", *[None] * 9])
    assert database.query("SELECT id FROM streamed_messages ORDER BY message") == [(1,), (2,)]


def test_a_field_named_id_is_an_ordinary_column(database: Database) -> None:
    table = Table(Stream("orders", fields=(Field("id", "text"),)))
    database.prepare(table)
    assert list(database.columns(table)) == ["id", *OWN]


@pytest.mark.parametrize(
    "name",
    ["select", "a b", "a'b", "a.b", "a;b--", "Größe °C", "日本", "%s", "?", "{0}", "$1", "x" * 300, "1", "value"],
)
def test_fields_may_have_odd_names(database: Database, name: str) -> None:
    table = Table(Stream("select", fields=(Field(name, "integer"),)))
    database.prepare(table)
    database.insert(table, [7, None, "ann-1", 1])
    assert database.query(f'SELECT {quoted(name)} FROM "select"') == [(7,)]
    assert list(database.columns(table)) == [name, *OWN]


@pytest.mark.parametrize("name", ['q"', "a\\b", "a\nb", "\0", "", " ", "rowid", "ROWID", "_rowid_", "oid", "Extra"])
def test_fields_with_reserved_names_have_no_column(name: str) -> None:
    assert Table(Stream("odd", fields=(Field(name, "text"), Field("x", "text")))).columns == ("x", *OWN)


def test_of_names_that_differ_in_case_the_first_is_a_column(database: Database) -> None:
    table = Table(Stream("cases", fields=(Field("Device", "text"), Field("device", "integer"))))
    database.prepare(table)
    assert list(database.columns(table)) == ["Device", *OWN]


def test_quoted_names() -> None:
    assert quoted('a"b') == '"a""b"'


class TestUpgrade:
    @pytest.mark.parametrize("existing", ["message TEXT", "ID INTEGER, Message TEXT, AUTHOR TEXT", "room TEXT"])
    def test_missing_columns_are_added_to_an_external_table(self, database: Database, existing: str) -> None:
        table = Table(BUZZ)
        database.execute(f"CREATE TABLE Streamed_Messages ({existing})", "INSERT INTO streamed_messages DEFAULT VALUES")
        database.prepare(table)
        found = [name.lower() for name in database.columns(table)]
        assert set(found) >= set(table.columns)
        assert len(found) == len(set(found))
        database.insert(table, ["a", *[None] * 9])
        assert database.query("SELECT count(*), count(message) FROM streamed_messages") == [(2, 1)]

    def test_a_field_that_a_class_gained(self, database: Database) -> None:
        database.prepare(Table(Stream("readings", fields=READINGS.fields[:2])))
        database.execute("INSERT INTO readings (text, extra) VALUES ('x', '{\"number\":1}')")
        assert len(database.prepare(Table(READINGS))) == 4
        assert database.query("SELECT text, number, extra FROM readings") == [("x", None, '{"number":1}')]

    def test_an_integer_becomes_a_number_that_is_not_rounded(self, database: Database) -> None:
        before = Stream("readings", fields=(Field("x", "integer"),))
        after = Table(Stream("readings", fields=(Field("x", "number"),)))
        database.prepare(Table(before))
        database.execute("INSERT INTO readings (x) VALUES (3)")
        database.prepare(after)
        database.insert(after, [1.5, None, None, None])
        assert database.query("SELECT x, x / 2 FROM readings WHERE x < 2") == [(1.5, 0.75)]
        assert database.query("SELECT sum(x) FROM readings") == [(4.5,)]

    @pytest.mark.parametrize("narrow", ["FLOAT", "DECIMAL(5, 2)", "HUGEINT", "UTINYINT", "INTEGER"])
    def test_numbers_that_duckdb_would_round_are_widened(self, narrow: str) -> None:
        database = Database("duckdb")
        database.execute(f"CREATE TABLE readings (number {narrow})", "INSERT INTO readings VALUES (7), (0.3)")
        database.prepare(Table(READINGS))
        assert database.columns(Table(READINGS))["number"] == "DOUBLE"
        kept = 0.3 if narrow in {"FLOAT", "DECIMAL(5, 2)"} else 0.0
        assert database.query("SELECT number FROM readings") == [(7.0,), (kept,)]

    @pytest.mark.parametrize(
        ("dialect", "field", "kind"),
        [
            ("sqlite", "text", "INTEGER"),
            ("sqlite", "text", "STRING"),
            ("sqlite", "json", "JSON"),
            ("sqlite", "integer", "TEXT"),
            ("sqlite", "integer", "REAL"),
            ("sqlite", "boolean", "TEXT"),
            ("sqlite", "timestamp", "REAL"),
            ("sqlite", "number", "VARCHAR(5)"),
            ("duckdb", "text", "INTEGER"),
            ("duckdb", "text", "JSON"),
            ("duckdb", "text", "ENUM('a', 'b')"),
            ("duckdb", "integer", "VARCHAR"),
            ("duckdb", "integer", "DOUBLE"),
            ("duckdb", "integer", "INTEGER[]"),
            ("duckdb", "number", "VARCHAR"),
            ("duckdb", "number", "INTERVAL"),
            ("duckdb", "number", "BOOLEAN"),
            ("duckdb", "boolean", "INTEGER"),
            ("duckdb", "timestamp", "DATE"),
            ("duckdb", "timestamp", "TIMESTAMP_S"),
            ("duckdb", "timestamp", "TIMESTAMPTZ"),
            ("duckdb", "json", "STRUCT(a INTEGER)"),
        ],
    )
    def test_a_type_that_would_change_values_is_named_and_no_outage(
        self, dialect: Dialect, field: str, kind: str
    ) -> None:
        database, table = Database(dialect), Table(READINGS)
        database.execute(f"CREATE TABLE readings ({field.upper()} {kind})")
        with pytest.raises(
            ToolkitError, match=f"column {field} of table readings is .*, its field is {field}"
        ) as raised:
            database.prepare(table)
        assert raised.value.exit_code == 2
        assert not isinstance(raised.value, Unavailable)
        assert list(database.columns(table)) == [field.upper()], "nothing was changed"

    @pytest.mark.parametrize(
        ("field", "kind"),
        [
            *((field, kind) for field in TYPES for kind in ("", "BLOB")),
            *(("text", kind) for kind in ("VARCHAR(10)", "CLOB", "CHARACTER(20)")),
            *(("integer", kind) for kind in ("BIGINT", "NUMERIC", "INT2")),
            *(("number", kind) for kind in ("INTEGER", "FLOAT", "DOUBLE PRECISION", "DECIMAL(10,5)")),
            *(("timestamp", kind) for kind in ("DATETIME", "TIMESTAMP", "VARCHAR(40)")),
        ],
    )
    def test_sqlite_columns_that_return_values_unchanged_are_accepted(self, field: str, kind: str) -> None:
        database, table = Database("sqlite"), Table(READINGS)
        database.execute(f"CREATE TABLE readings ({field} {kind})")
        database.prepare(table)
        database.insert(table, ROW)
        (value,) = database.query(f"SELECT {field} FROM readings")[0]
        assert value == ROW[TYPES.index(field)]

    @pytest.mark.parametrize(
        ("field", "kind"),
        [*(("integer", kind) for kind in ("HUGEINT", "UTINYINT")), ("timestamp", "VARCHAR"), ("json", "VARCHAR")],
    )
    def test_duckdb_columns_that_return_values_unchanged_are_accepted(self, field: str, kind: str) -> None:
        database, table = Database("duckdb"), Table(READINGS)
        database.execute(f"CREATE TABLE readings ({field} {kind})")
        database.prepare(table)
        database.insert(table, ROW)
        assert database.query(f"SELECT {field} FROM readings") == [(ROW[TYPES.index(field)],)]


def test_sqlite_takes_no_ids_twice_but_any_number_of_rows_without() -> None:
    database, table = Database("sqlite"), Table(READINGS)
    database.prepare(table)
    database.execute(table.identity_index(), table.identity_index())
    database.insert(table, ROW)
    with pytest.raises(sqlite3.IntegrityError, match="sequence"):
        database.insert(table, ROW)
    database.insert(table, *[[*ROW[:-2], None, None]] * 2)
    assert database.query("SELECT count(*) FROM readings") == [(3,)]


def test_the_columns_of_a_wide_stream_are_within_the_limits_of_both(database: Database) -> None:
    table = Table(Stream("wide", fields=tuple(Field(f"field {number}", "number") for number in range(300))))
    database.prepare(table)
    database.insert(table, [0.5] * 300 + [None, "ann-1", 1])
    assert database.query('SELECT "field 299" FROM wide') == [(0.5,)]
