"""The audit of a topic. Nobody can rewrite one: the journal acknowledges what the topic does not quite hold."""

from collections.abc import Callable, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Producer

from tests.helpers import make_messages
from utils.app.config import Settings
from utils.checks import check
from utils.checks.audit import audit
from utils.delivery.journal import Journal
from utils.records.record import Batch, Message, encode_lines
from utils.sinks import emitter

SINKS = ("file", "kafka")


def stream(settings: Settings, written: Callable[[list[bytes]], Sequence[bytes]]) -> list[str]:
    """Acknowledge 30 messages, give the file all and the topic what `written` makes of the lines; the problems."""
    with closing(Journal(settings.journal_path("ann"))) as journal:
        journal.subscribe(SINKS)
        batch = journal.append(make_messages(30))
        with closing(emitter("file", settings)()) as file:
            file.emit(batch)
        with closing(emitter("kafka", settings)()):
            pass  # makes the topic
        producer = Producer({"bootstrap.servers": settings.kafka_broker})
        for line in written(batch.lines.splitlines()):
            producer.produce(settings.topic, value=line, key=batch.producer_id, partition=0)
        producer.flush(10)
        journal.prune(journal.last)
    report = audit(settings, SINKS, lambda more: None)
    assert not report.unread
    return [f"{each.sink}: {problem}" for each in report.judgements for problem in each.problems()]


def ghost(lines: list[bytes]) -> bytes:
    message = Message("boo", "g", "2026-01-02T03:04:05.678Z", "c", 0.5, "k", 3, "ghost-1", 1)
    return encode_lines([message]).rstrip()


@pytest.mark.parametrize(
    ("written", "problems"),
    [
        (lambda lines: lines, []),
        (lambda lines: lines[:9] + lines[10:], ["kafka: lost 1: 10"]),
        (lambda lines: lines[:-4], ["kafka: lost 4: 27-30"]),
        (lambda lines: [*lines, lines[4]], ["kafka: 1 duplicate: 5"]),
        (lambda lines: [lines[1], lines[0], *lines[2:]], ["kafka: 1 out of order: 1"]),
        (
            lambda lines: [lines[0].replace(b"hello", b"jello"), *lines[1:]],
            ["kafka: 1 different from the other sinks: 1"],
        ),
        (lambda lines: [*lines, ghost(lines)], ["kafka: holds a producer that no journal knows and not file"]),
    ],
    ids=["whole", "removed", "tail", "doubled", "swapped", "changed", "unknown"],
)
def test_damage_is_named(
    written: Callable[[list[bytes]], Sequence[bytes]], problems: list[str], settings: Settings
) -> None:
    assert stream(settings, written) == problems


def test_the_emitter_passes_the_audit_and_the_check(settings: Settings) -> None:
    with closing(Journal(settings.journal_path("ann"))) as journal:
        journal.subscribe(SINKS)
        for _ in range(3):
            batch: Batch = journal.append(make_messages(700))
            for sink in SINKS:
                with closing(emitter(sink, settings)()) as each:
                    each.emit(batch)
        journal.prune(journal.last)
    report = audit(settings, SINKS, lambda more: None)
    assert [(each.first, each.last, each.count) for each in report.judgements] == [(1, 2100, 2100)] * 2
    assert not report.broken
    assert check.check("kafka", settings).result == "ok"
