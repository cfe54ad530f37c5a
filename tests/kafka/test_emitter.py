"""The Kafka emitter against a real broker."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any
from zlib import crc32

import confluent_kafka
import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)
from kafka import KafkaProducer, TopicPartition

from tests.helpers import make_batch, make_messages, wait_until
from tests.kafka.conftest import PASSWORD, USER, Kafka, Secured, delete_topic, read_topic
from utils.app.config import Settings
from utils.app.errors import Rejected, SinkReplaced, ToolkitError, Unavailable
from utils.clients.kafka_admin import Admin
from utils.emitters import kafka_emitter
from utils.emitters.kafka_emitter import KafkaEmitter, Mark, emit_message
from utils.records.record import Batch
from utils.records.stream import BUZZ

NOBODY = "127.0.0.1:1"
KEY = "ann-12345678"


def opened(settings: Settings) -> KafkaEmitter:
    return KafkaEmitter(settings, BUZZ, KEY)


@contextmanager
def emitter(settings: Settings, key: str = KEY, mark: str = "") -> Iterator[KafkaEmitter]:
    with closing(KafkaEmitter(settings, BUZZ, key, mark)) as sink:
        yield sink


def last(sink: KafkaEmitter, *producer_ids: str) -> int:
    """Return the highest sequence of the newest of these runs (default "ann-1"), or 0."""
    found = sink.last(producer_ids or ("ann-1",))
    return found[1] if found else 0


def mark_of(text: str) -> Mark:
    return msgspec.json.decode(text, type=Mark)


def replaced(text: str, **changes: Any) -> str:
    """Return the text of a mark with these changes."""
    return msgspec.json.encode(msgspec.structs.replace(mark_of(text), **changes)).decode()


def raw_producer(settings: Settings, key: str) -> Producer:
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "transactional.id": key, "log_level": 0})
    producer.init_transactions(10)
    return producer


def create_topic(admin: AdminClient, settings: Settings, partitions: int = 1, max_bytes: int = 1_000_000) -> None:
    admin.create_topics([NewTopic(settings.topic, partitions, config={"max.message.bytes": str(max_bytes)})])[
        settings.topic
    ].result(10)


def configure(admin: AdminClient, kind: Any, name: str, option: str, value: str | None) -> None:
    """Set an option of a topic or broker (None: its default), and wait until the broker applies it."""

    def described() -> str:
        asked = ConfigResource(kind, name)
        return str(admin.describe_configs([asked])[asked].result(10)[option].value)

    before, operation = described(), AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
    entry = ConfigEntry(option, value or "", incremental_operation=operation)
    resource = ConfigResource(kind, name, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
    wait_until(lambda: described() != before if value is None else described() == value)


def set_topic(admin: AdminClient, settings: Settings, option: str, value: str) -> None:
    configure(admin, ConfigResource.Type.TOPIC, settings.topic, option, value)


def fill(settings: Settings, amount: int) -> None:
    """Write records of another program to partition 0."""
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "log_level": 0, "linger.ms": 50})
    records = [{"value": b'{"message":"of somebody else","number":%d}' % each} for each in range(50_000)]
    for done in range(0, amount, len(records)):
        producer.produce_batch(settings.topic, records[: amount - done], partition=0)
        assert producer.flush(30) == 0


def sequences(settings: Settings, producer_id: str = "ann-1") -> list[int | None]:
    records = [json.loads(record.value() or b"") for record in read_topic(settings)]
    return [record.get("sequence") for record in records if record.get("producer_id") == producer_id]


def test_a_batch_arrives_whole_in_order_in_one_partition(settings: Settings) -> None:
    batch = make_batch(500, text="\u2028 žluť \x85\r\n\x0b")
    before_ms = time.time() * 1000
    with emitter(settings) as sink:
        assert last(sink) == 0
        sink.emit(batch)
        assert last(sink) == 500
    records = read_topic(settings)
    assert b"\n".join(record.value() or b"" for record in records) + b"\n" == batch.lines
    assert {record.key() for record in records} == {KEY.encode()}
    assert len({record.partition() for record in records}) == 1
    assert all(before_ms - 1000 <= record.timestamp()[1] <= time.time() * 1000 + 1000 for record in records)


def test_a_large_batch_is_several_transactions(settings: Settings) -> None:
    """A single one that takes longer than the broker's limit would be retried for ever."""
    batch = make_batch(9_001, text="x" * 1_000)
    with emitter(settings) as sink:
        sink.emit(batch)
        assert last(sink) == 9_001
    records = read_topic(settings)
    assert b"\n".join(record.value() or b"" for record in records) + b"\n" == batch.lines
    sizes: dict[int, int] = Counter()
    for number, record in enumerate(records):
        sizes[(record.offset() or 0) - number] += len(record.value() or b"")  # a transaction's end takes an offset
    assert len(sizes) > 1
    assert max(sizes.values()) <= kafka_emitter.MAX_BYTES


