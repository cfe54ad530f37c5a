"""Reads the JSON lines file that producers fill, and keeps each message once in its processed store."""

import sys
from typing import Annotated

from utils.app import cli
from utils.app.config import BUZZ, DEFAULTS, FOLLOWING, Reading, Reads, Settings, StreamName
from utils.reading.processing import process
from utils.reading.top import Top
from utils.reading.windows import NO_WINDOWS, Tumbling


def main(
    *,
    stream: StreamName = BUZZ,
    reading: Reading = FOLLOWING,
    tumbling: Tumbling = NO_WINDOWS,
    top: Top = False,
    settings: Annotated[Settings, Reads("live_file")] = DEFAULTS,
) -> int:
    """Read the file sink; keep each record once, with its statistics, in data/processed."""
    return process("file", stream, reading, settings, tumbling, top=top)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.file_consumer_case"))
