"""Runs of a feed, and the contents of its sinks, read without the project's code."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.helpers import open_duckdb, run_here
from utils.app.config import Settings


def feed(
    source: str | Path, *options: str | int, settings: Settings, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run a feed to its end and assert its exit code, unless `code` is None."""
    done = run_here("producers.feed_producer", source, *options, settings=settings)
    assert code is None or done.returncode == code, done.stderr + done.stdout
    return done


def lines(settings: Settings, stream: str) -> list[dict[str, Any]]:
    """Return the records in the file sink of a stream."""
    path = settings.file_path(stream)
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def column(settings: Settings, stream: str, field: str) -> dict[str, list[Any]]:
    """Return sink -> values of a field, in the sink's order."""
    found = {"file": [record.get(field) for record in lines(settings, stream)]}
    query = f'SELECT "{field}" FROM "{stream}" ORDER BY rowid'
    if settings.sqlite_path.exists():
        with closing(sqlite3.connect(settings.sqlite_path)) as connection:
            found["sqlite"] = [value for (value,) in connection.execute(query)]
    if settings.duckdb_path.exists():
        with open_duckdb(settings.duckdb_path) as database:
            found["duckdb"] = [value for (value,) in database.execute(query).fetchall()]
    return found


def letters(settings: Settings, stream: str) -> list[dict[str, str]]:
    """Return the rejected input of a stream."""
    path = settings.dead_letter_path(f"{stream}-input")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
