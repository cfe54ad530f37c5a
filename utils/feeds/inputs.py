"""What a feed can read: each SOURCE of the command line as one object."""

import codecs
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from cyclopts import Parameter

from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.feeds.lines import LineCodec, text_parser
from utils.feeds.rotated import RotatedFile
from utils.feeds.rows import Pages, Pipe, RowSource, Take, line_rows, opened, parquet_rows, table_rows, take_from
from utils.records.stream import BUZZ, Stream
from utils.sources import json_array
from utils.sources.base import Chunk, Resume, Source, decode_each
from utils.sources.file_source import FileSource

Format = Literal["json", "csv", "text"]
SUFFIXES = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".log", ".txt"), "text"),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), "sqlite"),
    ".duckdb": "duckdb",
    ".parquet": "parquet",
}
PIPE = "-"
TOPIC = "kafka:"
HTTP = "http:"
_HEAD_BYTES = 4096
_TEXTS = ("json", "csv", "text")
_GZIP = b"\x1f\x8b"
_ZEROS = re.compile(rb"\0{16,}")  # a hole, as a copied and truncated log has


@Parameter(name="*")
@dataclass(frozen=True)
class InputOptions:
    """How a SOURCE is read."""

    format: Annotated[
        Format | None, Parameter(name="--format", show_default=False, help="What SOURCE holds, for want of a suffix.")
    ] = None
    pattern: Annotated[
        str,
        Parameter(name="--pattern", show_default=False, help="Regular expression for text: named groups are fields."),
    ] = ""
    encoding: Annotated[str, Parameter(name="--encoding", help="Encoding of CSV and text.")] = "utf-8"
    table: Annotated[
        str, Parameter(name="--table", show_default=False, help="Which table of a SQLite or DuckDB file.")
    ] = ""


PLAIN = InputOptions()


@dataclass(frozen=True)
class Input:
    """What a feed reads. The records of its sources are lines.

    `name` proposes that of the stream; positions are stored under `place`. `open(stream, resume, finished)` makes a
    source, `sample(stream)` one from whose first records a stream can be inferred. It `ends` where it cannot grow, and
    `restarts` where it may be rotated or replaced; what does neither was changed if it begins again. Where it
    `has_cells`, a value is text unless most of its field look like something else.
    """

    name: str
    place: str
    open: Callable[[Stream, Resume, bool], Source]
    sample: Callable[[Stream], Source]
    ends: bool = False
    restarts: bool = False
    has_cells: bool = False


def find_input(source: str, options: InputOptions, settings: Settings, stop: threading.Event) -> Input:
    """The input that SOURCE names. Raises ToolkitError for what cannot be read."""
    _check(options)
    if source == PIPE:
        return _standard_input(options, stop)
    if source.startswith(TOPIC):
        return _topic(source.removeprefix(TOPIC), settings)
    path = Path(source)
    kind = _kind(path, options)
    if kind in ("sqlite", "duckdb"):
        return _table(path, kind, options.table)
    if path.suffix.lower() != ".gz" and kind in ("json", "text") and not _is_array(path, kind):
        return _from_file(path, _growing(path, kind, options), restarts=True, has_cells=kind == "text")
    if path.suffix.lower() != ".gz" and kind == "json":
        return _from_file(path, _array(path), ends=True)
    return _from_file(path, _complete(path, kind, options), ends=True, has_cells=kind in ("csv", "text"))


def _check(options: InputOptions) -> None:
    """Raise ToolkitError if an option cannot be used."""
    try:
        codecs.lookup(options.encoding)
    except LookupError as error:
        raise ToolkitError(f"--encoding {options.encoding}: there is no such encoding") from error
    text_parser(options.pattern, options.encoding)


def _kind(path: Path, options: InputOptions) -> str:
    """What a file holds. Raises ToolkitError if that is not known, or if the file cannot be read."""
    if path.is_dir():
        raise ToolkitError(f"{path} is a folder: name a file in it")
    if not path.exists():
        raise ToolkitError(f"there is no file {path}")
    if not path.is_file():
        raise ToolkitError(f"{path} is no file: pipe it into {PIPE}")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ToolkitError(f"{path} cannot be read: {error.strerror}") from error
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    kind = options.format or ("text" if options.pattern else SUFFIXES.get(suffix))
    if kind is None:
        raise ToolkitError(
            f"{path}: {suffix or 'no suffix'} does not tell what it holds: name --format json, csv or text"
        )
    if path.suffix.lower() == ".gz" or kind not in _TEXTS:
        return kind
    if head.startswith(_GZIP):
        raise ToolkitError(f"{path} is compressed by gzip: name it {path.name}.gz")
    if not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in _ZEROS.sub(b"", head):
        raise ToolkitError(f"{path} is binary, or UTF-16 text without a byte order mark: it is no {kind}")
    return kind


