"""Producers and consumers with a real broker that fails: nothing is lost and nothing comes twice."""

import json
import math
import random
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from tests.helpers import assert_complete, assigned, last_assigned, open_duckdb, run_here, start_python, wait_until
from tests.kafka.conftest import Kafka, delete_topic, read_topic
from tests.kafka_broker import Cluster
from utils.app.config import Settings
from utils.delivery.producing import produce
from utils.records.record import Message
from utils.records.stream import BUZZ
from utils.sinks import ALL, ProducerOptions, RunOptions

CASE = "producers.producer_case"
WAIT_S = 60.0


def options(settings: Settings, *more: str | float) -> list[str]:
    return ["--kafka-broker", settings.kafka_broker, "--topic", settings.topic, *map(str, more)]


def hurried(module: str) -> str:
    """Return code for a command with shorter waits for the broker, whose group soon misses it."""
    return f"""
import runpy
from utils.emitters import kafka_emitter
from utils.sources import kafka_source
kafka_emitter.COMMIT_S, kafka_source.SESSION_S = 2.0, 1.5
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


@contextmanager
def producing(settings: Settings, *more: str | float, code: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start a producer, which is killed at the end if it still runs."""
    module = () if code else (CASE,)
    with start_python(*module, *options(settings, *more), code=code, settings=settings) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def interrupt(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Send Ctrl+C; assert the exit code and return the output."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == code, out + err
    return out + err


def acknowledged(settings: Settings) -> int:
    if not settings.journal_path("case").exists():
        return 0
    try:
        return last_assigned(settings, "case")
    except sqlite3.OperationalError:
        return 0  # just being created


def in_file(settings: Settings) -> int:
    return settings.live_path.read_bytes().count(b"\n") if settings.live_path.exists() else 0


def in_topic(settings: Settings) -> dict[str, list[int]]:
    """Return producer_id -> sequences in order, as read_committed readers see them."""
    found: dict[str, list[int]] = {}
    for record in read_topic(settings):
        fields = json.loads(record.value() or b"{}")
        found.setdefault(fields["producer_id"], []).append(fields["sequence"])
    return found


def assert_topic_complete(settings: Settings, expected: Mapping[str, range]) -> None:
    """Assert that the topic contains these runs, each record once, all in order."""
    found = in_topic(settings)
    assert found.keys() == expected.keys()
    for producer_id, sequences in expected.items():
        assert found[producer_id] == list(sequences), producer_id
    for key in {producer_id.rpartition("-")[0] for producer_id in expected}:
        assert [each for each in found if each.startswith(key)] == [each for each in expected if each.startswith(key)]


def topic_end(admin: AdminClient, settings: Settings) -> int:
    """Return the number of committed records and transaction marks in all partitions, or -1 while it is unknown."""
    try:
        topics = admin.list_topics(timeout=10).topics
        if settings.topic not in topics:
            return 0
        places = {
            TopicPartition(settings.topic, each): OffsetSpec.latest() for each in topics[settings.topic].partitions
        }
        found = admin.list_offsets(places, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=5)
        return sum(future.result(10).offset for future in found.values())
    except KafkaException:
        return -1


def assert_all_sinks_complete(settings: Settings) -> int:
    """Assert that all four sinks have every acknowledged message once and in order; return how many."""
    runs = assigned(settings, "case")
    assert_complete(settings, runs)
    assert_topic_complete(settings, runs)
    return acknowledged(settings)


def reached(amount: Callable[[], int], goal: int) -> bool:
    return amount() >= goal


def finish(settings: Settings) -> None:
    """Deliver everything pending in a clean run."""
    done = run_here(CASE, *options(settings, "--interval", 0, "--count", 100, "--drain", 60), settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.proof(
    "an acknowledged record is in every sink, once and in order",
    "kill -9 of a producer to four sinks, Kafka among them",
    full=5,
    long=200,
)
@pytest.mark.timeout(3600)  # for the long setting
def test_killed_at_random_moments(settings: Settings, times: int, long: bool, measured: Callable[[str], None]) -> None:
    kills, goal = times, 1_000_000 if long else 30_000
    rng = random.Random(6)
    for _ in range(kills):
        until = acknowledged(settings) + rng.randrange(goal // kills // 2, goal * 3 // kills // 2)
        with producing(settings, "--interval", 0, "--sinks", *ALL) as process:
            wait_until(partial(reached, lambda: acknowledged(settings), until), WAIT_S)
            process.kill()
    while acknowledged(settings) < goal:
        finish(settings)
    finish(settings)
    last = assert_all_sinks_complete(settings)
    audit = run_here("verify_emitters", "audit", *options(settings), settings=settings)
    assert audit.returncode == 0, audit.stdout + audit.stderr
    measured(f"{kills} kills in {last:,} records: lost 0, twice 0 in {', '.join(ALL)}")


def test_a_missing_broker_is_logged_once_and_delivery_begins_when_it_comes(kafka: Kafka, settings: Settings) -> None:
    kafka.broker.stop()
    try:
        started_s = time.monotonic()
        with producing(settings, "--interval", 0.002, "--drain", 20) as process:
            wait_until(lambda: in_file(settings) >= 1, WAIT_S)
            log = settings.data_path / "logs" / "producer_case.log"
            wait_until(lambda: log.exists() and "kafka: unavailable" in log.read_text())
            assert time.monotonic() - started_s < 10
            wait_until(lambda: in_file(settings) >= 500, WAIT_S)
            kafka.broker.start()
            wait_until(lambda: "kafka: delivering again" in log.read_text(), WAIT_S)
            printed = interrupt(process)
    finally:
        kafka.broker.start()
    assert printed.count("kafka: unavailable") == 1
    assert not re.search(r"%\d\|", printed) and "Traceback" not in printed
    assert assert_all_sinks_complete(settings) >= 500


def test_a_journal_from_a_backup_needs_nothing(settings: Settings) -> None:
    path = settings.journal_path("case")
    finish(settings)
    backup = path.read_bytes()
    finish(settings)
    lost = assigned(settings, "case")
    path.write_bytes(backup)
    finish(settings)
    again = assigned(settings, "case")
    assert [each[-1] for each in (*lost.values(), *again.values())] == [100, 200, 100, 200]
    assert_topic_complete(settings, lost | again)
    assert_complete(settings, lost | again)


def test_two_copies_of_a_folder_that_run_at_once(settings: Settings, tmp_path: Path) -> None:
    """Two copies with 2,000 pending messages each fence each other in turns and stay exact."""
    finish(settings)
    away = options(replace(settings, kafka_broker="127.0.0.1:1"), "--interval", 0, "--count", 2000, "--drain", 0)
    done = run_here(CASE, *away, settings=settings)
    assert done.returncode == 3, done.stderr
    copy = replace(settings, data_dir=tmp_path / "copied" / "data")
    shutil.copytree(settings.data_path, copy.data_path)
    more = ("--interval", 0.01, "--count", 300, "--drain", 60)
    both = [start_python(CASE, *options(each, *more), settings=each) for each in (settings, copy)]
    for process in both:
        out, err = process.communicate(timeout=150)
        assert process.returncode == 0, out + err
        assert "Traceback" not in err
    for each in (settings, copy):
        assert_complete(each, assigned(each, "case"))
    found = in_topic(settings)
    expected = assigned(settings, "case") | assigned(copy, "case")
    assert {producer_id: list(each) for producer_id, each in expected.items()} == found


@pytest.mark.proof(
    "a sink that is down delays no other sink and gets all records when it is up again",
    "short runs while the broker is down",
    full=5,
    long=200,
)
@pytest.mark.timeout(3600)  # for the long setting
def test_many_short_runs_while_the_broker_is_away(settings: Settings, times: int) -> None:
    finish(settings)
    away = options(replace(settings, kafka_broker="127.0.0.1:1"), "--interval", 0, "--count", 3, "--drain", 0)
    for _ in range(times):
        assert run_here(CASE, *away, settings=settings).returncode == 3
    finish(settings)
    assert_all_sinks_complete(settings)


def in_embedded(settings: Settings) -> dict[str, int]:
    """Return the number of messages in each embedded sink."""
    query = "SELECT count(*) FROM streamed_messages"
    with closing(sqlite3.connect(settings.sqlite_path)) as lite, open_duckdb(settings.duckdb_path) as duck:
        rows = {"sqlite": lite.execute(query).fetchall(), "duckdb": duck.execute(query).fetchall()}
    return {"file": in_file(settings)} | {sink: int(found[0][0]) for sink, found in rows.items()}


def stop(kafka: Kafka) -> Callable[[], None]:
    kafka.broker.stop()
    return kafka.broker.start


def kill(kafka: Kafka) -> Callable[[], None]:
    kafka.broker.kill()
    return kafka.broker.start


def freeze(kafka: Kafka) -> Callable[[], None]:
    kafka.broker.freeze()
    return kafka.broker.thaw


@pytest.mark.parametrize("fail", [pytest.param(stop, marks=pytest.mark.slow), kill, freeze])
def test_a_broker_that_fails_while_producing(
    kafka: Kafka, settings: Settings, admin: AdminClient, long: bool, fail: Callable[[Kafka], Callable[[], None]]
) -> None:
    more = 30_000 if long else 1_000  # in the long setting, for 60 s at 500 a second
    with producing(settings, "--interval", 0.002, "--drain", 30) as process:
        wait_until(lambda: topic_end(admin, settings) > 100, WAIT_S)
        heal = fail(kafka)
        try:
            goal = acknowledged(settings) + more
            wait_until(lambda: acknowledged(settings) >= goal, more / 475 if long else WAIT_S)
            wait_until(lambda: min(in_embedded(settings).values()) >= goal, 2 if long else WAIT_S)
        finally:
            heal()
        interrupt(process)
    assert assert_all_sinks_complete(settings) >= goal


@pytest.mark.slow
def test_a_producer_that_sleeps_through_a_transaction_continues(settings: Settings) -> None:
    with producing(settings, "--interval", 0, "--count", 400_000, "--drain", 60) as process:
        wait_until(lambda: acknowledged(settings) > 20_000, WAIT_S)
        process.send_signal(signal.SIGSTOP)
        asleep_s = time.monotonic()
        wait_until(lambda: time.monotonic() - asleep_s > 25, 30)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert assert_all_sinks_complete(settings) == 400_000


def test_ctrl_c_ends_within_the_bound_while_the_broker_is_frozen(kafka: Kafka, settings: Settings) -> None:
    log = settings.data_path / "logs" / "producer_case.log"
    with producing(settings, "--interval", 0.002, "--drain", 1) as process:
        wait_until(lambda: log.exists() and acknowledged(settings) > 300, WAIT_S)
        kafka.broker.freeze()
        try:
            frozen_at = acknowledged(settings)
            wait_until(lambda: acknowledged(settings) > frozen_at + 300, WAIT_S)
            started_s = time.monotonic()
            interrupt(process, code=3)
            assert time.monotonic() - started_s < 3.5
        finally:
            kafka.broker.thaw()
    finish(settings)
    assert_all_sinks_complete(settings)


def test_a_deleted_topic_gets_all_that_is_in_the_journal(settings: Settings, admin: AdminClient) -> None:
    """A deleted topic is created again; brokers that do not create one let a commit wait until it times out."""
    with producing(settings, "--interval", 0.002, "--drain", 30, code=hurried(CASE)) as process:
        wait_until(lambda: topic_end(admin, settings) > 300, WAIT_S)
        delete_topic(admin, settings.topic)
        deleted_at = acknowledged(settings)
        wait_until(lambda: acknowledged(settings) > deleted_at + 1000, WAIT_S)
        interrupt(process)
    runs = assigned(settings, "case")
    last = acknowledged(settings)
    assert_complete(settings, runs)
    ((_, sequences),) = in_topic(settings).items()
    first = sequences[0]
    assert first <= deleted_at + 1
    assert sequences == list(range(first, last + 1))


def test_a_record_over_the_limit_of_the_topic_becomes_a_dead_letter(settings: Settings, admin: AdminClient) -> None:
    topic = NewTopic(settings.topic, 1, config={"max.message.bytes": "500"})
    admin.create_topics([topic])[settings.topic].result(10)
    texts = ["x" * (900 if number % 10 == 3 else 20) for number in range(100)]
    made = [(0.0, Message(text, "Ann", "tech", 0.5, "key", len(text))) for text in texts]
    making = ProducerOptions(interval=0, sinks=("file", "kafka"), run=RunOptions(drain=30))
    assert produce(BUZZ, "case", made, making, settings) == 0
    ((_, sequences),) = in_topic(settings).items()
    large = [number for number in range(1, 101) if number % 10 == 4]
    assert sequences == [number for number in range(1, 101) if number not in large]
    letters = [json.loads(line) for line in settings.dead_letter_path("kafka").read_text().splitlines()]
    assert [letter["sequence"] for letter in letters] == large
    assert all("max.message.bytes 500" in letter["reason"] for letter in letters)
    assert in_file(settings) == 100


@pytest.mark.proof(
    "an acknowledged record is in every sink, once and in order",
    "kill -9 of one broker of three while a producer writes to them",
    full=1,
    long=3,
)
def test_each_broker_of_a_cluster_is_killed_in_turn(
    home: Path, tmp_path: Path, times: int, long: bool, measured: Callable[[str], None]
) -> None:
    """In the long setting brokers have their defaults: 9 s until a dead one is replaced."""
    defaults = {"broker.session.timeout.ms": "9000", "broker.heartbeat.interval.ms": "2000"}
    with Cluster(home, 3, settings=defaults if long else None) as cluster:
        settings = Settings(data_dir=tmp_path / "data", kafka_broker=cluster.address, topic="cluster")
        goal = 300_000 if long else 5_000
        gaps: list[float] = []
        with producing(settings, "--interval", 0.0004 if long else 0.001, "--drain", 60) as process:
            admin = AdminClient({"bootstrap.servers": cluster.address, "log_level": 0})
            wait_until(lambda: topic_end(admin, settings) > 500, WAIT_S)
            nodes = dict(enumerate(cluster.brokers, 1))
            for node in range(1, times + 1):
                wait_until(lambda: _in_sync(admin, {*nodes}), WAIT_S)
                others = {*nodes} - {node}
                addresses = ",".join(nodes[other].address for other in others)
                nodes[node].kill()
                watching = AdminClient({"bootstrap.servers": addresses, "log_level": 0})
                gaps.append(_longest_gap(watching, settings, others, goal // 10))
                nodes[node].start()
            wait_until(lambda: acknowledged(settings) >= goal, 300)
            interrupt(process)
        last = assert_all_sinks_complete(settings)
    longest = ", ".join(f"{gap:.1f}" for gap in gaps)
    measured(f"{len(gaps)} of 3 brokers killed in {last:,} records: lost 0, twice 0, longest gaps {longest} s")


def _in_sync(admin: AdminClient, nodes: set[int]) -> bool:
    """Return whether exactly these brokers have all partitions."""
    topics = admin.list_topics(timeout=10).topics.values()
    return all({*each.isrs} == nodes and each.leader in nodes for topic in topics for each in topic.partitions.values())


def _longest_gap(admin: AdminClient, settings: Settings, nodes: set[int], amount: int) -> float:
    """Wait for `amount` committed records after these brokers have taken over all partitions.

    Return the longest time in seconds, from now until then, without a committed record.
    """
    gap, end, goal, moved_s = 0.0, 0, math.inf, time.monotonic()

    def continues() -> bool:
        nonlocal gap, end, goal, moved_s
        now = topic_end(admin, settings)
        if now > end:
            gap, end, moved_s = max(gap, time.monotonic() - moved_s), now, time.monotonic()
            if goal == math.inf and _in_sync(admin, nodes):
                goal = end + amount
        return end >= goal

    wait_until(continues, 120, "delivery does not continue without a broker")
    return gap


@pytest.mark.proof(
    "a consumer stores each record once", "kill -9 of one of four consumers of a Kafka group", full=2, long=100
)
@pytest.mark.timeout(3600)  # for all kills, with --long
def test_a_group_of_consumers_that_are_killed(
    settings: Settings, admin: AdminClient, tmp_path: Path, *, times: int, long: bool, measured: Callable[[str], None]
) -> None:
    kills, each = times, 100_000 if long else 2_000
    rng = random.Random(11)
    admin.create_topics([NewTopic(settings.topic, 4)])[settings.topic].result(10)
    makers = [replace(settings, data_dir=tmp_path / f"producer-{number}" / "data") for number in range(4)]
    total = 4 * each

    def consumer() -> "subprocess.Popen[str]":
        more = options(settings, "--group", settings.group)
        if long:
            return start_python("consumers.kafka_consumer_case", *more, settings=settings)
        return start_python(*more, code=hurried("consumers.kafka_consumer_case"), settings=settings)

    def stored() -> int:
        store = settings.processed_path("kafka")
        if not store.exists():
            return 0
        with closing(sqlite3.connect(store, timeout=10)) as connection:
            try:
                return int(connection.execute("SELECT COUNT(*) FROM records").fetchone()[0])
            except sqlite3.OperationalError:
                return 0

    producers = [
        start_python(CASE, *options(maker, "--sinks", "kafka", "--count", each, "--interval", 0.001, "--drain", 60),
                     settings=maker)
        for maker in makers
    ]  # fmt: skip
    consumers = [consumer() for _ in range(4)]
    try:
        for _ in range(kills):
            until = min(total - 1, stored() + rng.randrange(total // kills))
            wait_until(partial(reached, stored, until), 120)
            victim = rng.randrange(4)
            consumers[victim].kill()
            consumers[victim].communicate()
            consumers[victim] = consumer()
        for producer in producers:
            out, err = producer.communicate(timeout=300)
            assert producer.returncode == 0, out + err
        wait_until(lambda: stored() == total, 300)
    finally:
        for process in (*producers, *consumers):
            if process.poll() is None:
                process.kill()
                process.communicate()
    with closing(sqlite3.connect(settings.processed_path("kafka"))) as connection:
        rows = connection.execute(
            "SELECT producer_id, COUNT(*), COUNT(DISTINCT sequence), MIN(sequence), MAX(sequence) "
            "FROM records GROUP BY producer_id"
        ).fetchall()
    assert sorted(row[1:] for row in rows) == [(each, each, 1, each)] * 4
    assert {row[0] for row in rows} == {producer_id for maker in makers for producer_id in assigned(maker, "case")}
    once = run_here(
        "consumers.kafka_consumer_case", *options(settings, "--group", settings.group, "--once", "--json"),
        settings=settings,
    )  # fmt: skip
    assert once.returncode == 0, once.stdout + once.stderr
    report = json.loads(once.stdout)
    assert (once.returncode, report["run"]["records"], report["store"]["records"]) == (0, 0, total)
    assert (report["store"]["lost"], report["store"]["duplicate"]) == (0, 0)
    measured(f"{kills} kills of 4 consumers in {total:,} records: each stored once")


def test_once_reads_to_the_end_and_reports_why_it_cannot(settings: Settings) -> None:
    unreachable = replace(settings, kafka_broker="127.0.0.1:1")
    consumer = "consumers.kafka_consumer_case"
    done = run_here(consumer, *options(unreachable, "--once"), settings=settings)
    assert (done.returncode, done.stderr.count("no Kafka broker answers")) == (3, 1), done.stderr
    assert "Traceback" not in done.stderr
    for expected in (100, 200):
        finish(settings)
        group = f"fresh-{secrets.token_hex(2)}"
        done = run_here(consumer, *options(settings, "--once", "--group", group, "--json"), settings=settings)
        assert json.loads(done.stdout)["store"]["records"] == expected
