"""Reads the topic of a stream: one partition each, read_committed, alone or as a member of a consumer group."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients.kafka_admin import Admin, ClientLog, failed
from utils.records.codec import Codec
from utils.records.stream import Stream
from utils.sources.base import Chunk, Resume, decode_all

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

POLL_S = 0.1
SETTLE_S = 1.0  # what the first answer may take, for readers that choose by whether there is data
FINISH_S = 20.0  # a member that was killed keeps its partitions until its session ends
STEP_S = 0.02
ASK_EVERY_S = 1.0
ASK_NEWS_S = 0.2  # less than deleting a topic, creating it and writing to it takes
COMMIT_EVERY_S = 1.0
SESSION_S = 6.0
ANSWER_S = 3.0
BEGINNING = -2  # confluent_kafka.OFFSET_BEGINNING


class KafkaSource:
    """Follows all partitions of the topic, or with `group` those that the group gives to this member.

    A position is `offset:topic id`, behind the last handled record. Where the topic has another id, or nothing at that
    offset any more, the partition begins again. "end" becomes a position at once, so that nothing is passed over that
    comes before the first record is handled. Positions come from `resume` alone; what was handled (which the next poll
    implies) is also committed to the group, for tools that show its lag.
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
        self._open: Callable[[], Connection] = partial(Connection, settings, topic, group, start, self._log)
        self._connection: Connection | None = None

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of one partition. See Source."""
        from confluent_kafka import KafkaException

        try:
            return self._poll(max_records)
        except TopicChangedError:
            self.close()
            return None
        except KafkaException as error:
            self.close()
            raise failed(error, self._settings, self._log) from error
        except ToolkitError:
            self.close()
            raise

    def _poll(self, max_records: int) -> Chunk | None:
        connection = self._connection or self._connect()
        connection.commit()
        settled = connection.settled
        deadline_s = time.monotonic() + (FINISH_S if self._finished else POLL_S if settled else SETTLE_S)
        while (chunk := connection.fetch(max_records)) is None:
            if connection.at_end and (self._finished or not settled):
                break
            if time.monotonic() >= deadline_s:
                if self._finished:
                    raise Unavailable(f"the end of {self.detail} was not reached within {FINISH_S:.0f} s; try again")
                break
        if chunk is None:
            connection.commit()
            return None
        self._ends[chunk.partition] = chunk.end
        # Without a value but with a key it only ends a transaction, or is what compaction knows as deleted.
        real = [message for message in chunk.records if message.value() is not None or not message.key()]
        places = (f"{chunk.partition} offset {message.offset()}" for message in real)
        records, invalid = decode_all(self._codec, [message.value() or b"" for message in real], places)
        return replace(chunk, records=records, invalid=invalid)

    def _connect(self) -> "Connection":
        self._log.reason = ""
        self._connection = self._open()
        self._connection.begin()
        self._log.connected = True
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._log.connected = False
        if connection is not None:
            connection.close()


class TopicChangedError(Exception):
    """The topic was created again or has more partitions: connect anew."""


class TopicWatch:
    """Whether a topic is still the same one; a consumer whose broker or topic is gone only stays silent."""

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
        """Raise TopicChangedError if it is another topic or has more partitions; asks no more often than this."""
        if time.monotonic() - self._asked_s >= every_s:
            self._asked_s = time.monotonic()
            if self._ask() != (self.topic_id, self.partitions):
                raise TopicChangedError


@dataclass(eq=False)
class Partition:
    """One that is read: positions behind what was fetched and what was handed out, and its end once that is reached."""

    name: str
    position: str
    handed_out: str = ""
    end: int | None = None


class Connection:
    """Reads the partitions of a topic, all of them or those that its group gives it; chunks contain messages."""

    def __init__(self, settings: Settings, topic: str, group: str | None, resume: Resume, log: ClientLog) -> None:
        from confluent_kafka import Consumer, KafkaException

        admin = Admin(settings, log)
        self._watch = TopicWatch(admin, topic)
        own = {
            "group.id": group or "unused",
            "isolation.level": "read_committed",
            "enable.auto.commit": group is not None,  # what `commit` stores
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
        try:
            self._consumer: Consumer = Consumer(admin.options | own)
        except KafkaException as error:
            raise ToolkitError(f"Kafka cannot be used with these settings: {error.args[0].str()}") from error
        self._resume, self._in_group = resume, group is not None
        self.partitions: dict[int, Partition] | None = None  # None until the group gives some
        self._ready: deque[tuple[Partition, Chunk]] = deque()  # what was fetched

    def begin(self) -> None:
        """Start to read. What it raises leaves a connection that must be closed."""
        if self._in_group:
            self._consumer.subscribe(
                [self._watch.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
        else:
            self._take(range(self._watch.partitions))

    def _assigned(self, consumer: "Consumer", given: "list[TopicPartition]") -> None:
        self._take([each.partition for each in given])

    def _revoked(self, consumer: "Consumer", taken: "list[TopicPartition]") -> None:
        self.partitions = None
        self._ready.clear()
        consumer.unassign()

    def _take(self, numbers: Iterable[int]) -> None:
        """Begin at the stored position of each partition."""
        from confluent_kafka import TopicPartition

        taken: dict[int, Partition] = {}
        for number in numbers:
            name = f"{self._watch.topic}-{number}"
            stored = position = self._resume(name)
            offset, _, topic_id = stored.partition(":")
            if stored == "end":
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._watch.topic, number), ANSWER_S)
                position = self._position(end) if end else ""
            elif not (offset.isdecimal() and topic_id == self._watch.topic_id):
                position = ""  # of another topic that had this name
            taken[number] = Partition(name, position)
            if position != stored:
                report = taken[number], Chunk(name, stored, position, [])
                # What is not empty comes first: whoever chooses a source looks at its first chunk.
                self._ready.insert(0 if position else len(self._ready), report)
        self.partitions = taken
        self._assign()

    def _assign(self) -> None:
        from confluent_kafka import TopicPartition

        self._consumer.assign([
            TopicPartition(self._watch.topic, number, _offset(each.position))
            for number, each in (self.partitions or {}).items()
        ])  # fmt: skip

    def _position(self, offset: int) -> str:
        return f"{offset}:{self._watch.topic_id}"

    @property
    def at_end(self) -> bool:
        """Whether all partitions of this reader are read to their present end."""
        partitions = self.partitions
        return partitions is not None and not self._ready and all(each.end is not None for each in partitions.values())

    @property
    def settled(self) -> bool:
        """Whether this connection has shown what it can read."""
        return self.at_end or any(each.handed_out for each in (self.partitions or {}).values())

    def fetch(self, max_records: int) -> Chunk | None:
        """What comes next: messages of one partition, a chunk that only reports something, or nothing yet."""
        if not self._ready:
            fetched = self._consumer.consume(max_records, STEP_S)
            # Another topic of this name may have taken the place: then these records do not follow what was read.
            self._watch.check(ASK_NEWS_S if fetched else ASK_EVERY_S)
            self._add(fetched)
        if not self._ready:
            return None
        partition, chunk = self._ready.popleft()
        partition.handed_out = chunk.end
        return chunk

    def _add(self, fetched: "list[Message]") -> None:
        """Divide what was fetched by partitions. One whose position is outside of what is there begins again."""
        from confluent_kafka import KafkaError, KafkaException

        owned, outside = self.partitions or {}, set[Partition]()
        found: dict[Partition, list[Message]] = {}
        for message in fetched:
            partition, error = owned.get(message.partition() or 0), message.error()
            code = error.code() if error else 0
            if code and (message.topic() is None or message.partition() is None):  # of the group or a broker
                raise KafkaException(error)
            if partition is None:
                continue  # the group took it away just now
            if not code:
                partition.end = None
                found.setdefault(partition, []).append(message)
            elif code == KafkaError._PARTITION_EOF:
                partition.end = message.offset()
            elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                outside.add(partition)
            else:
                raise KafkaException(error)
        for partition, messages in (found | {each: [] for each in outside}).items():
            start = partition.position
            partition.position = self._position((messages[-1].offset() or 0) + 1) if messages else ""
            self._ready.append((partition, Chunk(partition.name, start, partition.position, messages)))
        if outside:
            self._assign()

    def commit(self) -> None:
        """Tell the group sooner or later that everything that was handed out is handled: tools show its lag."""
        from confluent_kafka import TopicPartition

        if not self._in_group:
            return
        offsets = {number: _offset(each.handed_out) for number, each in (self.partitions or {}).items()}
        if not self._ready:  # behind marks of transactions
            offsets |= {number: each.end for number, each in (self.partitions or {}).items() if each.end is not None}
        if places := [TopicPartition(self._watch.topic, *each) for each in offsets.items() if each[1] > 0]:
            self._consumer.store_offsets(offsets=places)

    def close(self) -> None:
        """Leave the group; what was handled is committed first, if a broker answers at once."""
        from confluent_kafka import KafkaException

        try:
            self._consumer.close()
        except (KafkaException, RuntimeError):
            return


def _offset(position: str) -> int:
    return int(position.partition(":")[0]) if position else BEGINNING


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> KafkaSource:
    """The source of the sink `kafka`; readers that share it are members of one group. See Sink."""
    group = settings.group_of(stream.name) if shared else None
    return KafkaSource(settings, stream, resume, group, finished=finished)
