"""The progress line of a consumer: redrawn in place on a terminal, logged every ten seconds elsewhere."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from loguru import logger

from utils.app.cli import counted
from utils.reading.tracker import Counts
from utils.records.infer import event_time_getter
from utils.records.stream import Stream

REPORT_EVERY_S, REDRAW_EVERY_S = 10.0, 0.2


class Progress:
    """A line with the number of handled records, their rate, and the age of the newest one."""

    def __init__(self, name: str, stream: Stream) -> None:
        self.name, self.counts, self._event_time = name, Counts(), event_time_getter(stream)
        self._started_s = self._shown_s = time.monotonic()
        self._began_s = time.time()
        self._measured = (self._started_s, 0, 0.0)  # time, number of records and rate of the last measurement
        self._lag_s: float | None = None

    def update(self, records: Sequence[Any], counts: Counts) -> None:
        """Take in the records just handled and the totals of the run.

        The lag is the age of the last record. A record from before the run has none: it waited for this run.
        """
        if records:
            at_s = (self._event_time(records[-1]) or 0) / 1e6
            self._lag_s = max(0.0, time.time() - at_s) if at_s >= self._began_s else None
        self.counts = counts

    def show(self) -> None:
        """Show the line if the last time was long enough ago."""
        now_s, live = time.monotonic(), sys.stderr.isatty()
        if now_s - self._shown_s < (REDRAW_EVERY_S if live else REPORT_EVERY_S):
            return
        self._shown_s, before = now_s, self._measured[1]
        line = self.measured()
        if live:
            # The cursor returns to the beginning of the line, so that a log line overwrites it.
            shown = line[: shutil.get_terminal_size().columns - 1]
            print(f"{shown}\x1b[K\r", end="", file=sys.stderr, flush=True)
        elif self.counts.records != before:
            logger.info("{}", line)

    def measured(self) -> str:
        """Return the line, with the rate over the last second or more."""
        now_s, (then_s, before, rate) = time.monotonic(), self._measured
        if now_s - then_s >= 1:
            rate = (self.counts.records - before) / (now_s - then_s)
            self._measured = now_s, self.counts.records, rate
        return self._line(rate)

    def end(self) -> str:
        """Clear the progress line on a terminal, and return it with the mean rate of the run."""
        if sys.stderr.isatty():
            print("\x1b[K", end="", file=sys.stderr, flush=True)
        return self._line(self.counts.records / max(1e-9, time.monotonic() - self._started_s))

    def _line(self, rate: float) -> str:
        counts = self.counts
        more = f", seen again {counts.again:,}" if counts.again else ""
        more += "" if self._lag_s is None else f", lag {self._lag_s:,.1f} s"
        return (
            f"{self.name}: {counted(counts.records, 'record')}, {rate:,.0f}/s, invalid {counts.invalid:,}, "
            f"lost {counts.lost:,}, duplicate {counts.duplicate:,}, external {counts.external:,}{more}"
        )
