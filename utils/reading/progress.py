"""The running line of a consumer: redrawn in place on a terminal, a log line now and then elsewhere."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from loguru import logger

from utils.reading.tracker import Counts
from utils.records.infer import event_time
from utils.records.stream import Stream

REPORT_EVERY_S = 10.0
REDRAW_EVERY_S = 0.2


class Progress:
    """Shows how many records were handled, how fast, and how old the newest one is."""

    def __init__(self, name: str, stream: Stream) -> None:
        self.name = name
        self._event_time = event_time(stream)
        self.counts = Counts()
        self._started_s = self._shown_s = self._rated_s = time.monotonic()
        self._rated = self._logged = 0
        self._rate = 0.0
        self._lag_s: float | None = None

    @property
    def _done(self) -> int:
        return self.counts.records

    def saw(self, records: Sequence[Any], counts: Counts) -> None:
        """What was handled, of which the last one's age is the lag, and the totals of the run."""
        if records:
            at_us = self._event_time(records[-1])
            self._lag_s = None if at_us is None else max(0.0, time.time() - at_us / 1e6)
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
