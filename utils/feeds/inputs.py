"""The inputs of a feed: one object for each SOURCE of the command line."""

import codecs
import gzip
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from pathlib import Path
from queue import Empty, Queue
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.app.options import optional
from utils.clients.line_file import HOLE
from utils.feeds.lines import LineCodec, check_time_format, text_parser
from utils.feeds.rotated import RotatedFile
from utils.feeds.rows import RowSource, Text, array_pages, parquet_pages, text_pages
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
PIPE, TOPIC, HTTP = "-", "kafka:", "http:"
SAMPLE = Stream("sample")
"""Stream for a source that is opened only to look at the first lines. They are fed later all the same."""
BLOCK_BYTES = 1 << 20
AHEAD_BLOCKS, AHEAD_BYTES = 16, 1 << 16  # of standard input, read ahead
STOP_S = 0.1
GATHER_S = 1.0  # how long the first block of standard input waits for more, from which fields are inferred
_HEAD_BYTES = 4096
_GZIP = b"\x1f\x8b"
_SPREAD = re.compile(rb"(\xef\xbb\xbf)?\s*\{([^\n]*[{\[,])?\s*\n")  # an object whose first line does not end it


@Parameter(name="*")
@dataclass(frozen=True)
class InputOptions:
    """Options for reading a SOURCE."""

    table: Annotated[str, optional("Table of a SQLite or DuckDB file.")] = ""
    format: Annotated[Format | None, optional("Format of SOURCE; default: that of its suffix.")] = None
    items: Annotated[str, optional("Array of records in a JSON object, such as features or hits.hits.")] = ""
    pattern: Annotated[str, optional("Regular expression for lines of text; its named groups are fields.")] = ""
    encoding: Annotated[str, Parameter(help="Encoding of CSV and text.")] = "utf-8"
    time_format: Annotated[str, optional("Format of times in CSV and text, such as '%m/%d/%Y'; else ISO 8601.")] = ""

    @property
    def kind(self) -> str:
        """The format that the options name, "" if they name none."""
        return self.format or ("text" if self.pattern else "")


PLAIN = InputOptions()


@dataclass(frozen=True)
class Input:
    """One input of a feed.

    `name` is the default name of the stream, unless it is empty. Positions are stored under `place`. `kind` is a value
    of SUFFIXES, or `array`. `make` makes the source for `open`. An input `ends` if it cannot grow. It `restarts` if it
    may be rotated or replaced; if any other input begins again, its contents were changed.
    """

    name: str
    place: str
    kind: str
    options: InputOptions
    make: Callable[..., Source]
    ends: bool = False
    restarts: bool = False

    def open(self, stream: Stream, resume: Resume, finished: bool) -> Source:
        """Open a source whose records are `Line`s of a stream. `resume` and `finished` are those of `Sink.source`."""
        encoding = "utf-8" if self.ends else self.options.encoding  # `Text` decodes complete inputs
        is_text = self.kind == "text"
        parse = text_parser(self.options.pattern, encoding, self.options.time_format) if is_text else None
        return self.make(codec=LineCodec(stream, parse), resume=resume, finished=finished)


def find_input(source: str, options: InputOptions, settings: Settings, stop: threading.Event) -> Input:
    """Return the input that SOURCE names. Raises ToolkitError if it cannot be read with these options."""
    try:
        "text".encode(options.encoding)  # fails for codecs that are not for text, such as base64
    except (LookupError, UnicodeError) as error:
        raise ToolkitError(f"--encoding {options.encoding}: there is no such encoding") from error
    text_parser(options.pattern, options.encoding)  # raises ToolkitError for a wrong pattern
    check_time_format(options.time_format)
    found = _found(source, options, settings, stop)
    if options.time_format and found.kind not in ("csv", "text"):
        raise ToolkitError(f"--time-format is for CSV and text: leave it out, times of {source} stay as they are")
    if options.items and found.kind != "array":
        raise ToolkitError(f"--items is for a file that is one JSON object, uncompressed, which {source} is not")
    return found


