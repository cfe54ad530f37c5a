"""What the consumers of all sinks do: each record once into the processed store, then a summary."""

from contextlib import closing
from functools import partial
from threading import Event
from typing import Any

from utils.app import cli, signals
from utils.app.backoff import Backoff
from utils.app.config import Reading, Settings
from utils.app.errors import Unavailable
from utils.reading.follow import StateLog, Watcher, follow
from utils.reading.progress import Progress
from utils.reading.store import ProcessedStore
from utils.records.stream import Stream
from utils.sinks import find_stream, source
from utils.sources.base import Chunk


def wait_for_stream(name: str, settings: Settings, source_name: str, stop: Event, *, once: bool) -> Stream | None:
    """The stream of this name, as soon as it has a schema file or records; None if `stop` comes first.

    With `once` it raises Unavailable instead of waiting.
    """
    backoff, states = Backoff(first_s=0.1, cap_s=1.0), StateLog()
    while not stop.is_set():
        try:
            return find_stream(name, settings, source_name)
        except Unavailable as error:
            if once:
                raise
            states.trouble(f"{error}; waiting", "INFO")
            stop.wait(backoff.next_s())
    return None


class _Shown(Watcher):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def idle(self) -> None:
        self._progress.show()


def process(sink: str, stream_name: str, reading: Reading, settings: Settings) -> int:
    """Run the consumer of a sink; the exit code."""
    stop = signals.stop_on_signals()
    stream = wait_for_stream(stream_name, settings, sink, stop, once=reading.once)
    if stream is None:
        return 0
    with closing(ProcessedStore(settings.processed_path(sink, stream.name), stream, reading.start)) as store:
        stream, progress = store.stream, Progress(sink, store.stream)

        def handle(chunk: Chunk) -> int:
            new = store.add(chunk)
            progress.saw(chunk.records, store.run)
            progress.show()
            return new

        open_source = partial(source, sink, settings, stream, store.resume, finished=reading.once, shared=True)
        follow(open_source, handle, stop, once=reading.once, count=reading.count, watcher=_Shown(progress))
        line, summary = progress.end(), store.summary()
        if reading.json:
            totals = {"run": store.run.items(), "store": store.counts().items()}
            cli.print_json({"source": sink, "stream": stream.name, **totals, "summary": summary})
        else:
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
