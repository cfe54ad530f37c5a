"""Sources that give one row after another and cannot be read from the middle: complete files and standard input."""

import codecs
import gzip
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from glob import escape
from itertools import count
from operator import attrgetter
from pathlib import Path
from queue import Empty, Queue
from typing import Any
from zlib import crc32

import msgspec

from utils.app.errors import ToolkitError
from utils.clients.line_file import MAX_LINE_BYTES
from utils.feeds.csv_pages import Row
from utils.feeds.lines import LineCodec
from utils.records.external import reason_of
from utils.records.record import Invalid
from utils.records.table import quoted
from utils.sources.base import Chunk, Resume, decode_all
from utils.sources.table_source import as_member

AHEAD_BLOCKS, AHEAD_BYTES = 16, 1 << 16
PARQUET_ROWS = 1_000
STOP_S = 0.1

_array = msgspec.json.Decoder(list[msgspec.Raw])
_exact = msgspec.json.Encoder(decimal_format="number")  # with all digits

Pages = Iterator[list[Row]]
"""Rows as they come, some at a time."""


class RowSource:
    """Hands out rows as lines. A position is `rows:crc` of all that were taken before it.

    If the rows before a stored position are other ones, the chunk says that the partition begins again.
    """

    name = "file"

    def __init__(self, name: str, pages: Pages, codec: LineCodec, resume: Resume, row: str = "line") -> None:
        self.detail, self._row, self._codec = name, row, codec
        self._resume: Resume | None = resume  # until it is asked
        self._pages, self._page = pages, list[Row]()  # the rest of one
        self._taken = self._crc = 0

    def poll(self, max_records: int) -> Chunk | None:
        """The next rows; None at the end. Waits for a pipe. See Source."""
        if self._resume:
            stored, self._resume = self._resume(self.detail), None
            if stored and not self._skip(stored):
                return Chunk(self.detail, stored, "", [])
        start = self._position
        rows = self._take(max_records)
        return Chunk(self.detail, start, self._position, *self._decode(rows)) if rows else None

    def close(self) -> None:
        """Let go of the rows, and so of the file that they come from."""
        self._pages, self._page = iter(()), []

    @property
    def _position(self) -> str:
        return f"{self._taken}:{self._crc}" if self._taken else ""

    def _take(self, max_rows: int) -> list[Row]:
        """The next rows of a page; none at the end."""
        page = self._page or next(self._pages, [])
        rows, self._page = page[:max_rows], page[max_rows:]
        self._taken += len(rows)
        self._crc = crc32(b"\n".join([*map(attrgetter("data"), rows), b""]), self._crc)
        return rows

    def _skip(self, position: str) -> bool:
        """Whether the rows before the stored position are those that were handled."""
        rows = position.partition(":")[0]
        wanted = int(rows) if rows.isdecimal() else 0
        while self._taken < wanted and self._take(wanted - self._taken):
            pass
        return self._position == position

    def _decode(self, rows: list[Row]) -> tuple[list[Any], list[Invalid]]:
        invalid = [Invalid(self._where(row), row.reason, row.data) for row in rows if row.reason]
        whole = [row for row in rows if not row.reason]
        records, more = decode_all(self._codec, [row.line for row in whole], map(self._where, whole))
        return records, invalid + more

    def _where(self, row: Row) -> str:
        return f"{self.detail} {self._row} {row.number}"


def pipe_blocks(file: Any, stop: threading.Event) -> Iterator[bytes]:
    """What a pipe brings, as it comes; the last block is empty, unless it was told to stop.

    A thread reads a little ahead, because a read cannot be interrupted. Raises ToolkitError if it fails.
    """
    blocks: Queue[bytes] = Queue(AHEAD_BLOCKS)
    errors = list[OSError]()

    def read() -> None:
        try:
            while data := file.read1(AHEAD_BYTES):
                blocks.put(data)
        except OSError as error:
            errors.append(error)
        blocks.put(b"")

    threading.Thread(target=read, name="standard input", daemon=True).start()
    has_ended = False
    while not (has_ended or stop.is_set()):
        found = list[bytes]()
        with suppress(Empty):
            found.append(blocks.get(timeout=STOP_S))
            while found[-1]:
                found.append(blocks.get_nowait())
        has_ended = b"" in found
        if any(found):
            yield b"".join(found)
    if errors and has_ended:
        raise ToolkitError(f"standard input: {errors[0]}")
    if has_ended:
        yield b""


def utf8_lines(blocks: Iterator[bytes], name: str, encoding: str) -> Iterator[list[bytes]]:
    """The lines of blocks in UTF-8, as they come, with their ends; an empty block ends the last line.

    Of a line that no record can be the middle is left out, so that the rest fits into memory and is still too long.
    What cannot be decoded stays as it is and damages its line only. Raises ToolkitError where a file is damaged.
    """
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    is_utf8 = codecs.lookup(encoding).name == "utf-8"  # to decode and encode would change nothing
    rest, number = b"", 0
    try:
        for data in blocks:
            text = data if is_utf8 else decoder.decode(data, final=not data).encode("utf-8", "surrogateescape")
            lines = (rest + text).splitlines(keepends=True)
            is_open = data and lines and not lines[-1].endswith(b"\n")
            rest = lines.pop()[: MAX_LINE_BYTES + 1] if is_open else b""
            if lines and not number:
                lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
            number += len(lines)
            if lines:
                yield lines
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeError) as error:
        raise ToolkitError(f"{name} is damaged behind line {number}: {error}") from error


def line_pages(lines: Iterator[list[bytes]]) -> Pages:
    """The lines that are not blank."""
    number = 0
    for page in lines:
        stripped = list(map(bytes.strip, page))
        rows = [row for row in map(Row, count(number + 1), stripped, stripped) if row.data]
        number += len(page)
        if rows:
            yield rows


def array_pages(path: Path) -> Pages:
    """The items of a file that is one JSON array."""
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        items = _array.decode(data)
    except (ValueError, RecursionError) as error:
        raise ToolkitError(
            f"{path} begins like a JSON array but is not a complete one: {reason_of(error, data)}"
        ) from error
    lines = [bytes(item).replace(b"\n", b" ") for item in items]
    yield [Row(number, line, line) for number, line in enumerate(lines, 1)]


def parquet_pages(path: Path) -> Pages:
    """The rows of a Parquet file as JSON objects: instants in UTC, NULL and NaN absent."""
    import duckdb

    from utils.clients import duck
    from utils.sources.duckdb_source import readable

    try:
        with duckdb.connect(config=duck.CONFIG) as memory:
            pattern = [escape(str(path))]
            columns = memory.execute("DESCRIBE FROM read_parquet(?)", pattern).fetchall()
            kinds = {name: kind for name, kind, *_ in columns}
            selected = [
                quoted(name) if kind.startswith("DECIMAL") else readable(name, kind, "") for name, kind in kinds.items()
            ]
            found = memory.execute(f"SELECT {', '.join(selected)} FROM read_parquet(?)", pattern)
            number = 0
            while page := found.fetchmany(PARQUET_ROWS):
                rows = [dict(zip(kinds, row, strict=True)) for row in page]
                lines = [
                    _exact.encode({name: as_member("", cell) for name, cell in row.items() if _is_value(cell)})
                    for row in rows
                ]
                yield [Row(each, line, line) for each, line in enumerate(lines, number + 1)]
                number += len(page)
    except duckdb.Error as error:
        raise ToolkitError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error


def _is_value(cell: object) -> bool:
    return cell is not None and cell == cell  # noqa: PLR0124  # NaN is not
