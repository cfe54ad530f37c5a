"""What all producers do with the records they make: pace, acknowledge, deliver, drain, report."""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from loguru import logger

from utils.app import cli, early, signals
from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.delivery.acknowledging import Acknowledging
from utils.delivery.journal import Journal
from utils.delivery.worker import Delivery
from utils.records.codec import instant_text, kept_fields
from utils.records.record import Batch
from utils.records.schema import declare
from utils.records.stream import Stream
from utils.sinks import EMBEDDED, SINKS, WHOLE_RUN, Run

MAX_APPEND = 2_000
MAX_APPEND_BYTES = 2 << 20
FIRST_LOOK_S = 2.0
REPORT_EVERY_S = 5.0
OWN_FOLDERS = ("journal", "dead_letter", "logs", "processed", "streams")
# Below this interval single records are not logged, only the running total.
SHOWN_INTERVAL_S = 0.1
# Workers and producer share the interpreter; with the default of 5 ms a busy producer starves them.
SWITCH_INTERVAL_S = 0.0005


class Item(Protocol):
    """What a producer makes: a Record, or a Line that another program made."""

    timestamp: str


Paced = Iterable[tuple[float, Any]]
"""Pairs of a gap (in intervals) and the Item that comes after it; one without a timestamp gets the present time."""
MakeBatch = Callable[[Sequence[Any], str, int, Any], Batch]


def produce(
    stream: Stream,
    name: str,
    items: Paced,
    settings: Settings,
    *,
    interval_s: float,
    sinks: tuple[str, ...],
    run: Run = WHOLE_RUN,
    make: MakeBatch = Batch.of_records,
) -> int:
    """Run a producer until its items, `run.count` or the user ends it; the exit code.

    `name` is the journal's and the beginning of the producer_id. `make` turns items into a batch. Raises
    ToolkitError for what only the user can fix.
    """
    stop = signals.stop_on_signals()
    wanted = [sink for sink in dict.fromkeys(sinks) if sink not in run.drop]
    if not wanted:
        raise ToolkitError("no sink is left to produce to: name at least one with --sinks")
    journal_path = settings.journal_path(name)
    check_places(settings, stream, wanted, journal_path)
    stream = declare(stream, settings.schema_folder)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with closing(Journal(journal_path, stream, max_bytes=settings.journal_max_mb << 20)) as journal:
        journal.drop(run.drop)
        connects = {sink: partial(SINKS[sink].emitter, settings, stream, journal.key) for sink in wanted}
        delivery = Delivery(journal, connects, settings.dead_letter_path)
        delivery.start([sink for sink in wanted if sink in EMBEDDED], FIRST_LOOK_S)
        _log_pending(delivery)
        logger.info("{}: producing to {} as {}", name, ", ".join(wanted), journal.producer_id)
        producer = Producer(stream, Acknowledging(journal, delivery, stop), interval_s, make)
        try:
            producer.run(islice(items, run.count and min(run.count, sys.maxsize)), stop)
        finally:
            delivery.drain(run.drain)
            producer.journal.prune()
            cli.print_lines(_summary(name, producer, delivery))
        failed = any(worker.status.failure for worker in delivery.workers.values())
        return early.UNFINISHED if failed or delivery.low_watermark() < journal.last else 0


def check_places(settings: Settings, stream: Stream, sinks: Iterable[str], journal_path: Path) -> None:
    """Raise ToolkitError if two of sinks and journal use the same file, by whatever name, or a sink one of ours."""
    own = [(settings.data_path / folder).resolve() for folder in OWN_FOLDERS]
    owners: dict[str, str] = {}
    for owner in ("the journal", *sinks):
        path = journal_path if owner == "the journal" else SINKS[owner].path(settings, stream)
        if path is None:
            continue
        place = os.path.normcase(path.resolve())
        if owner in SINKS and path.resolve().parent in own:
            raise ToolkitError(f"{owner} cannot be {path}: this folder is for other files; name one elsewhere")
        for name in (place, *(f"{place}{suffix}" for suffix in ("-wal", "-shm", "-journal", ".wal", ".lock"))):
            other = owners.setdefault(name, owner)
            if other != owner:
                raise ToolkitError(f"{other} and {owner} have the same file {name}: give each one of its own")


