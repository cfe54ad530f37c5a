"""All that a sink contains, as its readers see it."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from utils.app.config import Settings
from utils.app.errors import Unavailable
from utils.checks.kafka_reader import KafkaReader
from utils.records.stream import Stream
from utils.sinks import source
from utils.sources.base import Source

PAGE_RECORDS = 10_000


def open_reader(sink: str, settings: Settings, stream: Stream) -> Source:
    """A reader from the beginning of a sink to its present end, on another Kafka client than the one that wrote."""
    if sink == "kafka":
        return KafkaReader(settings, stream)
    return source(sink, settings, stream, lambda partition: "", finished=True)


def pages(sink: str, settings: Settings, stream: Stream) -> Iterator[tuple[list[Any], int]]:
    """The records of a sink, page by page, and how many there were invalid.

    Raises Unavailable if the sink cannot be read or was replaced meanwhile, Absent if there is none.
    """
    with closing(open_reader(sink, settings, stream)) as reader:
        while chunk := reader.poll(PAGE_RECORDS):
            if chunk.begins_again:
                raise Unavailable(f"{reader.detail} was replaced while it was read")
            yield chunk.records, len(chunk.invalid)
