"""One connection of a reader of Kafka: the partitions that it reads, and what was fetched of them."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from zlib import crc32

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError
from utils.clients.kafka_admin import Admin, ClientLog
from utils.sources.base import Chunk, Resume

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

STEP_S = 0.02
ASK_EVERY_S = 1.0
ASK_NEWS_S = 0.2  # less than deleting a topic, creating it and writing to it takes
COMMIT_EVERY_S = 1.0
SESSION_S = 6.0
ANSWER_S = 3.0
BEGINNING = -2  # confluent_kafka.OFFSET_BEGINNING


class TopicChangedError(Exception):
    """The topic was created again or has more partitions: connect anew."""


class Reached:
    """How far one partition is read: the position as it was given, and what must be found there first."""

    def __init__(self, position: str, *, again: bool = False) -> None:
        self.position = position
        self.again = again  # the consumer must be told so
        offset, _, fingerprint = position.partition(":")
        self.offset = int(offset or 0)  # the next one that is wanted
        self.expected = (self.offset - 1, int(fingerprint)) if fingerprint else None
        self.end: int | None = None  # where the partition ended when it was read to its end
        # What is to be fetched next: the last handled record again, to compare it.
        self.next = self.expected[0] if self.expected else BEGINNING if again else self.offset

    def passed(self, record: "Message") -> None:
        """A record was fetched."""
        self.end, self.next = None, (record.offset() or 0) + 1

    def advance(self, last: "Message") -> tuple[str, str]:
        """Step behind a record that is handed out: the positions before and after."""
        before, self.offset = self.position, (last.offset() or 0) + 1
        self.position = f"{self.offset}:{crc32(last.value() or b'')}"
        return before, self.position


@dataclass
class Fetched:
    """Records of one partition, not decoded yet."""

    partition: str
    reached: Reached
    records: "list[Message]"


class TopicWatch:
    """Whether a topic is still the same one; a consumer whose broker or topic is gone only stays silent."""

    def __init__(self, admin: Admin, topic: str) -> None:
        self._describe = partial(admin.described, topic)
        self._absent = f"topic {topic} does not exist (yet) at {admin.settings.kafka_broker}"
        self._asked_s = time.monotonic()
        self.topic_id, self.partitions = self._ask()

    def _ask(self) -> tuple[str, int]:
        found = self._describe()
        if found is None:
            raise Absent(self._absent)
        return found

    def check(self, every_s: float) -> None:
        """Raise TopicChangedError if it is another topic or has more partitions; asks no more often than this."""
        if time.monotonic() - self._asked_s >= every_s:
            self._asked_s = time.monotonic()
            if self._ask() != (self.topic_id, self.partitions):
                raise TopicChangedError


class Connection:
    """Reads the partitions of a topic, all of them or those that its group gives it."""

    def __init__(self, settings: Settings, topic: str, group: str | None, resume: Resume, log: ClientLog) -> None:
        from confluent_kafka import Consumer, KafkaException

        admin = Admin(settings, log)
        self._watch = TopicWatch(admin, topic)
        try:
            self._consumer: Consumer = Consumer(
                admin.options
                | {
                    "group.id": group or "unused",
                    "isolation.level": "read_committed",
                    "enable.auto.commit": group is not None,  # what `handled` stores
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
            )
        except KafkaException as error:
            raise ToolkitError(f"Kafka cannot be used with these settings: {error.args[0].str()}") from error
        self._topic, self._resume = topic, resume
        self._in_group = group is not None
        self.reached: dict[int, Reached] = {}
        self.ready: deque[Chunk | Fetched] = deque()
        self.joined = not self._in_group
        self.settled = False

    def begin(self) -> None:
        """Start to read. What it raises leaves a connection that must be closed."""
        if self._in_group:
            self._consumer.subscribe(
                [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
        else:
            self._take(range(self._watch.partitions))

    def _assigned(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        self._take([each.partition for each in partitions])
        self.joined = True

    def _revoked(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        self.joined = False
        self.reached.clear()
        self.ready.clear()
        consumer.unassign()

    def _take(self, numbers: Iterable[int]) -> None:
        """Begin at the stored position of each partition."""
        from confluent_kafka import TopicPartition

        reached: dict[int, Reached] = {}
        ends: list[tuple[int, Chunk]] = []
        for number in numbers:
            position = self._resume(self._name(number))
            if position == "end":
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), ANSWER_S)
                position = f"{end}:" if end else ""
                ends.append((end, Chunk(self._name(number), "end", position, [])))
            reached[number] = Reached(position)
        self.reached = reached
        self.ready.extend(chunk for _, chunk in sorted(ends, key=lambda each: -each[0]))  # those with data first
        self._assign()

    def _assign(self) -> None:
        from confluent_kafka import TopicPartition

        self._consumer.assign([TopicPartition(self._topic, number, each.next) for number, each in self.reached.items()])
        for each in self.reached.values():
            each.again = False

    def _name(self, number: int) -> str:
        return f"{self._topic}-{number}"

    @property
    def at_end(self) -> bool:
        """Whether all partitions of this reader are read to their present end."""
        return self.joined and not self.ready and all(each.end is not None for each in self.reached.values())

    def fetch(self, max_records: int) -> Chunk | Fetched | None:
        """What comes next: records of one partition, a chunk that only reports something, or nothing yet."""
        if not self.ready:
            fetched = self._consumer.consume(max_records, STEP_S)
            # Another topic of this name may have taken the place: then these records do not follow what was read.
            self._watch.check(ASK_NEWS_S if fetched else ASK_EVERY_S)
            partitions: dict[int, list[Message]] = {}
            for record in fetched:
                partitions.setdefault(record.partition() or 0, []).append(record)
            for number, records in partitions.items():
                if wanted := self._wanted(number, records):
                    self.ready.append(Fetched(self._name(number), self.reached[number], wanted))
            if any(each.again for each in self.reached.values()):
                self._assign()
        return self.ready.popleft() if self.ready else None

    def _wanted(self, number: int, records: "list[Message]") -> "list[Message]":
        """The records without events, and without the last handled one if it is still there."""
        from confluent_kafka import KafkaError, KafkaException

        events = [record for record in records if record.error()]
        for event in events:
            if event.topic() is None:  # of the group or a broker
                raise KafkaException(event.error())
        reached = self.reached.get(number)
        if reached is None:  # the group took the partition away just now
            return []
        if reached.expected is None and not events:
            reached.passed(records[-1])
            return records
        found: list[Message] = []
        for record in records:
            error = record.error()
            if error is None:
                reached.passed(record)
                if reached.expected is None:
                    found.append(record)
                    continue
                if (record.offset(), crc32(record.value() or b"")) == reached.expected:
                    reached.expected = None
                    continue
            elif error.code() == KafkaError._PARTITION_EOF and reached.expected is None:
                reached.end = record.offset()
                continue
            elif error.code() not in (
                KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE
            ):  # fmt: skip
                raise KafkaException(error)
            # Another record than the one that was handled last, or none, or no such offset.
            self._begin_again(number)
            return []
        return found

    def _begin_again(self, number: int) -> None:
        """Read a partition from its beginning, because it is not what was read."""
        before = self.reached[number].position
        self.reached[number] = Reached("", again=True)
        if before:
            self.ready.append(Chunk(self._name(number), before, "", []))

    def handled(self) -> None:
        """Tell the group sooner or later that everything that was handed out is handled: tools show its lag."""
        from confluent_kafka import TopicPartition

        offsets = {
            number: each.offset if each.end is None or self.ready else each.end  # behind marks of transactions
            for number, each in self.reached.items()
            if each.expected is None
        }
        places = [TopicPartition(self._topic, number, offset) for number, offset in offsets.items() if offset]
        if self._in_group and places:
            self._consumer.store_offsets(offsets=places)

    def close(self) -> None:
        """Leave the group; what was handled is committed first, if a broker answers at once."""
        from confluent_kafka import KafkaException

        try:
            self._consumer.close()
        except (KafkaException, RuntimeError):
            return
