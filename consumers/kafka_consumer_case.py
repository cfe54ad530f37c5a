"""Reads the Kafka topic that producers fill and keeps each message once in its processed store.

Copies of it on one machine share the partitions (a consumer group) and the store.
"""

import sys
from typing import Annotated

from utils.app import cli
from utils.app.config import BUZZ, DEFAULTS, FOLLOWING, KAFKA, Reading, Reads, Settings, StreamName
from utils.reading.processing import process
from utils.reading.top import Top
from utils.reading.windows import NO_WINDOWS, Tumbling


def main(
    *,
    stream: StreamName = BUZZ,
    reading: Reading = FOLLOWING,
    tumbling: Tumbling = NO_WINDOWS,
    top: Top = False,
    settings: Annotated[Settings, Reads(*KAFKA, "group")] = DEFAULTS,
) -> int:
    """Read the kafka sink; keep each record once, with its statistics, in data/processed."""
    return process("kafka", stream, reading, settings, tumbling, top=top)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.kafka_consumer_case"))
