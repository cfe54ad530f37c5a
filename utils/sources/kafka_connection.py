"""One connection of a reader of Kafka: the partitions that it reads, and what was fetched of them."""

import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

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
        self._resume, self._in_group = resume, group is not None
        self.positions: dict[int, str] | None = None  # behind what was fetched; None until the group gives partitions
        self._ends: dict[int, int] = {}  # where a partition ended when it was read to its end
        self._ready: deque[tuple[int, Chunk]] = deque()  # what was fetched, not decoded
        self._handed_out: dict[int, str] = {}  # positions

    def begin(self) -> None:
        """Start to read. What it raises leaves a connection that must be closed."""
        if self._in_group:
            self._consumer.subscribe(
                [self._watch.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
        else:
            self._take(range(self._watch.partitions))

    def _assigned(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        self._take([each.partition for each in partitions])

    def _revoked(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        self.positions = None
        for each in (self._ends, self._ready, self._handed_out):
            each.clear()
        consumer.unassign()

    def _take(self, numbers: Iterable[int]) -> None:
        """Begin at the stored position of each partition."""
        from confluent_kafka import TopicPartition

        positions: dict[int, str] = {}
        news: list[tuple[int, int, Chunk]] = []
        for number in numbers:
            stored = position = self._resume(self._name(number))
            offset, _, topic_id = stored.partition(":")
            if stored == "end":
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._watch.topic, number), ANSWER_S)
                position = self._position(end) if end else ""
                news.append((-end, number, Chunk(self._name(number), stored, position, [])))
            elif stored and not (offset.isdecimal() and topic_id == self._watch.topic_id):
                position = ""  # of another topic that had this name
                news.append((0, number, Chunk(self._name(number), stored, position, [])))
            positions[number] = position
        self.positions = positions
        self._ready.extend((number, chunk) for _, number, chunk in sorted(news, key=lambda each: each[0]))
        self._assign()

    def _assign(self) -> None:
        from confluent_kafka import TopicPartition

        self._consumer.assign([
            TopicPartition(self._watch.topic, number, _offset(position) if position else BEGINNING)
            for number, position in (self.positions or {}).items()
        ])  # fmt: skip

    def _name(self, number: int) -> str:
        return f"{self._watch.topic}-{number}"

    def _position(self, offset: int) -> str:
        return f"{offset}:{self._watch.topic_id}"

    @property
    def at_end(self) -> bool:
        """Whether all partitions of this reader are read to their present end."""
        return self.positions is not None and not self._ready and self._ends.keys() == self.positions.keys()

    @property
    def settled(self) -> bool:
        """Whether this connection has shown what it can read."""
        return bool(self._handed_out) or self.at_end

    def fetch(self, max_records: int) -> Chunk | None:
        """What comes next: messages of one partition, a chunk that only reports something, or nothing yet."""
        if not self._ready:
            fetched = self._consumer.consume(max_records, STEP_S)
            # Another topic of this name may have taken the place: then these records do not follow what was read.
            self._watch.check(ASK_NEWS_S if fetched else ASK_EVERY_S)
            messages: dict[int, list[Message]] = {}
            begins_again = set[int]()
            for message in fetched:
                number = message.partition() or 0
                if not message.error():
                    self._ends.pop(number, None)
                    messages.setdefault(number, []).append(message)
                elif self._is_outside(message):
                    begins_again.add(number)
            for number in begins_again:
                messages.pop(number, None)
                self._add(number, "", [])
            for number, found in messages.items():
                self._add(number, self._position((found[-1].offset() or 0) + 1), found)
            if begins_again:
                self._assign()
        if not self._ready:
            return None
        number, chunk = self._ready.popleft()
        self._handed_out[number] = chunk.end
        return chunk

    def _add(self, number: int, end: str, messages: "list[Message]") -> None:
        if self.positions is None or number not in self.positions:
            return  # the group took the partition away just now
        start, self.positions[number] = self.positions[number], end
        self._ready.append((number, Chunk(self._name(number), start, end, messages)))

    def _is_outside(self, event: "Message") -> bool:
        """Whether an event says that a position is outside of what is there; the end of a partition is noted."""
        from confluent_kafka import KafkaError, KafkaException

        error, number = event.error(), event.partition()
        assert error is not None
        if event.topic() is None or number is None:  # of the group or a broker
            raise KafkaException(error)
        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[number] = event.offset() or 0
            return False
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            return True
        raise KafkaException(error)

    def handled(self) -> None:
        """Tell the group sooner or later that everything that was handed out is handled: tools show its lag."""
        from confluent_kafka import TopicPartition

        if not self._in_group or self.positions is None:
            return
        offsets = {number: _offset(position) for number, position in self._handed_out.items() if position}
        if not self._ready:
            offsets |= self._ends  # behind marks of transactions
        if places := [
            TopicPartition(self._watch.topic, number, offset) for number, offset in offsets.items() if offset
        ]:
            self._consumer.store_offsets(offsets=places)

    def close(self) -> None:
        """Leave the group; what was handled is committed first, if a broker answers at once."""
        from confluent_kafka import KafkaException

        try:
            self._consumer.close()
        except (KafkaException, RuntimeError):
            return


def _offset(position: str) -> int:
    return int(position.partition(":")[0])
