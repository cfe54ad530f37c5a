"""Source of a stream's topic, read_committed: all partitions, or those of a member of a consumer group."""

import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients.kafka_admin import Admin, ClientLog, mapped_error
from utils.records.codec import Codec
from utils.records.stream import Stream
from utils.sources.base import Chunk, Resume, decode_all

SETTLE_S = 1.0  # how long a poll waits for an answer, because the automatic source asks only once for data
FINISH_S = 20.0  # longer than SESSION_S, because a member that was killed keeps its partitions so long
STEP_S = 0.02
ASK_EVERY_S = 1.0
ASK_NEWS_S = 0.2  # less than it takes to delete a topic, create it again and write to it
COMMIT_EVERY_S = 1.0
SESSION_S = 6.0
ANSWER_S = 3.0


class KafkaSource:
    """Source of all partitions of the topic, or with `group` of those that are assigned to this member.

    A position is `offset:topic id`, after the last handled record. If the topic has another id, or this offset is gone,
    the partition begins again. "end" becomes a position at once: later, it would skip records that have come meanwhile.
    Positions come from `resume` alone. Offsets are also committed to the group, for tools that show its lag: each poll
    implies that the chunk before was handled.
    With `finished`, `poll` returns None only at the end of all partitions, and waits for that up to 20 s.
    """

    name = "kafka"

    def __init__(
        self,
        settings: Settings,
        stream: Stream,
        resume: Resume,
        group: str | None = None,
        *,
        finished: bool = False,
        codec: Codec | None = None,
    ) -> None:
        topic = settings.topic_of(stream.name)
        self.detail = f"{topic} at {settings.kafka_broker}"
        self._settings, self._codec, self._finished = settings, codec or stream.codec, finished
        self._log = ClientLog()
        self._ends: dict[str, str] = {}  # where a reader without a group continues after it has lost its connection
        start = resume if group else lambda name: self._ends[name] if name in self._ends else resume(name)
        self._open = partial(Connection, settings, topic, group, start, self._log)
        self._connection: Connection | None = None

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next records of one partition. See Source."""
        try:
            return self._poll(max_records)
        except KafkaException as error:
            self.close()
            raise mapped_error(error, self._settings, self._log) from error
        except ToolkitError:
            self.close()
            raise

    def _poll(self, max_records: int) -> Chunk | None:
        connection = self._connection or self._connect()
        connection.commit()
        deadline_s = time.monotonic() + (FINISH_S if self._finished else SETTLE_S)
        while (chunk := connection.fetch(max_records)) is None and not connection.at_end:
            if time.monotonic() >= deadline_s:
                if self._finished:
                    raise Unavailable(f"the end of {self.detail} was not reached within {FINISH_S:.0f} s; try again")
                break
        if chunk is None:
            connection.commit()
            return None
        self._ends[chunk.partition] = chunk.end
        # A message with a key and no value is a tombstone (a deletion), or was sent only to end a transaction.
        real = [message for message in chunk.records if message.value() is not None or not message.key()]
        places = (f"{chunk.partition} offset {message.offset()}" for message in real)
        records, invalid = decode_all(self._codec, [message.value() or b"" for message in real], places)
        return replace(chunk, records=records, invalid=invalid)

    def _connect(self) -> "Connection":
        self._log.reason = ""
        self._connection = self._open()
        self._connection.begin()
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class TopicWatch:
    """Check whether a topic is still the same one: a consumer gets no error if its broker or topic is gone."""

    def __init__(self, admin: Admin, topic: str) -> None:
        self.topic, self._admin = topic, admin
        self._asked_s = time.monotonic()
        self.topic_id, self.partitions = self._ask()

    def _ask(self) -> tuple[str, int]:
        found = self._admin.described(self.topic)
        if found is None:
            raise Absent(f"topic {self.topic} does not exist (yet) at {self._admin.settings.kafka_broker}")
        return found

    def check(self, every_s: float) -> None:
        """Raise Unavailable if the topic was created again or has more partitions. Asks once in `every_s`."""
        if time.monotonic() - self._asked_s >= every_s:
            self._asked_s = time.monotonic()
            if self._ask() != (self.topic_id, self.partitions):
                raise Unavailable(f"topic {self.topic} was created again or has more partitions: connecting again")


class Connection:
    """Connection to all partitions of a topic, or those that its group assigns. Chunks contain Kafka messages."""

    def __init__(self, settings: Settings, topic: str, group: str | None, resume: Resume, log: ClientLog) -> None:
        admin = Admin(settings, log)
        self._watch = TopicWatch(admin, topic)
        own = {
            "group.id": group or "unused",
            "isolation.level": "read_committed",
            "enable.auto.commit": group is not None,  # of the offsets that `commit` stores
            "auto.commit.interval.ms": int(COMMIT_EVERY_S * 1000),
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "session.timeout.ms": int(SESSION_S * 1000),
            "heartbeat.interval.ms": int(SESSION_S * 1000) // 3,
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 10,
            "topic.metadata.refresh.interval.ms": 30_000,
        }
        self._consumer = Consumer(admin.options | own)
        self._resume, self._in_group = resume, group is not None
        self.positions: dict[int, str] | None = None  # after the fetched messages; None until the group assigns some
        self._ready: deque[Chunk] = deque()  # fetched, and not returned yet
        self._returned: dict[int, int] = {}  # partition -> offset after the returned chunks
        self._ends: dict[int, int] = {}  # partition -> end offset, for partitions that were read to their end

    def begin(self) -> None:
        """Start to read. After an error the connection must still be closed."""
        if self._in_group:
            self._consumer.subscribe([self._watch.topic], on_assign=self._assigned, on_revoke=self._revoked)
        else:
            self._take(range(self._watch.partitions))

    def _assigned(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        self._take([each.partition for each in given])

    def _revoked(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        self.positions, self._returned, self._ends = None, {}, {}
        self._ready.clear()

    def _take(self, numbers: Iterable[int]) -> None:
        """Begin to read each partition at its stored position."""
        taken: dict[int, str] = {}
        for number in numbers:
            stored = position = self._resume(self._name(number))
            topic_id = stored.partition(":")[2]
            if stored == "end":
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._watch.topic, number), ANSWER_S)
                position = self._position(end) if end else ""
            elif topic_id != self._watch.topic_id:
                position = ""  # of another topic that had this name
            taken[number] = position
            if position != stored:
                # Partitions with records come first, because the automatic source looks only at the first chunk.
                report = Chunk(self._name(number), stored, position, [])
                self._ready.insert(0 if position else len(self._ready), report)
        self.positions, self._returned, self._ends = taken, {}, {}
        self._assign(taken)

    def _assign(self, positions: dict[int, str]) -> None:
        topic, places = self._watch.topic, positions.items()
        self._consumer.assign([TopicPartition(topic, number, _offset(position)) for number, position in places])

    def _name(self, number: int) -> str:
        return f"{self._watch.topic}-{number}"

    def _position(self, offset: int) -> str:
        return f"{offset}:{self._watch.topic_id}"

    @property
    def at_end(self) -> bool:
        """True if all partitions of this reader are read to their present end."""
        return self.positions is not None and self._ends.keys() == self.positions.keys()

    def fetch(self, max_records: int) -> Chunk | None:
        """Return the next messages of one partition, or a chunk that only reports a position; None if there is none."""
        if not self._ready:
            fetched = self._consumer.consume(max_records, STEP_S)
            # If the topic was created again, these messages do not follow those that were read before.
            self._watch.check(ASK_NEWS_S if fetched else ASK_EVERY_S)
            self._add(fetched)
        if not self._ready:
            return None
        chunk = self._ready.popleft()
        self._returned[int(chunk.partition.rpartition("-")[2])] = _offset(chunk.end)
        return chunk

    def _add(self, fetched: list[Message]) -> None:
        """Make chunks of the fetched messages, one per partition. A partition without its offset begins again."""
        positions, found = self.positions or {}, dict[int, list[Message]]()
        for message in fetched:
            number, error = message.partition() or 0, message.error()
            code = error.code() if error else 0
            if message.topic() is None:  # an error of the group or a broker
                raise KafkaException(error)
            if number not in positions:
                continue  # the partition was just revoked
            if not code:
                self._ends.pop(number, None)
                found.setdefault(number, []).append(message)
            elif code == KafkaError._PARTITION_EOF:
                self._ends[number] = message.offset() or 0
            elif code == KafkaError._AUTO_OFFSET_RESET:  # the offset is gone
                found[number] = []
            else:
                raise KafkaException(error)
        for number, messages in found.items():
            start = positions[number]
            positions[number] = self._position((messages[-1].offset() or 0) + 1) if messages else ""
            self._ready.append(Chunk(self._name(number), start, positions[number], messages))
        if not all(found.values()):  # a partition begins again
            self._assign(positions)

    def commit(self) -> None:
        """Store the offsets after the returned chunks, for the client to commit: tools show the lag of the group."""
        if not self._in_group:
            return
        offsets = self._returned | ({} if self._ready else self._ends)  # an end is also after transaction markers
        if places := [TopicPartition(self._watch.topic, *each) for each in offsets.items() if each[1] > 0]:
            self._consumer.store_offsets(offsets=places)

    def close(self) -> None:
        """Leave the group. Stored offsets are committed first, if a broker answers at once."""
        with suppress(KafkaException):
            self._consumer.close()


def _offset(position: str) -> int:
    return int(position.partition(":")[0]) if position else OFFSET_BEGINNING


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> KafkaSource:
    """Make the source of the sink `kafka`. With `shared`, readers are members of one consumer group. See Sink."""
    group = settings.group_of(stream.name) if shared else None
    return KafkaSource(settings, stream, resume, group, finished=finished)
