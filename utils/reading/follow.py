"""What all consumers do: poll a source, hand chunks on, wait, retry, count, report."""

import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

from loguru import logger

from utils.app import cli, signals
from utils.app.backoff import Backoff
from utils.app.config import Reading, Settings
from utils.app.errors import PositionMoved, Unavailable
from utils.reading.store import KINDS, ProcessedStore
from utils.reading.tracker import COUNTS
from utils.records.record import Invalid, Message, timestamp_epoch_s
from utils.sinks import source
from utils.sources.base import Chunk, Source

CHUNK_RECORDS = 10_000
IDLE_FIRST_S = 0.01
RETRY_FIRST_S = 0.05
IDLE_CAP_S = 0.15
RETRY_CAP_S = 0.5
REPORT_EVERY_S = 10.0
REDRAW_EVERY_S = 0.2
INVALID_SHOWN = 10
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Handler = Callable[[Chunk], int]
"""Handles a chunk whole or, if it raises, not at all; returns how many messages were new to it."""


def consume(
    open_source: Callable[[], Source],
    handle: Handler,
    stop: threading.Event,
    *,
    once: bool = False,
    count: int | None = None,
    idle: Callable[[], None] = lambda: None,
) -> int:
    """Hand chunks to `handle` until `stop`, `count` new messages or, with `once`, the present end; the new messages.

    Follows with short waits; retries what is Unavailable and says so once per change (with `once` it is
    raised). If `handle` raises PositionMoved or Unavailable, it starts again from the stored position
    with a new source. `idle` is called whenever there is nothing to do.
    """
    backoff = Backoff(first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S)
    idle_s = IDLE_FIRST_S
    done = 0
    with closing(_Reader(open_source, handle)) as reader:
        while not stop.is_set() and (count is None or done < count):
            try:
                new = reader.step(CHUNK_RECORDS if count is None else min(CHUNK_RECORDS, count - done))
            except PositionMoved as error:
                reader.follow_other(error)
                stop.wait(backoff.next_s())
                continue
            except Unavailable as error:
                if once:
                    raise
                reader.say(f"{error}; waiting")
                idle()
                stop.wait(backoff.next_s())
                continue
            if new is None:
                if once:
                    break
                idle()
                stop.wait(idle_s)
                idle_s = min(idle_s * 2, IDLE_CAP_S)
            else:
                done += new
                idle_s = IDLE_FIRST_S
                backoff.reset()
    return done


class _Reader:
    """A source that can be opened again, and what was said about it."""

    def __init__(self, open_source: Callable[[], Source], handle: Handler) -> None:
        self._open, self._handle = open_source, handle
        self._source = open_source()
        self._said = ""
        self._shared = False
        self._invalid = InvalidLog()

    def step(self, max_records: int) -> int | None:
        """Poll once and handle; how many messages were new, None if there was nothing to read."""
        chunk = self._source.poll(max_records)
        if chunk is None:
            self._recovered()
            return None
        try:
            new = self._handle(chunk)
        except Unavailable:
            self.reopen()
            raise
        self._recovered()
        if chunk.begins_again:
            logger.warning(
                "{} was rotated, truncated or rebuilt: read from its beginning, without what is known", chunk.partition
            )
        self._invalid.add(chunk.invalid)
        return new

    def follow_other(self, error: PositionMoved) -> None:
        """Start again from the stored position; said once, for two copies take turns."""
        if not self._shared:
            logger.warning("{}: each message is handled by one of them", error)
        self._shared = True
        self.reopen()

    def say(self, line: str) -> None:
        """Log a state, once until it changes."""
        if line != self._said:
            logger.warning("{}", line)
        self._said = line

    def _recovered(self) -> None:
        if self._said:
            logger.info("no more waiting: {} is read", getattr(self._source, "detail", "the source"))
        self._said = ""

    def reopen(self) -> None:
        self._source.close()
        self._source = self._open()

    def close(self) -> None:
        self._source.close()


class InvalidLog:
    """Names the first ten invalid records; whoever reads counts them all."""

    def __init__(self) -> None:
        self._left = INVALID_SHOWN

    def add(self, found: Iterable[Invalid]) -> None:
        for invalid in islice(found, self._left):
            self._left -= 1
            more = "" if self._left else "; further ones are only counted"
            logger.warning("invalid record in {}: {}{}", invalid.where, invalid.reason, more)


