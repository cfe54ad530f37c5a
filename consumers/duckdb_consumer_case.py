"""Consumer of the DuckDB sink: keeps each message once in its processed store."""

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
    """Create the table, or update an old one, whose rows stay. Raises ToolkitError."""
    duckdb_emitter.DuckdbEmitter(Path(db_path), BUZZ).close()


def delete_message(message_id: int, db_path: Path | str) -> None:
    """Delete the row with this id, if any. The audit reports it if a producer sent it. Raises ToolkitError."""
    with duckdb.connect(config=duck.CONFIG) as memory, duck.attached(memory, Path(db_path)):
        memory.execute(f"DELETE FROM sink.{BUZZ_TABLE} WHERE id = ?", [message_id])


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.duckdb_consumer_case"))
