"""What all producers do with the messages they make: pace, stamp, acknowledge, deliver, drain, report."""

import sys
import threading
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from functools import partial
from itertools import islice

from loguru import logger

from utils.app import cli, early, signals
from utils.app.backoff import Backoff
from utils.app.config import EMBEDDED_SINKS, WHOLE_RUN, Run, Settings, SinkName
from utils.app.errors import ToolkitError, Unavailable
from utils.delivery.journal import Journal
from utils.delivery.worker import Delivery
from utils.emitters.base import Connect
from utils.records.record import Message, timestamp_text
from utils.sinks import emitter

Paced = Iterable[tuple[float, Message]]
"""Pairs of a gap (in intervals) and the message that comes after it, whose timestamp is still empty."""

MAX_APPEND = 2_000
MAX_APPEND_CHARACTERS = 1 << 20
FIRST_LOOK_S = 2.0
REPORT_EVERY_S = 5.0
# Below this interval single messages are not logged, only the running total.
SHOWN_INTERVAL_S = 0.1
# Workers and producer share the interpreter; with the default of 5 ms a busy producer starves them.
SWITCH_INTERVAL_S = 0.0005


def produce(
    name: str,
    messages: Paced,
    settings: Settings,
    *,
    interval_s: float,
    sinks: tuple[SinkName, ...],
    run: Run = WHOLE_RUN,
) -> int:
    """Run a producer until its messages, `run.count` or the user ends it; the exit code.

    `name` is the journal's and the beginning of the producer_id. Raises ToolkitError for what only
    the user can mend.
    """
    stop = signals.stop_on_signals()
    wanted = [sink for sink in dict.fromkeys(sinks) if sink not in run.forget]
    if not wanted:
        raise ToolkitError("no sink is left to produce to: name at least one with --sinks")
    paths = [settings.sink_path(sink) for sink in wanted if sink in EMBEDDED_SINKS]
    if shared := next((path for path in paths if paths.count(path) > 1), None):
        raise ToolkitError(f"two sinks have the same file {shared}: give each one of its own")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    path, max_bytes = settings.journal_path(name), settings.journal_max_mb << 20
    with closing(Journal(path, max_bytes=max_bytes, adopt=run.adopt)) as journal:
        journal.forget(run.forget)
        connects: dict[str, Connect] = {
            sink: emitter(sink, settings, partial(journal.owed_since, sink)) for sink in wanted
        }
        delivery = Delivery(journal, connects, settings.dead_letter_path)
        delivery.start([sink for sink in wanted if sink in EMBEDDED_SINKS], FIRST_LOOK_S)
        _say_owed(journal, delivery)
        logger.info("{}: producing to {} as {}", name, ", ".join(wanted), journal.producer_id)
        producer = Producer(journal, delivery, stop, interval_s)
        try:
            producer.run(islice(messages, run.count and min(run.count, sys.maxsize)))
        finally:
            delivery.drain(run.drain)
            producer.prune()
            cli.print_lines(producer.summary(name))
        return early.UNFINISHED if journal.first_waiting() <= journal.last else 0


def _say_owed(journal: Journal, delivery: Delivery) -> None:
    """What sinks are owed from earlier runs; those not asked yet speak for themselves later."""
    first = journal.first_waiting()  # what is gone from the journal was delivered, whether the sink answers or not
    for sink, owed in journal.owed().items():
        worker = delivery.workers.get(sink)
        if worker is None:
            logger.info(
                "{} is owed every message since {} but is not in this run (--forget {} ends that)",
                sink,
                owed.since,
                sink,
            )
        elif worker.looked.is_set() and (waiting := journal.last - max(worker.progress.reached, first - 1)):
            logger.info("{} is owed {:,} messages that waited for it", sink, waiting)


