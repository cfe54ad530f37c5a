"""The Kafka source against a real broker, alone and in a group."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from tests.helpers import make_batch, wait_until
from tests.kafka.conftest import USER, Kafka, Secured, delete_topic
from tests.kafka.test_emitter import NOBODY, delete_rules, raw_producer
from utils.app.config import Settings
from utils.app.errors import Unavailable
from utils.emitters.kafka_emitter import KafkaEmitter
from utils.records.codec import Field
from utils.records.record import Batch, Line
from utils.records.stream import BUZZ, Stream
from utils.sources import kafka_source
from utils.sources.base import Chunk
from utils.sources.kafka_source import KafkaSource


def from_start(partition: str) -> str:
    return ""


@contextmanager
def source(
    settings: Settings, resume: Callable[[str], str] = from_start, *, group: str | None = None, finished: bool = True
) -> Iterator[KafkaSource]:
    with closing(KafkaSource(settings, BUZZ, resume, group, finished=finished)) as opened:
        yield opened


def read_all(reader: KafkaSource, max_records: int = 10_000) -> list[Chunk]:
    """Read everything up to None."""
    chunks = []
    while (chunk := reader.poll(max_records)) is not None:
        chunks.append(chunk)
    return chunks


def records(chunks: list[Chunk]) -> list[Any]:
    return [record for chunk in chunks for record in chunk.records]


def made(amount: int, producer_id: str = "ann-1", first: int = 1) -> list[Any]:
    """Return the records of `write`, as they should be read."""
    return make_batch(amount, producer_id=producer_id, first=first).records


def write(settings: Settings, amount: int, *, producer_id: str = "ann-1", first: int = 1) -> None:
    with closing(KafkaEmitter(settings, BUZZ, producer_id)) as sink:
        sink.emit(make_batch(amount, producer_id=producer_id, first=first))
        assert sink.last([producer_id])  # waits until readers see the records


def write_raw(settings: Settings, *values: bytes | None) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "log_level": 0})
    for value in values:
        producer.produce(settings.topic, value, partition=0)
    assert producer.flush(10) == 0


def positions(chunks: list[Chunk]) -> dict[str, str]:
    """Assert that the chunks follow each other; return the positions that a store would have after them."""
    stored: dict[str, str] = {}
    for chunk in chunks:
        assert stored.get(chunk.partition, chunk.start) == chunk.start
        stored[chunk.partition] = chunk.end
    return stored


def test_everything_is_read_once_and_the_end_is_known(settings: Settings) -> None:
    for name in ("ann-1", "ann-2", "cid-1", "cid-2"):
        write(settings, 100, producer_id=name)
    with source(settings) as reader:
        chunks = read_all(reader, 30)
        assert reader.poll(30) is None
        write(settings, 5, first=101)
        assert records(read_all(reader)) == made(5, first=101)
    assert max(len(chunk.records) for chunk in chunks) == 30
    assert {chunk.partition for chunk in chunks} == {f"{settings.topic}-{partition}" for partition in range(4)}
    for name in ("ann-1", "ann-2", "cid-1", "cid-2"):
        assert [m for m in records(chunks) if m.producer_id == name] == made(100, name)
    positions(chunks)


def test_reading_resumes_after_a_stored_position(settings: Settings) -> None:
    write(settings, 100)
    with source(settings) as reader:
        first = reader.poll(40) or pytest.fail("nothing to read")
    stored = positions([first])
    with source(settings, lambda partition: stored.get(partition, "")) as reader:
        chunks = read_all(reader)
    assert records([first, *chunks]) == made(100)
    assert 0 < len(first.records) <= 40
    stored |= positions(chunks)
    with source(settings, lambda partition: stored.get(partition, "")) as reader:
        assert read_all(reader) == []


def test_from_the_end_only_new_records_are_read(settings: Settings) -> None:
    for name in ("cid-1", "ann-1"):  # in the partitions 0 and 3
        write(settings, 10, producer_id=name)
    with source(settings, lambda partition: "end") as reader:
        ends = read_all(reader)
        assert records(ends) == []
        write(settings, 3, first=11)
        chunks = read_all(reader)
    assert [m.sequence for m in records(chunks)] == [11, 12, 13]
    assert {chunk.start for chunk in ends} == {"end"}
    assert [bool(chunk.end) for chunk in ends] == [True, True, False, False], "the automatic source sees the first one"
    positions([*ends, *chunks])


@pytest.mark.parametrize("grouped", [False, True])
def test_the_end_is_stored_before_the_first_record(settings: Settings, grouped: bool) -> None:
    """The stored end is kept however often a reader stops, loses the broker or shares its partitions anew."""
    group = settings.group if grouped else None
    write(settings, 10)
    stored: dict[str, str] = {}

    def resume(partition: str) -> str:
        return stored.get(partition, "end")

    for first in (11, 14):
        with source(settings, resume, group=group) as reader:
            chunks = read_all(reader)
            stored |= {chunk.partition: chunk.end for chunk in chunks}
            assert [m.sequence for m in records(chunks)] == list(range(11, first))
            reader.close()  # as poll does when the broker is gone
            write(settings, 3, first=first)
    with source(settings, resume, group=group) as reader:
        assert [m.sequence for m in records(read_all(reader))] == [14, 15, 16]


def test_records_during_an_outage_are_read_by_a_reader_from_the_end(settings: Settings) -> None:
    write(settings, 5)
    with source(settings, lambda partition: "end") as reader:
        assert records(read_all(reader)) == []
        reader.close()  # as when no broker answers
        write(settings, 3, first=6)
        write(settings, 3, producer_id="cid-1")  # in an empty partition
        found = records(read_all(reader))
    assert sorted((each.producer_id, each.sequence) for each in found) == [
        *(("ann-1", sequence) for sequence in (6, 7, 8)), *(("cid-1", sequence) for sequence in (1, 2, 3))
    ]  # fmt: skip


def test_external_and_invalid_records(settings: Settings) -> None:
    write(settings, 1)
    two = b'{"message":"a"}\n{"message":"b"}'
    write_raw(settings, b'{"message":"external"}', b"not json", None, two, b'{"message":\n"pretty"}')
    with source(settings) as reader:
        chunks = read_all(reader)
    assert [m.message for m in records(chunks)] == ["hello 1", "external", "pretty"] or [
        m.message for m in records(chunks)
    ] == ["external", "pretty", "hello 1"]
    invalid = [each for chunk in chunks for each in chunk.invalid]
    assert [each.where for each in invalid] == [f"{settings.topic}-0 offset {offset}" for offset in (1, 2, 3)]


def test_a_record_that_only_ends_a_transaction_is_no_message(settings: Settings) -> None:
    write(settings, 2)
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "log_level": 0})
    producer.produce(settings.topic, None, key="ann-1", partition=0)
    assert producer.flush(10) == 0
    with source(settings) as reader:
        chunks = read_all(reader)
    assert sorted(m.message for m in records(chunks)) == ["hello 1", "hello 2"]
    assert [each for chunk in chunks for each in chunk.invalid] == []


def test_a_topic_that_was_created_again_begins_again(settings: Settings, admin: AdminClient) -> None:
    one_partition = replace(settings, kafka_partitions=1)
    write(one_partition, 100)
    with source(settings) as reader:
        stored = positions(read_all(reader))
    for amount in (10, 300, 98):  # shorter and longer than before, and with the same end
        delete_topic(admin, settings.topic)
        write(one_partition, amount, producer_id="bob-1")
        with source(settings, lambda partition: stored[partition]) as reader:
            again, *chunks = read_all(reader)
        assert again.begins_again and again.start == stored[again.partition]
        assert [m.sequence for m in records(chunks)] == list(range(1, amount + 1))


@pytest.mark.parametrize("amount", [20, 200])
def test_a_topic_that_is_created_again_while_it_is_followed_begins_again(
    settings: Settings, admin: AdminClient, monkeypatch: pytest.MonkeyPatch, amount: int
) -> None:
    """Only the topic's id shows that it was created again, with fewer or more records than before."""
    if amount > 50:  # with records at the position the next poll must notice it
        monkeypatch.setattr(kafka_source, "ASK_EVERY_S", 1000.0)
    one_partition = replace(settings, kafka_partitions=1)
    write(one_partition, 50)
    with source(settings, finished=False) as reader:
        chunks: list[Chunk] = []

        def read() -> set[int | None]:
            with suppress(Unavailable):  # it connects again
                chunks.extend(filter(None, [reader.poll(1000)]))
            return {m.sequence for m in records(chunks) if m.producer_id == "bob-1"}

        wait_until(lambda: read() == set() and len(records(chunks)) == 50)
        delete_topic(admin, settings.topic)
        write(one_partition, amount, producer_id="bob-1")
        wait_until(lambda: read() == set(range(1, amount + 1)), 20)
    assert [chunk.begins_again for chunk in chunks].count(True) == 1
    positions(chunks)


