"""From the journal to the sinks: one worker thread per sink, which alone retries."""

import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Literal

from loguru import logger

from utils.app.backoff import Backoff
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.delivery.dead_letters import DeadLetters
from utils.delivery.journal import Journal
from utils.delivery.status import Outage, Status
from utils.emitters.base import Connect, Emitter
from utils.records.record import Batch

# A worker stuck in a library call is left behind: it is a daemon thread, and the journal keeps what it had.
CLOSE_S = 0.5
LONGEST_S = 86_400.0 * 365


class Worker(threading.Thread):
    """Delivers the journal to one sink, in order.

    After any error that can heal it discards the emitter, backs off, constructs a new one, asks it `last` and
    continues from there; the batch in hand is never simply sent again. That one rule also settles whether a batch
    whose acknowledgement was lost had arrived.
    """

    def __init__(
        self,
        connect: Connect,
        letters: DeadLetters,
        journal: Journal,
        changed: threading.Condition,
        *,
        status: Status,
        outage: Outage,
    ) -> None:
        super().__init__(name=f"{outage.sink} worker", daemon=True)
        self.sink = outage.sink
        self.status = status
        self.looked = threading.Event()
        self._connect, self._letters, self._journal, self._changed = connect, letters, journal, changed
        self._outage = outage
        self._until: Literal["", "drained", "closed"] = ""

    def run(self) -> None:
        try:
            while self._until != "closed":
                try:
                    self._deliver()
                except Unavailable as error:
                    self._down(str(error))
                except ToolkitError:
                    raise
                except Exception as error:  # noqa: BLE001 (of libraries: whatever it is, asking the sink again settles it)
                    self._outage.unknown(error)
                    self._down(repr(error))
            self.status.state = "stopped"
        except ToolkitError as error:
            self._give_up(error)
        finally:
            self.looked.set()
            self._notify()

    def drain(self) -> None:
        """Stop once everything is delivered; a sink that was never reached gets one more attempt."""
        self._until = self._until or "drained"
        self._notify()

    def close(self) -> None:
        """Stop after the batch in hand."""
        self._until = "closed"
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _give_up(self, error: ToolkitError) -> None:
        """End with what only the user can fix."""
        with self._changed:
            self.status.state, self.status.reason, self.status.failure = "failed", str(error), error
            if not self.status.starting and self._until != "closed":  # it may just have found the journal closed
                logger.error("{}: given up: {}", self.sink, error)

    def _deliver(self) -> None:
        """Connect and deliver until it is time to stop; ends by raising when something is wrong."""
        with closing(self._connect(self.status.mark)) as emitter:
            self._advance(self._ask(emitter), emitter.mark)
            self._journal.note(self.sink, self.status.reached, self.status.mark)
            self.looked.set()
            self._outage.was_reached = True
            while batch := self._next(emitter.max_records):
                try:
                    emitter.emit(batch)
                except Rejected as error:
                    self._letters.add(self.sink, batch, error)
                    self.status.delivered += error.sequence - batch.first
                    self.status.dead_letters += 1
                    return
                self.status.delivered += batch.count
                self._letters.in_a_row = 0
                self._advance(batch.last, emitter.mark)
                self._up()
            self._until = "closed"

    def _next(self, max_records: int) -> Batch | None:
        """The next batch, waiting for one to be appended; None when it is time to stop."""
        reached = self.status.reached
        if reached >= self._journal.last:
            self._up()
        with self._changed:
            self._changed.wait_for(lambda: self._until or self._journal.last > reached)
        if self._until == "closed" or reached >= self._journal.last:
            return None
        batch = self._journal.read(reached, max_records)
        if batch is None or batch.first != reached + 1:
            raise Unavailable("it was replaced just when what it had before left the journal")
        return batch

    def _up(self) -> None:
        """Note that the sink takes records: it has all there is, or has just stored a batch."""
        self._outage.end()
        self.status.state, self.status.reason = "delivering", ""

    def _advance(self, reached: int, mark: str) -> None:
        self.status.reached, self.status.mark = reached, mark
        self._notify()

    def _ask(self, emitter: Emitter) -> int:
        """The place up to which the sink has everything; the sink itself, and the letters behind it, tell it."""
        runs = self._journal.runs()
        subscription = self._journal.subscriptions()[self.sink]
        last = emitter.last(list(runs))
        self._letters.load(runs)
        place = 0
        if last is not None:
            place = min(last[1], runs[last[0]])
            if last[1] > place:
                ahead = f"contains sequence {last[1]} of {last[0]}, the journal assigned {place}"
                self._outage.warn_once(last[1], f"{ahead}: was the journal restored?")
        place = self._letters.after(max(place, subscription.after))
        if place < subscription.reached:
            pruned = self._journal.pruned
            rest = f"{place + 1} to {pruned} have left the journal" if place < pruned else "the journal has the others"
            less = f"contains sequences up to {place}, but had {subscription.reached}"
            self._outage.warn_once(place, f"{less}: it was replaced by an older copy; {rest}")
        return self._letters.after(max(place, self._journal.pruned))

    def _down(self, reason: str) -> None:
        """Wait before the next attempt; while draining a sink that was never reached gets one more."""
        self._outage.begin(reason)
        self.status.state, self.status.reason = "down", reason
        self.looked.set()
        if self._until and not self._outage.was_reached:
            self._until = "closed" if self._outage.is_last_try else self._until
            self._outage.is_last_try = True
            return
        until = self._until
        with self._changed:
            self._changed.wait_for(lambda: self._until != until, self._outage.backoff.next_s())