def test_brokers_that_create_no_topics_are_asked_to(settings: Settings, admin: AdminClient) -> None:
    broker = ConfigResource(ConfigResource.Type.BROKER, "1")
    found = admin.describe_configs([broker], request_timeout=10)[broker].result()
    assert found["auto.create.topics.enable"].value == "false"
    with emitter(replace(settings, kafka_partitions=3)) as sink:
        sink.emit(make_batch(10))
    assert len(admin.list_topics(timeout=5).topics[settings.topic].partitions) == 3
    assert sequences(settings) == list(range(1, 11))


def test_producers_resume_where_the_topic_ends(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_emitter, "SCAN_RECORDS", 3)
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        sink.emit(make_batch(10))
    with emitter(one_partition, "bob-12345678") as sink:
        sink.emit(make_batch(300, producer_id="bob-1"))
    with emitter(one_partition, "bob-12345678") as sink:
        assert last(sink, "bob-1") == 300
    with emitter(one_partition) as sink:
        assert [last(sink, name) for name in ("ann-1", "bob-1", "ann-10", "ann")] == [10, 0, 0, 0]
        sink.emit(make_batch(5, first=11))
    assert sequences(settings) == list(range(1, 16))
    assert sequences(settings, "bob-1") == list(range(1, 301))


def test_an_open_transaction_of_a_killed_process_is_aborted(settings: Settings) -> None:
    with emitter(settings) as sink:
        sink.emit(make_batch(10))
    zombie = raw_producer(settings, KEY)
    zombie.begin_transaction()
    for line in make_batch(5, first=11).lines.splitlines():
        zombie.produce(settings.topic, line, KEY, partition=0)
    zombie.flush(10)
    with emitter(settings) as sink:
        assert last(sink) == 10
        with pytest.raises(KafkaException) as raised:
            zombie.commit_transaction(10)
        assert raised.value.args[0].code() == KafkaError._FENCED
        sink.emit(make_batch(2, first=11))
        assert last(sink) == 12
    assert sequences(settings) == list(range(1, 13))


def test_rows_hidden_by_another_transaction_are_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile nothing is added to the topic."""
    monkeypatch.setattr(kafka_emitter, "HELD_UP_S", 10.0)
    ended: list[object] = []
    monkeypatch.setattr(KafkaEmitter, "_end_own_transaction", lambda self, producer: ended.append(producer))
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        other = raw_producer(settings, "other")
        other.begin_transaction()
        other.produce(settings.topic, b"{}", partition=0)
        other.flush(10)
        sink.emit(make_batch(10))
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(last(sink)))
        asking.start()
        asking.join(0.5)
        assert asking.is_alive()
        other.commit_transaction(10)
        asking.join(10)
    assert (found, ended) == ([10], [])


def test_a_transaction_that_never_ends_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_emitter, "SCAN_S", 0.5)
    monkeypatch.setattr(kafka_emitter, "HELD_UP_S", 0.1)
    ended: list[object] = []
    monkeypatch.setattr(KafkaEmitter, "_end_own_transaction", lambda self, producer: ended.append(producer))
    with emitter(replace(settings, kafka_partitions=1)) as sink:
        other = raw_producer(settings, "other")
        other.begin_transaction()
        other.produce(settings.topic, b"{}", partition=0)
        other.flush(10)
        with pytest.raises(Unavailable, match="another producer's transaction"):
            last(sink)
    assert len(ended) == 1, "each end leaves a record in the topic"


def test_a_killed_producer_hides_external_records_for_a_bounded_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_emitter, "TRANSACTION_S", 1.0)
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        producer = sink._fenced()
        producer.begin_transaction()
        producer.produce(settings.topic, b"{}", KEY, partition=0)
        producer.flush(10)
    fill(one_partition, 3)
    wait_until(lambda: len(read_topic(settings)) == 3, 10.0)


@pytest.fixture
def trusting(admin: AdminClient) -> Iterator[None]:
    """Let the broker accept rows of transactions that its coordinator does not know, as before 3.6."""
    option = "transaction.partition.verification.enable"
    configure(admin, ConfigResource.Type.BROKER, "1", option, "false")
    yield
    configure(admin, ConfigResource.Type.BROKER, "1", option, None)


def test_rows_that_the_coordinator_left_open_become_visible(
    settings: Settings, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such rows are open in the partition, but ended for the coordinator, after a broker's crash.

    They may have been acknowledged and pruned."""
    monkeypatch.setattr(kafka_emitter, "HELD_UP_S", 0.2)
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        sink.emit(make_batch(10))
    with closing(KafkaProducer(bootstrap_servers=settings.kafka_broker, transactional_id=KEY)) as left_open:
        left_open.init_transactions()
        left_open.begin_transaction()
        left_open._transaction_manager._partitions_in_transaction.add(TopicPartition(settings.topic, 0))
        for line in make_batch(5, first=11).lines.splitlines():
            left_open.send(settings.topic, line, KEY.encode(), partition=0).get(10)
    for reached in (15, 20):
        with emitter(one_partition) as sink:
            started_s = time.monotonic()
            assert last(sink) == reached
            assert time.monotonic() - started_s < 5.0
            sink.emit(make_batch(5, first=reached + 1))
    assert sequences(settings) == list(range(1, 26))


