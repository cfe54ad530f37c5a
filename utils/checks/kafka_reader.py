"""Reads a topic with kafka-python: a proof reads with another client than the one that wrote."""

from collections.abc import Iterator
from typing import Any

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients.kafka_admin import kafka_python_options
from utils.records.stream import Stream
from utils.sources.auto_source import require_answer
from utils.sources.base import Chunk, decode_each

POLL_MS = 500
SILENCE_S = 15.0


class KafkaReader:
    """Reads all partitions, one after the other, from their beginning to their present end, read_committed."""

    name = "kafka"

    def __init__(self, settings: Settings, stream: Stream) -> None:
        self._settings, self._codec = settings, stream.codec
        self._topic = settings.topic_of(stream.name)
        self.detail = f"{self._topic} at {settings.kafka_broker}"
        self._chunks: Iterator[Chunk] | None = None

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of one partition, None at the end of all. See Source."""
        from kafka.errors import KafkaError, UnsupportedCodecError

        self._chunks = self._chunks or self._read(max_records)
        try:
            return next(self._chunks, None)
        except UnsupportedCodecError as error:
            raise ToolkitError(
                f"topic {self._topic} is compressed in a way that kafka-python cannot read: "
                "python -m pip install python-snappy"
            ) from error
        except (KafkaError, OSError) as error:
            raise Unavailable(f"{self.detail} cannot be read: {error}") from error

    def _read(self, max_records: int) -> Iterator[Chunk]:
        from kafka import KafkaConsumer, TopicPartition

        require_answer(self._settings.kafka_broker)
        consumer = KafkaConsumer(
            **kafka_python_options(self._settings),
            isolation_level="read_committed",
            enable_auto_commit=False,
            max_partition_fetch_bytes=4 << 20,
        )
        try:
            numbers = consumer.partitions_for_topic(self._topic)
            if not numbers:
                raise Absent(f"topic {self._topic} does not exist (yet) at {self._settings.kafka_broker}")
            for number in sorted(numbers):
                place = TopicPartition(self._topic, number)
                consumer.assign([place])
                consumer.seek_to_beginning(place)
                end = consumer.end_offsets([place])[place]
                silent = 0
                while consumer.position(place) < end:
                    found = consumer.poll(timeout_ms=POLL_MS, max_records=max_records).get(place, [])
                    silent = 0 if found else silent + 1
                    if silent * POLL_MS > SILENCE_S * 1000:
                        raise Unavailable(f"the end of {self.detail} was not reached; is a transaction open?")
                    if found:
                        yield self._chunk(f"{self._topic}-{number}", found)
        finally:
            consumer.close()

    def _chunk(self, partition: str, found: list[Any]) -> Chunk:
        # Without a value but with a key a record only ends a transaction.
        real = [record for record in found if record.value is not None or not record.key]
        pairs = ((f"{partition} offset {record.offset}", record.value or b"") for record in real)
        try:
            records = self._codec.decode_lines(b"\n".join([record.value for record in real]) + b"\n")
            if len(records) == len(real):
                return Chunk(partition, "", "read", records)
        except (ValueError, TypeError):
            pass  # at least one record needs a closer look
        return Chunk(partition, "", "read", *decode_each(self._codec, pairs))

    def close(self) -> None:
        """Ends the connection, if there is one."""
        self._chunks = None
