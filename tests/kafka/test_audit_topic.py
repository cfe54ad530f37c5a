"""The audit of a topic. Nobody can rewrite one: the journal acknowledges what the topic does not quite contain."""

from collections.abc import Callable, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Producer

from tests.helpers import make_batch, make_messages
from utils.app.config import BUZZ, Settings
from utils.checks import check
from utils.checks.audit import audit
from utils.checks.report import Report
from utils.delivery.journal import Journal
from utils.records import stream as streams
from utils.records.record import Batch
from utils.sinks import SINKS

CHECKED = ("file", "kafka")


def produce(settings: Settings, values: Sequence[bytes], key: str, codec: str = "none") -> None:
    options = {"bootstrap.servers": settings.kafka_broker, "compression.type": codec, "log_level": 0}
    producer = Producer(options)
    for value in values:
        producer.produce(settings.topic, value=value, key=key, partition=0)
    assert producer.flush(10) == 0


def acknowledge(
    settings: Settings, written: Callable[[list[bytes]], Sequence[bytes]], codec: str = "none"
) -> list[str]:
    """Acknowledge 30 messages, give the file all and the topic what `written` makes of the lines; the problems."""
    with closing(Journal(settings.journal_path("ann"), streams.BUZZ)) as journal:
        journal.subscribe(CHECKED)
        batch = Batch.of_records(make_messages(30), journal.producer_id, 1, streams.BUZZ.codec)
        journal.append(batch)
        for sink in CHECKED:
            with closing(SINKS[sink].emitter(settings, streams.BUZZ, journal.key, "")) as emitter:
                if sink == "file":
                    emitter.emit(batch)  # the other one makes the topic
        produce(settings, written(batch.lines.splitlines()), journal.key, codec)
        journal.prune(dict.fromkeys(CHECKED, (30, "")))
    return problems(audited(settings))


def audited(settings: Settings) -> Report:
    report = audit(settings, CHECKED, [BUZZ], lambda more: None)
    assert not report.unread
    return report


def problems(report: Report) -> list[str]:
    """Sink and finding, without the random ids of the run."""
    return [
        f"{each.sink}: {finding.problem} {finding.ranges}" for each in report.judgements for finding in each.findings
    ]


def ghost(lines: list[bytes]) -> bytes:
    return make_batch(1, producer_id="ghost-1-1").lines.rstrip()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (lambda lines: lines, []),
        (lambda lines: lines[:9] + lines[10:], ["kafka: lost [(10, 10)]"]),
        (lambda lines: [*lines, lines[4]], ["kafka: duplicate [(5, 5)]"]),
        (lambda lines: [lines[1], lines[0], *lines[2:]], ["kafka: out of order [(1, 1)]"]),
        (
            lambda lines: [lines[0].replace(b"hello", b"jello"), *lines[1:]],
            ["kafka: different from the other sinks [(1, 1)]"],
        ),
        (
            lambda lines: [*lines, ghost(lines)],
            ["kafka: acknowledged by no journal here, and not in all sinks [(1, 1)]"],
        ),
    ],
    ids=["whole", "removed", "doubled", "swapped", "changed", "unknown"],
)
def test_damage_is_named(
    written: Callable[[list[bytes]], Sequence[bytes]], expected: list[str], settings: Settings
) -> None:
    assert acknowledge(settings, written) == expected


def test_a_missing_tail_is_lost_once_the_journal_has_let_go_of_it(settings: Settings) -> None:
    assert acknowledge(settings, lambda lines: lines[:-4]) == ["kafka: lost [(27, 30)]"]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_compressed_topics_are_audited(settings: Settings, codec: str) -> None:
    assert acknowledge(settings, lambda lines: lines, codec) == []


def test_the_emitter_passes_the_audit_and_the_check(settings: Settings) -> None:
    with closing(Journal(settings.journal_path("ann"), streams.BUZZ)) as journal:
        journal.subscribe(CHECKED)
        for first in (1, 701, 1401):
            batch = Batch.of_records(make_messages(700), journal.producer_id, first, streams.BUZZ.codec)
            journal.append(batch)
            for sink in CHECKED:
                with closing(SINKS[sink].emitter(settings, streams.BUZZ, journal.key, "")) as emitter:
                    emitter.last(list(journal.runs()))
                    emitter.emit(batch)
        journal.prune(dict.fromkeys(CHECKED, (2100, "")))
    report = audited(settings)
    assert problems(report) == []
    assert [(each.sink, each.count, each.pending) for each in report.judgements] == [
        ("file", 2100, 0),
        ("kafka", 2100, 0),
    ]
    assert check.check("kafka", settings).result == "ok"
