"""The audit of a topic, which cannot be changed: instead the journal acknowledges records that differ from it."""

from collections.abc import Callable, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from kafka.codec import has_snappy

from tests.helpers import make_batch
from tests.kafka.conftest import delete_topic
from utils.app.config import DEFAULT_STREAM, Settings
from utils.app.errors import Unavailable
from utils.checks import check, readers
from utils.checks.audit import Report, audit
from utils.clients.kafka_admin import CLIENT_ID
from utils.delivery.journal import Journal
from utils.emitters.kafka_emitter import KafkaEmitter
from utils.records import stream
from utils.sinks import SINKS

CHOSEN = ("file", "kafka")


def audited(settings: Settings) -> Report:
    report = audit(settings, CHOSEN, DEFAULT_STREAM)
    assert not report.unread
    return report


def problems(settings: Settings, written: Callable[[list[bytes]], Sequence[bytes]], **options: str) -> list[str]:
    """Acknowledge 30 messages, emit all to the file and `written(lines)` to the topic; return the problems."""
    with closing(Journal(settings.journal_path("ann"), stream.BUZZ)) as journal:
        journal.subscribe(CHOSEN)
        batch = make_batch(30, producer_id=journal.producer_id)
        journal.append(batch)
        with closing(SINKS["file"].emitter(settings, stream.BUZZ, journal.key, "")) as file:
            file.last([])
            file.emit(batch)
        with closing(SINKS["kafka"].emitter(settings, stream.BUZZ, journal.key, "")):
            pass  # creates the topic
        producer = Producer({"bootstrap.servers": settings.kafka_broker, "client.id": CLIENT_ID, **options})
        for line in written(batch.lines.splitlines()):
            producer.produce(settings.topic, value=line, key=journal.key, partition=0)
        producer.produce(settings.topic, partition=0)  # of another program, without key and value
        producer.flush(10)
        for sink in CHOSEN:
            journal.note_reached(sink, 30, "")
        journal.prune()
        producer_id = journal.producer_id
    found = [(each.sink, finding) for each in audited(settings).results for finding in each.findings]
    return [f"{sink}: {text.removesuffix(f' of {producer_id}')}" for sink, text in found]


def ghost(lines: list[bytes]) -> bytes:
    batch = make_batch(1, producer_id="ghost-1-1")
    return batch.lines.rstrip()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (lambda lines: lines, []),
        (lambda lines: lines[:9] + lines[10:], ["kafka: 1 lost: 10"]),
        (lambda lines: lines[:-4], ["kafka: 4 lost: between 27 and 30"]),
        (lambda lines: [*lines, lines[4]], ["kafka: 1 duplicate: 5"]),
        (lambda lines: [lines[1], lines[0], *lines[2:]], ["kafka: 1 out of order: 1"]),
        (
            lambda lines: [lines[0].replace(b"hello", b"jello"), *lines[1:]],
            ["kafka: 1 different from the other sinks: 1"],
        ),
        (
            lambda lines: [*lines, ghost(lines)],
            ["kafka: 1 acknowledged by no journal here, and not in all sinks: 1 of ghost-1-1"],
        ),
        (lambda lines: [*lines[:3], b"\xff", *lines[4:], b"no JSON"], ["kafka: 1 lost: 4"]),
    ],
    ids=["whole", "removed", "tail", "doubled", "swapped", "changed", "unknown", "unreadable"],
)
def test_damage_is_named(
    written: Callable[[list[bytes]], Sequence[bytes]], expected: list[str], settings: Settings
) -> None:
    assert problems(settings, written) == expected


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_a_compressed_topic_is_read(codec: str, settings: Settings) -> None:
    lines = {"linger.ms": "200", "compression.type": codec}
    assert problems(settings, lambda lines: lines, **lines) == []
    assert {each.count for each in audited(settings).results} == {30}


def test_a_topic_that_kafka_python_cannot_read_is_one_line(settings: Settings) -> None:
    if has_snappy():
        pytest.skip("python-snappy is installed")
    with pytest.raises(AssertionError, match=r"cannot be read: .* snappy compression codec not found"):  # unreadable
        problems(settings, lambda lines: lines, **{"linger.ms": "200", "compression.type": "snappy"})


def test_the_emitter_passes_the_audit_and_the_check(settings: Settings) -> None:
    for _ in range(2):
        with closing(Journal(settings.journal_path("ann"), stream.BUZZ)) as journal:
            journal.subscribe(CHOSEN)
            for _ in range(3):
                batch = make_batch(700, producer_id=journal.producer_id, first=journal.last + 1)
                journal.append(batch)
                for sink in CHOSEN:
                    with closing(SINKS[sink].emitter(settings, stream.BUZZ, journal.key, "")) as each:
                        each.last(list(journal.runs()))
                        each.emit(batch)
            for sink in CHOSEN:
                journal.note_reached(sink, journal.last, "")
            journal.prune()
    report = audited(settings)
    assert [(each.runs, each.count, each.pending) for each in report.results] == [(2, 4200, 0)] * 2
    assert not report.broken
    assert not report.notes
    result = check.check("kafka", settings)
    assert (result.result, result.reason) == ("ok", "")


def test_a_reader_waits_only_for_a_topic_that_answers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that dies while a topic is read must not stop the audit, and a long topic takes its time."""
    with closing(KafkaEmitter(settings, stream.BUZZ, "ann-1")) as sink:
        sink.emit(make_batch(30))
    monkeypatch.setattr(readers, "PAGE_RECORDS", 5)
    monkeypatch.setattr(readers, "POLL_MS", 5_000)
    assert sum(len(records) for records, _ in readers.pages("kafka", settings, stream.BUZZ)) == 30
    monkeypatch.setattr("kafka.KafkaConsumer.poll", lambda self, **options: {})
    with pytest.raises(Unavailable, match="was not reached"):
        list(readers.pages("kafka", settings, stream.BUZZ))


def test_a_topic_that_was_deleted_is_lost(settings: Settings, admin: AdminClient) -> None:
    assert problems(settings, lambda lines: lines) == []
    delete_topic(admin, settings.topic)
    assert [each.findings[0][:8] for each in audited(settings).results if each.findings] == ["30 lost:"]
