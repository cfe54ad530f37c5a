"""Reads the topic of a stream: one partition each, read_committed, alone or as a member of a consumer group."""

import time
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING
from zlib import crc32

from utils.app.config import Settings
from utils.app.errors import Absent, Unavailable
from utils.clients.kafka_admin import ClientLog, described, librdkafka_options, unreachable
from utils.records.stream import Stream
from utils.sources.base import Chunk, Resume, decode_each

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

POLL_S, STEP_S = 0.1, 0.02
SETTLE_S = 1.0  # what the first answer may take, for readers that choose by whether there is data
FINISH_S = 20.0  # a member that was killed keeps its partitions until its session ends
ASK_EVERY_S = 1.0
COMMIT_EVERY_S = 1.0
SESSION_S = 6.0
ANSWER_S = 3.0


class TopicChangedError(Exception):
    """The topic was created again or has more partitions: connect anew."""


class Place:
    """Where one partition is read: the position as it was given, and what must be found there first."""

    def __init__(self, position: str) -> None:
        self.position = position
        offset, _, fingerprint = position.partition(":")
        self.offset = int(offset or 0)  # the next one that is wanted
        self.expected = (self.offset - 1, int(fingerprint)) if fingerprint else None
        self.at_end = False

    @property
    def start(self) -> int:
        """The offset to fetch first: the last handled record again, to compare it."""
        return self.expected[0] if self.expected else self.offset


