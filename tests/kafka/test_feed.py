"""A topic as the source of a feed, and as one of its sinks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from tests.feeds.feed_runs import column, feed, letters
from tests.feeds.test_feed_killed import Writer, attack
from tests.helpers import wait_until
from tests.kafka.conftest import read_topic
from tests.kafka.test_delivery import options
from utils.app.config import Settings


def produce(settings: Settings, *values: bytes, partition: int = 0) -> None:
    """Send values to a partition of the topic as another program."""
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "log_level": 0, "linger.ms": 0})
    for value in values:
        producer.produce(settings.topic, value, partition=partition)
    assert producer.flush(30) == 0


@pytest.fixture
def topic(settings: Settings, admin: AdminClient) -> str:
    admin.create_topics([NewTopic(settings.topic, 1)])[settings.topic].result(10)
    return settings.topic


def test_a_topic_is_fed_once_and_invalid_records_are_kept(settings: Settings, topic: str) -> None:
    arguments = (f"kafka:{topic}", *options(settings), "--stream", "things", "--once")
    produce(settings, b'{"n":0}', b"bad", b'{\n "n": 1\n}', b'{"n":2}')
    done = feed(*arguments, settings=settings)
    assert "read 4, acknowledged 3; rejected 1" in done.stdout
    produce(settings, b'{"n":3}')
    feed(*arguments, settings=settings)
    assert "read 0, acknowledged 0" in feed(*arguments, settings=settings).stdout
    assert column(settings, "things", "n") == {sink: [0, 1, 2, 3] for sink in ("file", "sqlite", "duckdb")}
    assert [letter["place"] for letter in letters(settings, "things")] == [f"{topic}-0 offset 1"]


def test_values_of_text_are_read_as_those_of_a_file(settings: Settings, topic: str) -> None:
    produce(settings, b"WARN slow 12", b"", b"INFO J\xf6rg\n says hello 7")

    def fed(stream: str, *way: str) -> None:
        arguments = options(settings, "--sinks", "file", "--encoding", "latin-1", *way)
        feed(f"kafka:{topic}", *arguments, "--stream", stream, "--once", settings=settings)

    fed("levels", "--pattern", r"(?P<level>[A-Z]+) .*?(?P<ms>\d+)")
    assert column(settings, "levels", "level")["file"] == ["WARN"]
    fed("texts", "--format", "text")
    assert column(settings, "texts", "line")["file"] == ["WARN slow 12", "INFO Jörg\n says hello 7"]
    (letter,) = letters(settings, "texts")
    assert letter == {"place": f"{topic}-0 offset 1", "reason": "no text", "input": ""}


def test_again_covers_all_partitions_after_an_interruption(settings: Settings, topic: str, admin: AdminClient) -> None:
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(10)
    wait_until(lambda: len(admin.list_topics(topic, timeout=5).topics[topic].partitions) == 3)
    for partition in range(3):
        produce(settings, *(b'{"n":%d}' % n for n in range(10 * partition, 10 * partition + 10)), partition=partition)
    arguments = (f"kafka:{topic}", *options(settings, "--sinks", "file"), "--stream", "things", "--once")
    for more in ((), ("--again", "--count", "5"), ()):
        feed(*arguments, *more, settings=settings)
    assert sorted(column(settings, "things", "n")["file"]) == sorted([*range(30)] * 2)


def test_a_recording_arrives_in_four_sinks(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "things.csv"
    path.write_text("n,name\n" + "".join(f"{n},Zoë 🔥\n" for n in range(500)), "utf-8")
    sinks = ("--sinks", "file", "sqlite", "duckdb", "kafka")
    own = replace(settings, topic=f"{settings.topic}-things")
    for _ in range(2):
        feed(path, *options(settings, *sinks), "--stream", own.topic, settings=settings)
    found = column(settings, own.topic, "n") | {
        "kafka": [json.loads(each.value() or "")["n"] for each in read_topic(own)]
    }
    assert found == {sink: [*range(500)] for sink in ("file", "sqlite", "duckdb", "kafka")}


def test_a_topic_that_is_no_input_is_one_line(settings: Settings, topic: str) -> None:
    for source, more, reason in (
        ("kafka:missing", [], "missing"),
        (f"kafka:{topic}", ["--stream", topic, "--sinks", "kafka"], f"is the kafka sink of stream {topic}"),
    ):
        done = feed(source, *options(settings), *more, "--once", "--log-level", "ERROR", settings=settings, code=2)
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.proof(
    "each record of a feed arrives once and in order",
    "kill -9 of the feed while another program produces",
    full=2,
    long=50,
)
@pytest.mark.timeout(3600)
def test_a_topic_while_the_feed_is_killed(
    times: int, settings: Settings, topic: str, measured: Callable[[str], None]
) -> None:
    writer = Writer(lambda first, amount: produce(settings, *(b'{"n":%d}' % n for n in range(first, first + amount))))
    attack([f"kafka:{topic}", *options(settings), "--stream", "things"], writer, times, settings, "things")
    measured(f"{times} kills, {writer.count:,} records")
