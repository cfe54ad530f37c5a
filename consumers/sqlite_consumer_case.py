"""Reads the SQLite database that producers fill, and keeps each message once in its processed store."""

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
    """Make the table, or bring an old one up to date; what it holds stays. Raises ToolkitError."""
    sqlite_emitter.SqliteEmitter(Path(db_path), BUZZ).close()


def delete_message(message_id: int, db_path: Path | str) -> None:
    """Delete the row with this id, if there is one. The audit will miss a producer's message. Raises ToolkitError."""
    with closing(sqlite.Database(Path(db_path))) as database:
        database.query(f"DELETE FROM {BUZZ_TABLE} WHERE id = ?", message_id)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.sqlite_consumer_case"))
