"""Sources that give one row after another and cannot be read from the middle: complete files and standard input."""

import gzip
import threading
import zlib
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterator
from glob import escape
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from zlib import crc32

import msgspec

from utils.app.errors import ToolkitError
from utils.feeds.lines import LineCodec
from utils.records.record import Invalid
from utils.records.table import quoted
from utils.sources.base import Chunk, Resume, decode_each
from utils.sources.csv_rows import FedRow, csv_rows

_T = TypeVar("_T")

MAX_LINE_BYTES = 1 << 20
BLOCK_BYTES = 1 << 16
PARQUET_ROWS = 1_000
MAX_TAKE_BYTES = 2 << 20
MAX_AHEAD_ROWS, MAX_AHEAD_BYTES = 10_000, 8 << 20
STOP_S = 0.1

_array = msgspec.json.Decoder(list[msgspec.Raw])
_exact = msgspec.json.Encoder(decimal_format="number")  # with all digits


Take = Callable[[int], list[FedRow]]
"""At most so many of the next rows; none at the end."""
Pages = Iterator[list[FedRow]]
"""Rows as they come."""


class RowSource:
    """Hands out rows as lines. A position is `rows:crc` of all that was handled; a pipe has none.

    If the rows before a stored position are other ones, the chunk says that the partition begins again.
    """

    name = "file"

    def __init__(self, name: str, take: Take, codec: LineCodec, resume: Resume | None, row: str = "line") -> None:
        self.detail, self._row = name, row
        self._take, self._codec, self._resume = take, codec, resume
        self._rows = self._crc = 0
        self._position: str | None = None if resume else ""

    def poll(self, max_records: int) -> Chunk | None:
        """The next rows; None at the end. Waits for a pipe. See Source."""
        if self._position is None and self._resume:
            self._position = self._resume(self.detail)
            if self._position and not self._skip(self._position):
                return Chunk(self.detail, self._position, "", [])
        rows = self._take(max_records)
        if not rows:
            return None
        start = self._position or ""
        self._position = self._after(rows) if self._resume else ""
        return Chunk(self.detail, start, self._position, *self._decode(rows))

    def close(self) -> None:
        """The rows close what they read from."""

    def _skip(self, position: str) -> bool:
        """Whether the rows before the stored position are those that were handled."""
        count = position.partition(":")[0]
        wanted = int(count) if count.isdecimal() else 0
        while self._rows < wanted and (skipped := self._take(min(MAX_AHEAD_ROWS, wanted - self._rows))):
            self._after(skipped)
        return f"{self._rows}:{self._crc}" == position

    def _after(self, rows: list[FedRow]) -> str:
        self._rows += len(rows)
        self._crc = crc32(b"\n".join(row.data for row in rows) + b"\n", self._crc)
        return f"{self._rows}:{self._crc}"

    def _decode(self, rows: list[FedRow]) -> tuple[list[Any], list[Invalid]]:
        found: list[tuple[FedRow, bytes]] = []
        invalid: list[Invalid] = []
        for row in rows:
            try:
                if row.reason:
                    raise ValueError(row.reason)
                found.append((row, self._codec.line_of(row.cells) if row.cells else row.data))
            except ValueError as error:
                invalid.append(Invalid(self._where(row), str(error), row.data))
        try:
            return self._codec.decode_lines(b"".join([line + b"\n" for _, line in found])), invalid
        except ValueError:
            records, more = decode_each(self._codec, ((self._where(row), line) for row, line in found))
            return records, invalid + more

    def _where(self, row: FedRow) -> str:
        return f"{self.detail} {self._row} {row.number}"


def take_from(pages: Pages) -> Take:
    """What takes rows that are there. An error of the rows is raised once all rows before it have been taken."""
    rows = chain.from_iterable(pages)
    failed: list[Exception] = []

    def take(max_rows: int) -> list[FedRow]:
        if failed:
            raise failed[0]
        taken: list[FedRow] = []
        size = 0
        try:
            while len(taken) < max_rows and size < MAX_TAKE_BYTES and (row := next(rows, None)):
                taken.append(row)
                size += len(row.data)
        except ToolkitError as error:
            if not taken:
                raise
            failed.append(error)
        return taken

    return take


