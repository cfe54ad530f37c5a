"""The registry of sinks. Every list of sinks in the project derives from it."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.app.options import Count, Drain, Interval, Seed
from utils.emitters.base import Emitter
from utils.records.infer import infer_stream, values_of, with_roles
from utils.records.stream import BUZZ, Stream, load_stream
from utils.sources.base import Resume, Source

AUTO = "auto"
RESERVED_FOLDERS = ("journal", "dead_letter", "logs", "processed", "streams")
DATABASE_SUFFIXES = ("", "-wal", "-shm", "-journal", ".wal", ".lock")  # suffixes of the files of one database
INFERRED_FROM = 2_000  # first records of a stream


@dataclass(frozen=True)
class Sink:
    """A sink, with the emitter that writes to it and the source that reads it.

    An `embedded` sink is a file of this machine, at `path(settings, stream)`. The emitter is in the module
    `utils/emitters/<name>_emitter.py`, the source in `utils/sources/<name>_source.py`. They are imported when used.
    """

    name: str
    label: str
    embedded: bool
    path: Callable[[Settings, Stream], Path | None]

    def emitter(self, settings: Settings, stream: Stream, key: str, mark: str) -> Emitter:
        """Open the emitter. `key` is `<name>-<journal>`, `mark` the last mark of the emitter before, else ""."""
        module: Any = import_module(f"utils.emitters.{self.name}_emitter")
        emitter: Emitter = module.open_emitter(settings, stream, key, mark)
        return emitter

    def source(
        self, settings: Settings, stream: Stream, resume: Resume, finished: bool = False, shared: bool = False
    ) -> Source:
        """Return the source. `finished`: it stops at the present end. `shared`: readers divide the partitions."""
        module: Any = import_module(f"utils.sources.{self.name}_source")
        source: Source = module.open_source(settings, stream, resume, finished, shared)
        return source


SINKS: Mapping[str, Sink] = {
    sink.name: sink
    for sink in (
        Sink("file", "JSON lines file", True, lambda settings, stream: settings.file_path(stream.name)),
        Sink("sqlite", "SQLite", True, lambda settings, stream: settings.sqlite_path),
        Sink("duckdb", "DuckDB", True, lambda settings, stream: settings.duckdb_path),
        Sink("kafka", "Kafka", False, lambda settings, stream: None),
    )
}
ALL = tuple(SINKS)
EMBEDDED = tuple(name for name, sink in SINKS.items() if sink.embedded)
BY_PREFERENCE = (*(name for name in ALL if name not in EMBEDDED), *EMBEDDED)
"""The order in which the source `auto` looks for records."""

if TYPE_CHECKING:
    SinkName = str
    SourceName = str
else:
    SinkName = Literal[ALL]
    SourceName = Literal[(AUTO, *ALL)]

Sinks = Annotated[
    tuple[SinkName, ...],
    Parameter(name="--sinks", consume_multiple=True, show_default=" ".join, help="Sinks that get every record."),
]
Drop = Annotated[
    tuple[SinkName, ...],
    Parameter(
        name="--drop",
        consume_multiple=True,
        show_default=False,
        help="End the subscriptions of these sinks, and delete their pending records.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """The options of every producer."""

    count: Count = None
    drain: Drain = 10.0
    drop: Drop = ()


DEFAULT_RUN = RunOptions()


@Parameter(name="*")
@dataclass(frozen=True)
class ProducerOptions:
    """The options of every producer that generates its records."""

    interval: Interval = 5.0
    seed: Seed = None
    sinks: Sinks = EMBEDDED
    run: RunOptions = DEFAULT_RUN


DEFAULT_OPTIONS = ProducerOptions()
ChosenSource = Annotated[
    SourceName,
    Parameter(name="--source", help=f"Sink to read; auto: the first of {', '.join(BY_PREFERENCE)} with data."),
]


def source(
    name: str, settings: Settings, stream: Stream, resume: Resume, *, finished: bool = False, shared: bool = False
) -> Source:
    """Return the source of a sink; `auto`: of the first sink that has records. It opens at the first poll."""
    if name != AUTO:
        return SINKS[name].source(settings, stream, resume, finished, shared)
    from utils.sources.auto_source import AutoSource, require_answer

    def open_one(sink: str) -> Source:
        if not SINKS[sink].embedded:
            require_answer(settings.kafka_broker)
        return SINKS[sink].source(settings, stream, resume, finished, False)

    wanted = f"start a producer of {stream.name} ({settings.data_path} and Kafka at {settings.kafka_broker} have none)"
    return AutoSource({sink: partial(open_one, sink) for sink in BY_PREFERENCE}, wanted)


def check_places(settings: Settings, stream: Stream, sinks: Iterable[str]) -> None:
    """Raise ToolkitError if two sinks have the same file, or one has a path that the toolkit uses itself."""
    reserved = {(settings.data_path / folder).resolve() for folder in RESERVED_FOLDERS} | {
        settings.alerts_path.resolve()
    }
    owners: dict[str, str] = {}
    for sink in sinks:
        path = SINKS[sink].path(settings, stream)
        if path is None:
            continue
        if reserved & {path.resolve(), path.resolve().parent}:
            raise ToolkitError(f"{sink} cannot use {path}: other files belong there; name another file or stream")
        for suffix in DATABASE_SUFFIXES:
            name = f"{os.path.normcase(path.resolve())}{suffix}"
            if owners.setdefault(name, sink) != sink:
                raise ToolkitError(f"{owners[name]} and {sink} use the same file {name}: name another for one of them")


def find_stream(name: str, settings: Settings, source_name: str = AUTO) -> Stream:
    """Return the stream of this name: from its schema file, else inferred from the first records of a source.

    Raises Absent if there is neither yet, Unavailable if the source cannot be read now, ToolkitError if the name or
    the file cannot be used.
    """
    if found := load_stream(name, settings.schema_folder):
        return found
    values = _first_values(Stream(name), settings, source_name)  # without fields `extra` has all members of a record
    if not values:
        raise Absent(f"stream {name} has no schema file, and no record that can be read yet")
    return infer_stream(name, values)


def with_chosen_roles(stream: Stream, settings: Settings, source_name: str = AUTO) -> Stream:
    """Return the stream with roles inferred from its first records, where it names none; unchanged without records."""
    if stream.name == BUZZ.name or None not in (stream.by, stream.value, stream.histogram):
        return stream
    try:
        return with_roles(stream, _first_values(stream, settings, source_name))
    except Unavailable:
        return stream


def _first_values(stream: Stream, settings: Settings, source_name: str) -> list[Any]:
    """Return the first records of a stream as mappings of names to values; empty if there are none yet."""
    records = list[Any]()
    with closing(source(source_name, settings, stream, lambda partition: "", finished=True)) as reader:
        while len(records) < INFERRED_FROM and (chunk := reader.poll(INFERRED_FROM - len(records))):
            records += chunk.records
    return [values_of(stream.codec.encode(record)) for record in records]
