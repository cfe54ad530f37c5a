"""From the journal to the sinks: one worker thread per sink, which alone retries."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from utils.app.backoff import backoff
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.clients.files import errors
from utils.delivery.journal import Journal
from utils.emitters.base import STEP, Connect, Emitter
from utils.emitters.file_emitter import FileEmitter
from utils.records.codec import encoder
from utils.records.external import identity_of
from utils.records.record import Batch

MAX_REJECTED = 10  # one after another, with nothing stored between: the table is the fault
CLOSE_S = 0.5  # a worker stuck in a library call is left behind, a daemon thread; the journal keeps what it had


@dataclass
class Status:
    """What a worker reports."""

    answered: bool = False  # or has failed, at least once
    opened: bool = False  # its emitter was, at least once
    delivered: int = 0
    dead_letters: int = 0
    reason: str = ""  # why it is down
    failure: ToolkitError | None = None  # what ended the worker


class Worker(threading.Thread):
    """Delivers the journal to one sink, in order; the thread has the sink's name.

    After any error that can heal it opens another emitter, asks it `last` and continues from there; the batch in hand
    is never simply sent again. That also settles whether a batch had arrived whose acknowledgement was lost.
    """

    def __init__(self, sink: str, connect: Connect, letters: Path, delivery: "Delivery") -> None:
        super().__init__(name=sink, daemon=True)
        self.status = Status()
        self._connect, self._letters, self._delivery = connect, letters, delivery
        self._waits_s = backoff()
        self._down_since_s: float | None = None
        self._rejected = 0  # in a row
        self._warned: set[str] = set()  # each new connection may find the same again

    def run(self) -> None:
        is_over = False
        while not is_over:
            try:
                is_over = self._deliver()
            except Exception as error:  # noqa: BLE001 (of libraries: whatever it is, asking the sink again settles it)
                is_over = self._failed(error)

    def _deliver(self) -> bool:
        """Connect, and deliver until it is time to stop (True) or a record is rejected."""
        journal, status = self._delivery.journal, self.status
        with closing(self._connect(journal.subscriptions[self.name].mark)) as emitter:
            status.opened = True
            reached = self._ask(emitter)
            journal.note(self.name, reached, emitter.mark, durable=True)
            status.answered = True
            self._delivery.wake()
            while batch := self._next(reached, emitter.max_records):
                try:
                    emitter.emit(batch)
                except Rejected as error:
                    self._dead_letter(batch, error)
                    return False
                reached = batch.last
                journal.note(self.name, reached, emitter.mark)
                status.delivered += batch.count
                self._rejected = 0
                self._delivery.wake()
                self._up()
        return True

    def _next(self, reached: int, max_records: int) -> Batch | None:
        """The next batch, waiting for one to be appended; None when it is time to stop."""
        delivery, journal = self._delivery, self._delivery.journal
        if reached >= journal.last:
            self._up()
        with delivery.changed:
            delivery.changed.wait_for(lambda: delivery.until or journal.last > reached)
        if delivery.until == "closed" or reached >= journal.last:
            return None
        wanted = min(journal.last - reached, max_records)
        batch = journal.read(reached, wanted // STEP * STEP or wanted)
        if batch is None or batch.first != reached + 1:
            self._warn(f"was replaced behind sequence {reached}", "just when what it had before left the journal")
            raise Unavailable("it was replaced")
        return batch

    def _ask(self, emitter: Emitter) -> int:
        """The place up to which the sink has everything; the sink itself, and the letters behind it, tell it."""
        journal = self._delivery.journal
        runs, known, pruned = journal.runs(), journal.subscriptions[self.name], journal.pruned
        last = emitter.last(list(runs)) or ("", 0)
        place = min(last[1], runs.get(last[0], 0))
        if last[1] > place:
            ahead = f"the journal assigned {place}: was the journal restored?"
            self._warn(f"contains sequence {last[1]} of {last[0]}", ahead)
        place = _behind_letters(self._letters, max(place, known.after), runs)
        if place < known.reached:
            rest = f"{place + 1} to {pruned} have left the journal" if place < pruned else "the journal has the others"
            less = f"but had {known.reached}: it was replaced by an older copy; {rest}"
            self._warn(f"contains sequences up to {place}", less)
        return place if place >= pruned else _behind_letters(self._letters, pruned, runs)

    def _warn(self, what: str, about_it: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("{}: {}, {}", self.name, what, about_it)

    def _dead_letter(self, batch: Batch, rejected: Rejected) -> None:
        """Keep one record with the reason, as what comes before it is stored; raise if the table is the fault."""
        before = rejected.sequence - batch.first
        in_a_row = 1 if before else self._rejected + 1
        if in_a_row > MAX_REJECTED:
            raise ToolkitError(f"{in_a_row} records in a row were rejected: {rejected.reason}")
        only = batch.between(rejected.sequence, rejected.sequence)
        # First, so that a record's own field of this name counts for a reader.
        line = b'{"reason":' + encoder.encode(rejected.reason) + b"," + only.lines[1:]
        with closing(FileEmitter(self._letters)) as letters:
            letters.emit(Batch(batch.producer_id, rejected.sequence, 1, line, batch.codec))
        self._rejected = in_a_row
        self.status.delivered += before
        self.status.dead_letters += 1
        logger.error("{}: sequence {} of {} went to {}: {}", self.name, rejected.sequence, batch.producer_id,
                     self._letters, rejected.reason)  # fmt: skip

    def _up(self) -> None:
        """Note that the sink takes records: it has all there is, or has just stored a batch."""
        if self._down_since_s is not None:
            logger.info("{}: delivering again after {:.0f} s", self.name, time.monotonic() - self._down_since_s)
            self._down_since_s = None
            self.status.reason = ""
            self._waits_s = backoff()

    def _failed(self, error: Exception) -> bool:
        """Log it and wait; True without a next attempt: what only the user can fix, or a silent sink at the end."""
        delivery, status = self._delivery, self.status
        reason = str(error) if isinstance(error, ToolkitError) else repr(error)
        failure = error if isinstance(error, ToolkitError) and not isinstance(error, Unavailable) else None
        if not failure and self._down_since_s is None:
            self._down_since_s = time.monotonic()
            logger.warning("{}: unavailable, records are pending in the journal: {}", self.name, reason)
        if not isinstance(error, ToolkitError) and reason != status.reason:
            logger.opt(exception=error).error("{}: unexpected {} (traceback in logs/)", self.name, reason)
        with delivery.changed:
            status.reason, status.failure, status.answered = reason, failure, True
            # Known to `start`, which raises it, or logged. At the end it may have found the journal closed.
            if failure and not delivery.is_starting and delivery.until != "closed":
                logger.error("{}: given up: {}", self.name, reason)
            delivery.changed.notify_all()
            until = delivery.until
            if failure or until == "closed" or (until and not status.opened):
                return True
            delivery.changed.wait_for(lambda: delivery.until != until, next(self._waits_s))
            return delivery.until == "closed"


class Delivery:
    """The workers of one producer process, and what they have in common."""

    def __init__(
        self, journal: Journal, connects: Mapping[str, Connect], dead_letter_path: Callable[[str], Path]
    ) -> None:
        self.journal = journal
        self.changed = threading.Condition()
        self.is_starting = True  # then a failure is raised by `start` instead of logged
        self.until = ""  # "drained": workers stop once all is delivered; "closed": after the batch in hand
        journal.subscribe(connects)
        self.workers = {sink: Worker(sink, connect, dead_letter_path(sink), self) for sink, connect in connects.items()}

    def start(self, wait_for: Collection[str], wait_s: float) -> None:
        """Start all workers, and give those of `wait_for` up to `wait_s` to raise what only the user can fix."""
        for worker in self.workers.values():
            worker.start()
        with self.changed:
            self.changed.wait_for(lambda: all(self.workers[sink].status.answered for sink in wait_for), wait_s)
            failures = [worker.status.failure for worker in self.workers.values() if worker.status.failure]
            self.is_starting = bool(failures)
        if failures:
            self.drain(0)
            raise failures[0]

    def wake(self) -> None:
        """Tell everybody who waits that something was appended or delivered."""
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


def _behind_letters(path: Path, place: int, runs: Mapping[str, int]) -> int:
    """The place behind the dead letters directly behind `place`; those behind their run are of a restored journal."""
    if path.exists():
        with closing(FileEmitter(path)) as letters:
            letters.last([])  # makes durable what a killed process left
        with errors(path), path.open("rb") as lines:
            found = {each[1] for each in filter(None, map(identity_of, lines)) if each[1] <= runs.get(each[0], 0)}
        while place + 1 in found:
            place += 1
    return place