def _stem(name: str) -> str:
    """The name of a stream for a file, table or topic of this name."""
    stem = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")
    return stem if stem[:1].isalpha() else f"feed_{stem}"


def _codec(stream: Stream, kind: str, options: InputOptions) -> LineCodec:
    if kind != "text":
        return LineCodec(stream)
    return LineCodec(stream, text_parser(options.pattern, options.encoding), () if options.pattern else ("line",))


def _from_file(path: Path, open_file: Callable[[Stream, Resume, bool], Source], **flags: bool) -> Input:
    name = Path(path.name.removesuffix(".gz")).stem
    return Input(_stem(name), str(path.resolve()), open_file, _from_start(open_file), **flags)


def _from_start(open_input: Callable[[Stream, Resume, bool], Source]) -> Callable[[Stream], Source]:
    return lambda stream: open_input(stream, lambda partition: "", False)


def _growing(path: Path, kind: str, options: InputOptions) -> Callable[[Stream, Resume, bool], Source]:
    return lambda stream, resume, finished: RotatedFile(path, _codec(stream, kind, options), resume, finished=finished)


def _is_array(path: Path, kind: str) -> bool:
    if kind != "json" or path.suffix.lower() != ".json":
        return False
    with path.open("rb", buffering=0) as file:
        return json_array.begins(file)


def _array(path: Path) -> Callable[[Stream, Resume, bool], Source]:
    return lambda stream, resume, finished: FileSource([path], LineCodec(stream), resume, finished=True)


def _complete(path: Path, kind: str, options: InputOptions) -> Callable[[Stream, Resume, bool], Source]:
    def open_file(stream: Stream, resume: Resume, finished: bool) -> Source:
        rows = parquet_rows(path) if kind == "parquet" else _rows(opened(path), path.name, kind, options)
        return RowSource(path.name, take_from(rows), _codec(stream, kind, options), resume)

    return open_file


def _rows(file: BinaryIO, name: str, kind: str, options: InputOptions) -> Pages:
    return table_rows(file, name, options.encoding) if kind == "csv" else line_rows(file, name)


def _standard_input(options: InputOptions, stop: threading.Event) -> Input:
    if sys.stdin is None or sys.stdin.closed:
        raise ToolkitError(f"{PIPE}: there is no standard input")
    kind = options.format or ("text" if options.pattern else "json")
    pipe = Pipe(_rows(sys.stdin.buffer, "standard input", kind, options), stop)

    def reader(take: Take) -> Callable[[Stream], Source]:
        return lambda stream: RowSource("standard input", take, _codec(stream, kind, options), None)

    taking = reader(pipe.take)
    return Input(
        "stdin", PIPE, lambda stream, resume, finished: taking(stream), reader(pipe.show),
        ends=True, restarts=True, has_cells=kind != "json",
    )  # fmt: skip


def _topic(topic: str, settings: Settings) -> Input:
    from utils.sources.kafka_source import KafkaSource

    def open_topic(stream: Stream, resume: Resume, finished: bool) -> Source:
        return KafkaSource(replace(settings, topic=topic), BUZZ, resume, finished=finished, codec=LineCodec(stream))

    return Input(_stem(topic), f"{TOPIC}{topic}", open_topic, _from_start(open_topic), restarts=True)


def _table(path: Path, kind: str, table: str) -> Input:
    if not table:
        raise ToolkitError(f"{path} is a database: name one of its tables with --table")

    def open_table(stream: Stream, resume: Resume, finished: bool) -> Source:
        module: Any = import_module(f"utils.sources.{kind}_source")
        make = module.SqliteSource if kind == "sqlite" else module.DuckdbSource
        return _TableLines(make(path, stream, resume, table), LineCodec(stream))

    return Input(_stem(table), f"{path.resolve()}/{table}", open_table, _from_start(open_table))


class _TableLines:
    """Gives the records of a table as lines."""

    def __init__(self, source: Source, codec: LineCodec) -> None:
        self.name, self.detail, self.close = source.name, source.detail, source.close
        self._source, self._codec = source, codec

    def poll(self, max_records: int) -> Chunk | None:
        """The next rows. See Source."""
        chunk = self._source.poll(max_records)
        if chunk is None:
            return None
        lines = map(self._codec.encoded, chunk.records)
        records, invalid = decode_each(
            self._codec, ((f"{chunk.partition} near row {chunk.end}", each) for each in lines)
        )
        return replace(chunk, records=records, invalid=chunk.invalid + invalid)
