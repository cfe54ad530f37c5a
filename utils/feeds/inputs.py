"""What a feed can read: each SOURCE of the command line as one object."""

import codecs
import gzip
import re
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.feeds.csv_pages import csv_pages
from utils.feeds.lines import LineCodec, Parse, text_parser
from utils.feeds.rotated import RotatedFile
from utils.feeds.rows import Pipe, RowSource, array_pages, line_pages, parquet_pages, utf8_lines
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


class Input(ABC):
    """What a feed reads.

    `name` proposes that of the stream; where it is not `is_named`, none of its letters can be in one. Positions are
    stored under `place`, which leads to `target` at present. It `ends` where it cannot grow, and `restarts` where it
    may be rotated or replaced; what does neither was changed if it begins again. Where it `has_cells`, a value is text
    unless most of its field look like something else.
    """

    ends = restarts = has_cells = False

    def __init__(self, name: str, place: str, target: str = "") -> None:
        self.name, self.place, self.target = _stem(name), place, target or place
        letters = list(filter(str.isalpha, name))
        self.is_named = not letters or any(map(str.isascii, letters))

    @abstractmethod
    def open(self, stream: Stream, resume: Resume, finished: bool) -> Source:
        """A source whose records are lines of a stream, from the positions of `resume` on; `finished`: as in Sink."""

    def sample(self) -> Source:
        """A source of the first lines, which stay to be fed."""
        return self.open(Stream("sample"), lambda partition: "", False)


class KafkaTopic(Input):
    """A topic of Kafka."""

    restarts = True

    def __init__(self, topic: str, settings: Settings) -> None:
        if not topic:
            raise ToolkitError(f"{TOPIC}: name a topic, as in {TOPIC}things")
        super().__init__(topic, f"{TOPIC}{topic}")
        self._settings = replace(settings, topic=topic)

    def open(self, stream: Stream, resume: Resume, finished: bool) -> Source:
        from utils.sources.kafka_source import KafkaSource

        return KafkaSource(self._settings, BUZZ, resume, finished=finished, codec=LineCodec(stream))


class DatabaseTable(Input):
    """A table of a SQLite or DuckDB file."""

    def __init__(self, path: Path, kind: str, table: str) -> None:
        if not table:
            raise ToolkitError(f"{path} is a database: name one of its tables with --table")
        table = re.sub("[A-Z]", lambda letter: letter[0].lower(), table)  # databases do not tell these apart
        super().__init__(table, f"{path.resolve()}/{table}")
        self._path, self._kind, self._table = path, kind, table

    def open(self, stream: Stream, resume: Resume, finished: bool) -> Source:
        from utils.sources.duckdb_source import DuckdbSource
        from utils.sources.sqlite_source import SqliteSource

        source = DuckdbSource if self._kind == "duckdb" else SqliteSource
        return source(self._path, stream, resume, self._table, LineCodec(stream))


class GrowingFile(Input):
    """A file of JSON lines, or of text that `parse` reads."""

    restarts = True

    def __init__(self, path: Path, parse: Parse | None) -> None:
        target = path.resolve()
        # A link is a place of its own, as it leads to another file tomorrow.
        place = path.parent.resolve() / path.name if path.is_symlink() else target
        super().__init__(path.stem, str(place), str(target))
        self._path, self._parse, self.has_cells = path, parse, parse is not None

    def open(self, stream: Stream, resume: Resume, finished: bool) -> Source:
        return RotatedFile(self._path, LineCodec(stream, self._parse), resume, finished=finished)


class CompleteFile(Input):
    """A file that is read to its end: CSV, a JSON array, Parquet, or anything compressed."""

    ends = True

    def __init__(self, path: Path, kind: str, options: InputOptions) -> None:
        super().__init__(Path(path.name.removesuffix(".gz")).stem, str(path.resolve()))
        self._path, self._kind, self._options = path, kind, options
        self.has_cells = kind.startswith(("csv", "text"))

    def open(self, stream: Stream, resume: Resume, finished: bool) -> Source:
        name, options, row, parse = self._path.name, self._options, "line", None
        match self._kind.removesuffix(".gz"):
            case "array":
                pages, row = array_pages(self._path), "item"
            case "parquet":
                pages, row = parquet_pages(self._path), "row"
            case "csv":
                types = {field.name: field.type for field in stream.fields}
                pages = csv_pages(self._lines(), name, options.encoding, types)
            case kind:
                pages = line_pages(self._lines())
                parse = text_parser(options.pattern, "utf-8") if kind == "text" else None
        return RowSource(name, pages, LineCodec(stream, parse), resume, row)

    def _lines(self) -> Iterator[list[bytes]]:
        opened: Any = gzip.open if self._kind.endswith(".gz") else open
        with opened(self._path, "rb") as file:
            yield from utf8_lines(file, self._path.name, self._options.encoding)


class StandardInput(CompleteFile):
    """What a pipe brings, which nobody can read once more."""

    restarts = True

    def __init__(self, options: InputOptions, stop: threading.Event) -> None:
        if sys.stdin is None or sys.stdin.closed:
            raise ToolkitError(f"{PIPE}: there is no standard input")
        path = Path("standard input")
        super().__init__(path, options.format or ("text" if options.pattern else "json"), options)
        self.name, self.place, self.target = "stdin", PIPE, PIPE
        self._unread = utf8_lines(Pipe(sys.stdin.buffer, stop), path.name, options.encoding)

    def open(self, stream: Stream, resume: Resume, finished: bool) -> Source:
        return super().open(stream, lambda partition: "", finished)

    def sample(self) -> Source:
        shown, unread = tee(self._unread)
        self._unread = shown
        reader = super().sample()
        self._unread = unread
        return reader

    def _lines(self) -> Iterator[list[bytes]]:
        return self._unread


def find_input(source: str, options: InputOptions, settings: Settings, stop: threading.Event) -> Input:
    """The input that SOURCE names. Raises ToolkitError for what cannot be read."""
    try:
        "text".encode(options.encoding)  # some names are no encodings of text, such as base64
    except (LookupError, UnicodeError) as error:
        raise ToolkitError(f"--encoding {options.encoding}: there is no such encoding") from error
    parse = text_parser(options.pattern, options.encoding)
    if source == PIPE:
        return StandardInput(options, stop)
    if source.startswith(TOPIC):
        return KafkaTopic(source.removeprefix(TOPIC), settings)
    path = Path(source)
    kind = _kind(path, options)
    if kind in ("sqlite", "duckdb"):
        return DatabaseTable(path, kind, options.table)
    if kind in ("json", "text"):
        return GrowingFile(path, parse if kind == "text" else None)
    return CompleteFile(path, kind, options)


def _kind(path: Path, options: InputOptions) -> str:
    """What a file holds: one of SUFFIXES, with `.gz` where it is compressed, or `array` of JSON objects.

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
