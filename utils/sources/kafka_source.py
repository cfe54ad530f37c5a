"""Reads the topic of a stream: one partition each, read_committed, alone or as a member of a consumer group."""

import time
from dataclasses import replace
from functools import partial

from confluent_kafka import KafkaException

from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients.kafka_admin import ClientLog, failed
from utils.records.codec import Codec
from utils.records.stream import Stream
from utils.sources.base import Chunk, Resume, decode_all
from utils.sources.kafka_connection import Connection

SETTLE_S = 1.0  # what an answer may take, for readers that choose by whether there is data
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
        self._log = ClientLog()
        self._ends: dict[str, str] = {}  # where a reader without a group continues after it has lost its connection
        start = resume if group else lambda name: self._ends[name] if name in self._ends else resume(name)
        self._open = partial(Connection, settings, topic, group, start, self._log)
        self._connection: Connection | None = None

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of one partition. See Source."""
        try:
            return self._poll(max_records)
        except KafkaException as error:
            self.close()
            raise failed(error, self._settings, self._log) from error
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
        # Without a value but with a key it only ends a transaction, or is what compaction knows as deleted.
        real = [message for message in chunk.records if message.value() is not None or not message.key()]
        places = (f"{chunk.partition} offset {message.offset()}" for message in real)
        records, invalid = decode_all(self._codec, [message.value() or b"" for message in real], places)
        return replace(chunk, records=records, invalid=invalid)

    def _connect(self) -> Connection:
        self._log.reason = ""
        self._connection = self._open()
        self._connection.begin()
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> KafkaSource:
    """The source of the sink `kafka`; readers that share it are members of one group. See Sink."""
    group = settings.group_of(stream.name) if shared else None
    return KafkaSource(settings, stream, resume, group, finished=finished)
