"""Reads the JSON lines file that producers fill, and keeps each message once in its processed store."""

import sys

from utils.app import cli
from utils.app.config import DEFAULTS, FOLLOWING, Reading, Settings
from utils.reading.follow import process


def main(*, reading: Reading = FOLLOWING, settings: Settings = DEFAULTS) -> int:
    """Read the file sink; keep each message once, with running figures, in data/processed/file.sqlite."""
    return process("file", reading, settings)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.file_consumer_case"))