def test_a_transaction_with_its_end_mark_missing_is_ended_too(
    settings: Settings, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker was killed again while the emitter ended the transaction that was left open before."""
    monkeypatch.setattr(kafka_emitter, "HELD_UP_S", 0.2)
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        sink.emit(make_batch(10))
    with closing(KafkaProducer(bootstrap_servers=settings.kafka_broker, transactional_id=KEY)) as left_open:
        left_open.init_transactions()
        left_open.begin_transaction()
        left_open._transaction_manager._partitions_in_transaction.add(TopicPartition(settings.topic, 0))
        left_open.send(settings.topic, None, KEY.encode(), partition=0).get(10)
    with emitter(one_partition) as sink:
        assert last(sink) == 10
        sink.emit(make_batch(5, first=11))
    assert sequences(settings) == list(range(1, 16))


@pytest.mark.parametrize("key", [KEY, "long-" * 40])
def test_the_largest_accepted_message_is_stored(settings: Settings, admin: AdminClient, key: str) -> None:
    create_topic(admin, settings, max_bytes=2000)
    with emitter(settings, key) as sink:
        for size in range(1500, 1960):
            (message,) = make_messages(1)
            message.message = "x" * size
            batch = Batch.of_records([message], "ann-1", 1, BUZZ.codec)
            try:
                sink._check_sizes(batch, [batch.lines])
            except Rejected:
                break
            largest = batch
        sink.emit(largest)
    assert sequences(settings) == [1]


def test_a_smaller_limit_while_running_can_heal(settings: Settings, admin: AdminClient) -> None:
    with emitter(replace(settings, kafka_partitions=1)) as sink:
        sink.emit(make_batch(5))
        set_topic(admin, settings, "max.message.bytes", "2000")
        with pytest.raises(Unavailable, match=r"Kafka at .*too large"):
            for first in range(6, 10_000, 100):
                sink.emit(make_batch(100, first=first))
    with emitter(settings) as sink:
        stored = last(sink)
        sink.emit(make_batch(100, first=stored + 1))
    assert sequences(settings) == list(range(1, stored + 101))


@pytest.mark.parametrize(("before", "amount"), [(50, 5), (50, 200), (1, 1), (1, 200)])
def test_a_topic_that_was_created_again_is_noticed(
    settings: Settings, admin: AdminClient, before: int, amount: int
) -> None:
    with emitter(settings) as sink:
        sink.emit(make_batch(before))
        delete_topic(admin, settings.topic)
        create_topic(admin, settings, 4)
        with pytest.raises((SinkReplaced, Unavailable)):
            sink.emit(make_batch(amount, first=before + 1))
        mark = sink.mark
    with emitter(settings, mark=mark) as sink:
        assert last(sink) == 0  # all that the journal still contains comes again
        assert sink.mark != mark
        sink.emit(make_batch(before + amount))
    assert sequences(settings) == list(range(1, before + amount + 1))


def test_a_topic_that_is_created_again_after_the_search_is_noticed(settings: Settings, admin: AdminClient) -> None:
    with emitter(settings) as sink:
        sink.emit(make_batch(50))
    with emitter(settings) as sink:
        assert last(sink) == 50
        delete_topic(admin, settings.topic)
        create_topic(admin, settings, 4)
        with pytest.raises((SinkReplaced, Unavailable)):
            sink.emit(make_batch(5, first=51))
    assert sequences(settings) == []


def test_a_mark_of_another_topic_of_this_name_hides_nothing(settings: Settings, admin: AdminClient) -> None:
    """A mark of a deleted topic hides no records, whether its offset is behind the new end or among new records."""
    create_topic(admin, settings)
    with emitter(settings) as sink:
        for first in range(1, 300, 10):
            sink.emit(make_batch(10, first=first))
        old = sink.mark
    delete_topic(admin, settings.topic)
    create_topic(admin, settings)
    with emitter(settings, mark=old) as sink:
        assert last(sink) == 0
        sink.emit(make_batch(20))
    for others in (0, 1_000):
        fill(settings, others)
        with emitter(settings, mark=old) as sink:  # a process that was killed before it noted the new one
            assert last(sink) == 20


def test_a_mark_behind_the_end_of_the_topic_is_not_trusted(settings: Settings) -> None:
    """After brokers lost unsynced records in a power cut, the topic itself is asked, and the journal delivers again."""
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        assert last(sink) == 0
        sink.emit(make_batch(20))
        noted = replaced(sink.mark, offset=500, ids=None)
    for mark in (noted, replaced(noted, ids=("ann-1", 300))):
        with emitter(one_partition, mark=mark) as sink:
            assert last(sink) == 20
    with emitter(one_partition, mark=replaced(noted, ids=("ann-2", 300))) as sink:
        assert last(sink, "ann-2") == 0


@pytest.mark.parametrize("mark", ["aGVsbG8/0/17", "[]", '["aGVsbG8","0",17,null]', "{}"])
def test_an_unreadable_mark_is_an_error(settings: Settings, mark: str) -> None:
    """A search without its mark could use the wrong partition, and pending records would come twice."""
    with pytest.raises(ValueError):
        KafkaEmitter(settings, BUZZ, KEY, mark)


def test_records_that_retention_removed_do_not_come_again(settings: Settings, admin: AdminClient) -> None:
    """The journal may still have them for another sink that is away."""
    with emitter(replace(settings, kafka_partitions=1)) as sink:
        sink.emit(make_batch(20))
        for first in (21, 26):
            mark = sink.mark
            sink.emit(make_batch(5, first=first))
        (removed,) = admin.delete_records([confluent_kafka.TopicPartition(settings.topic, 0, -1)]).values()
        removed.result(10)
    with emitter(settings, mark=sink.mark) as sink:
        for _ in range(2):
            assert last(sink) == 30
        assert last(sink, "ann-2") == 0
    with emitter(settings, mark=mark) as sink:  # a process that was killed before it noted more
        assert last(sink) == 25
    with emitter(settings, mark=replaced(mark, ids=None)) as sink:
        assert last(sink) == 0
        sink.emit(make_batch(5, first=31))
    with emitter(settings, mark=mark) as sink:  # records in the topic count more than the mark
        assert last(sink) == 35


def test_partitions_added_later_do_not_move_a_journal(settings: Settings, admin: AdminClient) -> None:
    key, other = "ann-1", "cid-2"
    with emitter(replace(settings, kafka_partitions=1), key) as sink:
        sink.emit(make_batch(10))
        mark = sink.mark
    admin.create_partitions([NewPartitions(settings.topic, 8)])[settings.topic].result(10)
    places = {confluent_kafka.TopicPartition(settings.topic, partition): OffsetSpec.latest() for partition in range(8)}

    def led() -> bool:  # known is not enough: for a moment the broker itself denies to lead them
        """at first the broker denies to lead new partitions"""
        return not any(future.exception(10) for future in admin.list_offsets(places).values())

    wait_until(led)
    assert crc32(key.encode()) % 8 != 0
    for first in (11, 21):
        with emitter(settings, key, mark) as sink:
            assert last(sink) == first - 1
            sink.emit(make_batch(10, first=first))
            mark = sink.mark
    with emitter(settings, other) as sink:
        sink.emit(make_batch(10, producer_id="cid-2-1"))
    partitions = {(record.key(), record.partition()) for record in read_topic(settings)}
    assert partitions == {(key.encode(), 0), (other.encode(), crc32(other.encode()) % 8)}


def test_the_search_ends_at_the_mark(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    real = KafkaEmitter._search

    def search(self: KafkaEmitter, start: int, end: int, known: Collection[str]) -> object:
        searched.append(start)
        return real(self, start, end, known)

    monkeypatch.setattr(KafkaEmitter, "_search", search)
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        assert last(sink) == 0
        assert mark_of(sink.mark).offset == 0  # noted before anything is written
        sink.emit(make_batch(30))
        assert (mark_of(sink.mark).offset, mark_of(sink.mark).ids) == (29, ("ann-1", 30))
        mark = sink.mark
    fill(one_partition, 5_000)
    with emitter(one_partition) as sink:
        assert sink.last([]) is None
        assert searched == []  # nothing was appended, so nothing is searched
    with emitter(one_partition, mark=mark) as sink:
        assert last(sink) == 30
        assert sink.mark == mark
        assert searched == [29]
    with emitter(one_partition, mark=mark) as sink:
        assert last(sink, "nobody") == 0
        mark = sink.mark
    assert mark_of(mark).offset == 5_031  # behind 5,030 records and one end of a transaction
    searched.clear()
    with emitter(one_partition, mark=mark) as sink:
        assert last(sink, "nobody") == 0
    assert searched == []


def test_an_early_end_of_the_partition_is_not_believed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newly elected leader may report such an end for a moment."""

    class Early:
        def error(self) -> KafkaError:
            return KafkaError(KafkaError._PARTITION_EOF)

        def offset(self) -> int:
            return 0

    class Eager(confluent_kafka.Consumer):
        asked = False

        def consume(self, *arguments: Any) -> list[Any]:
            first, self.asked = not self.asked, True
            return [Early()] if first else super().consume(*arguments)

    with emitter(settings) as sink:
        sink.emit(make_batch(3))
        monkeypatch.setattr(confluent_kafka, "Consumer", Eager)
        assert last(sink) == 3


def test_a_search_ends_if_nothing_comes_not_if_it_takes_long(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, passed_s = time.monotonic, 0.0

    class Slow(confluent_kafka.Consumer):
        found = True

        def consume(self, *arguments: Any) -> list[Any]:
            nonlocal passed_s
            passed_s += 0.05
            return super().consume(*arguments) if self.found else []

    with emitter(settings) as sink:
        sink.emit(make_batch(100))
        monkeypatch.setattr(confluent_kafka, "Consumer", Slow)
        monkeypatch.setattr(kafka_emitter, "SCAN_S", 2.0)
        monkeypatch.setattr(kafka_emitter, "SCAN_RECORDS", 2)
        monkeypatch.setattr("time.monotonic", lambda: real() + passed_s)
        started_s = time.monotonic()
        assert last(sink) == 100
        assert time.monotonic() - started_s > 2.0
        monkeypatch.setattr(kafka_emitter, "SCAN_S", 0.2)
        monkeypatch.setattr(Slow, "found", False)
        with pytest.raises(Unavailable, match="cannot be read back within"):
            last(sink)


def test_many_external_records_behind_the_last_own_one(settings: Settings) -> None:
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        sink.emit(make_batch(10))
        mark = sink.mark
    fill(one_partition, 50_000)
    for known in (mark, ""):  # noted long ago, or never
        started_s = time.monotonic()
        with emitter(one_partition, mark=known) as sink:
            assert last(sink) == 10
        assert time.monotonic() - started_s < 8.0  # 0.5 to 0.8 on two idle cores


def test_timestamps_of_records_do_not_matter(settings: Settings, admin: AdminClient) -> None:
    """Brokers may set them by another clock."""
    now_ms = int(time.time() * 1000)
    create_topic(admin, settings)
    producer = raw_producer(settings, KEY)
    for first, shift_ms in ((1, 3_000_000), (11, -86_400_000), (21, 0)):
        producer.begin_transaction()
        for line in make_batch(10, first=first).lines.splitlines():
            producer.produce(settings.topic, line, KEY, partition=0, timestamp=now_ms + shift_ms)
        producer.commit_transaction(10)
    for first in (31, 41):
        with emitter(settings) as sink:
            assert last(sink) == first - 1
            sink.emit(make_batch(10, first=first))
    set_topic(admin, settings, "message.timestamp.type", "LogAppendTime")
    with emitter(settings, mark=sink.mark) as sink:
        assert last(sink) == 50
        sink.emit(make_batch(10, first=51))
    assert sequences(settings) == list(range(1, 61))


def test_external_records_with_our_key_are_skipped(settings: Settings) -> None:
    with emitter(replace(settings, kafka_partitions=1)) as sink:
        sink.emit(make_batch(10))
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "log_level": 0})
    strange = (b"not json", b"", b"[1]", b'{"producer_id":5}', b'{"producer_id":"ann-1","sequence":"x"}', b"[" * 5000)
    for value in (*strange, None):
        producer.produce(settings.topic, value, KEY, partition=0)
    assert producer.flush(10) == 0
    with emitter(settings) as sink:
        assert last(sink) == 10


