"""Text view of any source: the last records and each new one, like tail -f, or a live table, like top."""

import sys
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter
from loguru import logger

from utils.app import cli, log, signals
from utils.app.config import DEFAULT_STREAM, DEFAULTS, READING, Reads, Settings
from utils.app.options import Begin, Count, Json, Once, StreamName
from utils.reading.follow import follow
from utils.reading.processing import wait_for_stream
from utils.reading.progress import Progress
from utils.reading.top import Top, TopView, check_top
from utils.reading.tracker import Tracker
from utils.reading.windows import window_s
from utils.records.sentiment import label
from utils.records.stream import Stream
from utils.sinks import AUTO, ChosenSource, source
from utils.sources.base import Chunk, Resume, Source

LAST_SHOWN = 10
CAUGHT_UP_BELOW = 1_000  # records in a chunk
_COLOURS = {"negative": "\x1b[31m", "neutral": "", "positive": "\x1b[32m"}


def main(
    *,
    stream: StreamName = DEFAULT_STREAM,
    source_name: ChosenSource = AUTO,
    start: Begin = "start",
    once: Once = False,
    count: Count = None,
    json: Json = False,
    top: Top = False,
    every: Annotated[float, Parameter(name="--every", validator=window_s, help="Window of --top in seconds.")] = 60,
    settings: Annotated[Settings, Reads(*READING)] = DEFAULTS,
) -> int:
    """Show records of any source: the last ten, then each new one.

    With --once, --count or --json all records are shown. A record that comes twice is shown once.
    """
    check_top(top=top, ends=once or count is not None, json=json)
    stop = signals.stop_on_signals()
    found = wait_for_stream(stream, settings, source_name, stop, once=once)
    progress, everything = Progress(source_name, found), json or once or count is not None
    view = TopView(found, progress, every) if top else Lines(found, as_json=json, everything=everything)
    open_source = partial(source, source_name, settings, found, finished=once)
    viewer = Viewer(open_source, view, progress, from_end=start == "end")
    with closing(view):
        follow(lambda: viewer.source, viewer.handle, stop, once=once, count=count, on_wait=lambda error: view.idle())
    if not top:  # the table has this line as its heading
        cli.print_lines(progress.end(), to=sys.stderr)
    return 0


class Viewer:
    """A reader of a source that counts all records and shows each new one once. It keeps positions in memory."""

    def __init__(
        self, open_source: Callable[[Resume], Source], view: "TopView | Lines", progress: Progress, *, from_end: bool
    ) -> None:
        begin, self._positions = "end" if from_end else "", dict[str, str]()
        self.source = open_source(lambda partition: self._positions.get(partition, begin))
        self._view, self._progress, self._tracker = view, progress, Tracker(from_end=from_end)

    def handle(self, chunk: Chunk) -> int:
        """Count the records of a chunk, and show those that are new. See ChunkHandler."""
        tracker, counts = self._tracker, self._tracker.counts
        before = counts.lost, counts.duplicate
        if self._positions and self.source.name != self._progress.name:
            tracker.begin_again()  # another sink has the same records once more
        self._progress.name, self._positions[chunk.partition] = self.source.name, chunk.end
        new = tracker.admit_chunk(chunk)
        if before != (counts.lost, counts.duplicate):
            logger.warning("lost {:,}, duplicate {:,} so far", counts.lost, counts.duplicate)
        self._progress.update(new, counts)
        if new:
            self._view.show(new)
        return len(new)


class Lines:
    """A view with a line per record. Unless `everything`, it skips older records but the last ten."""

    def __init__(self, stream: Stream, *, as_json: bool, everything: bool) -> None:
        self._stream, self._as_json, self._is_terminal = stream, as_json, sys.stdout.isatty()
        self._last: deque[Any] | None = None if everything else deque(maxlen=LAST_SHOWN)

    def show(self, records: list[Any]) -> None:
        if self._last is not None:
            self._last.extend(records)
            if len(records) < CAUGHT_UP_BELOW:
                self.idle()
            return
        line, encoding = (self._json, "utf-8") if self._as_json else (self._text, sys.stdout.encoding)
        sys.stdout.buffer.write("".join(f"{line(record)}\n" for record in records).encode(encoding, "replace"))
        sys.stdout.buffer.flush()

    def idle(self) -> None:
        """Print the last records: the present end is reached. From now on every record is printed."""
        if self._last is not None:
            last, self._last = list(self._last), None
            self.show(last)

    close = idle

    def _json(self, record: Any) -> str:
        line = self._stream.codec.encode(record).decode()
        return log.plain(line) if self._is_terminal else line  # JSON leaves most control characters as they are

    def _text(self, record: Any) -> str:
        timestamp = self._stream.codec.value(record, "timestamp") or ""
        if self._stream.name != DEFAULT_STREAM:
            return log.plain(f"{timestamp} {self._stream.describe(record)}")
        sentiment = label(record.sentiment)
        who = f"{timestamp} {record.author} [{record.category or ''}] {record.sentiment:.2f} {sentiment}"
        line, colour = log.plain(f"{who}: {record.message}"), _COLOURS[sentiment] if self._is_terminal else ""
        return f"{colour}{line}\x1b[0m" if colour else line


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.ragini_consumer"))
