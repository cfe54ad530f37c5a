"""Kafka: one transaction per batch, one partition per journal, the topic itself is the cursor."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn
from zlib import crc32

import msgspec
from loguru import logger

from utils.app.config import Settings
from utils.app.errors import Rejected, SinkReplaced, ToolkitError, Unavailable
from utils.clients.kafka_admin import REQUEST_S, ClientLog, librdkafka_options, open_topic, unreachable
from utils.records.record import Batch, without_ids
from utils.records.stream import Stream

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaException, Message, Producer

TRANSACTION_S = 10.0  # how long a dead producer may hide later rows from read_committed readers
COMMIT_S = 12.0  # a broker that dies costs about 9 s until another one leads
RECORD_BYTES = 100  # what surrounds a record that is alone in its batch, generously
FIRST_WINDOW = 2_000
SCAN_S = 15.0
HELD_UP_S = 1.0  # longer than a transaction of a living producer usually hides rows
SCAN_RECORDS = 5_000


class _Identity(msgspec.Struct):
    """Only what tells one record from another; decoding it skips the rest at C speed."""

    producer_id: str | None = None
    sequence: int | None = None


_identity = msgspec.json.Decoder(_Identity)


class KafkaEmitter:
    """Writes to the topic of a stream with transactions that a killed predecessor cannot disturb.

    `key` is `<name>-<journal>`: the transactional id, so that `last` fences whoever wrote with it before, and the key
    of all records, which share one partition. The mark is `topic id/partition/offset`: `last` searches from the end
    of the partition back to that offset. Every call has a deadline.
    """

    max_records = 20_000

    def __init__(self, settings: Settings, stream: Stream, key: str, mark: str = "") -> None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        self.mark = mark
        self._settings, self._topic, self._key = settings, settings.topic_of(stream.name), key
        self._log = ClientLog("kafka")
        self._options = librdkafka_options(settings) | {"error_cb": self._log.on_error, "logger": self._log.logger}
        self._producer: Producer | None = None
        try:
            self._admin: AdminClient = AdminClient(self._options)
        except KafkaException as error:
            raise ToolkitError(f"Kafka cannot be used with these settings: {error.args[0].str()}") from error
        self._opened = open_topic(self._admin, settings, self._topic, self._log)
        self._max_bytes = self._opened.max_bytes

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """Read the partition backwards for the last committed record of these runs. See Emitter."""
        from confluent_kafka import KafkaException

        producer = self._fenced()
        partition, noted = self._place()
        try:
            lowest, end = self._bounds(producer, partition)
            found, window, stop, searched_from = None, FIRST_WINDOW, max(lowest, noted), end
            with closing(self._reader("read_committed")) as consumer:
                while producer_ids and found is None and end > stop:
                    start = max(stop, end - window)
                    for own in self._own(consumer, partition, start, end):
                        found = _last_of(own, producer_ids) or found
                    end, window = start, window * 8
        except KafkaException as error:
            self._fail(error)
        self._note(partition, end if found else searched_from)
        return found

    def _fenced(self) -> "Producer":
        """The producer of this key, once whoever had it before can write no more."""
        from confluent_kafka import KafkaException, Producer

        if self._producer is None:
            producer = Producer(
                self._options
                | {
                    "transactional.id": self._key,
                    "transaction.timeout.ms": int(TRANSACTION_S * 1000),
                    "batch.size": max(1, min(1_000_000, self._max_bytes - RECORD_BYTES)),
                    "message.max.bytes": max(1_000_000, self._max_bytes),
                    "batch.num.messages": 100_000,
                }
            )
            try:
                producer.init_transactions(REQUEST_S)
                producer.poll(0)
            except KafkaException as error:
                self._fail(error)
            self._log.connected = True
            self._producer = producer
        return self._producer

    def _place(self) -> tuple[int, int]:
        """The partition of this key, and the offset before which nothing of it can be of interest."""
        if self.mark:
            topic_id, partition, offset = self.mark.rsplit("/", 2)
            if topic_id == self._opened.topic_id and int(partition) < self._opened.partitions:
                return int(partition), int(offset)
        return crc32(self._key.encode()) % self._opened.partitions, 0

    def _note(self, partition: int, offset: int) -> None:
        self.mark = f"{self._opened.topic_id}/{partition}/{offset}"

    def emit(self, batch: Batch) -> None:
        """Store the batch in one transaction. See Emitter."""
        from confluent_kafka import KafkaException

        producer = self._fenced()
        partition, noted = self._place()
        lines = batch.lines.splitlines()
        self._check_sizes(batch, lines)
        records: list[dict[str, Any]] = [{"value": line, "key": self._key} for line in lines]
        delivered: list[int] = []
        records[-1]["callback"] = lambda error, record: delivered.append(-1 if error else record.offset())
        try:
            producer.begin_transaction()
            queued = producer.produce_batch(self._topic, records, partition=partition)
            if queued < len(records):
                raise Unavailable(f"only {queued} of {len(records)} records could be queued")
            if producer.flush(COMMIT_S):
                raise unreachable(self._settings, self._log)
            if 0 <= delivered[0] < noted:
                # Not committed, or the cursor would pass over what came before and is still pending.
                raise SinkReplaced(f"topic {self._topic} was deleted and created again")
            producer.commit_transaction(COMMIT_S)
        except KafkaException as error:
            self._fail(error)
        except SystemError as error:  # librdkafka's fatal errors come out of flush so
            raise Unavailable(f"the Kafka client of {self._key} failed: {error}") from error
        self._note(partition, delivered[0])

    def _check_sizes(self, batch: Batch, lines: Sequence[bytes]) -> None:
        """Raise Rejected for the first record that the topic never takes, once what comes before it is stored."""
        most = self._max_bytes - RECORD_BYTES - len(self._key)
        if len(batch.lines) <= most:
            return
        for sequence, line in enumerate(lines, batch.first):
            if len(line) > most:
                if sequence > batch.first:
                    self.emit(batch.between(batch.first, sequence - 1))
                raise Rejected(
                    sequence,
                    f"{len(line)} bytes are more than topic {self._topic} takes (max.message.bytes {self._max_bytes})",
                )

    def _fail(self, error: "KafkaException") -> NoReturn:
        """Raise what a failed call means for the worker; whatever it is, asking the topic again settles it."""
        reason = error.args[0]
        match reason.name():
            case "_FENCED":
                raise Unavailable(f"another process writes as {self._key}: a copy of this journal?") from error
            case "MSG_SIZE_TOO_LARGE":
                raise Unavailable(f"topic {self._topic} takes less than {self._max_bytes} bytes at once now") from error
            case "_TIMED_OUT" | "_TRANSPORT" | "_AUTHENTICATION":
                raise unreachable(self._settings, self._log) from error
        raise Unavailable(f"Kafka at {self._settings.kafka_broker}: {reason.str()}") from error

    def _reader(self, isolation: str) -> "Consumer":
        from confluent_kafka import Consumer

        return Consumer(
            self._options
            | {
                "group.id": "unused",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
                "fetch.queue.backoff.ms": 10,
            }
        )

    def _bounds(self, producer: "Producer", partition: int) -> tuple[int, int]:
        """First offset and high watermark, once nothing below it is hidden by a transaction."""
        from confluent_kafka import IsolationLevel
        from confluent_kafka.admin import OffsetSpec

        lowest = self._ask_offset(partition, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        end = self._ask_offset(partition, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        began_s, own_ended = time.monotonic(), False
        while (shown := self._ask_offset(partition, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)) < end:
            waited_s = time.monotonic() - began_s
            if waited_s > SCAN_S:
                raise Unavailable(f"partition {partition} of {self._topic} waits for another producer's transaction")
            if waited_s > HELD_UP_S and not own_ended:
                self._end_own_transaction(producer, partition, shown, end)
                own_ended = True
            time.sleep(0.05)
        return lowest, end

    def _end_own_transaction(self, producer: "Producer", partition: int, start: int, end: int) -> None:
        """Commit what may still be open of this key in a partition, although it was fenced.

        A broker forgets to end a transaction in a partition that has no leader at that moment, as while it
        starts again after a crash (seen with Kafka 4.3.1), and no timeout ends it later. Only the end of another
        transaction of the same producer there does. It must be a commit: the forgotten one may have been
        acknowledged, and rows that nobody acknowledged are counted by the cursor, which is asked only then. The
        record without a value that it takes is no record of the stream.
        """
        with closing(self._reader("read_uncommitted")) as consumer:
            if not any(self._own(consumer, partition, start, end)):
                return
        producer.begin_transaction()
        producer.produce(self._topic, None, key=self._key, partition=partition)
        producer.commit_transaction(COMMIT_S)

    def _ask_offset(self, partition: int, what: Any, isolation: Any) -> int:
        from confluent_kafka import TopicPartition

        place = TopicPartition(self._topic, partition)
        asked = self._admin.list_offsets({place: what}, isolation_level=isolation, request_timeout=REQUEST_S)
        return int(asked[place].result().offset)

    def _own(self, consumer: "Consumer", partition: int, start: int, end: int) -> "Iterator[list[Message]]":
        """The records with this key from offset `start` up to `end`, as they are fetched."""
        from confluent_kafka import KafkaError, TopicPartition

        key = self._key.encode()
        consumer.assign([TopicPartition(self._topic, partition, start)])
        deadline_s = time.monotonic() + SCAN_S
        while time.monotonic() < deadline_s:
            records = consumer.consume(SCAN_RECORDS, 0.05)
            if records:
                deadline_s = time.monotonic() + SCAN_S
            for error in filter(None, (each.error() for each in records)):
                if error.code() != KafkaError._PARTITION_EOF:  # not the end: what was not seen may be there
                    raise Unavailable(f"topic {self._topic} cannot be read back: {error.str()}")
            yield [each for each in records if not each.error() and each.key() == key and (each.offset() or 0) < end]
            if records and (records[-1].error() or (records[-1].offset() or 0) >= end - 1):
                return
        raise Unavailable(f"partition of {self._topic} cannot be read back")

    def close(self) -> None:
        """Abandon whatever is under way; the next instance fences it."""
        self._producer = None


def _last_of(records: "list[Message]", producer_ids: Collection[str]) -> tuple[str, int] | None:
    """The last of the records that belongs to one of these runs."""
    for record in reversed(records):
        identity = _identity.decode(record.value() or b"{}")
        if identity.producer_id in producer_ids and identity.producer_id and identity.sequence:
            return identity.producer_id, identity.sequence
    return None


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
