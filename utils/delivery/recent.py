"""What workers that keep up read from memory instead of from disk."""

import threading
from collections import deque
from itertools import takewhile

from utils.records.record import Batch

RECENT_RECORDS = 50_000
RECENT_BYTES = 32 << 20


class Recent:
    """The latest batches, in memory."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._batches: deque[Batch] = deque()
        self._records = self._bytes = 0

    def add(self, batch: Batch) -> None:
        """Keep a batch and let go of the oldest ones that are too many."""
        with self._mutex:
            self._batches.append(batch)
            self._records += batch.count
            self._bytes += len(batch.lines)
            while self._records > RECENT_RECORDS or self._bytes > RECENT_BYTES:
                oldest = self._batches.popleft()
                self._records -= oldest.count
                self._bytes -= len(oldest.lines)

    def after(self, sequence: int) -> list[Batch]:
        """The batches with records behind a sequence if all of them are here, else none."""
        with self._mutex:
            if not self._batches or self._batches[0].first - 1 > sequence:
                return []
            return list(takewhile(lambda batch: batch.last > sequence, reversed(self._batches)))[::-1]