def test_two_copies_of_a_journal_fence_each_other_and_stay_exact(settings: Settings) -> None:
    """Two copies continue where the topic says their run is; a fenced one waits until the other has stored."""
    goal, reasons = 500, Counter[str]()
    started, asked, moved = threading.Barrier(2), threading.Barrier(2), threading.Condition()
    stored = {"one": 0, "two": 0}

    def deliver(run: str, other: str) -> None:
        first = True
        started.wait(10)
        while stored[run] < goal:
            try:
                with emitter(settings) as sink:
                    stored[run] = last(sink, run)
                    if first:  # the copy that asked first is fenced by now, unless the other one was before
                        with suppress(threading.BrokenBarrierError):
                            asked.wait(5)
                    while stored[run] < goal:
                        sink.emit(make_batch(10, producer_id=run, first=stored[run] + 1))
                        with moved:
                            stored[run] += 10
                            moved.notify_all()
            except Unavailable as error:
                reasons[str(error)[:60]] += 1
                enough = min(goal, stored[other] + 100)
                with moved:  # in vain if the other one was fenced at the same moment
                    moved.wait_for(lambda enough=enough: stored[other] >= enough, 1.0)  # type: ignore[misc]
            first = False

    copies = [threading.Thread(target=deliver, args=runs) for runs in (("one", "two"), ("two", "one"))]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join(60)
    assert any(f"another process writes as {KEY}" in reason for reason in reasons), reasons
    for run in stored:
        assert sequences(settings, run) == list(range(1, goal + 1))


