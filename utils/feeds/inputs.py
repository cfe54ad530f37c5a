"""What a feed can read: each SOURCE of the command line as one object."""

import codecs
import gzip
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, tee
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.clients.line_file import HOLE
from utils.feeds.csv_pages import csv_pages
from utils.feeds.lines import LineCodec, text_parser
from utils.feeds.rotated import RotatedFile
from utils.feeds.rows import RowSource, array_pages, line_pages, parquet_pages, pipe_blocks, utf8_lines
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
BLOCK_BYTES = 1 << 20
_HEAD_BYTES = 4096
_GZIP = b"\x1f\x8b"


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
"""Gives a source whose records are lines of a stream, from the positions of a Resume on; the last as in Sink."""


def _from_start(partition: str) -> str:
    return ""


@dataclass(frozen=True)
class Input:
    """What a feed reads.

    `name` proposes that of the stream, unless it is empty. Positions are stored under `place`. It `ends` where it
    cannot grow, and `restarts` where it may be rotated or replaced; what does neither was changed if it begins again.
    Where it `has_cells`, a value is text unless most of its field look like something else.
    """

    name: str
    place: str
    open: Open
    ends: bool = False
    restarts: bool = False
    has_cells: bool = False
    sampled: Callable[[], Source] | None = None

    def sample(self) -> Source:
        """A source of the first lines, which stay to be fed."""
        return self.sampled() if self.sampled else self.open(Stream("sample"), _from_start, False)


def find_input(source: str, options: InputOptions, settings: Settings, stop: threading.Event) -> Input:
    """The input that SOURCE names. Raises ToolkitError for what cannot be read."""
    try:
        "text".encode(options.encoding)  # some names are no encodings of text, such as base64
    except (LookupError, UnicodeError) as error:
        raise ToolkitError(f"--encoding {options.encoding}: there is no such encoding") from error
    text_parser(options.pattern, options.encoding)  # or the pattern is named
    if source == PIPE:
        return _standard_input(options, stop)
    if source.startswith(TOPIC):
        return _topic(source.removeprefix(TOPIC), options, settings)
    path = Path(source)
    kind, is_packed = _kind(path, options)
    if kind in ("sqlite", "duckdb"):
        return _table(path, kind, options.table)
    if kind in ("json", "text") and not is_packed:
        return _growing_file(path, kind, options)
    return _complete_file(path, kind, options, is_packed=is_packed)


def _topic(topic: str, options: InputOptions, settings: Settings) -> Input:
    if not topic:
        raise ToolkitError(f"{TOPIC}: name a topic, as in {TOPIC}things")
    kind = options.format or ("text" if options.pattern else "json")
    if kind == "csv" or (kind == "json" and codecs.lookup(options.encoding).name != "utf-8"):
        raise ToolkitError(f"{TOPIC}{topic}: a value is one JSON object in UTF-8, or text (--format text, --pattern)")
    parse = text_parser(options.pattern, options.encoding) if kind == "text" else None

    def opened(stream: Stream, resume: Resume, finished: bool) -> Source:
        from utils.sources.kafka_source import KafkaSource

        own = replace(settings, topic=topic)
        return KafkaSource(own, BUZZ, resume, finished=finished, codec=LineCodec(stream, parse))

    return Input(_stem(topic), f"{TOPIC}{topic}", opened, restarts=True, has_cells=kind == "text")


def _table(path: Path, kind: str, table: str) -> Input:
    if not table:
        raise ToolkitError(f"{path} is a database: name one of its tables with --table")
    table = re.sub("[A-Z]", lambda letter: letter[0].lower(), table)  # databases do not tell these apart

    def opened(stream: Stream, resume: Resume, finished: bool) -> Source:
        from utils.sources.duckdb_source import DuckdbSource
        from utils.sources.sqlite_source import SqliteSource

        source = DuckdbSource if kind == "duckdb" else SqliteSource
        return source(path, stream, resume, table, LineCodec(stream))

    return Input(_stem(table), f"{path.resolve()}/{table}", opened)


