"""The Kafka emitter against a real broker."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
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
from utils.emitters import kafka_emitter
from utils.emitters.kafka_emitter import KafkaEmitter, emit_message
from utils.records.record import Batch, Message

NOBODY = "127.0.0.1:1"


@contextmanager
def emitter(settings: Settings, since_epoch_s: float | None = None) -> Iterator[KafkaEmitter]:
    with closing(KafkaEmitter(settings, since_epoch_s)) as opened:
        yield opened


def raw_producer(settings: Settings, producer_id: str) -> Producer:
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "transactional.id": producer_id, "log_level": 0})
    producer.init_transactions(10)
    return producer


def sequences(settings: Settings, producer_id: str = "ann-1") -> list[int | None]:
    records = [msgspec.json.decode(record.value() or b"", type=Message) for record in read_topic(settings)]
    return [record.sequence for record in records if record.producer_id == producer_id]


def test_a_batch_arrives_whole_in_order_in_one_partition(settings: Settings) -> None:
    batch = make_batch(500, text="\u2028 žluť \x85\r\n\x0b")
    before_ms = time.time() * 1000
    with emitter(settings) as sink:
        assert sink.last_sequence("ann-1") == 0
        sink.emit(batch)
        assert sink.last_sequence("ann-1") == 500
    records = read_topic(settings)
    assert b"\n".join(record.value() or b"" for record in records) + b"\n" == batch.lines
    assert {record.key() for record in records} == {b"ann-1"}
    assert len({record.partition() for record in records}) == 1
    assert all(before_ms - 1000 <= record.timestamp()[1] <= time.time() * 1000 + 1000 for record in records)


def test_brokers_that_create_no_topics_are_asked_to(settings: Settings, admin: AdminClient) -> None:
    broker = ConfigResource(ConfigResource.Type.BROKER, "1")
    found = admin.describe_configs([broker], request_timeout=10)[broker].result()
    assert found["auto.create.topics.enable"].value == "false"
    with emitter(replace(settings, kafka_partitions=3)) as sink:
        sink.emit(make_batch(10))
    assert len(admin.list_topics(timeout=5).topics[settings.topic].partitions) == 3
    assert sequences(settings) == list(range(1, 11))


def test_producers_resume_where_the_topic_says(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_emitter, "FIRST_WINDOW", 3)
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        sink.emit(make_batch(10))
        sink.emit(make_batch(300, producer_id="bob-1"))
    with emitter(one_partition) as sink:
        assert [sink.last_sequence(name) for name in ("ann-1", "bob-1", "ann-10", "ann")] == [10, 300, 0, 0]
        sink.emit(make_batch(5, first=11))
    assert sequences(settings) == list(range(1, 16))
    assert sequences(settings, "bob-1") == list(range(1, 301))


def test_what_a_killed_process_left_is_neither_counted_nor_completed(settings: Settings) -> None:
    with emitter(settings) as sink:
        sink.emit(make_batch(10))
    zombie = raw_producer(settings, "ann-1")
    zombie.begin_transaction()
    for line in make_batch(5, first=11).lines.splitlines():
        zombie.produce(settings.topic, line, "ann-1", partition=0)
    zombie.flush(10)
    with emitter(settings) as sink:
        assert sink.last_sequence("ann-1") == 10
        with pytest.raises(KafkaException) as raised:
            zombie.commit_transaction(10)
        assert raised.value.args[0].code() == KafkaError._FENCED
        sink.emit(make_batch(2, first=11))
        assert sink.last_sequence("ann-1") == 12
    assert sequences(settings) == list(range(1, 13))


def test_rows_hidden_by_another_transaction_are_waited_for(settings: Settings) -> None:
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        other = raw_producer(settings, "other")
        other.begin_transaction()
        other.produce(settings.topic, b"{}", partition=0)
        other.flush(10)
        sink.emit(make_batch(10))
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(sink.last_sequence("ann-1")))
        asking.start()
        asking.join(0.5)
        assert asking.is_alive()
        other.commit_transaction(10)
        asking.join(10)
    assert found == [10]


def test_a_transaction_that_never_ends_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_emitter, "SCAN_S", 0.2)
    with emitter(replace(settings, kafka_partitions=1)) as sink:
        other = raw_producer(settings, "other")
        other.begin_transaction()
        other.produce(settings.topic, b"{}", partition=0)
        other.flush(10)
        with pytest.raises(Unavailable, match="another producer's transaction"):
            sink.last_sequence("ann-1")


@pytest.fixture
def trusting(admin: AdminClient) -> Iterator[None]:
    """The broker takes transactional rows that its coordinator does not know of, as brokers before 3.6 did."""

    def set_to(operation: AlterConfigOpType) -> None:
        entry = ConfigEntry("transaction.partition.verification.enable", "false", incremental_operation=operation)
        resource = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)

    set_to(AlterConfigOpType.SET)
    yield
    set_to(AlterConfigOpType.DELETE)


def test_rows_that_the_coordinator_forgot_do_not_hide_the_rest_for_ever(
    settings: Settings, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a broker leaves that comes back after a crash: open in the partition, ended for the coordinator.

    They may have been acknowledged, and the journal may hold them no more: so they must come to light.
    """
    monkeypatch.setattr(kafka_emitter, "HELD_UP_S", 0.2)
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        sink.emit(make_batch(10))
    with closing(KafkaProducer(bootstrap_servers=settings.kafka_broker, transactional_id="ann-1")) as forgotten:
        forgotten.init_transactions()
        forgotten.begin_transaction()
        forgotten._transaction_manager._partitions_in_transaction.add(TopicPartition(settings.topic, 0))
        for line in make_batch(5, first=11).lines.splitlines():
            forgotten.send(settings.topic, line, b"ann-1", partition=0).get(10)
    for reached in (15, 20):
        with emitter(one_partition) as sink:
            started_s = time.monotonic()
            assert sink.last_sequence("ann-1") == reached
            assert time.monotonic() - started_s < 5.0
            sink.emit(make_batch(5, first=reached + 1))
    assert sequences(settings) == list(range(1, 26))


