"""Consumer of the JSON lines file: keeps each message once in its processed store."""

import sys

from utils.app import cli
from utils.reading.processing import consumer

main = consumer("file", "live_file")

if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.file_consumer_case"))
