"""Consumer of the SQLite sink: keeps each message once in its processed store."""

import sys
from contextlib import closing
from pathlib import Path

from utils.app import cli
from utils.clients import sqlite
from utils.emitters import sqlite_emitter
from utils.reading.processing import consumer
from utils.records.stream import BUZZ
from utils.records.table import BUZZ_TABLE

main = consumer("sqlite", "sqlite_file")
insert_message = sqlite_emitter.emit_message


def init_db(db_path: Path | str) -> None:
    """Create the table, or update an old one, whose rows stay. Raises ToolkitError."""
    sqlite_emitter.SqliteEmitter(Path(db_path), BUZZ).close()


def delete_message(message_id: int, db_path: Path | str) -> None:
    """Delete the row with this id, if any. The audit reports it if a producer sent it. Raises ToolkitError."""
    with closing(sqlite.Database(Path(db_path))) as database:
        database.query(f"DELETE FROM {BUZZ_TABLE} WHERE id = ?", message_id)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.sqlite_consumer_case"))