def test_a_forgotten_end_mark_is_ended_too(settings: Settings, trusting: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker was killed again while the emitter ended what it had forgotten the first time."""
    monkeypatch.setattr(kafka_emitter, "HELD_UP_S", 0.2)
    one_partition = replace(settings, kafka_partitions=1)
    with emitter(one_partition) as sink:
        sink.emit(make_batch(10))
    with closing(KafkaProducer(bootstrap_servers=settings.kafka_broker, transactional_id="ann-1")) as forgotten:
        forgotten.init_transactions()
        forgotten.begin_transaction()
        forgotten._transaction_manager._partitions_in_transaction.add(TopicPartition(settings.topic, 0))
        forgotten.send(settings.topic, None, b"ann-1", partition=0).get(10)
    with emitter(one_partition) as sink:
        assert sink.last_sequence("ann-1") == 10
        sink.emit(make_batch(5, first=11))
    assert sequences(settings) == list(range(1, 16))


def test_a_second_process_with_the_same_identity_ends_the_first(settings: Settings) -> None:
    with emitter(settings) as first, emitter(settings) as second:
        first.emit(make_batch(3))
        assert second.last_sequence("ann-1") == 3
        with pytest.raises(ToolkitError, match="in use twice") as raised:
            first.emit(make_batch(3, first=4))
        assert not isinstance(raised.value, Unavailable)
        second.emit(make_batch(3, first=4))
    assert sequences(settings) == [1, 2, 3, 4, 5, 6]


def test_a_transaction_that_the_brokers_gave_up_can_heal(settings: Settings) -> None:
    with emitter(settings) as sink, pytest.raises(Unavailable, match="gave up"):
        sink._fail(KafkaException(KafkaError(KafkaError._FENCED)), "ann-1", took_s=11.0)


def test_a_message_that_the_topic_cannot_take_is_rejected_alone(settings: Settings, admin: AdminClient) -> None:
    topic = NewTopic(settings.topic, 1, config={"max.message.bytes": "2000"})
    admin.create_topics([topic])[settings.topic].result(10)
    messages = make_messages(50, producer_id="ann-1")
    messages[29].message = "x" * 3000
    with emitter(settings) as sink:
        with pytest.raises(Rejected, match=r"max\.message\.bytes 2000") as raised:
            sink.emit(Batch.of(messages))
        assert raised.value.sequence == 30
        assert sink.last_sequence("ann-1") == 0
    with emitter(settings) as sink:
        sink.emit(Batch.of(messages[:29]))
        sink.emit(Batch.of(messages[30:]))
    assert sequences(settings) == [*range(1, 30), *range(31, 51)]


def test_largest_message_that_is_not_rejected_is_taken(settings: Settings, admin: AdminClient) -> None:
    topic = NewTopic(settings.topic, 1, config={"max.message.bytes": "2000"})
    admin.create_topics([topic])[settings.topic].result(10)
    with emitter(settings) as sink:
        for size in range(1700, 1960):
            (message,) = make_messages(1, producer_id="ann-1")
            message.message = "x" * size
            try:
                sink._check_sizes(Batch.of([message]), [Batch.of([message]).lines])
            except Rejected:
                break
            largest = message
        sink.emit(Batch.of([largest]))
    assert sequences(settings) == [1]


def test_a_smaller_limit_while_running_can_heal(settings: Settings, admin: AdminClient) -> None:
    with emitter(replace(settings, kafka_partitions=1)) as sink:
        sink.emit(make_batch(5))
        entry = ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, settings.topic, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)
        with pytest.raises(Unavailable, match="takes less than"):
            for first in range(6, 10_000, 100):
                sink.emit(make_batch(100, first=first))
    with emitter(settings) as sink:
        last = sink.last_sequence("ann-1")
        sink.emit(make_batch(100, first=last + 1))
    assert sequences(settings) == list(range(1, last + 101))


def test_a_topic_that_was_created_again_is_noticed(settings: Settings, admin: AdminClient) -> None:
    with emitter(settings) as sink:
        sink.emit(make_batch(50))
        delete_topic(admin, settings.topic)
        admin.create_topics([NewTopic(settings.topic, 4)])[settings.topic].result(10)
        with pytest.raises((SinkReplaced, Unavailable)):
            sink.emit(make_batch(5, first=51))
    with emitter(settings) as sink:
        assert sink.last_sequence("ann-1") == 0  # so that all that the journal still holds comes again
        sink.emit(make_batch(55))
    assert sequences(settings) == list(range(1, 56))


def test_partitions_added_later_do_not_move_a_producer(settings: Settings, admin: AdminClient) -> None:
    with emitter(replace(settings, kafka_partitions=1)) as sink:
        sink.emit(make_batch(10, producer_id="ann-2"))
    admin.create_partitions([NewPartitions(settings.topic, 8)])[settings.topic].result(10)
    places = {confluent_kafka.TopicPartition(settings.topic, partition): OffsetSpec.latest() for partition in range(8)}

    def led() -> bool:  # known is not enough: for a moment the broker itself denies to lead them
        return not any(future.exception(10) for future in admin.list_offsets(places).values())

    wait_until(led)
    with emitter(settings) as sink:
        assert sink.last_sequence("ann-2") == 10
        sink.emit(make_batch(10, producer_id="ann-2", first=11))
        sink.emit(make_batch(10, producer_id="cid-2"))
    partitions = {(record.key(), record.partition()) for record in read_topic(settings)}
    assert {partition for key, partition in partitions if key == b"ann-2"} == {0}
    assert {partition for key, partition in partitions if key == b"cid-2"} == {crc32(b"cid-2") % 8} == {2}


def test_the_search_goes_back_no_further_than_told(settings: Settings) -> None:
    with emitter(settings) as sink:
        sink.emit(make_batch(10))
    for since_s, expected in ((time.time() - 5, 10), (time.time() + 3000, 10), (time.time() + 3700, 0)):
        with emitter(settings, since_s) as sink:
            assert sink.last_sequence("ann-1") == expected


def test_no_broker_is_one_line_within_two_seconds(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match=rf"no Kafka broker answers at {NOBODY}: .*refused"):
        KafkaEmitter(replace(settings, kafka_broker=NOBODY))
    assert time.monotonic() - started_s < 2.0
    assert not re.search(r"%\d\|", capfd.readouterr().err)  # how librdkafka's own lines begin


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
                KafkaEmitter(settings)
            sink.close()
            assert time.monotonic() - started_s < 5.0
        finally:
            kafka.broker.thaw()
    found: list[int] = []

    def asked() -> bool:
        """As a worker does: a broker that was away for long has to be let in again first."""
        with suppress(Unavailable), emitter(settings) as again:
            found.append(again.last_sequence("ann-1"))
        return bool(found)

    wait_until(asked, 60.0)
    with emitter(settings) as sink:
        last = sink.last_sequence("ann-1")
        assert last in (10, 20)
        sink.emit(make_batch(5, first=last + 1))
    assert sequences(settings) == list(range(1, last + 6))


@pytest.mark.parametrize(
    ("protocol", "mechanism"),
    [
        ("SASL_PLAINTEXT", "PLAIN"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("SSL", ""),
        ("SASL_SSL", "SCRAM-SHA-512"),
    ],
)
def test_security(secured: Secured, protocol: str, mechanism: str) -> None:
    settings = secured(protocol, mechanism)
    with emitter(settings) as sink:
        sink.emit(make_batch(10))
    with emitter(settings) as sink:
        assert sink.last_sequence("ann-1") == 10
    assert sequences(replace(settings, kafka_broker=secured.kafka.address)) == list(range(1, 11))


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_wrong_credentials_are_one_line_without_the_password(
    secured: Secured, protocol: str, said: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unavailable, match="KAFKA_PASSWORD") as raised:
        KafkaEmitter(secured(protocol, "SCRAM-SHA-512", "not-my-password"))
    assert USER in str(raised.value)
    assert "not-my-password" not in "".join([str(raised.value), *said, *capfd.readouterr()])
    assert PASSWORD not in "".join(said)


def test_an_unknown_ca_is_one_line(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = secured("SSL")
    monkeypatch.delenv("KAFKA_CA_FILE")
    with pytest.raises(Unavailable, match="KAFKA_CA_FILE"):
        KafkaEmitter(settings)


def test_a_ca_file_without_certificates_is_a_mistake_of_the_user(secured: Secured, monkeypatch: pytest.MonkeyPatch,
                                                                 settings: Settings) -> None:  # fmt: skip
    wrong = settings.data_path.parent / "ca.pem"
    wrong.write_text("nothing")
    protected = secured("SSL")
    monkeypatch.setenv("KAFKA_CA_FILE", str(wrong))
    with pytest.raises(ToolkitError, match="settings") as raised:
        KafkaEmitter(protected)
    assert not isinstance(raised.value, Unavailable)


def test_a_topic_that_may_not_be_created_is_one_line(secured: Secured, admin: AdminClient) -> None:
    rules = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{USER}", "*", AclOperation.CREATE,
                   AclPermissionType.DENY)
        for kind, name in ((ResourceType.BROKER, "kafka-cluster"), (ResourceType.TOPIC, "*"))
    ]  # fmt: skip
    for future in admin.create_acls(rules).values():
        future.result(10)
    settings = secured("SASL_PLAINTEXT", "SCRAM-SHA-256")
    try:
        with pytest.raises(Unavailable, match=f"topic {settings.topic} is missing and cannot be created"):
            wait_until(lambda: KafkaEmitter(settings).close())
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
    """A cursor of 0 would send everything that waits a second time."""
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
            sink.last_sequence("ann-1")
        allow(AclOperation.READ)
        with emitter(secured("SASL_PLAINTEXT", "SCRAM-SHA-256")) as sink:
            assert sink.last_sequence("ann-1") == 10
    finally:
        delete_rules(admin)


def test_more_copies_than_brokers_is_one_line(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="KAFKA_REPLICATION"):
        KafkaEmitter(replace(settings, kafka_replication=3))


def test_a_topic_name_that_cannot_be_is_a_mistake_of_the_user(settings: Settings) -> None:
    with pytest.raises(ToolkitError, match="BUZZ_TOPIC is 'not a topic'") as raised:
        KafkaEmitter(replace(settings, topic="not a topic"))
    assert not isinstance(raised.value, Unavailable)


@pytest.mark.filterwarnings("ignore:value_serializer")  # the old way, which users have
def test_emit_message_waits_for_the_acknowledgement(settings: Settings, said: list[str]) -> None:
    message = {"message": "buzz", "author": "Ann", "sentiment": 0.5, "producer_id": "x", "sequence": 4}
    with emitter(settings):
        pass
    with closing(KafkaProducer(bootstrap_servers=settings.kafka_broker)) as producer:
        assert emit_message(message, producer=producer, topic=settings.topic)
        assert not emit_message({"author": "Ann"}, producer=producer, topic=settings.topic)
        assert "not sent" in said[-1]
    serializer = KafkaProducer(
        bootstrap_servers=settings.kafka_broker, value_serializer=lambda value: json.dumps(value).encode()
    )
    with closing(serializer) as producer:
        assert emit_message(message, producer=producer, topic=settings.topic)
    values = [json.loads(record.value() or b"") for record in read_topic(settings)]
    assert [(value["message"], value.get("sequence")) for value in values] == [("buzz", None)] * 2
