"""How fast the Kafka emitter and source are, beside bare clients with the same settings, in one run.

    python scripts/bench_kafka.py [--count 400000]

Starts a throwaway broker from the prepared Kafka. Each figure is the best of three.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from confluent_kafka import Producer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.record import _crc32c, default_records
from loguru import logger

from scripts import bench_all
from scripts.kafka_broker import Cluster, kafka_home
from utils.app import cli
from utils.app.config import ALL_SINKS, EMBEDDED_SINKS, Settings
from utils.clients.kafka_admin import kafka_python_options, librdkafka_options
from utils.delivery.worker import MAX_BATCH
from utils.emitters.kafka_emitter import KafkaEmitter
from utils.records.record import Batch, decode_lines
from utils.sources.kafka_source import KafkaSource

PAGE = 10_000
REPEATS = 3


def emitter(settings: Settings, batches: list[Batch]) -> None:
    with closing(KafkaEmitter(settings)) as sink:
        for batch in batches:
            sink.emit(batch)


def bare_transactions(settings: Settings, batches: list[Batch]) -> None:
    producer = Producer(
        librdkafka_options(settings)
        | {"transactional.id": "bare", "batch.size": 1_000_000, "batch.num.messages": 100_000, "log_level": 3}
    )
    producer.init_transactions(10)
    for batch in batches:
        producer.begin_transaction()
        for line in batch.lines.splitlines():
            producer.produce(settings.topic, line, batch.producer_id, 0)
        producer.commit_transaction(10)


def bare_kafka_python(settings: Settings, batches: list[Batch]) -> None:
    producer = KafkaProducer(**kafka_python_options(settings), acks="all", batch_size=1_000_000, linger_ms=5)
    with closing(producer):
        for batch in batches:
            for line in batch.lines.splitlines():
                producer.send(settings.topic, line, b"bench-1", partition=0)
            producer.flush()


def source(settings: Settings, count: int) -> None:
    with closing(KafkaSource(settings, lambda partition: "", finished=True)) as reader:
        seen = 0
        while seen < count and (chunk := reader.poll(PAGE)) is not None:
            seen += len(chunk.records)
        assert seen == count


def bare_consumer(settings: Settings, count: int) -> None:
    reader = KafkaConsumer(
        **kafka_python_options(settings), isolation_level="read_committed", max_partition_fetch_bytes=4 << 20
    )
    with closing(reader):
        places = [TopicPartition(settings.topic, each) for each in reader.partitions_for_topic(settings.topic)]
        reader.assign(places)
        reader.seek_to_beginning(*places)
        seen = 0
        while seen < count:
            for records in reader.poll(timeout_ms=500, max_records=PAGE).values():
                seen += len(decode_lines(b"\n".join([record.value for record in records])))


@contextmanager
def without_crc32c() -> Iterator[None]:
    """kafka-python with the checksum in Python that it falls back to when the `crc32c` package is missing."""
    fast = default_records.calc_crc32c
    default_records.calc_crc32c = _crc32c.crc
    try:
        yield
    finally:
        default_records.calc_crc32c = fast


def best(count: int, work: Callable[[int], None]) -> float:
    """Messages per second of the fastest of three runs, which are told their number."""
    return count / min(bench_all.seconds(partial(work, number)) for number in range(REPEATS))


def rates(settings: Settings, count: int) -> Iterator[tuple[str, float, float | None]]:
    """Rows: what, messages per second, ratio to the bare client."""

    def topic(name: str) -> Settings:
        place = replace(settings, topic=f"bench-{name}")
        KafkaEmitter(place).close()  # created outside the measurement
        return place

    def write(what: Callable[[Settings, list[Batch]], None], batches: list[Batch]) -> float:
        places = [topic(f"{what.__name__}-{len(batches)}-{number}") for number in range(REPEATS)]
        return best(sum(batch.count for batch in batches), lambda number: what(places[number], batches))

    batches = bench_all.batches(count)
    few = batches[: max(1, len(batches) // 8)]
    bare = write(bare_transactions, batches)
    yield "bare confluent-kafka, transactions", bare, None
    emitted = write(emitter, batches)
    yield "KafkaEmitter", emitted, emitted / bare
    sent = write(bare_kafka_python, few)
    yield "bare kafka-python producer, no transactions", sent, sent / bare
    with without_crc32c():
        sent = write(bare_kafka_python, few[:1])
    yield "the same without crc32c", sent, sent / bare

    full, short = topic(f"{emitter.__name__}-{len(batches)}-0"), topic("short")
    emitter(short, few[:1])
    read_bare = best(count, lambda _: bare_consumer(full, count))
    yield "bare kafka-python consumer, decoding", read_bare, None
    read = best(count, lambda _: source(full, count))
    yield "KafkaSource", read, read / read_bare
    with without_crc32c():
        slow = best(few[0].count, lambda _: bare_consumer(short, few[0].count))
    yield "bare consumer without crc32c", slow, slow / read_bare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=400_000, help="messages per run (default %(default)s)")
    count = parser.parse_args().count
    home = kafka_home()
    if home is None:
        print("bench_kafka: no Kafka in KAFKA_HOME or ~/kafka: run scripts/prepare_kafka.sh", file=sys.stderr)
        return 2
    logger.remove()
    rows = []
    with Cluster(home, jvm=("-Xmx512m",)) as cluster, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings(data_dir=Path(folder), kafka_broker=cluster.address, topic="bench", kafka_partitions=1)
        for what, rate, ratio in rates(settings, count):
            rows.append((what, f"{rate:,.0f}", "" if ratio is None else f"{ratio:.2f}"))
        embedded, all_four = (
            count / bench_all.produce(replace(settings, data_dir=Path(folder, str(len(sinks)))), sinks, count)[0]
            for sinks in (EMBEDDED_SINKS, ALL_SINKS)
        )
        rows.append(("whole producer, three embedded sinks", f"{embedded:,.0f}", ""))
        rows.append(("whole producer, all four sinks", f"{all_four:,.0f}", f"{all_four / embedded:.2f} of three"))
    cli.print_lines(f"{count:,} messages, batches of {MAX_BATCH:,}")
    cli.print_table(("what", "messages/s", "ratio to bare"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