class Pipe:
    """Reads rows in a thread, a little ahead, so that whoever takes them can be told to stop."""

    def __init__(self, pages: Pages, stop: threading.Event) -> None:
        self._pages, self._stop = pages, stop
        self._changed = threading.Condition()
        self._read: deque[FedRow] = deque()
        self._size = 0
        self._shown: list[FedRow] = []
        self._end: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="standard input", daemon=True)

    def _run(self) -> None:
        end: Exception = StopIteration()
        try:
            for rows in self._pages:
                size = sum(len(row.data) for row in rows)
                with self._changed:
                    self._changed.wait_for(lambda: len(self._read) < MAX_AHEAD_ROWS and self._size < MAX_AHEAD_BYTES)
                    self._read.extend(rows)
                    self._size += size
                    self._changed.notify()
        except (OSError, ToolkitError) as error:
            end = error
        with self._changed:
            self._end = end
            self._changed.notify()

    def show(self, max_rows: int) -> list[FedRow]:
        """`take`, but the rows stay to be taken."""
        rows = self._next(max_rows)
        self._shown += rows
        return rows

    def take(self, max_rows: int) -> list[FedRow]:
        """The next rows, once there are any; none at the end or when told to stop. Raises what ended the reading."""
        rows, self._shown = self._shown[:max_rows], self._shown[max_rows:]
        return rows or self._next(max_rows)

    def _next(self, max_rows: int) -> list[FedRow]:
        if self._thread.ident is None:
            self._thread.start()
        with self._changed:
            while not (self._read or self._end or self._stop.is_set()):
                self._changed.wait(STOP_S)
            rows = [self._read.popleft() for _ in range(min(max_rows, len(self._read)))]
            self._size -= sum(len(row.data) for row in rows)
            self._changed.notify()
        if not rows and isinstance(self._end, OSError | ToolkitError):
            raise ToolkitError(f"standard input: {self._end}") from self._end
        return rows


def opened(path: Path) -> BinaryIO:
    """A file, unpacked if it is compressed."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def line_rows(file: BinaryIO, name: str) -> Pages:
    """The lines of a file, but blank ones, as they come. One that is too long is one row, cut, with the reason."""
    number, rest, is_cut = 1, b"", False
    while True:
        data = _read(lambda: file.read1(BLOCK_BYTES), name, number - 1)  # type: ignore[attr-defined]  # as all buffered
        lines = (rest + data).split(b"\n")
        if is_cut:
            lines[0], is_cut = b"", len(lines) == 1
        rest = lines.pop() if data else b""
        if number == 1:
            lines = [line.removeprefix(BOM_UTF8) for line in lines[:1]] + lines[1:]
        rows = [FedRow(n, stripped) for n, line in enumerate(lines, number) if (stripped := line.strip())]
        number += len(lines)
        if len(rest) > MAX_LINE_BYTES:
            rows.append(FedRow(number, rest, reason=f"a line over the limit of {MAX_LINE_BYTES} bytes"))
            rest, is_cut = b"", True
        if rows:
            yield rows
        if not data:
            return


def table_rows(file: BinaryIO, name: str, encoding: str) -> Pages:
    """The rows of a CSV file; UTF-16 with a byte order mark is read whatever `encoding` says."""
    start = _read(lambda: file.peek(2)[:2], name, 0)  # type: ignore[attr-defined]  # of all buffered readers
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else encoding
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    # What cannot be decoded becomes surrogates, so that it damages its row only.
    found = csv_rows(TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline=""), name)
    number = 0
    while (row := _read(lambda: next(found, None), name, number)) is not None:
        number = row.number
        yield [row]


def array_rows(path: Path) -> Pages:
    """The items of a file that is one JSON array."""
    try:
        items = _array.decode(path.read_bytes().removeprefix(BOM_UTF8))
    except (ValueError, RecursionError) as error:
        raise ToolkitError(f"{path} begins like a JSON array but is not a complete one: {error}") from error
    yield [FedRow(number, bytes(item).replace(b"\n", b" ")) for number, item in enumerate(items, 1)]


def parquet_rows(path: Path) -> Pages:
    """The rows of a Parquet file as JSON objects: instants in UTC, NULL and NaN absent."""
    import duckdb

    from utils.clients import duck
    from utils.sources.duckdb_source import readable

    try:
        with duckdb.connect(config=duck.CONFIG) as memory:
            table = "read_parquet(?)"
            pattern = [escape(str(path))]
            columns = memory.execute(f"DESCRIBE FROM {table}", pattern).fetchall()
            selected = ", ".join(
                quoted(name) if kind.startswith("DECIMAL")
                else f"nullif({quoted(name)}, 'nan')" if kind in ("FLOAT", "DOUBLE")
                else readable(name, kind, "")
                for name, kind, *_ in columns
            )  # fmt: skip
            names = [name for name, *_ in columns]
            rows = memory.execute(f"SELECT {selected} FROM {table}", pattern)
            number = 0
            while page := rows.fetchmany(PARQUET_ROWS):
                cells = (
                    {name: cell for name, cell in zip(names, row, strict=True) if cell is not None} for row in page
                )
                yield [FedRow(number, _exact.encode(each)) for number, each in enumerate(cells, number + 1)]
                number += len(page)
    except duckdb.Error as error:
        raise ToolkitError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error


def _read(step: Callable[[], _T], name: str, done: int) -> _T:
    """What a step of reading gives. Raises ToolkitError where a file is damaged."""
    try:
        return step()
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeError) as error:
        raise ToolkitError(f"{name} is damaged behind line {done}: {error}") from error