def _found(source: str, options: InputOptions, settings: Settings, stop: threading.Event) -> Input:
    if source == PIPE:
        return _standard_input(options, stop)
    if source.startswith(TOPIC):
        return _topic(source.removeprefix(TOPIC), options, settings)
    path = Path(source)
    kind, is_packed = _kind(path, options)
    if kind in ("sqlite", "duckdb"):
        return _table(path, kind, options)
    if kind in ("json", "text") and not is_packed:
        return _growing_file(path, kind, options)
    return _complete_file(path, kind, options, is_packed=is_packed)


def _topic(topic: str, options: InputOptions, settings: Settings) -> Input:
    from utils.sources.kafka_source import KafkaSource

    kind = options.kind or "json"
    if not topic:
        raise ToolkitError(f"{TOPIC}: name a topic, as in {TOPIC}things")
    if kind == "csv" or (kind == "json" and codecs.lookup(options.encoding).name != "utf-8"):
        raise ToolkitError(f"{TOPIC}{topic}: a value is one JSON object in UTF-8, or text (--format text, --pattern)")
    make = partial(KafkaSource, replace(settings, topic=topic), BUZZ)
    return Input(_stem(topic), f"{TOPIC}{topic}", kind, options, make, restarts=True)


def _table(path: Path, kind: str, options: InputOptions) -> Input:
    from utils.sources.duckdb_source import DuckdbSource
    from utils.sources.sqlite_source import SqliteSource

    source_type = DuckdbSource if kind == "duckdb" else SqliteSource
    if not options.table:
        with closing(source_type(path, SAMPLE, lambda _: "")) as source:
            found = ", ".join(source.tables()) or "it has none yet"
        raise ToolkitError(f"{path} is a database: name one of its tables with --table ({found})")
    table = re.sub("[A-Z]", lambda letter: letter[0].lower(), options.table)  # databases ignore the case

    def make(codec: LineCodec, resume: Resume, finished: bool) -> Source:
        return source_type(path, codec.stream, resume, table, codec)

    return Input(_stem(table), f"{path.resolve()}/{table}", kind, options, make)


def _growing_file(path: Path, kind: str, options: InputOptions) -> Input:
    """Return the input for JSON lines or text. Raises ToolkitError for an encoding that needs a complete file."""
    encoding = codecs.lookup(options.encoding).name
    if (kind == "json" and not encoding.startswith("utf-8")) or b"\n".decode(encoding, "replace") != "\n":
        raise ToolkitError(f"{path} may grow, so it is not read as {encoding}: save it as UTF-8, or send it to {PIPE}")
    # A symbolic link is a place of its own, because it may lead to another file tomorrow.
    place = str(path.parent.resolve() / path.name if path.is_symlink() else path.resolve())
    return Input(_stem(path.stem), place, kind, options, partial(RotatedFile, path), restarts=True)


def _complete_file(path: Path, kind: str, options: InputOptions, *, is_packed: bool) -> Input:
    """Return the input for CSV, a JSON array, Parquet, or a compressed file."""
    name, make = _stem(Path(path.name.removesuffix(".gz")).stem), partial(_file_rows, path, kind, options, is_packed)
    return Input(name, str(path.resolve()), kind, options, make, ends=True)


def _file_rows(
    path: Path, kind: str, options: InputOptions, is_packed: bool, *, codec: LineCodec, resume: Resume, finished: bool
) -> Source:
    match kind:
        case "array":
            return RowSource(path.name, array_pages(path, options.items), codec, resume, "item")
        case "parquet":
            return RowSource(path.name, parquet_pages(path), codec, resume, "row")
    text = Text.of(path.name, options.encoding, _file_blocks(path, is_packed), options.time_format)
    return RowSource(path.name, text_pages(kind, text, codec.field_types), codec, resume)


def _file_blocks(path: Path, is_packed: bool) -> Iterator[bytes]:
    opened: Any = gzip.open if is_packed else open
    with opened(path, "rb") as file:
        while data := file.read1(BLOCK_BYTES):
            yield data
    yield b""


