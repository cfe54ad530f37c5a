"""Producer that sends the records of a recording again, under new ids and with the original gaps."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any

from cyclopts import Parameter

from utils.app import cli, signals
from utils.app.config import DEFAULT_STREAM, DEFAULTS, PRODUCING, Reads, Settings
from utils.app.options import Speed, StreamName
from utils.feeds.feeding import FeedOptions, feed
from utils.feeds.inputs import PLAIN, SAMPLE, InputOptions, find_input
from utils.feeds.lines import LineCodec
from utils.records.infer import event_time_getter
from utils.records.stream import Stream
from utils.records.table import Table
from utils.sinks import DEFAULT_RUN, EMBEDDED, RunOptions, Sinks
from utils.sources.base import Chunk, Resume, Source


def main(
    recording: Annotated[str, Parameter(help="A file, or a database with --table, as for feed_producer.")],
    /,
    *,
    stream: StreamName = DEFAULT_STREAM,
    speed: Speed = 1.0,
    options: InputOptions = PLAIN,
    sinks: Sinks = EMBEDDED,
    run: RunOptions = DEFAULT_RUN,
    settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS,
) -> int:
    """Send the records of a recording again, under new ids: to fill sinks, or to deliver dead letters."""
    stop = signals.stop_on_signals()
    options = replace(options, table=options.table or Table(Stream(stream)).name)
    found = find_input(recording, options, settings, stop)

    def make(codec: LineCodec, resume: Resume, finished: bool) -> Source:
        source = found.make(codec=codec, resume=resume, finished=finished)
        return Paced(source, codec.stream, speed, stop) if speed and codec.stream is not SAMPLE else source

    name = "replay" if stream == DEFAULT_STREAM else f"replay-{stream}"
    once = FeedOptions(once=True, again=True, sinks=sinks, run=run)
    return feed(replace(found, make=make), stream, once, settings, stop, journal=name)


class Paced:
    """A source that delays the lines of another source by the gaps between their event times."""

    def __init__(self, source: Source, stream: Stream, speed: float, stop: threading.Event) -> None:
        self.name, self.detail, self.close = source.name, source.detail, source.close
        self._source, self._max_records = source, 0
        self._chunks = self._due(event_time_getter(stream), speed, stop)

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next lines once they are due; None at the end, and after `stop`. See Source."""
        self._max_records = max_records
        return next(self._chunks, None)

    def _due(self, event_us: Callable[[Any], int | None], speed: float, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks of lines that are due together. Of the parts of one chunk the last has its invalid lines."""
        before_us, due_s = None, time.monotonic()
        while chunk := self._source.poll(self._max_records):
            due = list[Any]()
            for line in chunk.records:
                at_us = event_us(line.record)
                if at_us is not None:
                    gap_us = 0 if before_us is None else max(0, at_us - before_us)
                    before_us, due_s = at_us, due_s + gap_us / 1e6 / speed
                if due_s > time.monotonic():
                    if due:
                        yield replace(chunk, records=due, invalid=[])
                    due = []
                    stop.wait(due_s - time.monotonic())
                if stop.is_set():
                    return
                due.append(line)
            yield replace(chunk, records=due)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.replay_producer"))