def _growing_file(path: Path, kind: str, options: InputOptions) -> Input:
    """JSON lines, or text. Raises ToolkitError for an encoding in which it cannot be read while it grows."""
    known = codecs.lookup(options.encoding).name
    if (kind == "json" and not known.startswith("utf-8")) or b"\n".decode(known, "replace") != "\n":
        raise ToolkitError(f"{path} may grow, so it is not read as {known}: save it as UTF-8, or send it to {PIPE}")
    parse = text_parser(options.pattern, options.encoding) if kind == "text" else None

    def opened(stream: Stream, resume: Resume, finished: bool) -> Source:
        return RotatedFile(path, LineCodec(stream, parse), resume, finished=finished)

    # A link is a place of its own, as it leads to another file tomorrow.
    place = path.parent.resolve() / path.name if path.is_symlink() else path.resolve()
    return Input(_stem(path.stem), str(place), opened, restarts=True, has_cells=kind == "text")


def _complete_file(path: Path, kind: str, options: InputOptions, *, is_packed: bool) -> Input:
    """CSV, a JSON array, Parquet, or anything compressed."""

    def lines() -> Iterator[list[bytes]]:
        opened: Any = gzip.open if is_packed else open
        with opened(path, "rb") as file:
            blocks = iter(partial(file.read1, BLOCK_BYTES), b"")
            yield from utf8_lines(chain(blocks, [b""]), path.name, options.encoding)

    def opened(stream: Stream, resume: Resume, finished: bool) -> Source:
        match kind:
            case "array":
                return RowSource(path.name, array_pages(path), LineCodec(stream), resume, "item")
            case "parquet":
                return RowSource(path.name, parquet_pages(path), LineCodec(stream), resume, "row")
        return _rows(path.name, kind, lines(), options, stream, resume)

    name = _stem(Path(path.name.removesuffix(".gz")).stem)
    return Input(name, str(path.resolve()), opened, ends=True, has_cells=kind in ("csv", "text"))


def _standard_input(options: InputOptions, stop: threading.Event) -> Input:
    """What a pipe brings, which nobody can read once more."""
    if sys.stdin is None or sys.stdin.closed:
        raise ToolkitError(f"{PIPE}: there is no standard input")
    name, kind = "standard input", options.format or ("text" if options.pattern else "json")
    unread = utf8_lines(pipe_blocks(sys.stdin.buffer, stop), name, options.encoding)

    def opened(stream: Stream, resume: Resume, finished: bool) -> Source:
        return _rows(name, kind, unread, options, stream, _from_start)

    def sampled() -> Source:
        nonlocal unread
        shown, unread = tee(unread)
        return _rows(name, kind, shown, options, Stream("sample"), _from_start)

    return Input("stdin", PIPE, opened, ends=True, restarts=True, has_cells=kind != "json", sampled=sampled)


def _rows(  # noqa: PLR0917
    name: str, kind: str, lines: Iterator[list[bytes]], options: InputOptions, stream: Stream, resume: Resume
) -> Source:
    if kind == "csv":
        types = {field.name: field.type for field in stream.fields}
        return RowSource(name, csv_pages(lines, name, options.encoding, types), LineCodec(stream), resume)
    parse = text_parser(options.pattern, "utf-8") if kind == "text" else None
    return RowSource(name, line_pages(lines), LineCodec(stream, parse), resume)


def _kind(path: Path, options: InputOptions) -> tuple[str, bool]:
    """What a file holds: one of SUFFIXES, or `array` of JSON objects; and whether it is compressed by gzip.

    Raises ToolkitError if that is not known, or if the file cannot be read.
    """
    if not path.is_file():
        raise ToolkitError(f"there is no file {path}: name one, no folder; pipe other input into feed_producer {PIPE}")
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
    if kind not in ("json", "csv", "text") or head.startswith(_GZIP):
        return kind, head.startswith(_GZIP)
    if options.encoding == PLAIN.encoding and b"\0" in HOLE.sub(b"", head):
        raise ToolkitError(f"{path} is binary, or UTF-16, which --encoding utf-16 reads of CSV files: it is no {kind}")
    is_array = suffix == ".json" and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
    return "array" if kind == "json" and is_array else kind, False


def _stem(name: str) -> str:
    """The name of a stream for a file, table or topic of this name; "" where none of its letters can be in one."""
    stem = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")
    if any(map(str.isalpha, name)) and not re.search("[a-z]", stem):
        return ""
    return (stem if stem[:1].isalpha() else f"feed_{stem}")[:60]
