"""The functions that loops, notebooks and tests of buzzline call."""

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import pytest

from utils.app.errors import ToolkitError

MESSAGE = {"message": "I just found a meme!", "author": "Alice", "timestamp": "2025-01-01 12:00:00", "sentiment": 0.9}
CONNECT: dict[str, Any] = {"sqlite": sqlite3.connect, "duckdb": duckdb.connect}


@pytest.mark.full
@pytest.mark.parametrize("given", [Path, str])
@pytest.mark.parametrize("kind", CONNECT)
def test_insert_and_delete_one_message(kind: str, given: Callable[[Path], Any], tmp_path: Path) -> None:
    case: Any = import_module(f"consumers.{kind}_consumer_case")
    path = given(tmp_path / f"buzz.{kind}")

    def rows() -> list[tuple[Any, ...]]:
        with closing(CONNECT[kind](str(path))) as connection:
            return list(connection.execute("SELECT id, author, sentiment, extra FROM streamed_messages").fetchall())

    case.init_db(path)
    assert rows() == []
    assert case.insert_message(MESSAGE, path)
    assert case.insert_message({"message": "x", "likes": 3}, path)
    case.init_db(path)
    (first, second) = rows()
    assert first[1:] == ("Alice", 0.9, None)
    assert second[-1] == '{"likes":3}'
    case.delete_message(first[0], path)
    case.delete_message(999, path)
    assert rows() == [second]


@pytest.mark.parametrize("kind", CONNECT)
def test_bad_databases_and_records_are_rejected(kind: str, tmp_path: Path) -> None:
    case: Any = import_module(f"consumers.{kind}_consumer_case")
    path = tmp_path / "text"
    path.write_text("hello\n" * 1000)
    assert not case.insert_message(MESSAGE, path)
    assert not case.insert_message({"message": "x", "score": math.nan}, tmp_path / "new")
    for call in (case.init_db, lambda place: case.delete_message(1, place)):
        with pytest.raises(ToolkitError):
            call(path)
    assert path.read_text() == "hello\n" * 1000
