"""Finds the last record of a key in a partition of a topic, from the end backwards."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from utils.app.errors import Unavailable
from utils.clients.kafka_admin import REQUEST_S, Admin
from utils.records.external import identity_of

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

FIRST_WINDOW = 2_000
SCAN_S = 15.0
SCAN_RECORDS = 5_000
HELD_UP_S = 1.0  # longer than a transaction of a living producer usually hides rows


class Partition:
    """Reads one partition of a topic back."""

    def __init__(self, admin: Admin, topic: str, number: int) -> None:
        self._admin, self._topic, self._number = admin, topic, number

    def _offset(self, what: Any, isolation: Any) -> int:
        """One offset, as an OffsetSpec names it."""
        from confluent_kafka import TopicPartition

        place = TopicPartition(self._topic, self._number)
        asked = self._admin.client.list_offsets({place: what}, isolation_level=isolation, request_timeout=REQUEST_S)
        return int(asked[place].result().offset)

    def bounds(self, end_own_transaction: Callable[[], None]) -> tuple[int, int]:
        """First offset and high watermark, once nothing below it is hidden by a transaction.

        Calls `end_own_transaction` once that takes long.
        """
        from confluent_kafka import IsolationLevel
        from confluent_kafka.admin import OffsetSpec

        lowest = self._offset(OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        end = self._offset(OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        began_s, is_ended = time.monotonic(), False
        while self._offset(OffsetSpec.latest(), IsolationLevel.READ_COMMITTED) < end:
            waited_s = time.monotonic() - began_s
            if waited_s > SCAN_S:
                raise Unavailable(f"partition {self._number} of {self._topic} waits for another producer's transaction")
            if waited_s > HELD_UP_S and not is_ended:
                end_own_transaction()
                is_ended = True
            time.sleep(0.05)
        return lowest, end

    def search(
        self, key: str, start: int, end: int, producer_ids: Collection[str]
    ) -> tuple[int, tuple[str, int] | None]:
        """The last committed record of these runs from `start` to `end`: its offset and ids, else `end`, None."""
        searched_from, window = end, FIRST_WINDOW
        with closing(self._reader()) as consumer:
            while end > start and producer_ids:
                found, begin = None, max(start, end - window)
                for own in self._own(consumer, key, begin, end):
                    found = _last_of(own, producer_ids) or found
                if found:
                    return found
                end, window = begin, window * 8
        return searched_from, None

    def _reader(self) -> "Consumer":
        from confluent_kafka import Consumer

        return Consumer(
            self._admin.options
            | {
                "group.id": "unused",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
                "fetch.queue.backoff.ms": 10,
            }
        )

    def _own(self, consumer: "Consumer", key: str, start: int, end: int) -> "Iterator[list[Message]]":
        """The records with this key from offset `start` up to `end`, as they are fetched."""
        from confluent_kafka import KafkaError, TopicPartition

        consumer.assign([TopicPartition(self._topic, self._number, start)])
        deadline_s = time.monotonic() + SCAN_S
        while time.monotonic() < deadline_s:
            records = consumer.consume(SCAN_RECORDS, 0.05)
            if records:
                deadline_s = time.monotonic() + SCAN_S
            for error in filter(None, (each.error() for each in records)):
                if error.code() != KafkaError._PARTITION_EOF:  # not the end: what was not seen may be there
                    raise Unavailable(f"topic {self._topic} cannot be read back: {error.str()}")
            found = [each for each in records if not each.error() and each.key() == key.encode()]
            yield [each for each in found if (each.offset() or 0) < end]
            if records and (records[-1].error() or (records[-1].offset() or 0) >= end - 1):
                return
        raise Unavailable(f"partition {self._number} of {self._topic} cannot be read back within {SCAN_S:.0f} s")


def _last_of(records: "list[Message]", producer_ids: Collection[str]) -> tuple[int, tuple[str, int]] | None:
    """Offset and ids of the last of the records that belongs to one of these runs."""
    for record in reversed(records):
        found = identity_of(record.value() or b"{}")
        if found and found[0] in producer_ids:
            return record.offset() or 0, found
    return None
