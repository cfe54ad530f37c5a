"""Sends the records of a recording again, as new ones, with their original gaps."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from utils.app import cli, signals
from utils.app.config import DEFAULT_STREAM, DEFAULTS, PRODUCING, Reads, Settings
from utils.app.options import Speed, StreamName
from utils.delivery.producing import Session
from utils.feeds.feeding import Feeding, FeedOptions, feed
from utils.feeds.inputs import PLAIN, Input, InputOptions, find_input
from utils.records.infer import event_time
from utils.records.record import Line
from utils.records.stream import Stream
from utils.records.table import Table
from utils.sinks import EMBEDDED, WHOLE_RUN, Run, Sinks
from utils.sources.base import Chunk


def main(
    recording: Annotated[str, Parameter(help="What feed_producer reads: a file, or a table of a database.")],
    /,
    *,
    stream: StreamName = DEFAULT_STREAM,
    speed: Speed = 1.0,
    options: InputOptions = PLAIN,
    sinks: Sinks = EMBEDDED,
    run: Run = WHOLE_RUN,
    settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS,
) -> int:
    """Send the records of a recording again, under new ids: to fill sinks, or to deliver dead letters."""
    stop = signals.stop_on_signals()
    options = replace(options, table=options.table or Table(Stream(stream)).name)
    found = find_input(recording, options, settings, stop)
    name = "replay" if stream == DEFAULT_STREAM else f"replay-{stream}"
    once = FeedOptions(once=True, again=True, sinks=sinks, run=run)
    return feed(found, stream, once, settings, stop, journal=name, feeding=partial(Replay, speed))


class Replay(Feeding):
    """Handles the chunks of a recording, each line when it is due by the gaps between their event times."""

    def __init__(self, speed: float, source: Input, run: Session, letters: Path, *, again: bool) -> None:
        super().__init__(source, run, letters, again=again)
        self._speed, self._event_us = speed, event_time(run.journal.stream)
        self._before_us: int | None = None
        self._due_s = time.monotonic()

    def handle(self, chunk: Chunk) -> int:
        """Acknowledge the lines of a chunk. See `follow`."""
        for lines in filter(None, self._due(chunk.records)):
            super().handle(replace(chunk, records=lines, invalid=[]))
        if chunk.invalid or chunk.begins_again:
            super().handle(replace(chunk, records=[]))
        return len(chunk.records)

    def _due(self, lines: Sequence[Line]) -> Iterator[list[Line]]:
        """The lines that are due together, once they are, until the run is told to stop."""
        due = list[Line]()
        for line in lines:
            at_us = self._event_us(line.record) if self._speed else None
            if at_us is not None:
                gap_us = 0 if self._before_us is None else max(0, at_us - self._before_us)
                self._before_us, self._due_s = at_us, self._due_s + gap_us / 1e6 / self._speed
            if self._due_s > time.monotonic():
                yield due
                due = []
                self._run.stop.wait(self._due_s - time.monotonic())
            if self._run.stop.is_set():
                return
            due.append(line)
        yield due


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.replay_producer"))
