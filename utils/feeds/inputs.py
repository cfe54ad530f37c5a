"""What a feed can read: each SOURCE of the command line as one object."""

import codecs
import gzip
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.feeds.csv_pages import csv_pages
from utils.feeds.lines import LineCodec, text_parser
from utils.feeds.rotated import RotatedFile
from utils.feeds.rows import Pipe, RowSource, array_pages, line_pages, parquet_pages, text_lines
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
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
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
    `has_cells`, a value is text unless most of its field look like something else. What `sample` gives stays.
    """

    name: str
    place: str
    open: Open
    sample: Open
    ends: bool = False
    restarts: bool = False
    has_cells: bool = False


def find_input(source: str, options: InputOptions, settings: Settings, stop: threading.Event) -> Input:
    """The input that SOURCE names. Raises ToolkitError for what cannot be read."""
    try:
        "text".encode(options.encoding)  # some names are no encodings of text, such as base64
    except (LookupError, UnicodeError) as error:
        raise ToolkitError(f"--encoding {options.encoding}: there is no such encoding") from error
    text_parser(options.pattern, options.encoding)
    if source == PIPE:
        return _standard_input(options, stop)
    if source.startswith(TOPIC):
        topic = source.removeprefix(TOPIC)
        if not topic:
            raise ToolkitError(f"{TOPIC}: name a topic, as in {TOPIC}things")
        open_topic = partial(_open_topic, topic, settings)
        return Input(_stem(topic), source, open_topic, open_topic, restarts=True)
    path = Path(source)
    kind = _kind(path, options)
    if kind in ("sqlite", "duckdb"):
        if not options.table:
            raise ToolkitError(f"{path} is a database: name one of its tables with --table")
        open_table = partial(_open_table, path, kind, options.table)
        return Input(_stem(options.table), f"{path.resolve()}/{options.table}", open_table, open_table)
    open_file = partial(_open_file, path, kind, options)
    grows = kind in ("json", "text")
    name = _stem(Path(path.name.removesuffix(".gz")).stem)
    has_cells = kind.startswith(("csv", "text"))
    return Input(name, str(path.resolve()), open_file, open_file, not grows, grows, has_cells)


def _kind(path: Path, options: InputOptions) -> str:
    """What a file holds: a format, one of them with `.gz`, or `array` of JSON objects.

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
    is_packed = path.suffix.lower() == ".gz"
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    kind = options.format or ("text" if options.pattern else SUFFIXES.get(suffix))
    if kind is None:
        raise ToolkitError(
            f"{path}: {suffix or 'no suffix'} does not tell what it holds: name --format json, csv or text"
        )
    if is_packed or kind not in ("json", "csv", "text"):
        return kind + ".gz" * is_packed
    if head.startswith(_GZIP):
        raise ToolkitError(f"{path} is compressed by gzip: name it {path.name}.gz")
    if not head.startswith(_UTF16) and b"\0" in _ZEROS.sub(b"", head):
        raise ToolkitError(f"{path} is binary, or UTF-16 text without a byte order mark: it is no {kind}")
    is_array = suffix == ".json" and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
    return "array" if kind == "json" and is_array else kind


def _stem(name: str) -> str:
    """The name of a stream for a file, table or topic of this name."""
    stem = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")
    return (stem if stem[:1].isalpha() else f"feed_{stem}")[:60]


def _open_table(  # noqa: PLR0917
    path: Path, kind: str, table: str, stream: Stream, resume: Resume, finished: bool
) -> Source:
    from utils.sources.duckdb_source import DuckdbSource
    from utils.sources.sqlite_source import SqliteSource

    source = DuckdbSource if kind == "duckdb" else SqliteSource
    return source(path, stream, resume, table, LineCodec(stream))


def _open_file(  # noqa: PLR0917
    path: Path, kind: str, options: InputOptions, stream: Stream, resume: Resume, finished: bool
) -> Source:
    if kind in ("json", "text"):
        parse = text_parser(options.pattern, options.encoding) if kind == "text" else None
        return RotatedFile(path, LineCodec(stream, parse), resume, finished=finished)
    if kind in ("array", "parquet"):
        pages = array_pages(path) if kind == "array" else parquet_pages(path)
        return RowSource(path.name, pages, LineCodec(stream), resume, "item" if kind == "array" else "row")
    lines = _lines_of(path, options.encoding, is_packed=kind.endswith(".gz"))
    return _line_source(lines, path.name, kind.removesuffix(".gz"), options, stream, resume)


def _lines_of(path: Path, encoding: str, *, is_packed: bool) -> Iterator[list[str]]:
    opened: Any = gzip.open if is_packed else open
    with opened(path, "rb") as file:
        yield from text_lines(file, path.name, encoding)


def _line_source(  # noqa: PLR0917
    lines: Iterator[list[str]], name: str, kind: str, options: InputOptions, stream: Stream, resume: Resume
) -> RowSource:
    if kind == "csv":
        types = {field.name: field.type for field in stream.fields}
        return RowSource(name, csv_pages(lines, name, options.encoding, types), LineCodec(stream), resume)
    parse = text_parser(options.pattern, "utf-8") if kind == "text" else None
    return RowSource(name, line_pages(lines), LineCodec(stream, parse), resume)


def _open_topic(topic: str, settings: Settings, stream: Stream, resume: Resume, finished: bool) -> Source:
    from utils.sources.kafka_source import KafkaSource

    return KafkaSource(replace(settings, topic=topic), BUZZ, resume, finished=finished, codec=LineCodec(stream))


def _standard_input(options: InputOptions, stop: threading.Event) -> Input:
    if sys.stdin is None or sys.stdin.closed:
        raise ToolkitError(f"{PIPE}: there is no standard input")
    name, kind = "standard input", options.format or ("text" if options.pattern else "json")
    lines = text_lines(Pipe(sys.stdin.buffer, stop), name, options.encoding)
    shown: list[list[str]] = []

    def showing() -> Iterator[list[str]]:
        for page in lines:
            shown.append(page)
            yield page

    def opening(taken: Callable[[], Iterator[list[str]]]) -> Open:
        return lambda stream, *_: _line_source(taken(), name, kind, options, stream, lambda partition: "")

    read, show = opening(lambda: chain(shown, lines)), opening(showing)
    return Input("stdin", PIPE, read, show, ends=True, restarts=True, has_cells=kind != "json")
