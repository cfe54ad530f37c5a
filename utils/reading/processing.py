"""The command of all sink consumers: store each record once in a processed store, then print a summary."""

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Annotated, Any, TypeVar

import msgspec

from utils.app import cli, signals
from utils.app.backoff import backoff
from utils.app.config import DEFAULT_STREAM, DEFAULTS, Reads, Settings, processed_store_url
from utils.app.errors import ToolkitError, Unavailable
from utils.app.options import DEFAULT_READING, ReadingOptions, StreamName
from utils.reading.database import Database, PostgresDatabase, SqliteDatabase
from utils.reading.follow import OnWait, StateLog, follow
from utils.reading.progress import Progress
from utils.reading.store import OnStored, ProcessedStore, Stored
from utils.reading.top import EVERY_S, Top, TopView, check_top
from utils.reading.windows import NO_WINDOWS, Tumbling, Windows
from utils.records.stream import Stream
from utils.sinks import AUTO, EMBEDDED, find_stream, source
from utils.sources.base import Chunk, Source

Result = TypeVar("Result")


def wait_for(attempt: Callable[[], Result], stop: Event, *, once: bool) -> Result:
    """Return the result of `attempt`, which is repeated while it raises Unavailable. Raises SystemExit after `stop`.

    Logs the reason once per change. With `once` Unavailable is raised instead.
    """
    waits_s, states = backoff(0.1, 1.0), StateLog()
    while not stop.is_set():
        try:
            return attempt()
        except Unavailable as error:
            if once:
                raise
            states.trouble(error)
            stop.wait(next(waits_s))
    sys.exit(0)


def wait_for_stream(name: str, settings: Settings, source_name: str, stop: Event, *, once: bool) -> Stream:
    """Return the stream of this name once it has a schema file or records. See `wait_for`."""
    return wait_for(partial(find_stream, name, settings, source_name), stop, once=once)


@dataclass(frozen=True)
class StoreReader:
    """A reader of a sink with a processed store of its own. `name` is the file name of a store in SQLite."""

    sink: str
    name: str
    settings: Settings
    reading: ReadingOptions
    stop: Event

    def database(self, stream: Stream) -> Database:
        """Return the store's database: a file, or for a topic the PostgreSQL that machines share, if one is set."""
        url = None if self.sink in (AUTO, *EMBEDDED) else processed_store_url()
        if url is None:
            return SqliteDatabase(self.settings.processed_path(self.name, stream.name))
        return PostgresDatabase(url, self.settings.group_of(stream.name))

    def open(self, stream: Stream) -> ProcessedStore:
        """Return the store once it can be opened. See `wait_for`."""
        start, once = self.reading.start, self.reading.once
        return wait_for(lambda: ProcessedStore(self.database(stream), stream, start), self.stop, once=once)

    def read(
        self, store: ProcessedStore, on_stored: OnStored, progress: Progress, show: Callable[[list[Any]], None],
        on_wait: OnWait,
    ) -> None:  # fmt: skip
        """Store the chunks from the stored positions on and `show` the new records. See ProcessedStore.add, follow."""
        once, count = self.reading.once, self.reading.count

        def open_source() -> Source:
            store.counts()  # raises before this consumer takes partitions of its group that it could not store
            return source(self.sink, self.settings, store.stream, store.resume, finished=once, shared=True)

        def handle(chunk: Chunk) -> int:
            new = [record for record, *_ in store.add(chunk, on_stored).new]
            progress.update(chunk.records, store.run)
            show(new)
            return len(new)

        follow(open_source, handle, self.stop, once=once, count=count, on_wait=on_wait)


RecordHandler = Callable[[Database, list[dict[str, Any]]], None]
"""Callback that handles the records that are new to a consumer's store, in the transaction that stores them."""


