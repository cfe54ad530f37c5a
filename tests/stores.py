"""Places of a processed store, for tests that run with each database."""

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Protocol

from tests.postgres_server import Server
from utils.app.config import StoreUrl
from utils.reading.database import Database, PostgresDatabase, SqliteDatabase
from utils.reading.store import ProcessedStore
from utils.records.stream import Stream


class Place(Protocol):
    """A store that tests open several times and query without the project's code."""

    def database(self) -> Database:
        """Open a new connection."""
        ...

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query; `rowid` is the order of insertion in each database."""
        ...


class SqlitePlace:
    def __init__(self, path: Path) -> None:
        self.path = path

    def database(self) -> Database:
        return SqliteDatabase(self.path)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()


class PostgresPlace:
    """A new schema on the server."""

    def __init__(self, server: Server) -> None:
        self.url, self.schema = StoreUrl(server.url, "the server"), f"test-{secrets.token_hex(4)}"

    def database(self) -> Database:
        return PostgresDatabase(self.url, self.schema)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.url.text) as connection:
            connection.execute(f'SET search_path = "{self.schema}"')
            return connection.execute(query.replace("rowid", "ctid").encode()).fetchall()


def open_store(place: Place, stream: Stream, start: Literal["start", "end"] = "start") -> ProcessedStore:
    """Open the store at this place with a new connection."""
    return ProcessedStore(place.database(), stream, start)
