"""A group of consumers on several machines that share a processed store in PostgreSQL."""

import json
import random
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from tests.faults.running import Running
from tests.helpers import assigned, run_here, start_python, wait_until
from tests.kafka.conftest import read_topic
from tests.kafka.test_delivery import CASE, hurried, options
from tests.postgres_server import Server
from utils.app.config import Settings

CONSUMER = "consumers.kafka_consumer_case"
PARTITIONS = 4
pytestmark = pytest.mark.postgres


@dataclass
class Shared:
    """The shared store, queried without the project's code."""

    server: Server
    settings: Settings

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PROCESSED_STORE_URL": self.server.url}

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.url) as connection:
            connection.execute(f'SET search_path = "{self.settings.group}"'.encode())
            return connection.execute(query.encode()).fetchall()

    def amount(self) -> int:
        try:
            return int(self.ask("SELECT COUNT(*) FROM records")[0][0])
        except psycopg.Error:  # the server is away, or the tables do not exist yet
            return 0


@pytest.fixture
def shared(server: Server, settings: Settings, admin: AdminClient) -> Shared:
    admin.create_topics([NewTopic(settings.topic, PARTITIONS)])[settings.topic].result(10)
    return Shared(server, settings)


def machine(shared: Shared, folder: Path) -> Settings:
    return replace(shared.settings, data_dir=folder / "data")


def produce(settings: Settings, count: int) -> "subprocess.Popen[str]":
    more = options(settings, "--sinks", "kafka", "--count", count, "--interval", 0, "--drain", 60)
    return start_python(CASE, *more, settings=settings)


def lags(admin: AdminClient, settings: Settings) -> list[int]:
    """Return per partition the distance from the group's committed offset to the end, as tools show it."""
    places = [TopicPartition(settings.topic, number) for number in range(PARTITIONS)]
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(settings.group, places)])
    committed = asked[settings.group].result(10).topic_partitions
    ends = admin.list_offsets({place: OffsetSpec.latest() for place in places})
    found = {place.partition: future.result(10).offset for place, future in ends.items()}
    return [found[each.partition] - max(0, each.offset) for each in committed]


def statistics(settings: Settings) -> dict[str, tuple[int, float, int]]:
    """Return for each author in the topic: records, sum of sentiment, sum of lengths; without the project's code."""
    found: dict[str, tuple[int, float, int]] = defaultdict(lambda: (0, 0.0, 0))
    for message in read_topic(settings):
        record = json.loads(message.value() or b"{}")
        count, sentiment, length = found[record["author"]]
        found[record["author"]] = count + 1, sentiment + record["sentiment"], length + record["message_length"]
    return found