class Progress:
    """The running line: redrawn in place on a terminal, a log line now and then elsewhere."""

    def __init__(self, name: str, counts: Mapping[str, int]) -> None:
        self.name, self._counts = name, counts
        self._started_s = self._shown_s = self._rated_s = time.monotonic()
        self._rated = self._logged = 0
        self._rate = 0.0
        self._lag_s: float | None = None
        self._live = sys.stderr.isatty()

    def saw(self, newest: Message) -> None:
        """The last message that was handled; its age is the lag."""
        epoch_s = timestamp_epoch_s(newest.timestamp)
        self._lag_s = None if epoch_s is None else max(0.0, time.time() - epoch_s)

    def show(self) -> None:
        """Show the line if it is time."""
        now_s = time.monotonic()
        if now_s - self._shown_s < (REDRAW_EVERY_S if self._live else REPORT_EVERY_S):
            return
        self._shown_s = now_s
        line = self.measured()
        if self._live:
            # Ends at the line's beginning, so that a log line writes over it.
            shown = line[: shutil.get_terminal_size().columns - 1]
            print(f"{shown}\x1b[K\r", end="", file=sys.stderr, flush=True)
        elif self._logged != self._counts["messages"]:
            self._logged = self._counts["messages"]
            logger.info("{}", line)

    def measured(self) -> str:
        """The line with the rate of the last second or more."""
        now_s, done = time.monotonic(), self._counts["messages"]
        if now_s - self._rated_s >= 1:
            self._rate, self._rated, self._rated_s = (done - self._rated) / (now_s - self._rated_s), done, now_s
        return self.line(self._rate)

    def end(self) -> str:
        """Close the running line; the same with the mean rate."""
        if self._live:
            print("\x1b[K", end="", file=sys.stderr, flush=True)
        return self.mean()

    def mean(self) -> str:
        """The line with the mean rate of the run."""
        return self.line(self._counts["messages"] / max(1e-9, time.monotonic() - self._started_s))

    def line(self, rate: float) -> str:
        counts = self._counts
        more = f", seen again {counts['again']:,}" if counts["again"] else ""
        more += "" if self._lag_s is None else f", lag {self._lag_s:,.1f} s"
        return (
            f"{self.name}: {counts['messages']:,} messages, {rate:,.0f}/s, invalid {counts['invalid']:,}, "
            f"lost {counts['lost']:,}, duplicate {counts['duplicate']:,}, foreign {counts['foreign']:,}{more}"
        )


def process(sink: str, reading: Reading, settings: Settings) -> int:
    """Run the consumer of a sink: every message once into its processed store, then a summary; the exit code."""
    stop = signals.stop_on_signals()
    with closing(ProcessedStore(settings.processed_path(sink))) as store:
        store.start_from(reading.start)
        progress = Progress(sink, store.run)

        def handle(chunk: Chunk) -> int:
            new = store.add(chunk)
            if new:
                progress.saw(new[-1])
            progress.show()
            return len(new)

        def open_source() -> Source:
            return source(sink, settings, store.resume, finished=reading.once, shared=True)

        consume(open_source, handle, stop, once=reading.once, count=reading.count, idle=progress.show)
        line = progress.end()
        figures = {kind: store.figures(kind, limit=5) for kind in KINDS}
        if reading.json:
            run = {name: store.run[name] for name in COUNTS}
            cli.print_lines(json.dumps({"source": sink, "run": run, "store": store.counts(), "figures": figures}))
        else:
            _say_summary(line, store.counts(), figures)
    return 0


def plain(text: str) -> str:
    """One line that cannot steer the terminal, whoever wrote it."""
    return _CONTROL.sub(" ", text)


def _say_summary(line: str, counts: Mapping[str, int], figures: Mapping[str, list[tuple[Any, ...]]]) -> None:
    cli.print_lines(line, "in the store: " + ", ".join(f"{name} {value:,}" for name, value in counts.items()))
    rows = [
        (kind, plain(name), f"{number:,}", f"{sentiment:.2f}", f"{length:.0f}", last_seen or "")
        for kind, found in figures.items()
        for name, number, sentiment, length, last_seen in found
    ]
    if rows:
        cli.print_table(("by", "name", "messages", "mood", "length", "last seen"), rows)
