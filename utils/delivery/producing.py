"""What all producers do with the records they make or read: open, pace, drain, report."""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from loguru import logger

from utils.app import cli, signals
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.delivery.journal import Journal
from utils.delivery.session import MAX_SHOWN, MakeBatch, Session
from utils.delivery.worker import Delivery
from utils.records.codec import instant_text
from utils.records.record import Batch
from utils.records.schema import declare
from utils.records.stream import Stream
from utils.sinks import EMBEDDED, SINKS, WHOLE_RUN, Run

MAX_APPEND = 10_000
MAX_APPEND_BYTES = 2 << 20
FIRST_LOOK_S = 2.0
OWN_FOLDERS = ("journal", "dead_letter", "logs", "processed", "streams")
# Below this interval single records are not logged, only the running total.
SHOWN_INTERVAL_S = 0.1
# Workers and producer share the interpreter; with the default of 5 ms a busy producer starves them.
SWITCH_INTERVAL_S = 0.0005


Paced = Iterable[tuple[float, Any]]
"""Pairs of a gap (in intervals) and the Record or Line after it; one without a timestamp gets the present time."""


@contextmanager
def session(
    stream: Stream, name: str, settings: Settings, *, sinks: Iterable[str], run: Run, stop: threading.Event
) -> Iterator[Session]:
    """Open the journal `name` and the sinks; at the end deliver what is pending and print the summary.

    Raises ToolkitError for what only the user can fix.
    """
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
        opened = Session(stream, journal, delivery, stop)
        try:
            yield opened
        finally:
            delivery.drain(run.drain)
            with suppress(Unavailable):  # on a full disk they go another time
                journal.prune(delivery.reached())
            cli.print_lines(_summary(name, opened))


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
    with session(stream, name, settings, sinks=sinks, run=run, stop=signals.stop_on_signals()) as opened:
        pacing = _Pacing(opened, interval_s, make)
        try:
            pacing.run(islice(items, run.count and min(run.count, sys.maxsize)))
        finally:  # a recording may turn out to be broken
            pacing.flush()
    return opened.code


class _Pacing:
    """Hands items on in batches, each item when it is due."""

    def __init__(self, run: Session, interval_s: float, make: MakeBatch) -> None:
        self._run, self._interval_s, self._make = run, interval_s, make
        self._made: list[Any] = []  # and not appended yet
        self._limit = 64  # of a batch; grows where records are small

    def run(self, items: Paced) -> None:
        """Append all items, the first at once, each other when it is due; those due together in one batch."""
        due_s = 0.0
        stamped_ms, stamp = 0, ""
        interval_s, made, stop = self._interval_s, self._made, self._run.stop
        for gap, item in items:
            if interval_s:
                due_s = due_s + gap * interval_s if due_s else time.monotonic()
                if due_s > time.monotonic():
                    self.flush()
                    stop.wait(due_s - time.monotonic())
            if stop.is_set():
                break
            now_ms = int(time.time() * 1000)
            if now_ms != stamped_ms:
                stamped_ms, stamp = now_ms, instant_text(now_ms * 1000)
            item.timestamp = item.timestamp or stamp
            made.append(item)
            if len(made) >= self._limit:
                self.flush()

    def flush(self) -> None:
        """Append what has been made."""
        items = self._made[:]
        self._made.clear()
        batch, rejected = self._run.batch(items, self._make)
        self._run.counts.update(made=len(items), rejected=len(rejected))
        for _, reason in rejected:
            logger.error("record rejected, no sink can store it: {}", reason)
        if batch.count:
            self._limit = max(1, min(MAX_APPEND, 4 * self._limit, MAX_APPEND_BYTES * batch.count // len(batch.lines)))
            self._run.append(batch, shown=self._interval_s >= SHOWN_INTERVAL_S)


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
        elif worker.status.asked and pending:
            logger.info("{:,} records are pending for {}", pending, sink)


def _summary(name: str, run: Session) -> str:
    """One line: what was made or read and acknowledged, and per sink what was delivered and what is pending."""
    delivery, kept = run.delivery, run.kept
    first = "read" if "read" in run.counts else "made"
    words = [f"{name}: {first} {run.counts[first]:,}, acknowledged {run.counts['acknowledged']:,}"]
    if run.counts["rejected"]:
        words.append(f"rejected {run.counts['rejected']:,}")
    if kept:
        words.append("in extra: " + ", ".join(f"{name[:MAX_SHOWN]} {count:,}" for name, count in kept.most_common(10)))
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
