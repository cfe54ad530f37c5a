"""Rows of CSV files in order, with a reason for each that is damaged; an unclosed quote costs its line only."""

import csv
import gzip
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import msgspec

from utils.app.errors import ToolkitError
from utils.records.codec import encoder

MAX_CELL_BYTES = 256 * 1024
MAX_LINES = 200
"""A row of more lines is an unclosed quote."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_TEXTS = ("text", "timestamp")


class Row(msgspec.Struct):
    """A row: the number of its first line, and its cells by column name or the `reason` why they are unknown."""

    line: int
    cells: dict[str, str] = {}
    reason: str = ""


class _Lines:
    """The lines of a file, counted; those of the row that is being read can be read again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self._row: list[str] = []
        self.done = 0  # lines before the row that is being read

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self._row) > MAX_LINES:
            raise csv.Error("unclosed quote")
        line = self._again.popleft() if self._again else next(self._file)
        self._row.append(line)
        return line

    def begin_row(self) -> None:
        self.done += len(self._row)
        self._row = []

    def give_up_row(self) -> None:
        """Continue behind the first line of the row."""
        self._again.extendleft(reversed(self._row[1:]))
        del self._row[1:]


def rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV file (`.tsv`: tabs), also one with the suffix `.gz`; the first line names the columns.

    Raises ToolkitError if the file is no CSV file in UTF-8, or where a compressed file is damaged.
    """
    csv.field_size_limit(MAX_CELL_BYTES)
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as data:
        # What is not UTF-8 becomes surrogates, so that it damages its row only.
        lines = _Lines(TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline=""))
        try:
            if data.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise ToolkitError(f"{path} is UTF-16 text: save it as UTF-8")
            yield from _rows(lines, delimiter, path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ToolkitError(f"{path} is damaged behind line {lines.done}: {error}") from error


def _rows(lines: _Lines, delimiter: str, path: Path) -> Iterator[Row]:
    def read() -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=delimiter, strict=True)

    reader, names = read(), list[str]()
    while True:
        lines.begin_row()
        first = lines.done + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.give_up_row()
            reader = read()
            yield Row(first, reason=str(error))
            continue
        if not cells:
            continue
        if not names:
            names = _names(cells, path)
        elif len(cells) != len(names):
            yield Row(first, reason=f"{len(cells)} cells where the first line has {len(names)}")
        else:
            yield Row(first, dict(zip(names, cells, strict=True)))


def _names(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
    for name in names:
        if names.count(name) > 1:
            raise ToolkitError(f"the first line of {path} names {name!r} twice: rename one of the columns")
    return names


def json_line(cells: Mapping[str, str], types: Mapping[str, str]) -> bytes:
    """The cells as a JSON object, without the empty ones. Raises ValueError for text that is not UTF-8.

    Cells that look like a JSON number or a boolean become one, except in fields of these `types` that are texts.
    """
    members = []
    for name, cell in cells.items():
        if not cell:
            continue
        is_plain = types.get(name) not in _TEXTS and (_NUMBER.fullmatch(cell) or cell.lower() in ("true", "false"))
        try:
            value = cell.lower().encode() if is_plain else encoder.encode(cell)
            members.append(encoder.encode(name) + b":" + value)
        except UnicodeEncodeError as error:
            raise ValueError(f"not UTF-8 in column {name.encode('ascii', 'replace').decode()}") from error
    return b"{" + b",".join(members) + b"}"
