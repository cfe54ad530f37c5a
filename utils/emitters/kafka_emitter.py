"""Kafka: one transaction per batch, one partition per producer, the topic itself is the cursor."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn
from zlib import crc32

import msgspec
from loguru import logger

from utils.app.config import Settings
from utils.app.errors import Rejected, SinkReplaced, ToolkitError, Unavailable
from utils.clients.kafka_admin import REQUEST_S, ClientLog, librdkafka_options, open_topic, unreachable
from utils.records.record import Batch, Identity, without_ids

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaException, Message, Producer

TRANSACTION_S = 10.0  # how long a dead producer may hide later rows from read_committed readers
COMMIT_S = 12.0  # a broker that dies costs about 9 s until another one leads
DEFAULT_MAX_BYTES = 1_048_588
RECORD_BYTES = 100  # what surrounds a record that is alone in its batch, generously
FIRST_WINDOW = 2_000
SCAN_S = 15.0
HELD_UP_S = 1.0  # longer than a transaction of a living producer usually hides rows
SCAN_RECORDS = 5_000
CLOCK_SLACK_S = 3_600.0  # what this machine's clock may have been set back meanwhile

_identity = msgspec.json.Decoder(Identity)


class KafkaEmitter:
    """Writes to the topic with transactions that a killed predecessor cannot disturb (rule 11).

    The first use of a producer_id, by `last_sequence` or `emit`, fences whoever wrote with it before.
    `since_epoch_s` bounds the search for a producer_id by the time of sending: give it only if nothing
    of that producer can have been sent before. Every call has a deadline.
    """

    def __init__(self, settings: Settings, since_epoch_s: float | None = None) -> None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        self._settings, self._topic = settings, settings.topic
        self._since_epoch_s = since_epoch_s
        self._log = ClientLog("kafka")
        self._options = librdkafka_options(settings) | {
            "error_cb": self._log.on_error,
            "logger": self._log.logger,
        }
        self._producers: dict[str, Producer] = {}
        self._partition: dict[str, int] = {}
        self._offset: dict[str, int] = {}
        try:
            self._admin: AdminClient = AdminClient(self._options)
        except KafkaException as error:
            raise ToolkitError(f"Kafka cannot be used with these settings: {error.args[0].str()}") from error
        self._partitions = open_topic(self._admin, settings, self._log)
        self._max_bytes = self._topic_max_bytes()

    def _topic_max_bytes(self) -> int:
        """The largest record batch that the topic takes; the usual one if this user may not know it."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import ConfigResource

        topic = ConfigResource(ConfigResource.Type.TOPIC, self._topic)
        try:
            found = self._admin.describe_configs([topic], request_timeout=REQUEST_S)[topic].result()
            return int(found["max.message.bytes"].value)
        except KafkaException as error:
            logger.debug("kafka: max.message.bytes of {} unknown: {}", self._topic, error.args[0].str())
            return DEFAULT_MAX_BYTES

    def last_sequence(self, producer_id: str) -> int:
        """Highest sequence of this producer among the committed records. See Emitter."""
        self._producer(producer_id)
        likely = crc32(producer_id.encode()) % self._partitions
        for partition in sorted(range(self._partitions), key=lambda each: each != likely):
            last = self._last_in(partition, producer_id)
            if last:
                # It stays where it is found, even if partitions were added since: order is per partition.
                self._partition[producer_id] = partition
                return last
        return 0

    def _producer(self, producer_id: str) -> "Producer":
        from confluent_kafka import KafkaException, Producer

        if producer_id not in self._producers:
            producer = Producer(
                self._options
                | {
                    "transactional.id": producer_id,
                    "transaction.timeout.ms": int(TRANSACTION_S * 1000),
                    "batch.size": max(1, min(1_000_000, self._max_bytes - RECORD_BYTES)),
                    "message.max.bytes": max(1_000_000, self._max_bytes),
                    "batch.num.messages": 100_000,
                }
            )
            try:
                producer.init_transactions(REQUEST_S)
            except KafkaException as error:
                producer.poll(0)
                self._fail(error, producer_id)
            producer.poll(0)
            self._log.connected = True
            self._producers[producer_id] = producer
            self._partition[producer_id] = crc32(producer_id.encode()) % self._partitions
        return self._producers[producer_id]

    def emit(self, batch: Batch) -> None:
        """Store the batch in one transaction. See Emitter."""
        from confluent_kafka import KafkaException

        producer = self._producer(batch.producer_id)
        key = batch.producer_id
        lines = batch.lines.splitlines()
        self._check_sizes(batch, lines)
        records: list[dict[str, Any]] = [{"value": line, "key": key} for line in lines]
        delivered: list[int] = []
        records[-1]["callback"] = lambda error, record: delivered.append(-1 if error else record.offset())
        begun_s = time.time()  # not monotonic: what counts is the broker's time, even if this machine slept
        try:
            producer.begin_transaction()
            queued = producer.produce_batch(self._topic, records, partition=self._partition[key])
            if queued < len(records):
                raise Unavailable(f"only {queued} of {len(records)} messages could be queued")
            if producer.flush(COMMIT_S):
                raise unreachable(self._settings, self._log)
            if 0 <= delivered[0] <= self._offset.get(key, -1):
                # Not committed, or the cursor would pass over what came before and still waits.
                raise SinkReplaced(f"topic {self._topic} was deleted and created again")
            producer.commit_transaction(COMMIT_S)
        except KafkaException as error:
            producer.poll(0)
            self._fail(error, key, took_s=time.time() - begun_s)
        self._offset[key] = delivered[0]

    def _check_sizes(self, batch: Batch, lines: list[bytes]) -> None:
        most = self._max_bytes - RECORD_BYTES - len(batch.producer_id)
        if len(batch.lines) > most:
            for sequence, line in enumerate(lines, batch.first):
                if len(line) > most:
                    raise Rejected(
                        sequence,
                        f"{len(line)} bytes are more than topic {self._topic} takes "
                        f"(max.message.bytes {self._max_bytes})",
                    )

    def _fail(self, error: "KafkaException", producer_id: str, took_s: float = 0.0) -> NoReturn:
        """Raise what a failed transactional call means for the worker."""
        reason = error.args[0]
        match reason.name():
            case "_FENCED" if took_s < TRANSACTION_S:
                raise ToolkitError(
                    f"another process writes to Kafka as {producer_id}: is this journal in use twice?"
                ) from error
            case "_FENCED":
                raise Unavailable(f"the brokers gave up a transaction after {took_s:.0f} s") from error
            case "MSG_SIZE_TOO_LARGE":
                raise Unavailable(f"topic {self._topic} takes less than {self._max_bytes} bytes at once now") from error
            case "_TIMED_OUT" | "_TRANSPORT" | "_AUTHENTICATION":
                raise unreachable(self._settings, self._log) from error
        raise Unavailable(f"Kafka at {self._settings.kafka_broker}: {reason.str()}") from error

    def _last_in(self, partition: int, producer_id: str) -> int:
        """The last sequence of a producer in a partition, searched backwards in growing windows; 0 = none."""
        from confluent_kafka import KafkaException

        try:
            lowest, end = self._bounds(partition, producer_id)
            window = FIRST_WINDOW
            with closing(self._reader("read_committed")) as consumer:
                while end > lowest:
                    start = max(lowest, end - window)
                    last = 0
                    for own in self._own(consumer, partition, start, end, producer_id):
                        last = _last_of(own, producer_id) or last
                    if last:
                        return last
                    end, window = start, window * 8
        except KafkaException as error:
            self._fail(error, producer_id)
        return 0

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

    def _bounds(self, partition: int, producer_id: str) -> tuple[int, int]:
        """First offset worth reading and the high watermark, once nothing below it is hidden by a transaction."""
        from confluent_kafka import IsolationLevel
        from confluent_kafka.admin import OffsetSpec

        if self._since_epoch_s is None:
            oldest = OffsetSpec.earliest()
        else:
            oldest = OffsetSpec.for_timestamp(int((self._since_epoch_s - CLOCK_SLACK_S) * 1000))
        lowest = self._ask_offset(partition, oldest, IsolationLevel.READ_UNCOMMITTED)
        end = self._ask_offset(partition, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        began_s, own_ended = time.monotonic(), False
        while (shown := self._ask_offset(partition, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)) < end:
            waited_s = time.monotonic() - began_s
            if waited_s > SCAN_S:
                raise Unavailable(f"partition {partition} of {self._topic} waits for another producer's transaction")
            if waited_s > HELD_UP_S and not own_ended:
                self._end_own_transaction(partition, shown, end, producer_id)
                own_ended = True
            time.sleep(0.05)
        return (end if lowest < 0 else lowest), end

    def _end_own_transaction(self, partition: int, start: int, end: int, producer_id: str) -> None:
        """Commit what may still be open of this producer in a partition, although it was fenced.

        A broker forgets to end a transaction in a partition that has no leader at that moment, as while it
        starts again after a crash (seen with Kafka 4.3.1), and no timeout ends it later. Only the end of another
        transaction of the same producer there does. It must be a commit: the forgotten one may have been
        acknowledged, and rows that nobody acknowledged are counted by the cursor, which is asked only then. The
        record without a value that it takes is no message.
        """
        with closing(self._reader("read_uncommitted")) as consumer:
            if not any(self._own(consumer, partition, start, end, producer_id)):
                return
        producer = self._producers[producer_id]
        producer.begin_transaction()
        producer.produce(self._topic, None, key=producer_id, partition=partition)
        producer.commit_transaction(COMMIT_S)

    def _ask_offset(self, partition: int, what: Any, isolation: Any) -> int:
        from confluent_kafka import TopicPartition

        place = TopicPartition(self._topic, partition)
        asked = self._admin.list_offsets({place: what}, isolation_level=isolation, request_timeout=REQUEST_S)
        return int(asked[place].result().offset)

    def _own(
        self, consumer: "Consumer", partition: int, start: int, end: int, producer_id: str
    ) -> "Iterator[list[Message]]":
        """The records with the producer's key from offset `start` up to `end`, as they are fetched."""
        from confluent_kafka import KafkaError, TopicPartition

        key = producer_id.encode()
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
        self._producers.clear()


def _last_of(records: "list[Message]", producer_id: str) -> int:
    """The last sequence of this producer in records with its key; 0 = none."""
    for record in reversed(records):
        identity = _identity.decode(record.value() or b"{}")
        if identity.producer_id == producer_id and identity.sequence:
            return identity.sequence
    return 0


def emit_message(message: Mapping[str, Any], *, producer: Any, topic: str) -> bool:
    """Send one message with a kafka-python producer; True once it is acknowledged, else False with the reason logged.

    The producer may have a `value_serializer`. It bounds the wait by its `max_block_ms` and
    `delivery_timeout_ms`. Carries no ids, so it is outside the exactly-once promise.
    """
    from kafka.errors import KafkaError

    try:
        _, line = without_ids(message)
        value = msgspec.json.decode(line) if producer.config.get("value_serializer") else line.rstrip()
        producer.send(topic, value=value).get(timeout=REQUEST_S * 2)
    except (ValueError, KafkaError) as error:
        logger.error("{}: message not sent: {}", topic, error)
        return False
    return True