class KafkaSource:
    """Follows all partitions of the topic, or with `group` those that the group gives to this member.

    A position is `offset:crc32`: the offset after the last handled record and that record's fingerprint.
    If another record is there now, the partition begins again. "end" becomes `offset:` at once, without a record
    to compare, so that nothing is passed over that comes before the first one is handled. Positions come from
    `resume` alone; what was handled (which the next poll implies) is also committed to the group, for tools that
    show its lag.
    With `finished`, `poll` returns None only at the end of all partitions, and waits for that up to 20 s.
    """

    name = "kafka"

    def __init__(
        self, settings: Settings, stream: Stream, resume: Resume, group: str | None = None, *, finished: bool = False
    ) -> None:
        self._settings, self._resume, self._group, self._finished = settings, resume, group, finished
        self._topic, self._codec = settings.topic_of(stream.name), stream.codec
        self.detail = f"{self._topic} at {settings.kafka_broker}"
        self._log = ClientLog("kafka")
        self._client: Client | None = None
        self._positions: dict[str, str] = {}  # without a group: where a new connection continues

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of one partition. See Source."""
        from confluent_kafka import KafkaException

        try:
            client = self._client or self._connect()
            client.commit()
            settled = client.settled
            deadline_s = time.monotonic() + (FINISH_S if self._finished else POLL_S if settled else SETTLE_S)
            while True:
                chunk = self._next(client, max_records)
                at_end = chunk is None and client.at_end
                late = time.monotonic() >= deadline_s
                if late and self._finished and not (chunk or at_end):
                    raise Unavailable(f"the end of {self.detail} was not reached within {FINISH_S:.0f} s; try again")
                if chunk or late or (at_end and (self._finished or not settled)):
                    client.settled |= at_end or chunk is not None
                    return chunk
        except KafkaException as error:
            self.close()
            self._log.reason = self._log.reason or error.args[0].str()
            raise unreachable(self._settings, self._log) from error
        except TopicChangedError:
            self.close()
            return None
        except Unavailable:
            self.close()
            raise

    def _connect(self) -> "Client":
        self._log.reason, self._log.credentials_refused = "", False
        self._client = Client(self._settings, self._topic, self._group, self._start, self._log)
        self._log.connected = True
        return self._client

    def _start(self, name: str) -> str:
        if self._group is None and name in self._positions:
            return self._positions[name]
        return self._resume(name)

    def _next(self, client: "Client", max_records: int) -> Chunk | None:
        chunk = client.news.popleft() if client.news else self._read(client, max_records)
        if chunk is not None:
            self._positions[chunk.partition] = chunk.end
        return chunk

    def _read(self, client: "Client", max_records: int) -> Chunk | None:
        found = client.fetch(max_records)
        if found is None:
            return None
        number, records = found
        place, name = client.places[number], client.partition_name(number)
        last = records[-1]
        start, end = place.position, f"{(last.offset() or 0) + 1}:{crc32(last.value() or b'')}"
        place.position, place.offset = end, (last.offset() or 0) + 1
        values = [record.value() for record in records]
        try:
            decoded = self._codec.decode_lines(b"\n".join(values) + b"\n")  # type: ignore[arg-type]  # None is caught
            if len(decoded) == len(records):  # a record that contains a line end could pass for two
                return Chunk(name, start, end, decoded)
        except (ValueError, TypeError):
            pass  # at least one record needs a closer look
        # Without a value but with a key it only ends a transaction, or is what compaction knows as deleted.
        real = [record for record in records if record.value() is not None or not record.key()]
        pairs = ((f"{name} offset {record.offset()}", record.value() or b"") for record in real)
        return Chunk(name, start, end, *decode_each(self._codec, pairs))

    def close(self) -> None:
        client, self._client = self._client, None
        self._log.connected = False
        if client is not None:
            client.close()


class Client:
    """One connection: the partitions that are read, and what was fetched of them."""

    def __init__(self, settings: Settings, topic: str, group: str | None, resume: Resume, log: ClientLog) -> None:
        from confluent_kafka import Consumer
        from confluent_kafka.admin import AdminClient

        self._topic, self._resume = topic, resume
        self._context = settings, log
        options = librdkafka_options(settings) | {"error_cb": log.on_error, "logger": log.logger}
        self._admin: AdminClient = AdminClient(options)
        self.topic_id, partitions = self._described()
        self._consumer: Consumer = Consumer(
            options
            | {
                "group.id": group or "unused",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "session.timeout.ms": int(SESSION_S * 1000),
                "heartbeat.interval.ms": int(SESSION_S * 1000) // 3,
                "fetch.wait.max.ms": 100,
                "fetch.queue.backoff.ms": 10,
                "topic.metadata.refresh.interval.ms": 30_000,
            }
        )
        self._group = group
        self.places: dict[int, Place] = {}
        self.joined = group is None
        self.settled = False
        self.news: deque[Chunk] = deque()
        self._fetched: deque[tuple[int, list[Message]]] = deque()
        self._asked_s = self._committed_s = time.monotonic()
        self._told: dict[int, int] = {}
        if group is None:
            self._take(range(partitions))
        else:
            self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    def _described(self) -> tuple[str, int]:
        found = described(self._admin, *self._context[:1], self._topic, self._context[1])
        if found is None:
            raise Absent(f"topic {self._topic} does not exist (yet) at {self._context[0].kafka_broker}")
        return found

    def partition_name(self, number: int) -> str:
        return f"{self._topic}-{number}"

    def _assigned(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        self._take([each.partition for each in partitions])
        self.joined = True

    def _revoked(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        self.joined = False
        self.places.clear()
        self._fetched.clear()
        self.news.clear()
        self._told.clear()
        consumer.unassign()

    def _take(self, numbers: Sequence[int]) -> None:
        """Begin at the stored position of each partition."""
        from confluent_kafka import TopicPartition

        self.places = {}
        ends: list[tuple[int, Chunk]] = []
        for number in numbers:
            name = self.partition_name(number)
            position = self._resume(name)
            if position == "end":
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), ANSWER_S)
                position = f"{end}:" if end else ""
                ends.append((end, Chunk(name, "end", position, [])))
            self.places[number] = Place(position)
        self.news.extend(chunk for _, chunk in sorted(ends, key=lambda each: -each[0]))  # those with data first
        self._consumer.assign(
            [TopicPartition(self._topic, number, place.start) for number, place in self.places.items()]
        )

    @property
    def at_end(self) -> bool:
        """Whether all partitions of this reader are read to their present end."""
        return self.joined and not self._fetched and not self.news and all(p.at_end for p in self.places.values())

    def fetch(self, max_records: int) -> "tuple[int, list[Message]] | None":
        """Records of one partition, or None; news may have come instead."""
        if not self._fetched:
            self._ask()
            records = self._consumer.consume(max_records, STEP_S)
            for number, group in groupby(records, key=lambda each: each.partition() if each.topic() else None):
                if number is not None and (wanted := self._wanted(number, list(group))):
                    self._fetched.append((number, wanted))
        return self._fetched.popleft() if self._fetched else None

    def _wanted(self, number: int, records: "Sequence[Message]") -> "list[Message]":
        """The records without events, and without the last handled one if it is still there."""
        from confluent_kafka import KafkaError, KafkaException

        place = self.places.get(number)
        found: list[Message] = []
        for record in records:
            error = record.error()
            if place is None:  # the group took the partition away just now
                break
            if error is None:
                place.at_end = False
                if place.expected is None:
                    found.append(record)
                elif (record.offset(), crc32(record.value() or b"")) == place.expected:
                    place.expected = None
                else:
                    self._begin_again(number)
                    return found
            elif error.code() == KafkaError._PARTITION_EOF:
                if place.expected is not None:  # what was handled last is not there, nor anything behind it
                    self._begin_again(number)
                    return found
                place.at_end = True
                place.offset = max(place.offset, record.offset() or 0)  # behind marks of transactions
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                self._begin_again(number)
                return found
            else:
                raise KafkaException(error)
        return found

    def _begin_again(self, number: int) -> None:
        """Read a partition from its beginning, because it is not what was read."""
        from confluent_kafka import OFFSET_BEGINNING, TopicPartition

        before = self.places[number].position
        self.places[number] = Place("")
        if before:
            self.news.append(Chunk(self.partition_name(number), before, "", []))
        self._consumer.seek(TopicPartition(self._topic, number, OFFSET_BEGINNING))

    def _ask(self) -> None:
        """Now and then: is the topic still the same? A client whose broker is gone only stays silent."""
        now_s = time.monotonic()
        if now_s - self._asked_s < ASK_EVERY_S:
            return
        self._asked_s = now_s
        topic_id, partitions = self._described()
        if topic_id != self.topic_id:
            raise TopicChangedError
        if self._group is None and partitions > len(self.places):
            raise TopicChangedError

    def commit(self) -> None:
        """Tell the group what was handled, at most once a second and without waiting."""
        from confluent_kafka import TopicPartition

        now_s = time.monotonic()
        if self._group is None or now_s - self._committed_s < COMMIT_EVERY_S:
            return
        self._committed_s = now_s
        handled = {
            number: place.offset
            for number, place in self.places.items()
            if place.offset > self._told.get(number, 0) and place.expected is None
        }
        if handled:
            self._told |= handled
            places = [TopicPartition(self._topic, number, offset) for number, offset in handled.items()]
            self._consumer.commit(offsets=places, asynchronous=True)

    def close(self) -> None:
        """Leave the group; what was handled is committed first, if a broker answers at once."""
        from confluent_kafka import KafkaException

        try:
            self._committed_s = 0.0
            self.commit()
            self._consumer.close()
        except (KafkaException, RuntimeError):
            return