def test_aborted_transactions_are_not_seen_and_open_ones_hold_the_end_back(settings: Settings) -> None:
    write(replace(settings, kafka_partitions=1), 10)
    other = raw_producer(settings, "other")
    for commit in (False, True):
        other.begin_transaction()
        other.produce(settings.topic, b'{"message":"%d"}' % commit, partition=0)
        other.flush(10)
        with source(settings, finished=False) as reader:
            seen: list[Any] = []

            def read(reader: KafkaSource = reader, seen: list[Any] = seen) -> int:
                chunk = reader.poll(1000)
                seen += chunk.records if chunk else []
                return len(seen)

            wait_until(partial(_is, read, 10))
            assert read() == 10
            if commit:
                other.commit_transaction(10)
                wait_until(partial(_is, read, 11))
            else:
                other.abort_transaction(10)
    with source(settings) as reader:
        assert [m.message for m in records(read_all(reader))][-1] == "1"


def _is(read: Callable[[], int], expected: int) -> bool:
    return read() == expected


def test_an_end_that_cannot_be_reached_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a leader, a partition with `finished` would look empty otherwise. Without `finished` nobody waits."""
    write(settings, 1)
    monkeypatch.setattr(kafka_source.Connection, "fetch", lambda self, amount: None)
    monkeypatch.setattr(kafka_source, "FINISH_S", 60.0)
    monkeypatch.setattr(kafka_source, "SETTLE_S", 0.1)
    started_s = time.monotonic()
    with source(settings, finished=False) as reader:
        assert reader.poll(10) is None
    assert time.monotonic() - started_s < 30.0
    monkeypatch.setattr(kafka_source, "FINISH_S", 0.2)
    with source(settings) as reader, pytest.raises(Unavailable, match="was not reached within"):
        reader.poll(10)


def test_an_end_that_is_reached_late_is_no_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write(settings, 10)
    monkeypatch.setattr(kafka_source, "SETTLE_S", 0.0)
    with source(settings) as reader:
        assert records(read_all(reader)) == made(10)


def test_partitions_that_are_added_are_read(settings: Settings, admin: AdminClient) -> None:
    write(replace(settings, kafka_partitions=1), 10)
    with source(settings, finished=False) as reader:
        seen: list[Any] = []

        def read() -> int:
            with suppress(Unavailable):  # it connects again
                chunk = reader.poll(1000)
                seen.extend(chunk.records if chunk else [])
            return len(seen)

        wait_until(lambda: read() == 10)
        admin.create_partitions([NewPartitions(settings.topic, 4)])[settings.topic].result(10)
        wait_until(lambda: len(admin.list_topics(timeout=5).topics[settings.topic].partitions) == 4)
        write(settings, 10, producer_id="ann-2")
        wait_until(lambda: read() == 20)


def test_an_unreadable_topic_is_one_line_and_heals(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with source(replace(settings, kafka_broker=NOBODY)) as reader:
        started_s = time.monotonic()
        with pytest.raises(Unavailable, match=f"no Kafka broker answers at {NOBODY}"):
            reader.poll(10)
        assert time.monotonic() - started_s < 2.5
    with source(settings) as reader:
        with pytest.raises(Unavailable, match=f"topic {settings.topic} does not exist"):
            reader.poll(10)
        write(settings, 3)
        assert len(records(read_all(reader))) == 3
    assert "kafka" not in capfd.readouterr().err.replace("utils.clients.kafka_admin", "").replace("- kafka: topic", "")


def test_a_broker_that_comes_back_is_followed_without_repeats(kafka: Kafka, settings: Settings) -> None:
    write(settings, 10)
    with source(settings, finished=False) as reader:
        seen: list[int | None] = []
        failures: list[str] = []

        def read() -> int:
            try:
                chunk = reader.poll(1000)
            except Unavailable as error:
                failures.append(str(error))
            else:
                seen.extend(m.sequence for m in chunk.records) if chunk else None
            return len(seen)

        wait_until(lambda: read() == 10)
        kafka.broker.kill()
        wait_until(lambda: read() and failures)
        kafka.broker.start()
        write(settings, 10, first=11)
        wait_until(lambda: read() == 20, 30)
    assert seen == list(range(1, 21))


@pytest.mark.parametrize(
    ("protocol", "mechanism"), [("SASL_PLAINTEXT", ""), ("SSL", ""), ("SASL_SSL", "SCRAM-SHA-512")]
)
def test_security_of_emitter_and_source(secured: Secured, protocol: str, mechanism: str) -> None:
    settings = secured(protocol, mechanism)
    write(settings, 10)
    with source(settings) as reader:
        assert len(records(read_all(reader))) == 10


def test_wrong_credentials_are_one_line(secured: Secured, logged: list[str]) -> None:
    write(secured.settings, 1)
    settings = secured("SASL_PLAINTEXT", "SCRAM-SHA-512", "not-my-password")
    with source(settings) as reader, pytest.raises(Unavailable, match="KAFKA_PASSWORD") as raised:
        reader.poll(10)
    assert "not-my-password" not in "".join([str(raised.value), *logged])


def committed(admin: AdminClient, group: str) -> dict[int, int]:
    """Return partition -> committed offset of the group."""
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(10)
    return {place.partition: place.offset for place in asked.topic_partitions if place.offset >= 0}


def test_a_group_commits_the_position_of_handled_records(settings: Settings, admin: AdminClient) -> None:
    write(replace(settings, kafka_partitions=1), 100)
    with source(settings, group=settings.group) as reader:
        reader.poll(40)
    assert committed(admin, settings.group) == {}
    with source(settings, group=settings.group) as reader:
        assert len(records(read_all(reader))) == 100
    # Tools see no lag: only the transaction's end is behind the last record.
    place = TopicPartition(settings.topic, 0)
    end = admin.list_offsets({place: OffsetSpec.latest()})[place].result(10).offset
    assert committed(admin, settings.group) == {0: end}
    assert end > 100


def test_positions_win_over_what_the_group_has_committed(settings: Settings, admin: AdminClient) -> None:
    write(replace(settings, kafka_partitions=1), 100)
    with source(settings, group=settings.group) as reader:
        stored = positions(read_all(reader))
    write(settings, 5, first=101)
    with source(settings, lambda partition: stored[partition], group=settings.group) as reader:
        assert [m.sequence for m in records(read_all(reader))] == list(range(101, 106))
    wait_until(lambda: not _members(admin, settings.group))
    admin.delete_consumer_groups([settings.group])[settings.group].result(10)
    with source(settings, lambda partition: stored[partition], group=settings.group) as reader:
        assert [m.sequence for m in records(read_all(reader))] == list(range(101, 106))


def _members(admin: AdminClient, group: str) -> int:
    return len(admin.describe_consumer_groups([group])[group].result(10).members)


def test_members_divide_the_partitions_and_hand_them_over(
    settings: Settings, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "SESSION_S", 1.5)  # members learn of each other with the next heartbeat
    admin.create_topics([NewTopic(settings.topic, 4)])[settings.topic].result(10)
    names = ("ann-1", "ann-2", "cid-1", "cid-2")  # one per partition
    stored: dict[str, str] = {}
    seen: dict[str, list[int | None]] = {name: [] for name in names}
    resumed: list[tuple[int, str]] = []

    def resume(number: int) -> Callable[[str], str]:
        def of(partition: str) -> str:
            resumed.append((number, partition))
            return stored.get(partition, "")

        return of

    def step(*readers: KafkaSource) -> int:
        for reader in readers:
            chunk = reader.poll(50)
            if chunk is not None:
                assert chunk.start == stored.get(chunk.partition, "")
                stored[chunk.partition] = chunk.end
                for message in chunk.records:
                    seen[str(message.producer_id)].append(message.sequence)
        return sum(map(len, seen.values()))

    with source(settings, resume(1), group=settings.group, finished=False) as one:
        for name in names:
            write(settings, 100, producer_id=name)
        wait_until(lambda: step(one) == 400, 30)
        with source(settings, resume(2), group=settings.group, finished=False) as two:
            wait_until(lambda: step(one, two) and {number for number, _ in resumed} == {1, 2}, 30)
            resumed.clear()
            for name in names:
                write(settings, 100, producer_id=name, first=101)
            wait_until(lambda: step(one, two) == 800, 30)
            assert one._connection is not None and len(one._connection.positions or ()) == 2
        for name in names:
            write(settings, 100, producer_id=name, first=201)
        wait_until(lambda: step(one) == 1200, 30)
    assert seen == {name: list(range(1, 301)) for name in names}


class Whole(Consumer):
    """A consumer that first returns all partitions, each to its end, at once."""

    first: ClassVar[list[Message]] = []

    def consume(self, *arguments: Any) -> list[Message]:
        if self.first:
            return super().consume(*arguments)
        while sum(message.error() is not None for message in self.first) < 4:
            self.first.extend(super().consume(*arguments))
        return self.first


@pytest.fixture
def whole(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ann-1", "cid-1"):  # in two partitions
        write(settings, 100, producer_id=name)
    monkeypatch.setattr(Whole, "first", [])
    monkeypatch.setattr(kafka_source, "Consumer", Whole)


def test_a_partition_that_is_revoked_is_read_again_from_its_position(settings: Settings, whole: None) -> None:
    """Records that a member has fetched and not returned are dropped, and those that still come too."""
    stored: dict[str, str] = {}
    with source(settings, lambda partition: stored.get(partition, "")) as reader:
        first = reader.poll(10_000) or pytest.fail("nothing to read")
        stored[first.partition] = first.end
        connection = reader._connection
        assert connection and len(records([first])) == 100
        connection._revoked(connection._consumer, [])
        connection._add(Whole.first)
        connection._assigned(connection._consumer, [TopicPartition(settings.topic, number) for number in range(4)])
        chunks = [first, *read_all(reader)]
    assert len(records(chunks)) == 200
    positions(chunks)


def test_the_end_of_a_partition_that_is_not_handled_is_not_committed(
    settings: Settings, admin: AdminClient, whole: None
) -> None:
    with source(settings, group=settings.group) as reader:
        first = reader.poll(10_000) or pytest.fail("nothing to read")
        assert len(records([first, reader.poll(10_000) or pytest.fail("nothing to read")])) == 200
    number, end = int(first.partition.rpartition("-")[2]), int(first.end.partition(":")[0])
    assert committed(admin, settings.group) == {number: end}


def test_records_before_an_error_are_read_after_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed:
        def __init__(self, after: Message) -> None:
            self.topic, self.partition = after.topic, after.partition

        def error(self) -> KafkaError:
            return KafkaError(KafkaError._TRANSPORT)

    class Failing(Consumer):
        failures = 2

        def consume(self, *arguments: Any) -> list[Any]:
            found: list[Any] = super().consume(*arguments)
            if found and Failing.failures:
                Failing.failures -= 1
                found.append(Failed(found[-1]))
            return found

    monkeypatch.setattr(kafka_source, "Consumer", Failing)
    write(settings, 100)
    with source(settings) as reader:
        for _ in range(2):
            with pytest.raises(Unavailable):
                reader.poll(10)
        assert records(read_all(reader)) == made(100)


def test_a_member_without_partitions_waits_as_long_as_it_takes(settings: Settings) -> None:
    """A member that hangs keeps others waiting when one more joins, and they wait as long as it takes."""
    write(settings, 10)
    options = {"bootstrap.servers": settings.kafka_broker, "group.id": settings.group, "log_level": 0}
    limits = {"session.timeout.ms": 6000, "max.poll.interval.ms": 6000}
    hung = Consumer(options | limits)
    with source(settings, group=settings.group, finished=False) as one:
        wait_until(lambda: one.poll(10) is not None)
        hung.subscribe([settings.topic])
        wait_until(lambda: one.poll(10) is None and bool(hung.poll(0.01) or hung.assignment()))
        with source(settings, group=settings.group, finished=False) as two:
            assert two.poll(10) is None
            wait_until(lambda: one.poll(10) is None and one._connection is not None and not one._connection.positions)
            assert [one.poll(10), one.poll(10)] == [None, None]
    # Not waited for: librdkafka's close of a member that left while the group divides partitions may wait for ever.
    threading.Thread(target=hung.close, daemon=True).start()


@pytest.mark.parametrize("grouped", [False, True])
def test_a_store_that_cannot_be_asked_for_a_position_is_asked_again(settings: Settings, grouped: bool) -> None:
    write(settings, 10)
    failures = iter([Unavailable("locked"), Unavailable("locked")])

    def resume(partition: str) -> str:
        if error := next(failures, None):
            raise error
        return ""

    with source(settings, resume, group=settings.group if grouped else None) as reader:
        for _ in range(2):
            with pytest.raises(Unavailable, match="locked"):
                reader.poll(100)
        assert [m.sequence for m in records(read_all(reader))] == list(range(1, 11))


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_codec_is_read(settings: Settings, codec: str) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "log_level": 0, "compression.type": codec})
    write(settings, 1)
    for number in range(100):
        producer.produce(settings.topic, b'{"message":"compressed %d %s"}' % (number, b"x" * 100), partition=1)
    assert producer.flush(10) == 0
    with source(settings) as reader:
        read = {record.message.split(" x")[0] for record in records(read_all(reader))}
    assert read == {"hello 1", *(f"compressed {number}" for number in range(100))}


def test_another_stream_has_its_own_topic_and_keeps_unknown_fields(settings: Settings) -> None:
    stream = Stream(f"sensors-{settings.topic}", fields=(Field("device", "text"), Field("°C", "number")))
    line = Line('{"device":"a","°C":21.5,"more":{"deep":[1]},"id":7}'.encode(), "2026-01-02T03:04:05.678Z")
    with closing(KafkaEmitter(settings, stream, "ann-1")) as sink:
        sink.emit(Batch.of_lines([line], "ann-1", 1, stream.codec))
    with closing(KafkaSource(settings, stream, from_start, finished=True)) as reader:
        (record,) = records(read_all(reader))
    assert (record.device, stream.codec.value(record, "°C"), record.sequence) == ("a", 21.5, 1)
    assert json.loads(record.extra)["more"] == {"deep": [1]}


def test_records_that_retention_deleted_are_skipped(settings: Settings, admin: AdminClient) -> None:
    one_partition = replace(settings, kafka_partitions=1)
    write(one_partition, 100)
    with source(settings) as reader:
        stored = positions([reader.poll(10) or pytest.fail("nothing to read")])
    place = TopicPartition(settings.topic, 0, 50)
    admin.delete_records([place])[place].result(10)
    for resume, begins_again in ((from_start, 0), (lambda partition: stored[partition], 1)):
        with source(settings, resume, group=settings.group) as reader:
            chunks = read_all(reader)
        assert [record.sequence for record in records(chunks)] == list(range(51, 101))
        assert [chunk.begins_again for chunk in chunks].count(True) == begins_again
        positions(chunks)


def test_a_position_whose_last_record_was_deleted_is_continued(settings: Settings, admin: AdminClient) -> None:
    """Retention or compaction may have deleted it."""
    write(replace(settings, kafka_partitions=1), 100)
    with source(settings) as reader:
        first = reader.poll(40) or pytest.fail("nothing to read")
    place = TopicPartition(settings.topic, 0, int(first.end.partition(":")[0]))
    admin.delete_records([place])[place].result(10)
    with source(settings, lambda partition: first.end) as reader:
        chunks = read_all(reader)
    assert not any(chunk.begins_again for chunk in chunks)
    assert [record.sequence for record in records([first, *chunks])] == list(range(1, 101))


@pytest.mark.parametrize("kind", [ResourceType.GROUP, ResourceType.TOPIC])
def test_a_missing_right_to_read_is_not_a_missing_broker(
    secured: Secured, admin: AdminClient, kind: ResourceType
) -> None:
    write(secured.settings, 3)
    name = secured.settings.group if kind is ResourceType.GROUP else secured.settings.topic
    rules = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{USER}", "*", operation, permission)
        for operation, permission in (
            (AclOperation.READ, AclPermissionType.DENY),
            (AclOperation.DESCRIBE, AclPermissionType.ALLOW),
        )
    ]
    for future in admin.create_acls(rules).values():
        future.result(10)
    try:
        settings = secured("SASL_PLAINTEXT", "SCRAM-SHA-256")
        with source(settings, group=settings.group) as reader, pytest.raises(Unavailable, match="authoriz") as raised:
            read_all(reader)
        assert "no Kafka broker answers" not in str(raised.value)
    finally:
        delete_rules(admin)


def test_the_lag_of_a_group_counts_unhandled_records(
    settings: Settings, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither fetched records nor the seen end of a partition reduce it."""
    monkeypatch.setattr(kafka_source, "COMMIT_EVERY_S", 0.05)
    write(replace(settings, kafka_partitions=1), 100)
    with source(settings, group=settings.group) as reader:
        handled = reader.poll(40) or pytest.fail("nothing to read")
        assert reader.poll(40) is not None
        place = {0: int(handled.end.partition(":")[0])}
        wait_until(lambda: committed(admin, settings.group) == place)
    assert committed(admin, settings.group) == place
