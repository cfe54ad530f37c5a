"""Delivery from the journal to the sinks: one worker thread per sink. Only workers retry."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from utils.app.backoff import backoff
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.clients.files import mapped_errors
from utils.delivery.journal import Journal
from utils.emitters.base import ROW_GROUP_RECORDS, Connect, Emitter
from utils.emitters.file_emitter import FileEmitter
from utils.records.codec import encoder
from utils.records.external import identity_of
from utils.records.record import Batch

MAX_REJECTED = 10  # in a row, with nothing stored in between: beyond that the table is at fault, not the records
CLOSE_S = 0.5  # a worker that is stuck in a library call is abandoned after this time; its records stay pending


@dataclass
class Status:
    """State of a worker."""

    has_answered: bool = False  # the sink has answered, or failed, at least once
    opened: bool = False  # the emitter was opened at least once
    delivered: int = 0
    dead_letters: int = 0
    reason: str = ""  # why the sink is down
    failure: ToolkitError | None = None  # the error that ended the worker


class Worker(threading.Thread):
    """Thread that delivers the journal to one sink, in order. Its name is the sink's.

    After an error that can heal, it opens a new emitter, calls `last` and continues from there. It never simply sends
    a batch again, because the batch may have arrived although its acknowledgement was lost.
    """

    def __init__(self, sink: str, connect: Connect, letters: Path, delivery: "Delivery") -> None:
        super().__init__(name=sink, daemon=True)
        self.status = Status()
        self._connect, self._letters, self._delivery = connect, letters, delivery
        self._waits_s = backoff()
        self._down_since_s: float | None = None
        self._rejected = 0  # rejected records in a row
        self._warned: set[str] = set()  # findings that were logged: each new connection may make them again

    def run(self) -> None:
        is_over = False
        while not is_over:
            try:
                is_over = self._deliver()
            except Exception as error:  # noqa: BLE001 (libraries raise anything; asking the sink again is always safe)
                is_over = self._failed(error)

    def _deliver(self) -> bool:
        """Connect and deliver. Return True when it is time to stop, False after a rejected record."""
        journal, status = self._delivery.journal, self.status
        with closing(self._connect(journal.subscriptions[self.name].mark)) as emitter:
            status.opened = True
            reached = self._ask(emitter)
            journal.note_reached(self.name, reached, emitter.mark, durable=True)
            status.has_answered = True
            self._delivery.wake()
            while batch := self._next(reached, emitter.max_records):
                try:
                    emitter.emit(batch)
                except Rejected as error:
                    self._dead_letter(batch, error)
                    return False
                reached = batch.last
                journal.note_reached(self.name, reached, emitter.mark)
                status.delivered += batch.count
                self._rejected = 0
                self._delivery.wake()
                self._up()
        return True

    def _next(self, reached: int, max_records: int) -> Batch | None:
        """Return the next batch, once there is one; None when it is time to stop."""
        delivery, journal = self._delivery, self._delivery.journal
        if reached >= journal.last:
            self._up()
        with delivery.changed:
            delivery.changed.wait_for(lambda: delivery.until or journal.last > reached)
        if delivery.until == "closed" or reached >= journal.last:
            return None
        wanted = min(journal.last - reached, max_records)
        batch = journal.read(reached, wanted // ROW_GROUP_RECORDS * ROW_GROUP_RECORDS or wanted)
        if batch is None or batch.first != reached + 1:
            self._warn(f"contains sequences up to {reached} only", "and those after it have just left the journal")
            raise Unavailable("the sink was replaced")
        return batch

    def _ask(self, emitter: Emitter) -> int:
        """Return the sequence up to which the sink has all records, dead letters included."""
        journal = self._delivery.journal
        runs, known, pruned = journal.runs(), journal.subscriptions[self.name], journal.pruned
        producer_id, last = emitter.last(list(runs)) or ("", 0)
        place = min(last, runs.get(producer_id, 0))
        if last > place:
            ahead = f"but the journal assigned only {place}: was the journal restored?"
            self._warn(f"contains sequence {last} of {producer_id}", ahead)
        place = _after_letters(self._letters, max(place, known.after), runs)
        if place < known.reached:
            rest = f"{place + 1} to {pruned} have left the journal" if place < pruned else "the journal has the rest"
            less = f"but had {known.reached}: it was replaced by an older copy; {rest}"
            self._warn(f"contains sequences up to {place}", less)
        return place if place >= pruned else _after_letters(self._letters, pruned, runs)  # the rest is gone

    def _warn(self, finding: str, detail: str) -> None:
        if finding not in self._warned:
            self._warned.add(finding)
            logger.warning("{}: {}, {}", self.name, finding, detail)

    def _dead_letter(self, batch: Batch, rejected: Rejected) -> None:
        """Write a rejected record and the reason to the dead letters. Raise ToolkitError if the table is at fault."""
        before = rejected.sequence - batch.first
        in_a_row = 1 if before else self._rejected + 1
        if in_a_row > MAX_REJECTED:
            raise ToolkitError(f"{in_a_row} records in a row were rejected: {rejected.reason}")
        only = batch.between(rejected.sequence, rejected.sequence)
        # The reason comes first: where a record has a field of this name, JSON readers take the second one.
        line = b'{"reason":' + encoder.encode(rejected.reason) + b"," + only.lines[1:]
        with closing(FileEmitter(self._letters)) as letters:
            letters.emit(Batch(batch.producer_id, rejected.sequence, 1, line, batch.codec))
        self._rejected = in_a_row
        self.status.delivered += before
        self.status.dead_letters += 1
        logger.error("{}: sequence {} of {} went to {}: {}", self.name, rejected.sequence, batch.producer_id,
                     self._letters, rejected.reason)  # fmt: skip

    def _up(self) -> None:
        """Note that the sink is up: it has all records, or has just stored a batch."""
        if self._down_since_s is not None:
            logger.info("{}: delivering again after {:.0f} s", self.name, time.monotonic() - self._down_since_s)
            self._down_since_s = None
            self.status.reason = ""
            self._waits_s = backoff()

    def _failed(self, error: Exception) -> bool:
        """Log and wait. Return True to end: only the user can fix the error, or the run ends with the sink down."""
        delivery, status = self._delivery, self.status
        reason = str(error) if isinstance(error, ToolkitError) else repr(error)
        failure = error if isinstance(error, ToolkitError) and not isinstance(error, Unavailable) else None
        if not failure and self._down_since_s is None:
            self._down_since_s = time.monotonic()
            logger.warning("{}: unavailable, records are pending in the journal: {}", self.name, reason)
        if not isinstance(error, ToolkitError) and reason != status.reason:
            logger.opt(exception=error).error("{}: unexpected {} (traceback in logs/)", self.name, reason)
        with delivery.changed:
            status.reason, status.failure, status.has_answered = reason, failure, True
            # `start` raises a failure instead. After the end it may only mean that the journal is closed.
            if failure and not delivery.is_starting and delivery.until != "closed":
                logger.error("{}: given up: {}", self.name, reason)
            delivery.changed.notify_all()
            until = delivery.until
            if failure or until == "closed" or (until and not status.opened):
                return True
            delivery.changed.wait_for(lambda: delivery.until != until, next(self._waits_s))
            return delivery.until == "closed"


class Delivery:
    """The workers of one producer process, and the state that they share."""

    def __init__(
        self, journal: Journal, connects: Mapping[str, Connect], dead_letter_path: Callable[[str], Path]
    ) -> None:
        self.journal = journal
        self.changed = threading.Condition()
        self.is_starting = True  # then `start` raises a failure, and the worker does not log it
        self.until = ""  # "drained": workers stop once all is delivered; "closed": after the current batch
        journal.subscribe(connects)
        self.workers = {sink: Worker(sink, connect, dead_letter_path(sink), self) for sink, connect in connects.items()}

    def start(self, wait_for: Collection[str], wait_s: float) -> None:
        """Start all workers. Wait up to `wait_s` for the sinks in `wait_for` to answer; raise the first failure."""
        for worker in self.workers.values():
            worker.start()
        with self.changed:
            self.changed.wait_for(lambda: all(self.workers[sink].status.has_answered for sink in wait_for), wait_s)
            failures = [worker.status.failure for worker in self.workers.values() if worker.status.failure]
            self.is_starting = bool(failures)
        if failures:
            self.drain(0)
            raise failures[0]

    def wake(self) -> None:
        """Wake all waiting threads: something was appended or delivered."""
        with self.changed:
            self.changed.notify_all()

    def drain(self, timeout_s: float) -> None:
        """Let the workers deliver what is pending for up to `timeout_s`, then stop them."""
        for until, bound_s in {"drained": timeout_s, "closed": CLOSE_S}.items():
            self.until = until
            self.wake()
            deadline_s = time.monotonic() + min(bound_s, threading.TIMEOUT_MAX)
            for worker in self.workers.values():
                worker.join(max(0.0, deadline_s - time.monotonic()))


def _after_letters(path: Path, place: int, runs: Mapping[str, int]) -> int:
    """Return the sequence `place`, advanced over the dead letters that follow it without a gap."""
    if path.exists():
        with closing(FileEmitter(path)) as letters:
            letters.last([])  # makes durable what a killed process left
        with mapped_errors(path), path.open("rb") as lines:
            ids = filter(None, map(identity_of, lines))
            # Letters beyond the end of their run were written before the journal was restored from a backup.
            found = {sequence for producer_id, sequence in ids if sequence <= runs.get(producer_id, 0)}
        while place + 1 in found:
            place += 1
    return place
