"""Reads the SQLite database that producers fill, and keeps each message once in its processed store."""

import sys

from utils import cli
from utils.config import DEFAULTS, Count, Json, Once, Settings, Start
from utils.consuming import process


def main(
    *,
    start: Start = "stored",
    once: Once = False,
    count: Count = None,
    json: Json = False,
    settings: Settings = DEFAULTS,
) -> int:
    """Read the sqlite sink; keep each message once, with running figures, in data/processed/sqlite.sqlite."""
    return process("sqlite", settings, start=start, once=once, count=count, as_json=json)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.sqlite_consumer_case"))