def consumer(sink: str, *reads: str, name: str = "", handle: RecordHandler | None = None) -> Callable[..., int]:
    """Return the `main` of a consumer of this sink. Its command line has the settings named in `reads`.

    `handle` needs a `name`, which gives the consumer a store and a consumer group of its own.
    """

    def main(
        *,
        stream: StreamName = DEFAULT_STREAM,
        reading: ReadingOptions = DEFAULT_READING,
        tumbling: Tumbling = NO_WINDOWS,
        top: Top = False,
        settings: Annotated[Settings, Reads(*reads)] = DEFAULTS,
    ) -> int:
        check_top(top=top, ends=reading.once or reading.count is not None, json=reading.json)
        if top and not tumbling.every_s:
            tumbling = replace(tumbling, every_s=EVERY_S)
        stop = signals.stop_on_signals()
        found = wait_for_stream(stream, settings, sink, stop, once=reading.once)
        own = replace(settings, group=f"{settings.group}-{name}") if name else settings
        reader = StoreReader(sink, name or sink, own, reading, stop)
        with closing(reader.open(found)) as store:
            run = _Run(reader, store, tumbling, handle, top=top)
            reader.read(store, run.add_rows, run.progress, run.show, run.wait)
            run.end()
        return 0

    kept = f"Read the {sink} sink; keep each record once, with its statistics, in data/processed."
    main.__doc__ = handle.__doc__ if handle else kept
    return main


class _Run:
    """A run of a consumer: the rows that it adds to its store with the records, and what it shows."""

    def __init__(
        self, reader: StoreReader, store: ProcessedStore, tumbling: Tumbling, handle: RecordHandler | None, *, top: bool
    ) -> None:
        self._reader, self._store, self._handle = reader, store, handle
        self._windows = Windows(store, tumbling) if tumbling.every_s else None
        self._view, self.progress = None, Progress(reader.sink, store.stream)
        if top and self._windows:
            self._view = TopView(store.stream, self.progress, tumbling.every_s, self._windows.by_name())

    def add_rows(self, stored: Stored) -> None:
        """Add the rows of the windows and of `handle`. See OnStored."""
        if self._windows:
            self._windows.add(stored)
        if self._handle and stored.new:
            try:
                self._handle(self._store.database, [msgspec.json.decode(line) for *_, line in stored.new])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # a wrong statement: it will not heal, as locks do
                    raise ToolkitError(f"the handle of {self._reader.name}: {error}") from error
                raise

    def show(self, new: list[Any]) -> None:
        """Show new records in the table, or the windows that they closed as lines."""
        if self._view:
            self._view.show(new)
        elif self._windows and not self._reader.reading.json:
            cli.print_lines(*(self._windows.line(*each) for each in self._windows.closed))
        self.wait()

    def wait(self, error: Unavailable | None = None) -> None:
        """Update the table or the progress line. See OnWait."""
        if self._view:
            self._view.idle()
        else:
            self.progress.show()

    def end(self) -> None:
        """Close the table, or print the summary of run and store."""
        if self._view:
            self._view.close()
            return
        line, totals, stream = self.progress.end(), self._store.counts(), self._store.stream
        with cli.progress(None, f"summary of {cli.counted(totals.records, 'record')}"):
            summary = self._store.summary()
        if self._reader.reading.json:
            report = {"source": self._reader.sink, "stream": stream.name, "run": self._store.run.items()}
            cli.print_json(report | {"store": totals.items(), "summary": {stream.by: summary} if summary else {}})
            return
        if self._windows:
            cli.print_lines(*(f"{self._windows.line(*each)} so far" for each in self._windows.open()))
        shown = [f"{name} {value:,}" for name, value in totals.items().items()]
        cli.print_lines(line, f"in the store: {', '.join(shown)}")
        rows = [
            (str(name), f"{count:,}", "" if mean is None else f"{mean:.2f}", str(last or ""))
            for name, count, mean, last in summary
        ]
        if rows:
            mean = f"mean {stream.value}" if stream.value else ""
            cli.print_table((stream.by or "", "records", mean, "last seen"), rows)
