"""Source of the rows of complete files and standard input, which can only be read from their beginning.

Text, CSV, a JSON array and Parquet become pages of rows. A damaged row has a reason.
"""

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import chain, count
from operator import attrgetter
from pathlib import Path
from zlib import crc32

import msgspec

from utils.app.cli import counted
from utils.app.errors import ToolkitError
from utils.clients.line_file import MAX_LINE_BYTES
from utils.feeds.lines import LineCodec, Types, json_line
from utils.records.codec import object_decoder
from utils.records.external import reason_of
from utils.records.record import Invalid
from utils.records.table import quoted
from utils.sources.base import Chunk, Resume, decode_all
from utils.sources.table_source import json_value

MAX_CELL_BYTES = 256 * 1024
"""A longer cell counts as an unclosed quote."""
DELIMITERS = ",;\t|"
"""The possible separators of cells. The one that is most frequent in the first line is used."""
PARQUET_ROWS = 1_000

_array = msgspec.json.Decoder(list[msgspec.Raw])
_exact = msgspec.json.Encoder(decimal_format="number")  # with all digits


class Row(msgspec.Struct, gc=False):
    """A row of any file: the number of its first line, its bytes as they came, and its line for the feed.

    `reason` says why a row is invalid and has no line.
    """

    number: int
    data: bytes
    line: bytes = b""
    reason: str = ""


Pages = Iterator[list[Row]]
"""Pages of rows, as they come."""


class RowSource:
    """Source that returns rows as lines. A position is `rows:crc`: number and checksum of all rows before it.

    If the rows before a stored position have changed, the chunk reports that the partition begins again.
    """

    name = "file"

    def __init__(self, name: str, pages: Pages, codec: LineCodec, resume: Resume, row: str = "line") -> None:
        """`row` is the word for a row in messages."""
        self.detail, self._row, self._codec = name, row, codec
        self._resume: Resume | None = resume  # None once it was called
        self._pages: Pages = filter(None, pages)
        self._page: list[Row] = []  # the rest of the current page
        self._taken = self._crc = 0

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next rows, None at the end. Waits for the rows of a pipe. See Source."""
        if self._resume:
            stored, self._resume = self._resume(self.detail), None
            rows = stored.partition(":")[0]
            wanted = int(rows) if rows.isdecimal() else 0
            while self._taken < wanted and self._take(wanted - self._taken):
                pass  # these rows were fed before
            if stored not in ("", self._position):
                return Chunk(self.detail, stored, "", [])
        start, taken = self._position, self._take(max_records)
        whole = [row for row in taken if not row.reason]
        records, invalid = decode_all(self._codec, [row.line for row in whole], map(self._where, whole))
        invalid += [Invalid(self._where(row), row.reason, row.data) for row in taken if row.reason]
        return Chunk(self.detail, start, self._position, records, invalid) if taken else None

    def close(self) -> None:
        """Release the pages, which closes the file that they come from."""
        self._pages, self._page = iter(()), []

    @property
    def _position(self) -> str:
        return f"{self._taken}:{self._crc}" if self._taken else ""

    def _take(self, max_rows: int) -> list[Row]:
        """Take the next rows of a page; none at the end."""
        page = self._page or next(self._pages, [])
        rows, self._page = page[:max_rows], page[max_rows:]
        self._taken += len(rows)
        self._crc = crc32(b"\n".join([*map(attrgetter("data"), rows), b""]), self._crc)
        return rows

    def _where(self, row: Row) -> str:
        return f"{self.detail} {self._row} {row.number}"


@dataclass
class Text:
    """Pages of lines in UTF-8 with their line ends. `name`, `encoding` and `time_format` are those of the input."""

    name: str
    encoding: str
    lines: Iterator[list[bytes]]
    time_format: str = ""

    @classmethod
    def of(cls, name: str, encoding: str, blocks: Iterator[bytes], time_format: str = "") -> "Text":
        """Make a text of blocks in an encoding. An empty block ends the last line."""
        return cls(name, encoding, _lines(name, encoding, blocks), time_format)


def _lines(name: str, encoding: str, blocks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines of blocks.

    A line that is too long for a record loses its middle: so it fits into memory, and is still too long. Bytes that
    cannot be decoded stay as they are and damage only their line. Raises ToolkitError if the file is damaged.
    """
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    is_utf8 = codecs.lookup(encoding).name == "utf-8"  # then decoding and encoding would change nothing
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
        raise ToolkitError(f"{name} is damaged after line {number}: {error}") from error


def text_pages(kind: str, text: Text, types: Types) -> Pages:
    """Yield the rows of CSV, or of other text the lines that are not blank."""
    if kind == "csv":
        yield from csv_pages(text, types)
        return
    number = 1
    for page in text.lines:
        stripped = list(map(bytes.strip, page))
        yield [row for row in map(Row, count(number), stripped, stripped) if row.data]
        number += len(page)


