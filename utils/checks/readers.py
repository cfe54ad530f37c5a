"""Reading of all records of a sink: by its source, but a Kafka topic by another client library than wrote it."""

from collections.abc import Generator
from contextlib import closing
from typing import Any

from utils.app.config import Settings
from utils.app.errors import Absent, Unavailable
from utils.clients.kafka_admin import Admin, kafka_python_options
from utils.records.record import Invalid
from utils.records.stream import Stream
from utils.sinks import source
from utils.sources.auto_source import require_answer
from utils.sources.base import decode_all

PAGE_RECORDS = 10_000
POLL_MS = 500
SILENCE_S = 15.0

Page = tuple[list[Any], list[Invalid]]


def pages(sink: str, settings: Settings, stream: Stream) -> Generator[Page]:
    """Yield the valid records and the invalid lines of a sink, page by page, from its start to its present end.

    Raises Unavailable if the sink cannot be read or was replaced meanwhile, Absent if it does not exist.
    """
    if sink == "kafka":
        yield from _topic_pages(settings, stream)
        return
    with closing(source(sink, settings, stream, lambda partition: "", finished=True)) as reader:
        while chunk := reader.poll(PAGE_RECORDS):
            if chunk.begins_again:
                raise Unavailable(f"{reader.detail} was replaced while it was read")
            yield chunk.records, chunk.invalid


def _topic_pages(settings: Settings, stream: Stream) -> Generator[Page]:
    """Yield the committed records of all partitions of a topic."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    try:
        require_answer(settings.kafka_broker)
    except Absent as error:  # the topic may exist: without an answer its records must not count as lost
        raise Unavailable(str(error)) from error
    Admin(settings)  # raises ToolkitError that names a setting if Kafka's client rejects it
    topic = settings.topic_of(stream.name)
    try:
        consumer = KafkaConsumer(
            **kafka_python_options(settings),
            isolation_level="read_committed",
            enable_auto_commit=False,
            max_partition_fetch_bytes=4 << 20,
        )
        with closing(consumer):
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            if not partitions:
                raise Absent(f"topic {topic} does not exist (yet) at {settings.kafka_broker}")
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends, silent_ms = consumer.end_offsets(partitions), 0
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                found = consumer.poll(timeout_ms=POLL_MS, max_records=PAGE_RECORDS)
                silent_ms = 0 if found else silent_ms + POLL_MS
                if silent_ms > SILENCE_S * 1000:
                    raise Unavailable(f"the end of topic {topic} was not reached; is a transaction open?")
                for records in found.values():
                    yield _page(stream, records)
    except (KafkaError, OSError) as error:
        raise Unavailable(f"topic {topic} at {settings.kafka_broker} cannot be read: {error}") from error


def _page(stream: Stream, found: list[Any]) -> Page:
    """Decode the records of one poll. A record with a key but no value is left out: it only ends a transaction."""
    real = [record for record in found if record.value is not None or not record.key]
    places = (f"{record.topic}-{record.partition} offset {record.offset}" for record in real)
    return decode_all(stream.codec, [record.value or b"" for record in real], places)