def _standard_input(options: InputOptions, stop: threading.Event) -> Input:
    """Return the input for a pipe, which can be read only once."""
    if sys.stdin is None:
        raise ToolkitError(f"{PIPE}: there is no standard input")
    kind, blocks = options.kind or "json", _pipe_blocks(sys.stdin.buffer, stop)
    unread = Text.of("standard input", options.encoding, blocks, options.time_format)
    return Input("stdin", PIPE, kind, options, partial(_pipe_rows, unread, kind), ends=True)


def _pipe_rows(unread: Text, kind: str, *, codec: LineCodec, resume: Resume, finished: bool) -> Source:
    # `tee` keeps the lines of the sample for the feed. It keeps no blocks, because a line may have no end.
    shown, unread.lines = tee(unread.lines) if codec.stream is SAMPLE else (unread.lines, iter(()))
    return RowSource(unread.name, text_pages(kind, replace(unread, lines=shown), codec.field_types), codec, resume)


def _pipe_blocks(file: Any, stop: threading.Event) -> Iterator[bytes]:
    """Yield the blocks of a pipe as they come. The last one is empty, unless `stop` is set before.

    A thread reads a little ahead, because a read cannot be interrupted. Raises ToolkitError if it fails.
    """
    blocks: Queue[bytes] = Queue(AHEAD_BLOCKS)
    failure = ""

    def read() -> None:
        nonlocal failure
        try:
            while data := file.read1(AHEAD_BYTES):
                blocks.put(data)
        except OSError as error:
            failure = str(error)
        blocks.put(b"")

    threading.Thread(target=read, name="standard input", daemon=True).start()
    until_s = 0.0
    while not stop.is_set():
        data, is_end = bytearray(), False
        with suppress(Empty):
            while not is_end and len(data) < BLOCK_BYTES:
                block = blocks.get(timeout=max(0.0, until_s - time.monotonic()) if data else STOP_S)
                until_s = until_s or time.monotonic() + GATHER_S
                data += block
                is_end = not block
        if data:
            yield bytes(data)
        if is_end and failure:
            raise ToolkitError(f"standard input: {failure}")
        if is_end:
            yield b""
            return


def _kind(path: Path, options: InputOptions) -> tuple[str, bool]:
    """Return the format of a file, a value of SUFFIXES or `array`, and whether it is compressed by gzip.

    Raises ToolkitError if the format is unknown, or the file cannot be read.
    """
    if not path.is_file():
        raise ToolkitError(f"there is no file {path}: name one, not a folder, or pipe input into feed_producer {PIPE}")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ToolkitError(f"{path} cannot be read: {error.strerror}") from error
    suffix, is_packed = Path(path.name.lower().removesuffix(".gz")).suffix, head.startswith(_GZIP)
    kind = options.kind or SUFFIXES.get(suffix, "") or ("json" if options.items else "")
    if not kind:
        hint = "does not tell the format: add --format json, csv or text; save a spreadsheet as CSV"
        raise ToolkitError(f"{path}: {suffix or 'no suffix'} {hint}")
    if kind in ("sqlite", "duckdb", "parquet") or is_packed:
        return kind, is_packed
    if options.encoding == PLAIN.encoding and b"\0" in HOLE.sub(b"", head):
        raise ToolkitError(f"{path} is binary, or UTF-16 (add --encoding utf-16 for a CSV file), and not {kind}")
    is_array = suffix == ".json" and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
    if kind == "json" and (options.items or is_array):
        return "array", False
    if kind == "json" and not options.format and _SPREAD.match(head):
        hint = "--items names the array of records in it; --format json takes its lines as they are"
        raise ToolkitError(f"{path} begins with an object over several lines: {hint}")
    return kind, False


def _stem(name: str) -> str:
    """Return the name of a stream for a file, table or topic; "" if no letter of its name may be in a stream's."""
    stem = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")
    if any(map(str.isalpha, name)) and not re.search("[a-z]", stem):
        return ""
    return (stem if stem[:1].isalpha() else f"feed_{stem}")[:60]
