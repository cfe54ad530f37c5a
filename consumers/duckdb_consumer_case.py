"""Reads the DuckDB database that producers fill, and keeps each message once in its processed store."""

import sys
from pathlib import Path

import duckdb

from utils.app import cli
from utils.clients import duck
from utils.emitters import duckdb_emitter
from utils.reading.processing import consumer
from utils.records.stream import BUZZ
from utils.records.table import BUZZ_TABLE

main = consumer("duckdb", "duckdb_file")
insert_message = duckdb_emitter.emit_message


def init_db(db_path: Path | str) -> None:
    """Make the table, or bring an old one up to date; what it holds stays. Raises ToolkitError."""
    duckdb_emitter.DuckdbEmitter(Path(db_path), BUZZ).close()


def delete_message(message_id: int, db_path: Path | str) -> None:
    """Delete the row with this id, if there is one. The audit will miss a producer's message. Raises ToolkitError."""
    with duckdb.connect(config=duck.CONFIG) as memory, duck.attached(memory, Path(db_path)):
        memory.execute(f"DELETE FROM sink.{BUZZ_TABLE} WHERE id = ?", [message_id])


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.duckdb_consumer_case"))
