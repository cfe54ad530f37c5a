"""Rows of CSV text as JSON lines, with a reason for each that is damaged; an unclosed quote costs its line only."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain

import msgspec
from msgspec import Raw

from utils.app.cli import counted
from utils.app.errors import ToolkitError
from utils.records.codec import encoder

MAX_CELL_BYTES = 256 * 1024
"""A longer cell is an unclosed quote."""
DELIMITERS = ",;\t|"
"""The one that is most frequent in the first line separates the cells."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_TEXTS = ("text", "timestamp")


class Row(msgspec.Struct, gc=False):
    """A row of any file: the number of its first line, its bytes as they came, and the line to be sent.

    `reason` says why there is none. `cells` are those of CSV.
    """

    number: int
    data: bytes
    line: bytes = b""
    reason: str = ""
    cells: Sequence[str] = ()


def csv_pages(lines: Iterator[list[bytes]], name: str, encoding: str, types: Mapping[str, str]) -> Iterator[list[Row]]:
    """The rows of lines as they come, which have their ends; the first row names the columns.

    A row without any value is none. `types` are those of `json_lines`. Raises ToolkitError, beginning with `name`, if
    two columns have one name.
    """
    names = list[str]()
    for page in _parsed(lines, encoding):
        rows = [row for row in page if row.reason or any(row.cells)]
        if rows and not names:
            first, *rows = rows
            if first.reason:
                raise ToolkitError(f"the first line of {name} cannot name the columns: {first.reason}")
            names = _names(first.cells, name)
        for row in rows:
            if not row.reason and len(row.cells) != len(names):
                row.reason = f"{counted(len(row.cells), 'cell')} where the first line has {len(names)}"
        whole = [row for row in rows if not row.reason]
        for row, line in zip(whole, json_lines(names, [row.cells for row in whole], types), strict=True):
            row.line = line
        if rows:
            yield rows


def _parsed(lines: Iterator[list[bytes]], encoding: str) -> Iterator[list[Row]]:
    """All rows, also those without a value; one that is not closed yet waits for the lines that come next."""
    csv.field_size_limit(MAX_CELL_BYTES)
    number, delimiter, page = 1, "", list[bytes]()
    for more in chain(lines, [[]]):  # at the end once more, for what is not closed
        page, rows, is_open = page + more, list[Row](), False
        delimiter = delimiter or max(DELIMITERS, key=page[0].decode("utf-8", "replace").count) if page else ""
        while page and not is_open:
            texts = (line.decode("utf-8", "surrogateescape") for line in page)
            reader, taken = csv.reader(texts, delimiter=delimiter, strict=True), 0
            try:
                for cells in reader:
                    rows.append(_row(number + taken, page[taken : reader.line_num], cells, "", encoding))
                    taken = reader.line_num
            except csv.Error as error:
                is_open = bool(more) and reader.line_num == len(page)
                if not is_open:
                    rows.append(_row(number + taken, page[taken : taken + 1], (), str(error), encoding))
                    taken += 1
            number, page = number + taken, page[taken:]
        yield rows


def _row(number: int, lines: Sequence[bytes], cells: Sequence[str], reason: str, encoding: str) -> Row:
    data = b"".join(lines).rstrip(b"\r\n")
    try:
        data.decode()
    except UnicodeDecodeError:
        reason = reason or f"not {encoding}; --encoding names another one"
    return Row(number, data, b"", reason, cells)


def _names(cells: Sequence[str], name: str) -> list[str]:
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
    for each in names:
        if names.count(each) > 1:
            raise ToolkitError(f"the first line of {name} names {each!r} twice: rename one of the columns")
    return names


def json_lines(names: Sequence[str], rows: Sequence[Sequence[str]], types: Mapping[str, str]) -> list[bytes]:
    """Each row of cells as a JSON object, without the empty ones.

    Cells that look like a JSON number or a boolean become one, except in fields of these `types` that are texts.
    """
    columns = [
        column if types.get(name) in _TEXTS else map(_plain, column)
        for name, column in zip(names, zip(*rows, strict=True), strict=False)
    ]
    objects = [
        {name: value for name, value in zip(names, values, strict=True) if value != ""}
        for values in zip(*columns, strict=True)
    ]
    return encoder.encode_lines(objects).split(b"\n")[:-1]


@lru_cache(maxsize=16_384)
def _plain(cell: str) -> str | Raw:
    is_plain = _NUMBER.fullmatch(cell) or cell.lower() in ("true", "false")
    return Raw(cell.lower().encode()) if is_plain else cell
