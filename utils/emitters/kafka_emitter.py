"""The Kafka sink: one transaction per batch of up to 4 MiB, one partition per journal. The topic is the cursor."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
from loguru import logger

from utils.app.config import Settings
from utils.app.errors import Rejected, SinkReplaced, Unavailable
from utils.clients.kafka_admin import REQUEST_S, Admin, mapped_error
from utils.emitters.base import ROW_GROUP_RECORDS
from utils.records.external import identity_of
from utils.records.record import Batch, without_ids
from utils.records.stream import Stream

if TYPE_CHECKING:
    from confluent_kafka import Producer

TRANSACTION_S = 10.0  # how long the transaction of a dead producer may hide later records from read_committed readers
MAX_BYTES = 4 << 20  # of a transaction: on a slow connection to the brokers a larger one might never end in time
COMMIT_S = 12.0  # when a broker dies, it takes about 9 s until another one is the leader
HELD_UP_S = 1.0  # longer than the transaction of a living producer usually takes
SCAN_S, SCAN_RECORDS = 15.0, 5_000  # how long a search may be without progress; how many records it reads at once
RECORD_BYTES = 100  # more than the overhead of a record that is alone in its batch
_READER = {
    "group.id": "unused",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 10,
    "fetch.queue.backoff.ms": 10,
}


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The offset where a search for the last record of a key begins, and the ids of the record there, if any."""

    topic_id: str
    partition: int
    offset: int
    ids: tuple[str, int] | None = None


