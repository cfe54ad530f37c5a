"""Reads the topic: one partition per partition, read_committed, alone or as a member of a consumer group."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from zlib import crc32

from utils.app.config import Settings
from utils.app.errors import Absent, Unavailable
from utils.clients.kafka_admin import ClientLog, kafka_python_options, unreachable
from utils.records.record import Invalid, Message, decode_each, decode_lines
from utils.sources.base import Chunk, Resume

if TYPE_CHECKING:
    from kafka import KafkaConsumer, TopicPartition

POLL_S = 0.1
SETTLE_S = 1.0  # what the first answer may take, for readers that choose by whether there is data
FINISH_S = 20.0  # a member that was killed keeps its partitions until its session ends
ASK_EVERY_S = 1.0
COMMIT_EVERY_S = 1.0
SESSION_S = 6.0
SILENCE_S = 3.0
CLOSE_S = 1.0


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

    def __init__(self, settings: Settings, resume: Resume, group: str | None = None, *, finished: bool = False) -> None:
        self._settings, self._resume, self._group, self._finished = settings, resume, group, finished
        self.detail = f"{settings.topic} at {settings.kafka_broker}"
        self._log = ClientLog("kafka")
        self._consumer: KafkaConsumer | None = None
        self._topic_id: object = None
        self._position: dict[TopicPartition, str] = {}
        self._reset()

    def _reset(self) -> None:
        self._joined = self._settled = False
        self._assigned: set[TopicPartition] | None = None
        self._check: dict[TopicPartition, tuple[int, int]] = {}
        self._waiting: deque[tuple[TopicPartition, Sequence[Any]]] = deque()
        self._news: list[Chunk] = []
        self._given: dict[TopicPartition, int] = {}
        self._handled: dict[TopicPartition, int] = {}
        self._told: dict[TopicPartition, int] = {}
        self._asked_s = self._committed_s = time.monotonic()

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of one partition. See Source."""
        from kafka.errors import IllegalStateError, KafkaError

        try:
            self._commit()
            deadline_s = time.monotonic() + (FINISH_S if self._finished else POLL_S if self._settled else SETTLE_S)
            while True:
                try:
                    chunk = self._next(max_records)
                    at_end = chunk is None and self._at_end()
                except IllegalStateError:  # the group took a partition away just now
                    chunk, at_end = None, False
                late = time.monotonic() >= deadline_s
                if late and self._finished and not (chunk or at_end):
                    raise Unavailable(f"the end of {self.detail} was not reached within {FINISH_S:.0f} s; try again")
                if chunk or late or (at_end and (self._finished or not self._settled)):
                    self._settled |= at_end or chunk is not None
                    return chunk
        except (KafkaError, OSError) as error:
            self.close()
            self._log.reason = self._log.reason or str(error)
            raise unreachable(self._settings, self._log) from error

    def _next(self, max_records: int) -> Chunk | None:
        consumer = self._consumer or self._connect()
        if self._assigned is not None:
            self._take(consumer, self._assigned)
        if not (self._joined and (self._waiting or self._news)):
            found = consumer.poll(timeout_ms=int(POLL_S * 1000), max_records=max_records)
            if self._joined and consumer._cluster.topic_id(self._settings.topic) not in (self._topic_id, None):
                self._begin_all_again(consumer)
            elif self._joined:  # else what came is read again from the stored positions
                self._waiting.extend(found.items())
        while self._joined and self._waiting:
            place, records = self._waiting.popleft()
            records = self._compared(consumer, place, records)
            if len(records) > max_records:
                self._waiting.appendleft((place, records[max_records:]))
                records = records[:max_records]
            if records:
                return self._chunk(place, records)
        return self._news.pop() if self._joined and self._news else None

    def _connect(self) -> "KafkaConsumer":
        from kafka import KafkaConsumer

        logs = logging.getLogger("kafka")
        logs.handlers, logs.propagate = [self._log], False
        for chatty in ("kafka.net", "kafka.coordinator"):  # they warn of every step that takes a second try
            logging.getLogger(chatty).setLevel(logging.ERROR)
        self._log.reason, self._log.credentials_refused = "", False
        consumer = KafkaConsumer(
            **kafka_python_options(self._settings),
            group_id=self._group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            max_partition_fetch_bytes=4 << 20,
            session_timeout_ms=int(SESSION_S * 1000),
            heartbeat_interval_ms=int(SESSION_S * 1000) // 3,
            metadata_max_age_ms=30_000,
        )
        self._consumer = consumer
        self._asked_s = time.monotonic()
        places = self._all_places(consumer)
        self._topic_id = consumer._cluster.topic_id(self._settings.topic)
        if self._group is None:
            consumer.assign(places)
            self.given(set(places))
        else:
            consumer.subscribe([self._settings.topic], listener=_listener(self))
        self._log.connected = True
        return consumer

    def given(self, places: set["TopicPartition"] | None) -> None:
        """The group's new assignment, None while it is being made; it is taken over at the next step."""
        self._joined, self._assigned = False, places

    def _take(self, consumer: "KafkaConsumer", places: set["TopicPartition"]) -> None:
        """Begin at the stored position of each partition, and drop what is left of others."""
        own = self._position if self._group is None else {}
        self._position = {place: own.get(place) or self._resume(self._part(place)) for place in sorted(places)}
        self._check, self._given, self._handled, self._told = {}, {}, {}, {}
        self._waiting.clear()
        self._news.clear()
        self._settle_ends(consumer)
        for place, position in self._position.items():
            offset, _, fingerprint = position.partition(":")
            if position == "":
                consumer.seek_to_beginning(place)
            elif fingerprint == "":
                consumer.seek(place, int(offset))
            else:
                self._check[place] = (int(offset) - 1, int(fingerprint))
                consumer.seek(place, int(offset) - 1)
        if self._assigned is places:  # not given others meanwhile
            self._assigned, self._joined = None, True

    def _settle_ends(self, consumer: "KafkaConsumer") -> None:
        """Give partitions that are to be read from their end its offset as their position."""
        places = [place for place, position in self._position.items() if position == "end"]
        ends = consumer.end_offsets(places, timeout_ms=int(SILENCE_S * 1000)) if places else {}
        for place in sorted(places, key=lambda each: ends[each]):  # those that have data are told first
            self._position[place] = f"{ends[place]}:" if ends[place] else ""
            self._news.append(Chunk(self._part(place), "end", self._position[place], []))

    def _compared(self, consumer: "KafkaConsumer", place: "TopicPartition", records: Sequence[Any]) -> Sequence[Any]:
        """The records without the last handled one, if it is still there; else the partition begins again."""
        expected = self._check.pop(place, None)
        if expected is None or not records:
            return records
        first = records[0]
        if first.offset == expected[0] and crc32(first.value or b"") == expected[1]:
            return records[1:]
        self._begin_again(consumer, place)
        return []

    def _begin_again(self, consumer: "KafkaConsumer", place: "TopicPartition") -> None:
        consumer.seek_to_beginning(place)
        self._news.append(Chunk(self._part(place), self._position[place], "", []))
        self._position[place] = ""

    def _begin_all_again(self, consumer: "KafkaConsumer") -> None:
        """The topic was deleted and created again: what was read of it since may lie behind records that were not."""
        self._check.clear()
        for place, position in self._position.items():
            if position:
                self._begin_again(consumer, place)
        self._topic_id = consumer._cluster.topic_id(self._settings.topic)

    def _chunk(self, place: "TopicPartition", records: Sequence[Any]) -> Chunk:
        last = records[-1]
        start, end = self._position[place], f"{last.offset + 1}:{crc32(last.value or b'')}"
        self._position[place], self._given[place] = end, last.offset + 1
        return Chunk(self._part(place), start, end, *_decode(self._part(place), records))

    @staticmethod
    def _part(place: "TopicPartition") -> str:
        return f"{place.topic}-{place.partition}"

    def _at_end(self) -> bool:
        """Whether all partitions of this reader are read up to their high watermarks; asks the brokers now and then."""
        consumer = self._consumer
        if consumer is None or not self._joined:
            return False
        places = consumer.assignment()
        ends: dict[TopicPartition, int] = {}
        read = {place: consumer.position(place, timeout_ms=int(SILENCE_S * 1000)) or 0 for place in places}
        at_end = all(read[place] >= (consumer.highwater(place) or 0) for place in places)
        # A client whose broker is gone only stays silent, and the last answer may be half a second old.
        if time.monotonic() - self._asked_s >= ASK_EVERY_S or (at_end and self._finished):
            self._asked_s = time.monotonic()
            everywhere = self._all_places(consumer)
            ends = consumer.end_offsets(everywhere, timeout_ms=int(SILENCE_S * 1000))
            if self._group is None and len(everywhere) > len(places):
                self.close()  # partitions were added: connect again, with them
                return False
        if not at_end or any(consumer.highwater(place) is None or read[place] < ends.get(place, 0) for place in places):
            return False
        if self._check:  # the record that was handled last is not there, nor anything behind it
            for place in list(self._check):
                del self._check[place]
                self._begin_again(consumer, place)
            return False
        # Behind the last record there may be the marks of transactions, and tools would call them a lag.
        told = self._told | self._handled
        self._handled |= {place: read[place] for place in places if read[place] > told.get(place, read[place])}
        return True

    def _all_places(self, consumer: "KafkaConsumer") -> list["TopicPartition"]:
        from kafka import TopicPartition

        partitions = consumer.partitions_for_topic(self._settings.topic)
        if not partitions:
            self.close()
            raise Absent(f"topic {self._settings.topic} does not exist (yet) at {self._settings.kafka_broker}")
        return [TopicPartition(self._settings.topic, each) for each in sorted(partitions)]

    def _commit(self) -> None:
        """Tell the group what was handled, at most once a second and without waiting."""
        self._handled |= self._given
        self._given = {}
        if self._group is None or self._consumer is None or not self._handled:
            return
        if time.monotonic() - self._committed_s >= COMMIT_EVERY_S:
            self._committed_s = time.monotonic()
            self._consumer.commit_async(self._offsets(), callback=lambda offsets, result: None)
            self._told |= self._handled
            self._handled = {}

    def _offsets(self) -> dict[Any, Any]:
        from kafka.structs import OffsetAndMetadata

        return {place: OffsetAndMetadata(offset, "", -1) for place, offset in self._handled.items()}

    def close(self) -> None:
        from kafka.errors import KafkaError

        consumer, self._consumer = self._consumer, None
        self._log.connected = False
        if consumer is not None:
            with suppress(KafkaError, OSError):
                if self._handled and self._group is not None:
                    consumer.commit(self._offsets(), timeout_ms=int(CLOSE_S * 1000))
            with suppress(KafkaError, OSError):
                consumer.close(autocommit=False, timeout_ms=int(CLOSE_S * 1000))
        self._reset()


def _listener(source: KafkaSource) -> Any:
    from kafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the library has no types
        """Only takes note: it may run in the client's own thread."""

        def on_partitions_revoked(self, revoked: set["TopicPartition"]) -> None:
            source.given(None)

        def on_partitions_assigned(self, assigned: set["TopicPartition"]) -> None:
            source.given(set(assigned))

    return Listener()


def _decode(partition: str, records: Sequence[Any]) -> tuple[list[Message], list[Invalid]]:
    try:
        messages = decode_lines(b"\n".join([record.value for record in records]))
        # A record that holds a line end could pass for two.
        if len(messages) == len(records):
            return messages, []
    except (ValueError, TypeError):
        pass  # at least one record needs the patient way
    # Without a value but with a key it only ends a transaction, or is what compaction knows as deleted.
    real = [record for record in records if record.value is not None or not record.key]
    return decode_each((f"{partition} offset {record.offset}", record.value or b"") for record in real)