class Delivery:
    """The workers of one producer process, and what they have in common."""

    def __init__(
        self,
        journal: Journal,
        connects: Mapping[str, Connect],
        dead_letter_path: Callable[[str], Path],
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self.changed = threading.Condition()
        journal.subscribe(connects)
        self.subscriptions = journal.subscriptions()
        self.workers = {
            sink: Worker(
                connect,
                DeadLetters(dead_letter_path(sink)),
                journal,
                self.changed,
                status=Status(self._known(sink), self.subscriptions[sink].mark),
                outage=Outage(sink, Backoff(rng=rng), clock),
            )
            for sink, connect in connects.items()
        }

    def _known(self, sink: str) -> int:
        """What a sink certainly has before it was asked: what has left the journal, or came before it subscribed."""
        return max(self.subscriptions[sink].after, self._journal.pruned)

    def start(self, wait_for: Collection[str], wait_s: float) -> None:
        """Start all workers and give those of `wait_for` up to `wait_s` to reach their sinks.

        Raises the ToolkitError of a sink that cannot be used at all (not a database, say).
        """
        for worker in self.workers.values():
            worker.start()
        deadline_s = self._clock() + wait_s
        for sink in wait_for:
            self.workers[sink].looked.wait(max(0.0, deadline_s - self._clock()))
        with self.changed:
            failures = [worker.status.failure for worker in self.workers.values() if worker.status.failure]
            for worker in self.workers.values():
                worker.status.starting = bool(failures)
        if failures:
            self.drain(0)
            raise failures[0]

    def wake(self) -> None:
        """Tell the workers that something was appended."""
        with self.changed:
            self.changed.notify_all()

    def reached(self) -> dict[str, tuple[int, str]]:
        """Sink of this run -> the place up to which it stores everything, and its emitter's mark."""
        return {sink: (worker.status.reached, worker.status.mark) for sink, worker in self.workers.items()}

    def _place(self, sink: str) -> int:
        """Where a subscribed sink is at least."""
        if sink in self.workers:
            return self.workers[sink].status.reached
        return max(self._known(sink), self.subscriptions[sink].reached)

    def pending(self) -> dict[str, int]:
        """Subscribed sink -> how many records are pending for it, at most."""
        return {sink: self._journal.last - self._place(sink) for sink in self.subscriptions}

    def low_watermark(self) -> int:
        """The place up to which every subscribed sink stores everything."""
        return self._journal.last - max(self.pending().values(), default=0)

    def drain(self, timeout_s: float) -> None:
        """Let the workers deliver what is pending for up to `timeout_s`, then stop them."""
        for stop, bound_s in ((Worker.drain, min(timeout_s, LONGEST_S)), (Worker.close, CLOSE_S)):
            for worker in self.workers.values():
                stop(worker)
            deadline_s = self._clock() + bound_s
            for worker in self.workers.values():
                worker.join(max(0.0, deadline_s - self._clock()))