class Broken:
    """A client whose call fails like librdkafka's fatal errors, with or without the real error as cause."""

    def __init__(self, real: Producer, call: str, error: BaseException) -> None:
        self.real, self.call, self.error = real, call, error

    def __getattr__(self, name: str) -> object:
        if name == self.call:
            raise self.error
        return getattr(self.real, name)


def fatal(number: int, cause: BaseException | None = None) -> BaseException:
    error: BaseException = KafkaException(KafkaError(number)) if cause is None else SystemError("error return")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        ("begin_transaction", fatal(KafkaError._FENCED), "another process writes as"),
        ("flush", fatal(KafkaError._FENCED, fatal(KafkaError._FENCED)), "another process writes as"),
        ("flush", SystemError("returned a result with an exception set"), "Kafka client of .* failed"),
        ("produce_batch", fatal(KafkaError._FATAL), "Kafka at"),
        ("commit_transaction", fatal(KafkaError._STATE), "Kafka at"),
        ("commit_transaction", fatal(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED), "Kafka at .*uthorization"),
    ],
    ids=["fenced", "SystemError with a cause", "SystemError", "fatal", "state", "forbidden"],
)
def test_every_error_of_the_client_can_heal(settings: Settings, call: str, error: BaseException, reason: str) -> None:
    with emitter(settings) as sink:
        sink.emit(make_batch(3))
        sink._producer = Broken(sink._fenced(), call, error)  # type: ignore[assignment]
        with pytest.raises(Unavailable, match=reason) as raised:
            sink.emit(make_batch(3, first=4))
    assert "no Kafka broker answers" not in str(raised.value)
    with emitter(settings) as sink:
        stored = last(sink)
        sink.emit(make_batch(3, first=stored + 1))
    assert sequences(settings) == list(range(1, stored + 4))


