"""Kafka: one transaction per batch, one partition per journal, the topic itself is the cursor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
from loguru import logger

from utils.app.config import Settings
from utils.app.errors import Rejected, SinkReplaced, Unavailable
from utils.clients.kafka_admin import REQUEST_S, Admin, failed
from utils.emitters.base import STEP
from utils.emitters.kafka_search import Partition
from utils.records.record import Batch, without_ids
from utils.records.stream import Stream

if TYPE_CHECKING:
    from confluent_kafka import KafkaException, Producer

TRANSACTION_S = 10.0  # how long a dead producer may hide later rows from read_committed readers
COMMIT_S = 12.0  # a broker that dies costs about 9 s until another one leads
RECORD_BYTES = 100  # what surrounds a record that is alone in its batch, generously


class KafkaEmitter:
    """Writes to the topic of a stream with transactions that a killed predecessor cannot disturb.

    `key` is `<name>-<journal>`: the transactional id, so that `last` fences whoever wrote with it before, and the key
    of all records, which share one partition. The mark is `topic id/partition/offset`: `last` searches from the end
    of the partition back to that offset. Every call has a deadline.
    """

    max_records = STEP

    def __init__(self, settings: Settings, stream: Stream, key: str, mark: str = "") -> None:
        self._admin = Admin(settings)
        self._producer: Producer | None = None
        self._topic = self._admin.open_topic(settings.topic_of(stream.name))
        self._key = key
        self._place = self._place_of(mark)
        self._note(self._place[1])

    def _place_of(self, mark: str) -> tuple[int, int]:
        """The partition of this key, and the offset before which nothing of it can be of interest."""
        if mark:
            topic_id, partition, offset = mark.rsplit("/", 2)
            if topic_id == self._topic.topic_id and int(partition) < self._topic.partitions:
                return int(partition), int(offset)
        return crc32(self._key.encode()) % self._topic.partitions, 0

    def _note(self, offset: int) -> None:
        self._offset = offset
        self.mark = f"{self._topic.topic_id}/{self._place[0]}/{offset}"

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """Read the partition backwards for the last committed record of these runs. See Emitter."""
        number, noted = self._place
        partition = Partition(self._admin, self._topic.name, number)
        with self._mapped():
            producer = self._fenced()
            lowest, end = partition.bounds(lambda: self._end_own_transaction(producer))
            # An end before what was noted: the topic was created again by brokers that know no ids of topics.
            start = max(lowest, noted) if noted <= end else lowest
            offset, found = partition.search(self._key, start, end, producer_ids)
        self._note(offset)
        return found

    def _fenced(self) -> "Producer":
        """The producer of this key, once whoever had it before can write no more."""
        from confluent_kafka import KafkaException, Producer

        if self._producer is None:
            producer = Producer(
                self._admin.options
                | {
                    "transactional.id": self._key,
                    "transaction.timeout.ms": int(TRANSACTION_S * 1000),
                    "batch.size": max(1, min(1_000_000, self._topic.max_bytes - RECORD_BYTES)),
                    "message.max.bytes": min(max(1_000_000, self._topic.max_bytes), 1_000_000_000),
                    "batch.num.messages": 100_000,
                }
            )
            try:
                producer.init_transactions(REQUEST_S)
            except KafkaException as error:
                if error.args[0].name() != "_TIMED_OUT":
                    raise
                raise Unavailable(
                    f"Kafka at {self._admin.settings.kafka_broker} begins no transaction within {REQUEST_S:.0f} s: "
                    "are there as many brokers as its transaction.state.log.replication.factor asks for?"
                ) from error
            producer.poll(0)
            self._admin.log.connected = True
            self._producer = producer
        return self._producer

    def emit(self, batch: Batch) -> None:
        """Store the batch in one transaction. See Emitter."""
        lines = batch.lines.splitlines()
        self._check_sizes(batch, lines)
        records: list[dict[str, Any]] = [{"value": line, "key": self._key} for line in lines]
        delivered: list[int] = []
        records[-1]["callback"] = lambda error, record: delivered.append(-1 if error else record.offset())
        with self._mapped():
            producer = self._fenced()
            producer.begin_transaction()
            queued = producer.produce_batch(self._topic.name, records, partition=self._place[0])
            if queued < len(records):
                raise Unavailable(f"only {queued} of {len(records)} records could be queued")
            if producer.flush(COMMIT_S):
                raise self._late()
            if 0 <= delivered[0] < self._offset:
                # Not committed, or the cursor would pass over what came before and is still pending.
                raise SinkReplaced(f"topic {self._topic.name} was deleted and created again")
            producer.commit_transaction(COMMIT_S)
        self._note(delivered[0])

    def _check_sizes(self, batch: Batch, lines: Sequence[bytes]) -> None:
        """Raise Rejected for the first record that the topic never takes, once what comes before it is stored."""
        limit = self._topic.max_bytes
        most = limit - RECORD_BYTES - len(self._key)
        if len(batch.lines) <= most:
            return
        for sequence, line in enumerate(lines, batch.first):
            if len(line) > most:
                if sequence > batch.first:
                    self.emit(batch.between(batch.first, sequence - 1))
                raise Rejected(
                    sequence,
                    f"{len(line)} bytes are more than topic {self._topic.name} takes (max.message.bytes {limit})",
                )

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Every error of the client becomes one for the worker; whatever it is, asking the topic again settles it."""
        from confluent_kafka import KafkaException

        try:
            yield
        except (KafkaException, SystemError) as error:
            # Some fatal errors come out of flush and poll as SystemError, with the real one behind.
            real = error if isinstance(error, KafkaException) else error.__cause__
            if isinstance(real, KafkaException):
                raise self._meaning(real) from error
            raise Unavailable(f"the Kafka client of {self._key} failed: {error}") from error

    def _meaning(self, error: "KafkaException") -> Unavailable:
        match error.args[0].name():
            case "_FENCED":
                return Unavailable(
                    f"another process writes as {self._key}: a copy of this journal? "
                    f"(or this one slept longer than {TRANSACTION_S:.0f} s)"
                )
            case "MSG_SIZE_TOO_LARGE":
                return Unavailable(
                    f"topic {self._topic.name} takes less than {self._topic.max_bytes} bytes at once now"
                )
            case "_TIMED_OUT":
                return self._late()
        return failed(error, self._admin.settings, self._admin.log)

    def _late(self) -> Unavailable:
        broker, reason = self._admin.settings.kafka_broker, self._admin.log.reason
        return Unavailable(f"Kafka at {broker} did not answer within {COMMIT_S:.0f} s" + f": {reason}" * bool(reason))

    def _end_own_transaction(self, producer: "Producer") -> None:
        """Commit what may still be open of this key in a partition, although it was fenced.

        A broker fails to end a transaction in a partition that has no leader at that moment, as while it
        starts again after a crash (seen with Kafka 4.3.1), and no timeout ends it later. Only the end of another
        transaction of the same producer there does. It must be a commit: the one that was left open may have been
        acknowledged, and rows that nobody acknowledged are counted by the cursor, which is asked only then. The
        record without a value that it takes is no record of the stream.
        """
        producer.begin_transaction()
        producer.produce(self._topic.name, None, key=self._key, partition=self._place[0])
        producer.commit_transaction(COMMIT_S)

    def close(self) -> None:
        """Abandon whatever is under way; the next instance fences it."""
        self._producer = None


def open_emitter(settings: Settings, stream: Stream, key: str, mark: str) -> KafkaEmitter:
    """The emitter of the sink `kafka`. See Sink."""
    return KafkaEmitter(settings, stream, key, mark)


def emit_message(message: Mapping[str, Any], *, producer: Any, topic: str) -> bool:
    """Send one message with a kafka-python producer; True once it is acknowledged, else False with the reason logged.

    The producer may have a `value_serializer`. It bounds the wait by its `max_block_ms` and
    `delivery_timeout_ms`. Carries no ids, so it is outside the exactly-once promise.
    """
    from kafka.errors import KafkaError

    try:
        line = without_ids(message)
        value = msgspec.json.decode(line) if producer.config.get("value_serializer") else line.rstrip()
        producer.send(topic, value=value).get(timeout=REQUEST_S * 2)
    except (ValueError, KafkaError) as error:
        logger.error("{}: message not sent: {}", topic, error)
        return False
    return True
