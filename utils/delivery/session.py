"""What one run of a producer acknowledges, and counts."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from loguru import logger

from utils.app import early
from utils.app.errors import Unavailable
from utils.delivery.journal import Journal
from utils.delivery.worker import Delivery
from utils.records.record import Batch
from utils.records.stream import Stream

MAX_NAMES, OTHERS = 100, "(others)"  # so many fields without a column are named and counted, the others together
MAX_SHOWN = 50  # characters of a name
REPORT_EVERY_S = 5.0

MakeBatch = Callable[[Sequence[Any], str, int, Any], Batch]


class Session:
    """What one run of a producer acknowledges and counts.

    One thread at a time makes a batch and appends it, for the batch has the sequences behind the last one.
    """

    def __init__(self, stream: Stream, journal: Journal, delivery: Delivery, stop: threading.Event) -> None:
        self.stream, self.journal, self.delivery, self.stop = stream, journal, delivery, stop
        self.counts: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()  # fields that went to `extra`
        self._logged: set[str] = set()  # why the journal takes no records, until it takes them again
        self._reported = time.monotonic(), 0  # when the running total was logged, and what it was

    @property
    def code(self) -> int:
        """The exit code, if it ended now."""
        failed = any(worker.status.failure for worker in self.delivery.workers.values())
        return early.UNFINISHED if failed or self.delivery.low_watermark() < self.journal.last else 0

    def batch(self, items: Sequence[Any], make: MakeBatch = Batch.of_lines) -> tuple[Batch, list[tuple[Any, str]]]:
        """The next batch, and which of the items no sink can store, with the reasons."""
        try:
            return self._batch(items, make), []
        except ValueError:
            fit, rejected = list[Any](), list[tuple[Any, str]]()
        for item in items:
            try:
                self._batch([item], make)
                fit.append(item)
            except ValueError as error:
                rejected.append((item, str(error)))
        return self._batch(fit, make), rejected

    def _batch(self, items: Sequence[Any], make: MakeBatch) -> Batch:
        journal, codec = self.journal, self.stream.codec
        if not items:
            return Batch(journal.producer_id, journal.last, 0, b"", codec)
        batch = make(items, journal.producer_id, journal.last + 1, codec)
        batch.columns  # noqa: B018  # made here, once for all sinks
        return batch

    def append(self, batch: Batch, positions: Mapping[str, str] | None = None, *, shown: bool = False) -> bool:
        """Whether the batch, and the positions behind it, are acknowledged; False only when told to stop while waiting.

        Waits while the journal is at its limit or its disk is full. Raises ToolkitError with exit code 3 if it would
        wait for a sink that has failed.
        """
        self._note_kept(batch.kept)
        while not self._is_appended(batch, positions):
            with self.delivery.changed:
                self.delivery.changed.wait(0.2)
            if self.stop.is_set():
                return False
        if self._logged and self.journal.pending_bytes < self.journal.max_bytes // 2:
            logger.info("journal takes records again")
            self._logged.clear()
        self.delivery.wake()
        self.counts["acknowledged"] += batch.count
        self._report(batch.records if shown else None)
        return True

    def _note_kept(self, kept: Counter[str]) -> None:
        """Count the fields, and log each once, so far as there are not endlessly many of them."""
        news = [name for name, _ in kept.most_common() if name not in self.kept][: max(0, MAX_NAMES - len(self.kept))]
        if news:
            names = ", ".join(repr(name[:MAX_SHOWN]) for name in news)
            logger.warning("no column for {}: in SQL it is in the column extra", names)
        for name, count in kept.items():
            self.kept[name if name in self.kept or name in news else OTHERS] += count

    def _report(self, records: Sequence[Any] | None) -> None:
        """Log these records, or now and then the running total."""
        for record in records or ():
            logger.info("{} {}", record.sequence, self.stream.describe(record))
        (then_s, before), now_s, done = self._reported, time.monotonic(), self.counts["acknowledged"]
        if records is None and now_s - then_s >= REPORT_EVERY_S:
            self._reported = now_s, done
            logger.info("{:,} acknowledged, {:,.0f}/s", done, (done - before) / (now_s - then_s))

    def _is_appended(self, batch: Batch, positions: Mapping[str, str] | None) -> bool:
        if not self.has_room():
            return False
        try:
            self.journal.append(batch, reached=self.delivery.reached(), positions=positions)
        except Unavailable as error:
            self._log_once(f"journal cannot take records, waiting: {error}")
            return False
        return True

    def has_room(self) -> bool:
        """Whether the journal is below its limit, once what all sinks store has left it.

        Raises ToolkitError with exit code 3 if it is full because of a sink that has failed.
        """
        journal, delivery = self.journal, self.delivery
        if journal.pending_bytes < journal.max_bytes:
            return True
        with suppress(Unavailable):  # a full disk is another reason to wait
            journal.prune(delivery.reached())
        if journal.pending_bytes < journal.max_bytes:
            return True
        pending = delivery.pending()
        slowest = max(pending, key=lambda sink: pending[sink])
        full = f"journal is full ({journal.max_bytes >> 20} MiB, JOURNAL_MAX_MB)"
        worker = delivery.workers.get(slowest)
        if worker is None or worker.status.failure:
            reason = worker.status.reason if worker else "it is not in this run: name it in --sinks or --drop it"
            raise Unavailable(f"{full} and {slowest} takes nothing: {reason}")
        self._log_once(f"{full}: waiting for {slowest}")
        return False

    def _log_once(self, text: str) -> None:
        if text not in self._logged:
            logger.warning("{}", text)
        self._logged.add(text)