class KafkaEmitter:
    """Emitter for the topic of a stream, with transactions that a killed predecessor cannot disturb.

    `key` is `<name>-<journal>`. As the transactional id it makes `last` fence earlier processes of this journal; as the
    key of all records it keeps them in one partition. `last` searches from the given mark on. Calls have deadlines.
    """

    max_records = ROW_GROUP_RECORDS

    def __init__(self, settings: Settings, stream: Stream, key: str, mark: str = "") -> None:
        self._admin = Admin(settings)
        self._producer: Producer | None = None
        self._topic = self._admin.open_topic(settings.topic_of(stream.name))
        self._key = key
        known = msgspec.json.decode(mark, type=Mark) if mark else None
        if known and known.topic_id == self._topic.topic_id:
            self._begin = known
        else:
            self._begin = Mark(self._topic.topic_id, crc32(key.encode()) % self._topic.partitions, 0)
        self._mark = self._begin
        self._end = 0  # of the partition, when it was last read or written

    @property
    def mark(self) -> str:
        """See Emitter."""
        return msgspec.json.encode(self._mark).decode()

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """Search the partition for the last committed record of these runs. See Emitter."""
        with self._mapped():
            lowest, end = self._bounds(self._fenced())
            self._end = end
            mark = self._begin
            # A partition that ends before the mark has lost its newest records in a power cut of the brokers.
            start = mark.offset if mark.offset <= end else lowest
            offset, found = self._search(start, end, producer_ids) if start < end and producer_ids else (end, None)
        if not found and mark.ids and mark.ids[0] in producer_ids and mark.offset < lowest:
            return mark.ids  # retention has removed this record after it was stored
        self._mark = msgspec.structs.replace(mark, offset=offset, ids=found)
        return found

    def _fenced(self) -> "Producer":
        """Return the producer of this key, once no earlier producer of the key can write any more."""
        from confluent_kafka import Producer

        if self._producer is None:
            producer = Producer(
                self._admin.options
                | {
                    "transactional.id": self._key,
                    "transaction.timeout.ms": int(TRANSACTION_S * 1000),
                    "batch.size": min(1_000_000, self._topic.max_bytes - RECORD_BYTES),
                }
            )
            producer.init_transactions(REQUEST_S)
            self._producer = producer
        return self._producer

    def _bounds(self, producer: "Producer") -> tuple[int, int]:
        """Return the first offset and the end of the partition, once no open transaction hides records before it."""
        from confluent_kafka import IsolationLevel
        from confluent_kafka.admin import OffsetSpec

        lowest = self._offset_of(OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        end = self._offset_of(OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        began_s, is_ended = time.monotonic(), False
        while self._offset_of(OffsetSpec.latest(), IsolationLevel.READ_COMMITTED) < end:
            waited_s = time.monotonic() - began_s
            if waited_s > SCAN_S:
                held_up = f"partition {self._mark.partition} of {self._topic.name}"
                raise Unavailable(f"{held_up} waits for another producer's transaction")
            if waited_s > HELD_UP_S and not is_ended:
                self._end_own_transaction(producer)
                is_ended = True
            time.sleep(0.05)
        return lowest, end

    def _offset_of(self, spec: Any, isolation: Any) -> int:
        """Return the offset of the partition that an OffsetSpec names."""
        from confluent_kafka import TopicPartition

        partition = TopicPartition(self._topic.name, self._mark.partition)
        asked = self._admin.client.list_offsets({partition: spec}, isolation_level=isolation, request_timeout=REQUEST_S)
        return int(asked[partition].result().offset)

    def _end_own_transaction(self, producer: "Producer") -> None:
        """Commit a transaction of this key that may still be open in the partition, although its producer was fenced.

        A broker fails to end a transaction in a partition that has no leader at that moment, as after a crash (seen
        with Kafka 4.3.1), and no timeout ends it later. Only another transaction of the same producer in this partition
        does. It must be a commit, because the commit of the open one may have been acknowledged. If it was not, nothing
        comes twice: the cursor is searched afterwards. The record without a value is not a record of the stream.
        """
        producer.begin_transaction()
        producer.produce(self._topic.name, None, key=self._key, partition=self._mark.partition)
        producer.commit_transaction(COMMIT_S)

    def _search(self, start: int, end: int, known: Collection[str]) -> tuple[int, tuple[str, int] | None]:
        """Return offset and ids of the last committed record of these runs in a range; (`end`, None) without one."""
        from confluent_kafka import Consumer, KafkaError, TopicPartition

        offset, found, is_done = end, None, False
        with closing(Consumer(self._admin.options | _READER)) as consumer:
            consumer.assign([TopicPartition(self._topic.name, self._mark.partition, start)])
            deadline_s = time.monotonic() + SCAN_S
            while not is_done:
                records = consumer.consume(SCAN_RECORDS, 0.05)
                deadline_s = time.monotonic() + SCAN_S if records else deadline_s
                for record in records:
                    place, error = record.offset() or 0, record.error()
                    # A leader that was just elected may report an earlier end for a moment: do not believe it.
                    is_done |= place >= end
                    if error and error.code() != KafkaError._PARTITION_EOF:  # unread records may follow
                        raise Unavailable(f"topic {self._topic.name} cannot be read back: {error.str()}")
                    if not error and record.key() == self._key.encode():
                        ids = identity_of(record.value() or b"{}")
                        if ids and ids[0] in known:
                            offset, found = place, ids
                if time.monotonic() > deadline_s:
                    late = f"partition {self._mark.partition} of {self._topic.name}"
                    raise Unavailable(f"{late} cannot be read back within {SCAN_S:.0f} s")
        return offset, found

    def emit(self, batch: Batch) -> None:
        """Store the batch in one transaction, or in several if it is large. See Emitter."""
        from confluent_kafka import KafkaError, KafkaException

        if len(batch.lines) > MAX_BYTES:  # then it has many records, because no record is so large
            middle = batch.first + batch.count // 2
            self.emit(batch.between(batch.first, middle - 1))
            self.emit(batch.between(middle, batch.last))
            return
        lines = batch.lines.splitlines()
        self._check_sizes(batch, lines)
        records: list[dict[str, Any]] = [{"value": line, "key": self._key} for line in lines]
        delivered: list[int] = []
        records[-1]["callback"] = lambda error, record: delivered.append(-1 if error else record.offset())
        with self._mapped():
            producer = self._fenced()
            producer.begin_transaction()
            queued = producer.produce_batch(self._topic.name, records, partition=self._mark.partition)
            if queued < len(records):
                raise Unavailable(f"only {queued} of {len(records)} records could be queued")
            if producer.flush(COMMIT_S):
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            if 0 <= delivered[0] < self._end + len(records) - 1:  # the first record is before the end that was known
                # Do not commit, or the cursor would skip earlier records, which are pending for the new topic.
                raise SinkReplaced(f"topic {self._topic.name} was deleted and created again")
            producer.commit_transaction(COMMIT_S)
        self._end = delivered[0] + 1
        self._mark = msgspec.structs.replace(self._mark, offset=delivered[0], ids=(batch.producer_id, batch.last))

    def _check_sizes(self, batch: Batch, lines: Sequence[bytes]) -> None:
        """Raise Rejected for the first record that is too large for the topic, once those before it are stored."""
        limit = self._topic.max_bytes
        most = limit - RECORD_BYTES - len(self._key)
        for sequence, line in enumerate(lines, batch.first):
            if len(line) > most:
                if sequence > batch.first:
                    self.emit(batch.between(batch.first, sequence - 1))
                takes = f"topic {self._topic.name} takes (max.message.bytes {limit})"
                raise Rejected(sequence, f"{len(line)} bytes are more than {takes}")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Map every error of the client to Unavailable: asking the topic again is always safe."""
        from confluent_kafka import KafkaException

        try:
            yield
        except (KafkaException, SystemError) as error:
            # Some fatal errors come out of flush and poll as SystemError, with the real error as the cause.
            real = error if isinstance(error, KafkaException) else error.__cause__
            if not isinstance(real, KafkaException):
                raise Unavailable(f"the Kafka client of {self._key} failed: {error}") from error
            if real.args[0].name() == "_FENCED":
                slept = f"(or this one slept longer than {TRANSACTION_S:.0f} s)"
                raise Unavailable(f"another process writes as {self._key}: a copy of this journal? {slept}") from error
            raise mapped_error(real, self._admin.settings, self._admin.log) from error

    def close(self) -> None:
        """Abandon an open transaction; the next emitter of this key fences it. See Emitter."""
        self._producer = None


def open_emitter(settings: Settings, stream: Stream, key: str, mark: str) -> KafkaEmitter:
    """Open the emitter of the sink `kafka`. See Sink."""
    return KafkaEmitter(settings, stream, key, mark)


def emit_message(message: Mapping[str, Any], *, producer: Any, topic: str) -> bool:
    """Send a message with a kafka-python producer. Return True once acknowledged, else log the reason, return False.

    The producer may have a `value_serializer`. Its `max_block_ms` and `delivery_timeout_ms` bound the wait.
    The message carries no ids, so it is outside the exactly-once promise.
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