@pytest.mark.proof(
    "consumers on several machines store each record once, however partitions move",
    "kill -9 of two consumers on each of two machines, and a restart of PostgreSQL with every fifth",
    full=4,
    long=50,
)
@pytest.mark.timeout(3600)
def test_two_machines_that_are_killed_while_the_database_restarts(
    shared: Shared, admin: AdminClient, tmp_path: Path, times: int, measured: Any
) -> None:
    long = times >= 50
    each, rng, settings = 100_000 if long else 2_500, random.Random(5), shared.settings
    total = 4 * each
    makers = [machine(shared, tmp_path / f"producer-{number}") for number in range(4)]
    machines = [machine(shared, tmp_path / f"machine-{number % 2}") for number in range(4)]

    def consumer(number: int) -> "subprocess.Popen[str]":
        more = options(settings, "--group", settings.group, "--log-level", "ERROR")
        own = machines[number]
        return start_python(*more, code=hurried(CONSUMER), settings=own, environment=shared.environment)

    producers = [produce(maker, each) for maker in makers]
    consumers = [consumer(number) for number in range(4)]
    restarts = 0
    try:
        for kill in range(times):
            until = min(total - 1, shared.amount() + rng.randrange(total // times))
            wait_until(lambda until=until: shared.amount() >= until, 120, f"{shared.amount()} of {until}")  # type: ignore[misc]
            victim = rng.randrange(4)
            consumers[victim].kill()
            consumers[victim].communicate()
            if kill % 5 == 1:
                restarts += 1
                shared.server.stop(rng.choice([signal.SIGINT, signal.SIGQUIT]))
                wait_for_attempts(shared.server, rng.randrange(4) if long else 0)
                shared.server.start_again()
            consumers[victim] = consumer(victim)
        for producer in producers:
            out, err = producer.communicate(timeout=300)
            assert producer.returncode == 0, out + err
        wait_until(lambda: shared.amount() == total, 300, "not all was stored")
        wait_until(lambda: lags(admin, settings) == [0] * PARTITIONS, 30, f"lags {lags(admin, settings)}")
    finally:
        for process in (*producers, *consumers):
            if process.poll() is None:
                process.kill()
                process.communicate()
    rows = shared.ask(
        "SELECT producer_id, COUNT(*), COUNT(DISTINCT sequence), MIN(sequence), MAX(sequence) FROM records GROUP BY 1"
    )
    assert sorted(row[1:] for row in rows) == [(each, each, 1, each)] * 4
    assert {row[0] for row in rows} == {producer_id for maker in makers for producer_id in assigned(maker, "case")}
    length = "(record::json ->> 'message_length')::int"
    found = shared.ask(f"SELECT name, COUNT(*), SUM(value), SUM({length}) FROM records GROUP BY 1")
    assert {author: tuple(rest) for author, *rest in found} == {
        author: (count, pytest.approx(sentiment), length)
        for author, (count, sentiment, length) in statistics(settings).items()
    }
    once = run_here(
        CONSUMER, *options(settings, "--group", settings.group, "--once", "--json"),
        settings=machine(shared, tmp_path / "machine-2"), environment=shared.environment,
    )  # fmt: skip
    assert once.returncode == 0, once.stdout + once.stderr
    report = json.loads(once.stdout)
    assert (report["run"]["records"], report["store"]["records"]) == (0, total)
    assert (report["store"]["lost"], report["store"]["duplicate"]) == (0, 0)
    assert not list(tmp_path.glob("machine-*/data/processed/*"))
    measured(
        f"2 machines with 2 consumers each, {times} kill -9, {restarts} restarts of the database, {total:,} records: "
        "each stored once, lag 0"
    )


def wait_for_attempts(server: Server, count: int) -> None:
    """Wait until `count` connections to a server that is away were tried; none is answered."""
    with closing(socket.create_server(("127.0.0.1", server.port))) as listening:
        listening.settimeout(30)
        for _ in range(count):
            listening.accept()[0].close()


def test_consumers_wait_while_the_database_is_away(shared: Shared, tmp_path: Path) -> None:
    """An outage of the database, even at the start, is logged once by each consumer, and nothing is lost."""
    settings, maker = machine(shared, tmp_path / "machine"), machine(shared, tmp_path / "producer")
    assert produce(maker, 300).wait(60) == 0
    shared.server.stop()
    more = options(settings, "--group", settings.group)
    consumer = Running(CONSUMER, *more, settings=settings, environment=shared.environment, drain_s=None)
    try:
        wait_until(lambda: consumer.lines("; waiting"), 30)
        wait_for_attempts(shared.server, 3)
        shared.server.start_again()
        wait_until(lambda: shared.amount() == 300, 60)
        shared.server.stop(signal.SIGQUIT)
        assert produce(maker, 300).wait(60) == 0
        wait_until(lambda: len(consumer.lines("; waiting")) == 2, 30, str(consumer.log))
        wait_for_attempts(shared.server, 3)
        shared.server.start_again()
        wait_until(lambda: shared.amount() == 600, 60, str(consumer.log))
        code, out = consumer.stop()
    finally:
        consumer.kill()
    reported = consumer.lines("PostgreSQL")
    assert (code, len(reported)) == (0, 2), consumer.log
    assert "records 600, external 0, invalid 0, lost 0, duplicate 0" in out
    assert not [line for line in consumer.log if "very-secret" in line or "Traceback" in line]
