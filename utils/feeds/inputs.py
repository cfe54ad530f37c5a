"""What a feed can read: each SOURCE of the command line as one object."""

import codecs
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from cyclopts import Parameter

from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.feeds.lines import LineCodec, text_parser
from utils.feeds.rotated import RotatedFile
from utils.feeds.rows import (
    Pages,
    Pipe,
    RowSource,
    Take,
    array_rows,
    line_rows,
    opened,
    parquet_rows,
    table_rows,
    take_from,
)
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Resume, Source

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
        Format | None,
        Parameter(name="--format", show_default=False, help="What it contains, if its suffix does not say."),
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


Open = Callable[[Stream, Resume, bool], Source]
"""Makes a source whose records are lines of a stream, from the positions of `resume` on, to the present end if told."""


@dataclass(frozen=True)
class Input:
    """What a feed reads.

    `name` proposes that of the stream; positions are stored under `place`. It `ends` where it cannot grow, and
    `restarts` where it may be rotated or replaced; what does neither was changed if it begins again. Where it
    `has_cells`, a value is text unless most of its field look like something else.
    """

    name: str
    place: str
    open: Open
    ends: bool = False
    restarts: bool = False
    has_cells: bool = False
    show: Open | None = None

    def sample(self, stream: Stream) -> Source:
        """A source of the first records, which stay to be read."""
        return (self.show or self.open)(stream, lambda partition: "", False)


def find_input(source: str, options: InputOptions, settings: Settings, stop: threading.Event) -> Input:
    """The input that SOURCE names. Raises ToolkitError for what cannot be read."""
    _check(options)
    if source == PIPE:
        return _standard_input(options, stop)
    if source.startswith(TOPIC):
        topic = source.removeprefix(TOPIC)
        if not topic:
            raise ToolkitError(f"{TOPIC}: name a topic, as in {TOPIC}things")
        return Input(_stem(topic), source, partial(_open_topic, topic, settings), restarts=True)
    path = Path(source)
    kind = _kind(path, options)
    open_file = partial(_open_file, path, kind, options)
    if kind in ("sqlite", "duckdb"):
        if not options.table:
            raise ToolkitError(f"{path} is a database: name one of its tables with --table")
        return Input(_stem(options.table), f"{path.resolve()}/{options.table}", open_file)
    grows = kind in ("json", "text")
    stem = Path(path.name.removesuffix(".gz")).stem
    has_cells = kind.startswith(("csv", "text"))
    place = str(path.resolve())
    return Input(_stem(stem), place, open_file, ends=not grows, restarts=grows, has_cells=has_cells)


def _check(options: InputOptions) -> None:
    """Raise ToolkitError if an option cannot be used."""
    try:
        "text".encode(options.encoding)  # some names are no encodings of text, such as base64
    except (LookupError, UnicodeError) as error:
        raise ToolkitError(f"--encoding {options.encoding}: there is no such encoding") from error
    text_parser(options.pattern, options.encoding)


def _kind(path: Path, options: InputOptions) -> str:
    """What a file holds: a format, `text.gz`, `json.gz`, or `array` of JSON objects.

    Raises ToolkitError if that is not known, or if the file cannot be read.
    """
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
    if path.suffix.lower() == ".gz":
        return f"{kind}.gz"
    if kind == "json" and suffix == ".json" and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
        return "array"
    if kind not in _TEXTS:
        return kind
    if head.startswith(_GZIP):
        raise ToolkitError(f"{path} is compressed by gzip: name it {path.name}.gz")
    if not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in _ZEROS.sub(b"", head):
        raise ToolkitError(f"{path} is binary, or UTF-16 text without a byte order mark: it is no {kind}")
    return kind


def _stem(name: str) -> str:
    """The name of a stream for a file, table or topic of this name."""
    stem = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")
    return (stem if stem[:1].isalpha() else f"feed_{stem}")[:60]


def _codec(stream: Stream, kind: str, options: InputOptions) -> LineCodec:
    if not kind.startswith("text"):
        return LineCodec(stream)
    return LineCodec(stream, text_parser(options.pattern, options.encoding), () if options.pattern else ("line",))


def _open_file(  # noqa: PLR0917
    path: Path, kind: str, options: InputOptions, stream: Stream, resume: Resume, finished: bool
) -> Source:
    codec = _codec(stream, kind, options)
    match kind:
        case "json" | "text":
            return RotatedFile(path, codec, resume, finished=finished)
        case "sqlite":
            from utils.sources.sqlite_source import SqliteSource

            return SqliteSource(path, stream, resume, options.table, codec)
        case "duckdb":
            from utils.sources.duckdb_source import DuckdbSource

            return DuckdbSource(path, stream, resume, options.table, codec)
        case "array":
            return RowSource(path.name, take_from(array_rows(path)), codec, resume, "item")
        case "parquet":
            pages = parquet_rows(path)
        case _:
            pages = _pages(opened(path), path.name, kind, options)
    return RowSource(path.name, take_from(pages), codec, resume)


def _pages(file: BinaryIO, name: str, kind: str, options: InputOptions) -> Pages:
    return table_rows(file, name, options.encoding) if kind.startswith("csv") else line_rows(file, name)


def _open_topic(topic: str, settings: Settings, stream: Stream, resume: Resume, finished: bool) -> Source:
    from utils.sources.kafka_source import KafkaSource

    return KafkaSource(replace(settings, topic=topic), BUZZ, resume, finished=finished, codec=LineCodec(stream))


def _standard_input(options: InputOptions, stop: threading.Event) -> Input:
    if sys.stdin is None or sys.stdin.closed:
        raise ToolkitError(f"{PIPE}: there is no standard input")
    name, kind = "standard input", options.format or ("text" if options.pattern else "json")
    pipe = Pipe(_pages(sys.stdin.buffer, name, kind, options), stop)

    def opening(take: Take) -> Open:
        return lambda stream, resume, finished: RowSource(name, take, _codec(stream, kind, options), None)

    has_cells, show = kind != "json", opening(pipe.show)
    return Input("stdin", PIPE, opening(pipe.take), ends=True, restarts=True, has_cells=has_cells, show=show)
