"""What the consumers of all sinks do: each record once into the processed store, then a summary."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any, TypeVar

from loguru import logger

from utils.app import cli, signals
from utils.app.backoff import Backoff
from utils.app.config import Reading, Settings, processed_store_url
from utils.app.errors import Absent, Unavailable
from utils.reading.database import Database, SqliteDatabase
from utils.reading.follow import OnWait, StateLog, follow
from utils.reading.progress import Progress
from utils.reading.store import ProcessedStore
from utils.reading.store_postgres import PostgresDatabase
from utils.reading.top import EVERY_S, TopView, check_top
from utils.reading.windows import NO_WINDOWS, Tumbling, Windows
from utils.records.stream import Stream
from utils.sinks import SINKS, find_stream, source
from utils.sources.base import Chunk, Source

WINDOWS_SHOWN, MANY = 1_000, 1_000_000

Result = TypeVar("Result")


def wait_for(attempt: Callable[[], Result], stop: Event, *, once: bool, quiet: bool = False) -> Result | None:
    """What `attempt` gives, as soon as it is not Unavailable; None if `stop` comes first.

    Logs once per change why it waits, unless `quiet`. With `once` it raises Unavailable instead of waiting.
    """
    backoff, states = Backoff(first_s=0.1, cap_s=1.0), StateLog()
    while not stop.is_set():
        try:
            return attempt()
        except Unavailable as error:
            if once:
                raise
            if not quiet:
                states.trouble(f"{error}; waiting", "INFO" if isinstance(error, Absent) else "WARNING")
            stop.wait(backoff.next_s())
    return None


def wait_for_stream(name: str, settings: Settings, source_name: str, stop: Event, *, once: bool) -> Stream | None:
    """The stream of this name, as soon as it has a schema file or records; None if `stop` comes first.

    With `once` it raises Unavailable instead of waiting.
    """
    return wait_for(partial(find_stream, name, settings, source_name), stop, once=once)


def store_database(sink: str, stream: Stream, settings: Settings, name: str = "") -> Database:
    """Where a group of consumers of a sink keeps what it has processed: a file with this name, or what machines share.

    Only the partitions of a topic can be handed from one machine to another; files stay where they are.
    """
    url = processed_store_url()
    if url is None or sink not in SINKS or SINKS[sink].embedded:
        return SqliteDatabase(settings.processed_path(name or sink, stream.name))
    return PostgresDatabase(url, settings.group_of(stream.name))


def read_into(
    store: ProcessedStore,
    sink: str,
    settings: Settings,
    reading: Reading,
    stop: Event,
    *,
    handle: Callable[[Chunk], int],
    on_wait: OnWait,
) -> None:
    """Hand the chunks of a sink to `handle`, from the store's positions on, until `reading` or `stop` ends it."""

    def open_source() -> Source:
        wait_for(store.check, stop, once=reading.once, quiet=True)  # what is wrong with it was logged
        return source(sink, settings, store.stream, store.resume, finished=reading.once, shared=True)

    follow(open_source, handle, stop, once=reading.once, count=reading.count, on_wait=on_wait)


def process(
    sink: str,
    stream_name: str,
    reading: Reading,
    settings: Settings,
    tumbling: Tumbling = NO_WINDOWS,
    *,
    top: bool = False,
) -> int:
    """Run the consumer of a sink; the exit code. `top` shows a live table instead of a running line and a summary."""
    check_top(top=top, ends=reading.once or reading.count is not None, json=reading.json)
    if top and not tumbling.every_s:
        tumbling = replace(tumbling, every_s=EVERY_S)
    stop = signals.stop_on_signals()
    found = wait_for_stream(stream_name, settings, sink, stop, once=reading.once)
    if found is None:
        return 0
    windows = Windows(tumbling) if tumbling.every_s else None

    def open_store() -> tuple[Database, ProcessedStore]:
        database = store_database(sink, found, settings)
        return database, ProcessedStore(database, found, reading.start, [windows] if windows else ())

    opened = wait_for(open_store, stop, once=reading.once)
    if opened is None:
        return 0
    database, store = opened
    with closing(store):
        stream, progress = store.stream, Progress(sink, store.stream)
        view = TopView(stream, progress, tumbling.every_s, windows.by_name(database)) if top and windows else None

        show = view.idle if view else progress.show

        def handle(chunk: Chunk) -> int:
            new = store.add(chunk)
            progress.saw(chunk.records, store.run)
            if view and windows:
                view.show(list(windows.new))
            elif windows and windows.closed and not reading.json:
                cli.print_lines(*(windows.line(*each) for each in windows.closed))
            show()
            return new

        read_into(store, sink, settings, reading, stop, handle=handle, on_wait=lambda error: show())
        if view:
            view.close()
            return 0
        line = progress.end()
        if (kept := store.counts().records) >= MANY:
            logger.info("a summary of {:,} records takes some seconds; --top needs none", kept)
        summary = store.summary()
        if reading.json:
            totals = {"run": store.run.items(), "store": store.counts().items()}
            found_too = {"windows": windows.report(database, WINDOWS_SHOWN)} if windows else {}
            report = {"source": sink, "stream": stream.name, **totals, "summary": summary}
            cli.print_json(report | found_too)
        else:
            if windows:
                cli.print_lines(*(f"{windows.line(*each)} so far" for each in windows.open(database)))
            _print_summary(line, store, summary, stream)
    return 0


def _print_summary(line: str, store: ProcessedStore, summary: dict[str, list[tuple[Any, ...]]], stream: Stream) -> None:
    totals = ", ".join(f"{name} {value:,}" for name, value in store.counts().items().items())
    cli.print_lines(line, f"in the store: {totals}")
    rows = [
        (kind, str(name), f"{count:,}", "" if mean is None else f"{mean:.2f}", str(last or ""))
        for kind, found in summary.items()
        for name, count, mean, last in found
    ]
    if rows:
        cli.print_table(("by", "name", "records", f"mean {stream.value}" if stream.value else "", "last seen"), rows)
