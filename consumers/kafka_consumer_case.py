"""Reads the Kafka topic that producers fill and keeps each message once in its processed store.

Copies of it on one machine share the partitions (a consumer group) and the store.
"""

import sys

from utils.app import cli
from utils.app.config import DEFAULTS, FOLLOWING, Reading, Settings
from utils.reading.follow import process


def main(*, reading: Reading = FOLLOWING, settings: Settings = DEFAULTS) -> int:
    """Read the kafka sink; keep each message once, with running figures, in data/processed/kafka.sqlite."""
    return process("kafka", reading, settings)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.kafka_consumer_case"))