def test_a_batch_that_is_not_queued_whole_is_not_committed(settings: Settings) -> None:
    class Short(Broken):
        def produce_batch(self, topic: str, records: list[dict[str, Any]], **options: Any) -> int:
            return self.real.produce_batch(topic, [*records[:1], *records[2:]], **options)

    with emitter(settings) as sink:
        sink._producer = Short(sink._fenced(), "", SystemError())  # type: ignore[assignment]
        with pytest.raises(Unavailable, match="only 2 of 3"):
            sink.emit(make_batch(3))
    with emitter(settings) as sink:
        assert last(sink) == 0


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_is_rejected_in_one_line(settings: Settings, admin: AdminClient, policy: str) -> None:
    create_topic(admin, settings)
    assert Admin(settings).problem(settings.topic) == ""
    set_topic(admin, settings, "cleanup.policy", policy)
    with pytest.raises(ToolkitError, match=f"topic {settings.topic} is compacted, .*cleanup.policy") as raised:
        opened(settings)
    assert not isinstance(raised.value, Unavailable)
    assert Admin(settings).problem(settings.topic) == str(raised.value)
    set_topic(admin, settings, "cleanup.policy", "delete")
    with emitter(settings) as sink:
        sink.emit(make_batch(3))


def test_topics_are_not_compacted_where_that_is_the_brokers_default(settings: Settings, admin: AdminClient) -> None:
    other = replace(settings, topic=f"{settings.topic}-other")
    configure(admin, ConfigResource.Type.BROKER, "1", "log.cleanup.policy", "compact")
    try:
        assert Admin(settings).problem(settings.topic) == ""  # the topic does not exist yet
        with emitter(settings) as sink:
            sink.emit(make_batch(3))
        create_topic(admin, other)
        with pytest.raises(ToolkitError, match="is compacted"):
            opened(other)
    finally:
        configure(admin, ConfigResource.Type.BROKER, "1", "log.cleanup.policy", None)


