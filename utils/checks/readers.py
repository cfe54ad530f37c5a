"""All that a sink contains, as its readers see it; a topic by another client than the one that wrote it."""

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
    """The records of a sink from its beginning to its present end, and what is invalid among them.

    Raises Unavailable if the sink cannot be read or was replaced meanwhile, Absent if there is none.
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
    """All partitions of a topic, read_committed."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    try:
        require_answer(settings.kafka_broker)
    except Absent as error:  # what is on its disk is not known, and by no means lost
        raise Unavailable(str(error)) from error
    Admin(settings)  # names a setting that cannot be used
    topic = settings.topic_of(stream.name)
    try:
        consumer = KafkaConsumer(
            **kafka_python_options(settings),
            isolation_level="read_committed",
            enable_auto_commit=False,
            max_partition_fetch_bytes=4 << 20,
        )
        with closing(consumer):
            places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            if not places:
                raise Absent(f"topic {topic} does not exist (yet) at {settings.kafka_broker}")
            consumer.assign(places)
            consumer.seek_to_beginning(*places)
            ends, silent_ms = consumer.end_offsets(places), 0
            while any(consumer.position(place) < end for place, end in ends.items()):
                found = consumer.poll(timeout_ms=POLL_MS, max_records=PAGE_RECORDS)
                silent_ms = 0 if found else silent_ms + POLL_MS
                if silent_ms > SILENCE_S * 1000:
                    raise Unavailable(f"the end of topic {topic} was not reached; is a transaction open?")
                for records in found.values():
                    yield _page(stream, records)
    except (KafkaError, OSError) as error:
        raise Unavailable(f"topic {topic} at {settings.kafka_broker} cannot be read: {error}") from error


def _page(stream: Stream, found: list[Any]) -> Page:
    # Without a value but with a key a record only ends a transaction.
    real = [record for record in found if record.value is not None or not record.key]
    places = (f"{record.topic}-{record.partition} offset {record.offset}" for record in real)
    return decode_all(stream.codec, [record.value or b"" for record in real], places)
