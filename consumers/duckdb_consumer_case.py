"""Reads the DuckDB database that producers fill, and keeps each message once in its processed store."""

import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from utils.app import cli
from utils.reading.processing import consumer
from utils.records.table import BUZZ_TABLE

main = consumer("duckdb", "duckdb_file")


def init_db(db_path: Path | str) -> None:
    """Make the table, or bring an old one up to date; what it holds stays. Raises ToolkitError."""
    from utils.emitters.duckdb_emitter import DuckdbEmitter
    from utils.records import stream

    DuckdbEmitter(Path(db_path), stream.BUZZ).close()


def insert_message(message: Mapping[str, Any], db_path: Path | str) -> bool:
    """Store one message without ids, which is outside the exactly-once promise. See emit_message."""
    from utils.emitters.duckdb_emitter import emit_message

    return emit_message(message, db_path=db_path)


def delete_message(message_id: int, db_path: Path | str) -> None:
    """Delete the row with this id, if there is one. The audit will miss a producer's message. Raises ToolkitError."""
    from utils.clients import duck

    path = Path(db_path)
    with duck.errors(path), closing(duck.connect(path)) as connection:
        connection.execute(f"DELETE FROM {BUZZ_TABLE} WHERE id = ?", [message_id])


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.duckdb_consumer_case"))
