"""The running line of a consumer: redrawn in place on a terminal, a log line now and then elsewhere."""

import shutil
import sys
import time
from typing import Any

from loguru import logger

from utils.reading.tracker import Counts
from utils.records.codec import epoch_s

REPORT_EVERY_S = 10.0
REDRAW_EVERY_S = 0.2


class Progress:
    """Shows how many records were handled, how fast, and how old the newest one is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = Counts()
        self._started_s = self._shown_s = self._rated_s = time.monotonic()
        self._rated = self._logged = 0
        self._rate = 0.0
        self._lag_s: float | None = None

    @property
    def _done(self) -> int:
        return self.counts.new + self.counts.external

    def saw(self, newest: Any, counts: Counts) -> None:
        """The last record that was handled (its age is the lag) and the totals of the run."""
        at_s = epoch_s(newest.timestamp) if newest is not None else None
        self._lag_s = self._lag_s if newest is None else None if at_s is None else max(0.0, time.time() - at_s)
        self.counts = counts

    def show(self) -> None:
        """Show the line if it is time."""
        now_s, live = time.monotonic(), sys.stderr.isatty()
        if now_s - self._shown_s < (REDRAW_EVERY_S if live else REPORT_EVERY_S):
            return
        self._shown_s = now_s
        line = self.measured()
        if live:
            # Ends at the line's beginning, so that a log line writes over it.
            shown = line[: shutil.get_terminal_size().columns - 1]
            print(f"{shown}\x1b[K\r", end="", file=sys.stderr, flush=True)
        elif self._logged != self._done:
            self._logged = self._done
            logger.info("{}", line)

    def measured(self) -> str:
        """The line with the rate of the last second or more."""
        now_s, done = time.monotonic(), self._done
        if now_s - self._rated_s >= 1:
            self._rate, self._rated, self._rated_s = (done - self._rated) / (now_s - self._rated_s), done, now_s
        return self.line(self._rate)

    def end(self) -> str:
        """Close the running line; the same with the mean rate of the run."""
        if sys.stderr.isatty():
            print("\x1b[K", end="", file=sys.stderr, flush=True)
        return self.line(self._done / max(1e-9, time.monotonic() - self._started_s))

    def line(self, rate: float) -> str:
        """The line with this rate."""
        counts = self.counts
        more = f", seen again {counts.again:,}" if counts.again else ""
        more += "" if self._lag_s is None else f", lag {self._lag_s:,.1f} s"
        return (
            f"{self.name}: {self._done:,} records, {rate:,.0f}/s, invalid {counts.invalid:,}, "
            f"lost {counts.lost:,}, duplicate {counts.duplicate:,}, external {counts.external:,}{more}"
        )