def test_brokers_too_few_for_transactions_are_no_missing_broker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = fatal(KafkaError._TIMED_OUT)
    monkeypatch.setattr(
        "confluent_kafka.Producer", lambda options: Broken(Producer(options), "init_transactions", late)
    )
    with emitter(settings) as sink, pytest.raises(Unavailable, match=r"^Kafka at .*: Local: Timed out"):
        last(sink)


def test_no_broker_is_one_line_within_two_seconds(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match=rf"no Kafka broker answers at {NOBODY}: .*refused"):
        opened(replace(settings, kafka_broker=NOBODY))
    assert time.monotonic() - started_s < 2.0
    assert not re.search(r"%\d\|", capfd.readouterr().err)  # prefix of librdkafka's own lines


def test_a_frozen_broker_does_not_hold_the_emitter(
    kafka: Kafka, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_emitter, "COMMIT_S", 1.0)
    with emitter(settings) as sink:
        sink.emit(make_batch(10))
        kafka.broker.freeze()
        try:
            started_s = time.monotonic()
            with pytest.raises(Unavailable):
                sink.emit(make_batch(10, first=11))
            with pytest.raises(Unavailable):
                opened(settings)
            sink.close()
            assert time.monotonic() - started_s < 5.0
        finally:
            kafka.broker.thaw()
    found: list[int] = []

    def asked() -> bool:
        """A broker that was away for long must first be let in again, as workers do."""
        with suppress(Unavailable), emitter(settings) as again:
            found.append(last(again))
        return bool(found)

    wait_until(asked, 60.0)
    with emitter(settings) as sink:
        stored = last(sink)
        assert stored in (10, 20)
        sink.emit(make_batch(5, first=stored + 1))
    assert sequences(settings) == list(range(1, stored + 6))


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_wrong_credentials_are_one_line_without_the_password(
    secured: Secured, protocol: str, logged: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unavailable, match=r"check .*KAFKA_PASSWORD.*authentication") as raised:
        opened(secured(protocol, "SCRAM-SHA-512", "not-my-password"))
    assert "not-my-password" not in "".join([str(raised.value), *logged, *capfd.readouterr()])
    assert PASSWORD not in "".join(logged)


def test_an_unknown_ca_is_one_line(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = secured("SSL")
    monkeypatch.delenv("KAFKA_CA_FILE")
    with pytest.raises(Unavailable, match="KAFKA_CA_FILE"):
        opened(settings)


def test_a_ca_file_without_certificates_is_a_mistake_of_the_user(secured: Secured, monkeypatch: pytest.MonkeyPatch,
                                                                 settings: Settings) -> None:  # fmt: skip
    wrong = settings.data_path.parent / "ca.pem"
    wrong.write_text("nothing")
    protected = secured("SSL")
    monkeypatch.setenv("KAFKA_CA_FILE", str(wrong))
    with pytest.raises(ToolkitError, match="settings") as raised:
        opened(protected)
    assert not isinstance(raised.value, Unavailable)


def test_a_topic_that_may_not_be_created_is_one_line(secured: Secured, admin: AdminClient) -> None:
    rules = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{USER}", "*", AclOperation.CREATE,
                   AclPermissionType.DENY)
        for kind, name in ((ResourceType.BROKER, "kafka-cluster"), (ResourceType.TOPIC, "*"))
    ]  # fmt: skip
    rules.append(AclBinding(ResourceType.TOPIC, "*", ResourcePatternType.LITERAL, f"User:{USER}", "*",
                            AclOperation.DESCRIBE, AclPermissionType.ALLOW))  # fmt: skip
    for future in admin.create_acls(rules).values():
        future.result(10)
    settings = secured("SASL_PLAINTEXT", "SCRAM-SHA-256")
    try:
        with pytest.raises(Unavailable, match=r"Kafka at .*: .*uthorization failed"):
            wait_until(lambda: opened(settings).close())
    finally:
        delete_rules(admin)


