"""Appending to a journal that may be full or on a full disk."""

import threading
from collections.abc import Mapping
from contextlib import suppress

from loguru import logger

from utils.app.backoff import Backoff
from utils.app.errors import Unavailable
from utils.delivery.journal import Journal
from utils.delivery.worker import Delivery
from utils.records.record import Batch


class Acknowledging:
    """Appends batches to the journal, and waits while it is at its limit or its disk is full."""

    def __init__(self, journal: Journal, delivery: Delivery, stop: threading.Event) -> None:
        self.journal, self.delivery, self._stop = journal, delivery, stop
        self._named: set[str] = set()  # sinks that were waited for since the journal was last half full

    def append(self, batch: Batch, positions: Mapping[str, str] | None = None) -> bool:
        """Whether the batch is acknowledged; False only when told to stop while waiting.

        Raises ToolkitError with exit code 3 if it would wait for a sink that has failed.
        """
        if not self._wait_for_room():
            return False
        backoff, waiting = Backoff(), False
        while True:
            try:
                self.journal.append(batch, reached=self.delivery.reached(), positions=positions)
            except Unavailable as error:
                if not waiting:
                    logger.error("journal cannot take records, waiting: {}", error)
                waiting = True
                if self._stop.wait(backoff.next_s()):
                    return False
                continue
            if waiting:
                logger.info("journal takes records again")
            self.delivery.wake()
            return True

    def prune(self) -> None:
        """Free what every subscribed sink stores; on a full disk the next append does it."""
        try:
            self.journal.prune(self.delivery.reached())
        except Unavailable as error:
            logger.warning("delivered records stay in the journal for now: {}", error)

    def has_room(self) -> bool:
        """Whether the journal is below its limit, once what all sinks store has left it.

        Raises ToolkitError with exit code 3 if it is full because of a sink that has failed.
        """
        journal, delivery = self.journal, self.delivery
        if journal.pending_bytes < journal.max_bytes // 2:
            self._named.clear()
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
        if slowest not in self._named:
            logger.warning("{}: waiting for {}", full, slowest)
            self._named.add(slowest)
        return False

    def _wait_for_room(self) -> bool:
        """Below the journal's limit at once; at it, wait for the slowest sink. False when told to stop."""
        while not self.has_room():
            if self._stop.is_set():
                return False
            with self.delivery.changed:
                self.delivery.changed.wait(0.2)
        return True