def csv_pages(text: Text, types: Types) -> Pages:
    """Yield the rows of CSV as soon as they are complete. The first one names the columns.

    Rows without any value are skipped. An unclosed quote damages only its line. Raises ToolkitError if the first row
    cannot name the columns.
    """
    names = list[str]()
    for page in _csv_rows(text.lines):
        rows = list[Row]()
        for row, cells in page:
            if not (row.reason or any(cells)):
                continue
            try:
                row.data.decode()
            except UnicodeDecodeError:
                row.reason = row.reason or f"not {text.encoding}; --encoding names another one"
            if not names:
                names = _names(row, cells, text.name)
                continue
            if not row.reason and len(cells) != len(names):
                row.reason = f"{counted(len(cells), 'cell')} where the first line has {len(names)}"
            if not row.reason:
                row.line = json_line(zip(names, cells, strict=True), types, text.time_format)
            rows.append(row)
        yield rows


def _csv_rows(lines: Iterator[list[bytes]]) -> Iterator[list[tuple[Row, list[str]]]]:
    """Yield all rows with their cells. A row with an open quote waits for the next lines."""
    csv.field_size_limit(MAX_CELL_BYTES)
    number, delimiter, page = 1, "", list[bytes]()
    for more in chain(lines, [[]]):  # once more at the end, for a row with an open quote
        page, rows, is_open = page + more, list[tuple[Row, list[str]]](), False
        delimiter = delimiter or max(DELIMITERS, key=page[0].decode("utf-8", "replace").count) if page else ""
        while page and not is_open:  # once more behind each damaged line
            texts = (line.decode("utf-8", "surrogateescape") for line in page)
            reader, taken = csv.reader(texts, delimiter=delimiter, strict=True), 0
            try:
                for cells in reader:
                    data = b"".join(page[taken : reader.line_num]).rstrip(b"\r\n")
                    rows.append((Row(number + taken, data), cells))
                    taken = reader.line_num
            except csv.Error as error:
                is_open = bool(more) and reader.line_num == len(page)  # the next lines may close the quote
                if not is_open:
                    rows.append((Row(number + taken, page[taken].rstrip(b"\r\n"), reason=str(error)), []))
                    taken += 1
            number, page = number + taken, page[taken:]
        yield rows


def _names(row: Row, cells: Sequence[str], name: str) -> list[str]:
    """Return the names of the columns. A repeated name gets a number. Raises ToolkitError if the row is damaged."""
    if row.reason:
        raise ToolkitError(f"the first line of {name} cannot name the columns: {row.reason}")
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
    for place, each in enumerate(names):
        numbered = (f"{each}_{number}" for number in count(2))
        names[place] = next(other for other in chain([each], numbered) if other not in names[:place])
    return names


def array_items(data: bytes, items: str = "") -> list[bytes]:
    """Return the items of a JSON array, each on one line. Raises ValueError with the reason.

    `items` are the names of the members that lead to the array, with a dot between, if `data` is an object.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        for name in filter(None, items.split(".")):
            members = object_decoder.decode(data)
            if name not in members:
                raise ValueError(f"there is no {name}, only {', '.join(members)}"[:200])
            data = bytes(members[name])
        return [bytes(item).replace(b"\n", b" ") for item in _array.decode(data)]
    except (ValueError, RecursionError) as error:
        raise ValueError(reason_of(error, data)) from error


def array_pages(path: Path, items: str = "") -> Pages:
    """Yield the items of the array that a JSON file is, or that is in its object."""
    try:
        rows = array_items(path.read_bytes(), items)
    except ValueError as error:
        raise ToolkitError(f"{path}: {items or 'it'} is not a complete JSON array: {error}") from error
    yield list(map(Row, count(1), rows, rows))


def parquet_pages(path: Path) -> Pages:
    """Yield the rows of a Parquet file as JSON objects: timestamps in UTC, without NULL and NaN."""
    import duckdb

    from utils.clients import duck
    from utils.sources.duckdb_source import select_expression

    try:
        with duckdb.connect(config=duck.CONFIG) as memory:
            pattern = [escape(str(path))]
            columns = memory.execute("DESCRIBE FROM read_parquet(?)", pattern).fetchall()
            kinds = {name: kind for name, kind, *_ in columns}
            selected = [
                quoted(name) if kind.startswith("DECIMAL") else select_expression(name, kind, "")
                for name, kind in kinds.items()
            ]
            found = memory.execute(f"SELECT {', '.join(selected)} FROM read_parquet(?)", pattern)
            number = 1
            while page := found.fetchmany(PARQUET_ROWS):
                rows = [{name: cell for name, cell in zip(kinds, row, strict=True) if _is_value(cell)} for row in page]
                lines = [_exact.encode({name: json_value("", cell) for name, cell in row.items()}) for row in rows]
                yield list(map(Row, count(number), lines, lines))
                number += len(page)
    except duckdb.Error as error:
        raise ToolkitError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _is_value(cell: object) -> bool:
    return cell is not None and cell == cell  # noqa: PLR0124  # NaN is not equal to itself