class Producer:
    """Paces messages, appends them to the journal and wakes the workers."""

    def __init__(self, journal: Journal, delivery: Delivery, stop: threading.Event, interval_s: float) -> None:
        self._journal, self._delivery, self._stop = journal, delivery, stop
        self._interval_s = interval_s
        self._batch: list[Message] = []
        self.made = self.acknowledged = self.refused = 0
        self._said_full = False
        self._started_s = self._reported_s = time.monotonic()

    def run(self, messages: Paced) -> None:
        """Append all messages, the first at once, each other when it is due; those due together in one batch."""
        due_s = time.monotonic()
        stamped_ms, stamp = 0, ""
        interval_s = self._interval_s
        batch, characters = self._batch, 0
        try:
            for gap, message in messages:
                if interval_s and gap and (self.made or batch):  # the first one goes out at once
                    due_s += gap * interval_s
                    if due_s > time.monotonic():
                        batch, characters = self._flush(), 0
                        self._stop.wait(due_s - time.monotonic())
                if self._stop.is_set():
                    break
                now_ms = int(time.time() * 1000)
                if now_ms != stamped_ms:
                    stamped_ms, stamp = now_ms, timestamp_text(now_ms / 1000)
                message.timestamp = stamp
                batch.append(message)
                characters += len(message.message) + len(message.author) + len(message.category)
                if len(batch) >= MAX_APPEND or characters >= MAX_APPEND_CHARACTERS:
                    batch, characters = self._flush(), 0
        finally:  # a recording may turn out to be broken
            self._flush()

    def _flush(self) -> list[Message]:
        """Append what has been made; the new, empty batch."""
        batch, self._batch = self._batch, []
        self._append(batch)
        return self._batch

    def _append(self, batch: list[Message]) -> None:
        """Acknowledge a batch: waits while the journal is at its limit or its disk is full."""
        if not batch:
            return
        self.made += len(batch)
        try:
            if self._wait_for_room() and self._stored(batch):
                self.acknowledged += len(batch)
                self._delivery.wake()
                self._report(batch)
        except ValueError as error:
            if len(batch) == 1:
                self.refused += 1
                logger.error("message refused, no sink could hold it: {}", error)
            else:
                self.made -= len(batch)
                for message in batch:
                    self._append([message])

    def prune(self) -> None:
        """Free what every owed sink holds; on a full disk that has to wait, and then is done at the next append."""
        try:
            self._journal.prune(self._delivery.held_by_all())
        except Unavailable as error:
            logger.warning("delivered messages stay in the journal for now: {}", error)

    def _stored(self, batch: list[Message]) -> bool:
        backoff = Backoff()
        complained = False
        while True:
            try:
                self._journal.append(batch, delivered=self._delivery.held_by_all())
            except Unavailable as error:
                if not complained:
                    logger.error("journal cannot take messages, waiting: {}", error)
                complained = True
                if self._stop.wait(backoff.next_s()):
                    return False
            else:
                if complained:
                    logger.info("journal takes messages again")
                return True

    def _wait_for_room(self) -> bool:
        """Below the journal's limit at once; at it, wait for the slowest sink. False when told to stop."""
        if self._journal.waiting_bytes < self._journal.max_bytes // 2:
            self._said_full = False
        while self._journal.waiting_bytes >= self._journal.max_bytes:
            with suppress(Unavailable):  # a full disk is another reason to wait
                self._journal.prune(self._delivery.held_by_all())
            if self._journal.waiting_bytes < self._journal.max_bytes:
                break
            if not self._said_full:
                reached = self._delivery.reached()
                logger.warning(
                    "journal is full ({} MiB, JOURNAL_MAX_MB): waiting for {}",
                    self._journal.max_bytes >> 20,
                    min(reached, key=lambda sink: reached[sink]),
                )
                self._said_full = True
            if self._stop.is_set():
                return False
            with self._delivery.changed:
                self._delivery.changed.wait(0.2)
        return True

    def _report(self, batch: list[Message]) -> None:
        now_s = time.monotonic()
        if self._interval_s >= SHOWN_INTERVAL_S:
            for message in batch:
                logger.info("{} {}: {} ({:.2f})", message.sequence, message.author, message.message, message.sentiment)
        elif now_s - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now_s
            logger.info(
                "{:,} acknowledged, {:,.0f}/s", self.acknowledged, self.acknowledged / (now_s - self._started_s)
            )

    def summary(self, name: str) -> str:
        """One line: what was made and acknowledged, and per sink what was delivered and what waits."""
        parts = [f"{name}: made {self.made:,}, acknowledged {self.acknowledged:,}"]
        if self.refused:
            parts.append(f"refused {self.refused:,}")
        first = self._journal.first_waiting()
        for sink, reached in self._delivery.reached().items():
            waiting = self._journal.last - max(reached, first - 1)
            worker = self._delivery.workers.get(sink)
            if worker is None:
                parts.append(f"{sink} not in this run, up to {waiting:,} waiting")
                continue
            text = f"{sink} {worker.progress.delivered:,} delivered, {waiting:,} waiting"
            if worker.progress.dead_letters:
                text += f", {worker.progress.dead_letters:,} dead letters"
            if waiting and worker.progress.reason:
                text += f" ({worker.progress.reason})"
            parts.append(text)
        return "; ".join(parts)
