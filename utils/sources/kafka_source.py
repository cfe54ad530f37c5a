"""Reads the topic of a stream: one partition each, read_committed, alone or as a member of a consumer group."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients.kafka_admin import ClientLog, failed
from utils.records.codec import Codec
from utils.records.stream import Stream
from utils.sources.base import Chunk, Resume, decode_each
from utils.sources.kafka_connection import Connection, TopicChangedError

POLL_S = 0.1
SETTLE_S = 1.0  # what the first answer may take, for readers that choose by whether there is data
FINISH_S = 20.0  # a member that was killed keeps its partitions until its session ends


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
        self._log = ClientLog("kafka")
        self._ends: dict[str, str] = {}  # where a reader without a group continues after it has lost its connection
        start = resume if group else lambda name: self._ends[name] if name in self._ends else resume(name)
        self._open: Callable[[], Connection] = partial(Connection, settings, topic, group, start, self._log)
        self._connection: Connection | None = None

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of one partition. See Source."""
        from confluent_kafka import KafkaException

        try:
            connection = self._connection or self._connect()
            connection.handled()
            settled = connection.settled
            deadline_s = time.monotonic() + (FINISH_S if self._finished else POLL_S if settled else SETTLE_S)
            while True:
                chunk = self._next(connection, max_records)
                at_end = chunk is None and connection.at_end
                late = time.monotonic() >= deadline_s
                if late and self._finished and not (chunk or at_end):
                    raise Unavailable(f"the end of {self.detail} was not reached within {FINISH_S:.0f} s; try again")
                if chunk or late or (at_end and (self._finished or not settled)):
                    if chunk is None:
                        connection.handled()
                    return chunk
        except KafkaException as error:
            self.close()
            raise failed(error, self._settings, self._log) from error
        except TopicChangedError:
            self.close()
            return None
        except ToolkitError:
            self.close()
            raise

    def _connect(self) -> Connection:
        self._log.reason, self._log.credentials_rejected = "", False
        self._connection = self._open()
        self._connection.begin()
        self._log.connected = True
        return self._connection

    def _next(self, connection: Connection, max_records: int) -> Chunk | None:
        chunk = connection.fetch(max_records)
        if chunk is None:
            return None
        self._ends[chunk.partition] = chunk.end
        values = [message.value() for message in chunk.records]
        try:
            lines = b"\n".join(values) + b"\n"
            if lines.count(b"\n") == len(values):  # a record that contains a line end could pass for two
                records = self._codec.decode_lines(lines)
                if len(records) == len(values):
                    return replace(chunk, records=records)
        except (ValueError, TypeError):
            pass  # at least one record needs a closer look; TypeError: None is no value
        # Without a value but with a key it only ends a transaction, or is what compaction knows as deleted.
        real = [message for message in chunk.records if message.value() is not None or not message.key()]
        pairs = ((f"{chunk.partition} offset {message.offset()}", message.value() or b"") for message in real)
        records, invalid = decode_each(self._codec, pairs)
        return replace(chunk, records=records, invalid=invalid)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._log.connected = False
        if connection is not None:
            connection.close()


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> KafkaSource:
    """The source of the sink `kafka`; readers that share it are members of one group. See Sink."""
    group = settings.group_of(stream.name) if shared else None
    return KafkaSource(settings, stream, resume, group, finished=finished)
