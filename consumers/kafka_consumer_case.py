"""Consumer of the Kafka topic: keeps each message once in its processed store.

Several copies on one machine share the partitions (as a consumer group) and the store.
"""

import sys

from utils.app import cli
from utils.app.config import KAFKA
from utils.reading.processing import consumer

main = consumer("kafka", *KAFKA, "group")

if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.kafka_consumer_case"))
