"""From the journal to the sinks: one worker thread per sink, which alone retries."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loguru import logger

from utils.app.backoff import Backoff
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.delivery.dead_letters import DeadLetters
from utils.delivery.journal import Journal
from utils.emitters.base import STEP, Connect, Emitter
from utils.records.record import Batch

# A worker stuck in a library call is left behind: it is a daemon thread, and the journal keeps what it had.
CLOSE_S = 0.5


@dataclass
class Status:
    """What a worker reports. The sink stores everything up to `reached`; `mark` is its emitter's."""

    reached: int
    mark: str
    asked: bool = False  # whether the sink answered or not
    answered: bool = False
    delivered: int = 0
    dead_letters: int = 0
    reason: str = ""  # why it is down
    failure: ToolkitError | None = None  # what ended the worker


class Worker(threading.Thread):
    """Delivers the journal to one sink, in order; the thread has the sink's name.

    After any error that can heal it discards the emitter, backs off, constructs a new one, asks it `last` and
    continues from there; the batch in hand is never simply sent again. That one rule also settles whether a batch
    whose acknowledgement was lost had arrived.
    """

    def __init__(self, sink: str, connect: Connect, letters: DeadLetters, delivery: "Delivery", status: Status) -> None:
        super().__init__(name=sink, daemon=True)
        self.status = status
        self._connect, self._letters, self._delivery = connect, letters, delivery
        self._backoff = Backoff()
        self._until: Literal["", "drained", "closed"] = ""
        self._down_since_s: float | None = None
        self._logged: set[object] = set()

    def run(self) -> None:
        while self._until != "closed":
            try:
                self._deliver()
            except Unavailable as error:
                self._down(str(error))
            except ToolkitError as error:
                self._give_up(error)
            except Exception as error:  # noqa: BLE001 (of libraries: whatever it is, asking the sink again settles it)
                if self._is_news(repr(error)):
                    logger.opt(exception=error).error("{}: unexpected {!r} (traceback in logs/)", self.name, error)
                self._down(repr(error))

    def stop(self, until: Literal["drained", "closed"]) -> None:
        """Stop once everything is delivered (if the sink has answered), or after the batch in hand."""
        if self._until != "closed":
            self._until = until
        self._delivery.wake()

    def _is_news(self, what: object) -> bool:
        """Whether this is the first time; each new connection may find the same again."""
        is_news = what not in self._logged
        self._logged.add(what)
        return is_news

    def _deliver(self) -> None:
        """Connect and deliver until it is time to stop; ends by raising when something is wrong."""
        journal, status = self._delivery.journal, self.status
        with closing(self._connect(status.mark)) as emitter:
            status.reached, status.mark = self._ask(emitter), emitter.mark
            journal.note(self.name, status.reached, status.mark)
            status.asked = status.answered = True
            self._delivery.wake()
            while batch := self._next(emitter.max_records):
                try:
                    emitter.emit(batch)
                except Rejected as error:
                    self._letters.add(self.name, batch, error)
                    status.delivered += error.sequence - batch.first
                    status.dead_letters += 1
                    return
                status.delivered += batch.count
                self._letters.in_a_row = 0
                status.reached, status.mark = batch.last, emitter.mark
                self._delivery.wake()
                self._up()
            self._until = "closed"

    def _next(self, max_records: int) -> Batch | None:
        """The next batch, waiting for one to be appended; None when it is time to stop."""
        reached, journal = self.status.reached, self._delivery.journal
        if reached >= journal.last:
            self._up()
        with self._delivery.changed:
            self._delivery.changed.wait_for(lambda: self._until or journal.last > reached)
        if self._until == "closed" or reached >= journal.last:
            return None
        wanted = min(journal.last - reached, max_records)
        batch = journal.read(reached, wanted // STEP * STEP or wanted)
        if batch is None or batch.first != reached + 1:
            raise Unavailable("it was replaced just when what it had before left the journal")
        return batch

    def _ask(self, emitter: Emitter) -> int:
        """The place up to which the sink has everything; the sink itself, and the letters behind it, tell it."""
        journal = self._delivery.journal
        runs = journal.runs()
        subscription = journal.subscriptions()[self.name]
        last = emitter.last(list(runs))
        self._letters.load(runs)
        place = 0
        if last is not None:
            place = min(last[1], runs[last[0]])
            if last[1] > place:
                ahead = f"contains sequence {last[1]} of {last[0]}, the journal assigned {place}"
                self._warn(last[1], f"{ahead}: was the journal restored?")
        place = self._letters.after(max(place, subscription.after))
        if place < subscription.reached:
            pruned = journal.pruned
            rest = f"{place + 1} to {pruned} have left the journal" if place < pruned else "the journal has the others"
            less = f"contains sequences up to {place}, but had {subscription.reached}"
            self._warn(place, f"{less}: it was replaced by an older copy; {rest}")
        return self._letters.after(max(place, journal.pruned))

    def _warn(self, place: int, text: str) -> None:
        if self._is_news(place):
            logger.warning("{}: {}", self.name, text)

    def _up(self) -> None:
        """Note that the sink takes records: it has all there is, or has just stored a batch."""
        if self._down_since_s is not None:
            logger.info("{}: delivering again after {:.0f} s", self.name, time.monotonic() - self._down_since_s)
            self._down_since_s = None
            self.status.reason = ""
            self._backoff.reset()

    def _down(self, reason: str) -> None:
        """Wait before the next attempt; there is none at the end for a sink that never answered."""
        if self._down_since_s is None:
            self._down_since_s = time.monotonic()
            logger.warning("{}: unavailable, records are pending in the journal: {}", self.name, reason)
        elif reason != self.status.reason:
            logger.debug("{}: still unavailable: {}", self.name, reason)
        with self._delivery.changed:
            self.status.reason, self.status.asked = reason, True
            self._delivery.changed.notify_all()
            if self._until == "closed" or (self._until and not self.status.answered):
                self._until = "closed"
                return
            until = self._until
            self._delivery.changed.wait_for(lambda: self._until != until, self._backoff.next_s())

    def _give_up(self, error: ToolkitError) -> None:
        """End with what only the user can fix."""
        with self._delivery.changed:
            self.status.reason, self.status.failure, self.status.asked = str(error), error, True
            if not self._delivery.is_starting and self._until != "closed":  # it may have found the journal closed
                logger.error("{}: given up: {}", self.name, error)
            self._until = "closed"
            self._delivery.changed.notify_all()


class Delivery:
    """The workers of one producer process, and what they have in common."""

    def __init__(
        self, journal: Journal, connects: Mapping[str, Connect], dead_letter_path: Callable[[str], Path]
    ) -> None:
        self.journal = journal
        self.changed = threading.Condition()
        self.is_starting = True  # then a failure is raised by `start` instead of logged
        journal.subscribe(connects)
        self.subscriptions = journal.subscriptions()
        self.workers: dict[str, Worker] = {}
        for sink, connect in connects.items():
            # Before it was asked it certainly has what left the journal, or came before it subscribed.
            status = Status(max(self.subscriptions[sink].after, journal.pruned), self.subscriptions[sink].mark)
            self.workers[sink] = Worker(sink, connect, DeadLetters(dead_letter_path(sink)), self, status)

    def start(self, wait_for: Collection[str], wait_s: float) -> None:
        """Start all workers and give those of `wait_for` up to `wait_s` to reach their sinks.

        Raises the ToolkitError of a sink that cannot be used at all (not a database, say).
        """
        for worker in self.workers.values():
            worker.start()
        with self.changed:
            self.changed.wait_for(lambda: all(self.workers[sink].status.asked for sink in wait_for), wait_s)
            failures = [worker.status.failure for worker in self.workers.values() if worker.status.failure]
            self.is_starting = bool(failures)
        if failures:
            self.drain(0)
            raise failures[0]

    def wake(self) -> None:
        """Tell everybody who waits that something was appended or delivered."""
        with self.changed:
            self.changed.notify_all()

    def reached(self) -> dict[str, tuple[int, str]]:
        """Sink of this run -> the place up to which it stores everything, and its emitter's mark."""
        return {sink: (worker.status.reached, worker.status.mark) for sink, worker in self.workers.items()}

    def pending(self) -> dict[str, int]:
        """Subscribed sink -> how many records are pending for it, at most."""
        places = {sink: max(each.after, each.reached, self.journal.pruned) for sink, each in self.subscriptions.items()}
        places |= {sink: worker.status.reached for sink, worker in self.workers.items()}
        return {sink: self.journal.last - place for sink, place in places.items()}

    def low_watermark(self) -> int:
        """The place up to which every subscribed sink stores everything."""
        return self.journal.last - max(self.pending().values(), default=0)

    def drain(self, timeout_s: float) -> None:
        """Let the workers deliver what is pending for up to `timeout_s`, then stop them."""
        bounds: dict[Literal["drained", "closed"], float] = {"drained": timeout_s, "closed": CLOSE_S}
        for until, bound_s in bounds.items():
            for worker in self.workers.values():
                worker.stop(until)
            deadline_s = time.monotonic() + min(bound_s, threading.TIMEOUT_MAX)
            for worker in self.workers.values():
                worker.join(max(0.0, deadline_s - time.monotonic()))
