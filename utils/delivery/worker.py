"""From the journal to the sinks: one worker thread per sink, which alone retries."""

import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from loguru import logger

from utils.app.backoff import Backoff
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.delivery.journal import Identity, Journal
from utils.emitters.base import Connect, Emitter
from utils.emitters.file_emitter import FileEmitter
from utils.records.record import Batch, encoder
from utils.records.record import Identity as Identified

# One DuckDB window; smaller batches cost a window each, larger ones memory.
MAX_BATCH = 20_000
# A worker stuck in a library call is left behind: it is a daemon thread, and the journal keeps what it had.
CLOSE_S = 0.5
LONGEST_S = 86_400.0 * 365
_identity = msgspec.json.Decoder(Identified)


@dataclass
class Progress:
    """What a worker tells about itself. `reached`: the sink holds everything up to this journal number."""

    state: Literal["starting", "delivering", "down", "failed", "stopped"] = "starting"
    reached: int = 0
    delivered: int = 0
    dead_letters: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Burial:
    """Journal numbers that go to the dead letter instead of the sink, and why."""

    first: int
    last: int
    reason: str


class Worker(threading.Thread):
    """Delivers the journal to one sink, in order.

    After any error that can heal it throws the emitter away, backs off, constructs a new one, asks
    it `last_sequence` and goes on from there; the batch in hand is never simply sent again. That one
    rule also settles whether a batch whose acknowledgement was lost had arrived.
    """

    def __init__(
        self,
        sink: str,
        connect: Connect,
        dead_letter_path: Path,
        journal: Journal,
        changed: threading.Condition,
        *,
        after: int,
        backoff: Backoff,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name=f"{sink} worker", daemon=True)
        self.sink = sink
        self.progress = Progress(reached=after)
        self.failure: ToolkitError | None = None
        self.looked = threading.Event()
        self._connect, self._dead_letter_path = connect, dead_letter_path
        self._journal, self._changed = journal, changed
        self._after, self._backoff, self._clock = after, backoff, clock
        self._draining = self._closing = False
        self._was_reached = self._last_try = False
        self._lost_up_to = 0
        self._down_since_s = 0.0
        self._burial: Burial | None = None
        self._buried: set[int] = set()

    def run(self) -> None:
        try:
            while not self._closing:
                try:
                    self._buried = self._buried or self._already_buried()
                    self._deliver()
                except Rejected as error:
                    number = self._journal.number(self._batch.producer_id, error.sequence)
                    self._burial = Burial(number, number, error.reason)
                except Unavailable as error:
                    self._down(str(error))
            self.progress.state = "stopped"
        except ToolkitError as error:
            self.failure = error
            self.progress.reason = str(error)
            if self.looked.is_set():
                logger.error("{}: given up: {}", self.sink, error)
        finally:
            # An unexpected error goes on to the thread's excepthook, which logs it with its traceback.
            if self.progress.state != "stopped":
                self.progress.state = "failed"
            self.looked.set()
            self._notify()

    def drain(self) -> None:
        """Stop once everything is delivered; a sink that was never reached gets one more attempt."""
        self._draining = True
        self._notify()

    def close(self) -> None:
        """Stop after the batch in hand."""
        self._draining = self._closing = True
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _deliver(self) -> None:
        """Connect and deliver until told to stop; ends by raising when something is wrong."""
        with closing(self._connect()) as emitter:
            reached = self._after_buried(self._ask(emitter))
            self._advance(reached)
            self.looked.set()
            self._was_reached = True
            if reached >= self._journal.last:
                self._up()
            if self._burial is None:
                self._journal.offer(self.sink)
            while not self._closing:
                burial = self._burial
                if burial and burial.first <= reached + 1:
                    self._bury(burial)
                    self._burial, reached = None, max(reached, burial.last)
                    self._journal.offer(self.sink)
                else:
                    batch = self._next(reached, min(MAX_BATCH, burial.first - 1 - reached) if burial else MAX_BATCH)
                    if batch is None:
                        break
                    self._batch = batch
                    self._say_lost(reached, self._journal.number(batch.producer_id, batch.first))
                    emitter.emit(batch)
                    reached = self._journal.number(batch.producer_id, batch.last)
                    self.progress.delivered += batch.count
                reached = self._after_buried(reached)
                self._advance(reached)
                self._backoff.reset()
                self._up()
            # Nothing more to read without being told to stop: rows went that the sink had before it was replaced.
            self._closing = self._closing or self._draining

    def _next(self, reached: int, max_count: int) -> Batch | None:
        """The next batch, waiting for one to be appended; None when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._draining or self._journal.last > reached)
        return None if self._closing else self._journal.read(reached, max_count)

    def _advance(self, reached: int) -> None:
        self.progress.reached = reached
        self._notify()

    def _ask(self, emitter: Emitter) -> int:
        """The journal number up to which the sink (or its dead letter) holds everything it was owed."""
        journal = self._journal
        bound = journal.bound(self.sink)
        reached, first = self._after, journal.first_waiting()
        for identity, end in journal.spans():
            if end is not None and end < first:
                reached = max(reached, end)
                continue  # nothing of it waits; the original of a copied journal may still send under this id
            sequence = emitter.last_sequence(identity.producer_id)
            held = identity.base + sequence
            if sequence and bound is not None and held > bound and (end is None or end > bound):
                held = self._rolled_back(identity, held, bound)
            elif end is not None:
                held = min(held, end)
            reached = max(reached, held if sequence else 0)
        first = journal.first_waiting()
        self._say_lost(reached, first)
        return max(reached, first - 1)

    def _say_lost(self, reached: int, first: int) -> None:
        """Warn once if the journal, which begins at `first`, cannot go on where the sink ends."""
        if reached + 1 < first and self._lost_up_to < first - 1:
            self._lost_up_to = first - 1
            lost = self._journal.describe(reached + 1, first - 1)
            logger.warning(
                "{}: lacks {}, which the journal no longer holds: was it deleted or restored?", self.sink, lost
            )

    def _rolled_back(self, identity: Identity, held: int, bound: int) -> int:
        """The sink holds more than it was ever offered by this journal: go on under a new producer_id.

        Numbers that were given out a second time meanwhile cannot go to this sink; they are buried.
        """
        journal = self._journal
        logger.warning(
            "{}: holds {} of {} but the journal had given out {}: the journal was rolled back, going on under a new id",
            self.sink, held - identity.base, identity.producer_id, bound - identity.base,
        )  # fmt: skip
        again = journal.retire(identity)
        if again > bound:
            self._burial = Burial(bound + 1, min(held, again), "its sequence was given out twice: journal rolled back")
        return bound

    def _already_buried(self) -> set[int]:
        """The journal numbers in the dead letter."""
        bases = {identity.producer_id: identity.base for identity, _ in self._journal.spans()}
        found = set()
        try:
            with self._dead_letter_path.open("rb") as lines:
                for line in lines:
                    with suppress(ValueError, RecursionError):  # torn, or not ours
                        letter = _identity.decode(line)
                        if letter.producer_id in bases and letter.sequence:
                            found.add(bases[letter.producer_id] + letter.sequence)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Unavailable(f"{self._dead_letter_path}: {error.strerror}") from error
        return found

    def _bury(self, burial: Burial) -> None:
        """Write the messages and the reason where `replay_producer` can read them."""
        with closing(FileEmitter(self._dead_letter_path)) as letter:
            number = self._after_buried(burial.first - 1) + 1
            while number <= burial.last:
                batch = self._journal.read(number - 1, burial.last - number + 1)
                assert batch is not None, "what is buried still waits in the journal"
                lines = encoder.encode_lines(
                    [{**msgspec.structs.asdict(message), "reason": burial.reason} for message in batch.messages]
                )
                letter.emit(Batch(batch.producer_id, batch.last, batch.count, lines))
                self.progress.dead_letters += batch.count
                self._buried.update(range(number, number + batch.count))
                number += batch.count
        logger.error("{}: {} went to {}: {}", self.sink, self._journal.describe(burial.first, burial.last),
                     self._dead_letter_path, burial.reason)  # fmt: skip

    def _after_buried(self, number: int) -> int:
        """The last of the numbers right after this one that need no delivery because they were buried."""
        while number + 1 in self._buried:
            number += 1
        return number

    def _up(self) -> None:
        if self.progress.state == "down":
            logger.info("{}: delivering again after {:.0f} s", self.sink, self._clock() - self._down_since_s)
        self.progress.state, self.progress.reason = "delivering", ""
        self._last_try = False

    def _down(self, reason: str) -> None:
        """Note the failure (said once until it heals) and wait before the next attempt."""
        if self.progress.state != "down":
            self._down_since_s = self._clock()
            self.progress.state = "down"
            logger.warning("{}: unavailable, messages wait in the journal: {}", self.sink, reason)
        elif reason != self.progress.reason:
            logger.debug("{}: still unavailable: {}", self.sink, reason)
        self.progress.reason = reason
        self.looked.set()
        if self._draining and not self._was_reached:
            self._closing = self._last_try
            self._last_try = True
            return
        draining = self._draining
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._draining != draining, self._backoff.next_s())


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
        journal.owe(connects)
        self._owed = journal.owed()
        self.workers = {
            sink: Worker(
                sink,
                connect,
                dead_letter_path(sink),
                journal,
                self.changed,
                after=self._owed[sink].after,
                backoff=Backoff(rng=rng),
                clock=clock,
            )
            for sink, connect in connects.items()
        }

    def start(self, wait_for: Collection[str], wait_s: float) -> None:
        """Start all workers and give those of `wait_for` up to `wait_s` to reach their sinks.

        Raises the ToolkitError of a sink that cannot be used at all (not a database, say).
        """
        for worker in self.workers.values():
            worker.start()
        deadline_s = self._clock() + wait_s
        for sink in wait_for:
            self.workers[sink].looked.wait(max(0.0, deadline_s - self._clock()))
        for worker in self.workers.values():
            if worker.failure:
                self.drain(0)
                raise worker.failure

    def wake(self) -> None:
        """Tell the workers that something was appended."""
        with self.changed:
            self.changed.notify_all()

    def reached(self) -> dict[str, int]:
        """Owed sink -> journal number up to which it certainly holds everything."""
        return {
            sink: self.workers[sink].progress.reached if sink in self.workers else owed.after
            for sink, owed in self._owed.items()
        }

    def held_by_all(self) -> int:
        """The journal number up to which every owed sink holds everything."""
        return min(self.reached().values(), default=self._journal.last)

    def drain(self, timeout_s: float) -> None:
        """Let the workers deliver what waits for up to `timeout_s`, then stop them."""
        for worker in self.workers.values():
            worker.drain()
        deadline_s = self._clock() + min(timeout_s, LONGEST_S)
        for worker in self.workers.values():
            worker.join(max(0.0, deadline_s - self._clock()))
        for worker in self.workers.values():
            worker.close()
        deadline_s = self._clock() + CLOSE_S
        for worker in self.workers.values():
            worker.join(max(0.0, deadline_s - self._clock()))