def _log_pending(delivery: Delivery) -> None:
    """What is pending from earlier runs; sinks that were not asked yet report for themselves later."""
    for sink, pending in delivery.pending().items():
        worker = delivery.workers.get(sink)
        if worker is None:
            logger.info(
                "{} is subscribed since {} but not in this run: {:,} records are pending for it (--drop {} ends that)",
                sink, delivery.subscriptions[sink].since, pending, sink,
            )  # fmt: skip
        elif worker.looked.is_set() and pending:
            logger.info("{:,} records are pending for {}", pending, sink)


class Producer:
    """Paces items and hands them on in batches."""

    def __init__(self, stream: Stream, journal: Acknowledging, interval_s: float, make: MakeBatch) -> None:
        self._stream, self.journal, self._interval_s, self._make = stream, journal, interval_s, make
        self._made: list[Any] = []  # and not appended yet
        self._limit = 64  # of a batch; grows where records are small
        self.counts: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self._started_s = self._reported_s = time.monotonic()

    def run(self, items: Paced, stop: threading.Event) -> None:
        """Append all items, the first at once, each other when it is due; those due together in one batch."""
        due_s = time.monotonic()
        stamped_ms, stamp = 0, ""
        interval_s, made = self._interval_s, self._made
        try:
            for gap, item in items:
                if interval_s and gap and (self.counts["made"] or made):  # the first one goes out at once
                    due_s += gap * interval_s
                    if due_s > time.monotonic():
                        self._flush()
                        stop.wait(due_s - time.monotonic())
                if stop.is_set():
                    break
                now_ms = int(time.time() * 1000)
                if now_ms != stamped_ms:
                    stamped_ms, stamp = now_ms, instant_text(now_ms * 1000)
                item.timestamp = item.timestamp or stamp
                made.append(item)
                if len(made) >= self._limit:
                    self._flush()
        finally:  # a recording may turn out to be broken
            self._flush()

    def _flush(self) -> None:
        """Append what has been made."""
        items = self._made[:]
        self._made.clear()
        if items:
            self.counts["made"] += len(items)
            self._append(items)

    def _append(self, items: Sequence[Any]) -> None:
        journal = self.journal.journal
        try:
            batch = self._make(items, journal.producer_id, journal.last + 1, self._stream.codec)
            batch.rows  # noqa: B018  # decoded here, once for all sinks
        except ValueError as error:
            if len(items) == 1:
                self.counts["rejected"] += 1
                logger.error("record rejected, no sink can store it: {}", error)
            else:  # find it in ever smaller halves
                half = len(items) // 2
                self._append(items[:half])
                self._append(items[half:])
            return
        self._limit = max(1, min(MAX_APPEND, 4 * self._limit, MAX_APPEND_BYTES * batch.count // len(batch.lines)))
        self._count_kept(batch)
        if self.journal.append(batch):
            self.counts["acknowledged"] += batch.count
            self._report(batch)

    def _count_kept(self, batch: Batch) -> None:
        """Count the fields without a column, and log each of them once."""
        kept = kept_fields(batch.records)
        if news := kept.keys() - self.kept.keys():
            logger.warning("no column for {}: in SQL it is in the column extra", ", ".join(map(repr, sorted(news))))
        self.kept.update(kept)

    def _report(self, batch: Batch) -> None:
        now_s = time.monotonic()
        if self._interval_s >= SHOWN_INTERVAL_S:
            for record in batch.records:
                logger.info("{} {}", record.sequence, self._stream.describe(record))
        elif now_s - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now_s
            done = self.counts["acknowledged"]
            logger.info("{:,} acknowledged, {:,.0f}/s", done, done / (now_s - self._started_s))


def _summary(name: str, producer: Producer, delivery: Delivery) -> str:
    """One line: what was made and acknowledged, and per sink what was delivered and what is pending."""
    words = [f"{name}: made {producer.counts['made']:,}, acknowledged {producer.counts['acknowledged']:,}"]
    if producer.counts["rejected"]:
        words.append(f"rejected {producer.counts['rejected']:,}")
    if producer.kept:
        words.append("in extra: " + ", ".join(f"{field} {count:,}" for field, count in producer.kept.most_common(10)))
    for sink, pending in delivery.pending().items():
        worker = delivery.workers.get(sink)
        if worker is None:
            words.append(f"{sink} not in this run, {pending:,} pending")
            continue
        text = f"{sink} {worker.status.delivered:,} delivered, {pending:,} pending"
        if worker.status.dead_letters:
            text += f", {worker.status.dead_letters:,} dead letters"
        if pending and worker.status.reason:
            text += f" ({worker.status.reason})"
        words.append(text)
    return "; ".join(words)
