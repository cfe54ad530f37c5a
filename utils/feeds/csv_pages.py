"""Rows of CSV text as JSON lines, with a reason for each that is damaged; an unclosed quote costs its line only."""

import csv
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec import Raw

from utils.app.errors import ToolkitError
from utils.records.codec import encoder

MAX_CELL_BYTES = 256 * 1024
MAX_LINES = 200
"""A row of more lines is an unclosed quote."""
DELIMITERS = ",;\t|"
"""The one that is most frequent in the first line separates the cells."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
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


def csv_pages(lines: Iterator[list[str]], name: str, encoding: str, types: Mapping[str, str]) -> Iterator[list[Row]]:
    """The rows of lines as they come, which have their ends; the first row names the columns.

    A row without any value is none. `types` are those of `json_lines`. Raises ToolkitError, beginning with `name`, if
    two columns have one name.
    """
    names, rows, ahead = list[str](), list[Row](), deque[str]()
    for row in _parsed(lines, ahead, encoding):
        if not names and row.reason:
            raise ToolkitError(f"the first line of {name} cannot name the columns: {row.reason}")
        if not names and any(row.cells):
            names = _names(row.cells, name)
        elif row.reason or any(row.cells):
            if not row.reason and len(row.cells) != len(names):
                row.reason = f"{len(row.cells)} cells where the first line has {len(names)}"
            rows.append(row)
        if rows and not ahead:  # no more lines have come yet
            whole = [row for row in rows if not row.reason]
            for each, line in zip(whole, json_lines(names, [row.cells for row in whole], types), strict=True):
                each.line = line
            yield rows
            rows = []


def _parsed(lines: Iterator[list[str]], ahead: deque[str], encoding: str) -> Iterator[Row]:
    """All rows, also those without a value; what has come behind the last one is in `ahead`."""
    csv.field_size_limit(MAX_CELL_BYTES)
    taken = list[str]()

    def next_line() -> str:
        if len(taken) > MAX_LINES:
            raise csv.Error("unclosed quote")
        if not ahead:
            ahead.extend(next(lines, ()))
        if not ahead:
            return ""
        taken.append(ahead.popleft())
        return taken[-1]

    number, delimiter, reader = 1, "", None
    for page in lines:
        ahead.extend(page)
        delimiter = delimiter or max(DELIMITERS, key=page[0].count)
        while ahead:
            reader = reader or csv.reader(iter(next_line, ""), delimiter=delimiter, strict=True)
            row = Row(number, b"")
            try:
                row.cells = next(reader)
            except csv.Error as error:  # it is continued behind the first line
                row.reason, reader = str(error), None
                ahead.extendleft(reversed(taken[1:]))
                del taken[1:]
            text = "".join(taken).rstrip("\r\n")
            try:
                row.data = text.encode()
            except UnicodeEncodeError:
                row.data = text.encode("utf-8", "surrogateescape")
                row.reason = row.reason or f"not {encoding}; --encoding names another one"
            number += len(taken)
            taken.clear()
            yield row


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