def delete_rules(admin: AdminClient) -> None:
    everything = AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]  # what the library calls "any"
        ResourcePatternType.ANY,
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    admin.delete_acls([everything])[everything].result(10)


def test_a_topic_that_may_not_be_read_is_no_empty_topic(secured: Secured, admin: AdminClient) -> None:
    """An unreadable topic is an error: a cursor of 0 would send everything pending again."""
    with emitter(secured.settings) as sink:
        sink.emit(make_batch(10))

    def allow(*operations: AclOperation) -> None:
        for operation in operations:
            rule = AclBinding(ResourceType.TOPIC, secured.settings.topic, ResourcePatternType.LITERAL, f"User:{USER}",
                              "*", operation, AclPermissionType.ALLOW)  # fmt: skip
            admin.create_acls([rule])[rule].result(10)

    try:
        allow(AclOperation.WRITE, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
        with (
            emitter(secured("SASL_PLAINTEXT", "SCRAM-SHA-256")) as sink,
            pytest.raises(Unavailable, match=f"{secured.settings.topic} cannot be read back: .*authorization"),
        ):
            last(sink)
        allow(AclOperation.READ)
        with emitter(secured("SASL_PLAINTEXT", "SCRAM-SHA-256")) as sink:
            assert last(sink) == 10
    finally:
        delete_rules(admin)


def test_a_topic_whose_configuration_may_not_be_read_is_written(
    secured: Secured, admin: AdminClient, logged: list[str]
) -> None:
    create_topic(admin, secured.settings)
    try:
        for operation in (AclOperation.WRITE, AclOperation.DESCRIBE, AclOperation.READ):
            rule = AclBinding(ResourceType.TOPIC, secured.settings.topic, ResourcePatternType.LITERAL, f"User:{USER}",
                              "*", operation, AclPermissionType.ALLOW)  # fmt: skip
            admin.create_acls([rule])[rule].result(10)
        with emitter(secured("SASL_PLAINTEXT")) as sink:
            sink.emit(make_batch(10))
            assert last(sink) == 10
    finally:
        delete_rules(admin)
    assert [line for line in logged if "may not read the configuration" in line]


def test_a_topic_that_is_created_meanwhile_is_opened(settings: Settings, admin: AdminClient) -> None:
    create_topic(admin, settings)
    asked = Admin(settings)
    asked._create(settings.topic)
    assert asked.open_topic(settings.topic).partitions == 1


def test_more_copies_than_brokers_is_one_line(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="eplication factor"):
        opened(replace(settings, kafka_replication=3))


def test_a_topic_name_that_cannot_be_is_a_mistake_of_the_user(settings: Settings) -> None:
    with pytest.raises(ToolkitError, match="no topic 'not a topic'") as raised:
        opened(replace(settings, topic="not a topic"))
    assert not isinstance(raised.value, Unavailable)


@pytest.mark.filterwarnings("ignore:value_serializer")  # the old way, which users have
def test_emit_message_waits_for_the_acknowledgement(settings: Settings, logged: list[str]) -> None:
    message = {"message": "buzz", "author": "Ann", "sentiment": 0.5, "producer_id": "x", "sequence": 4}
    with emitter(settings):
        pass
    with closing(KafkaProducer(bootstrap_servers=settings.kafka_broker)) as producer:
        assert emit_message(message, producer=producer, topic=settings.topic)
        assert not emit_message({"message": float("nan")}, producer=producer, topic=settings.topic)
        assert not emit_message("text", producer=producer, topic=settings.topic)  # type: ignore[arg-type]  # as a notebook may
        assert "not sent" in logged[-1]
        assert emit_message({"a": {"b": [1, None]}, "no": "message"}, producer=producer, topic=settings.topic)
    serializer = KafkaProducer(
        bootstrap_servers=settings.kafka_broker, value_serializer=lambda value: json.dumps(value).encode()
    )
    with closing(serializer) as producer:
        assert emit_message(message, producer=producer, topic=settings.topic)
    values = [json.loads(record.value() or b"") for record in read_topic(settings)]
    without = {name: value for name, value in message.items() if name not in ("producer_id", "sequence")}
    assert sorted(values, key=str) == sorted([without, without, {"a": {"b": [1, None]}, "no": "message"}], key=str)
