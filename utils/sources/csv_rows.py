"""Rows of CSV text in order, with a reason for each that is damaged; an unclosed quote costs its line only."""

import csv
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TextIO

import msgspec

from utils.app.errors import ToolkitError
from utils.records.codec import encoder

MAX_CELL_BYTES = 256 * 1024
MAX_LINES = 200
"""A row of more lines is an unclosed quote."""
DELIMITERS = ",;\t|"
"""The one that is most frequent in the first line separates the cells."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_TEXTS = ("text", "timestamp")


class FedRow(msgspec.Struct, gc=False):
    """A row: the number of its first line, its bytes as they came, and its cells by column name.

    The bytes are the line to be sent if there are neither cells nor a `reason` why it is damaged.
    """

    number: int
    data: bytes
    cells: Mapping[str, str] | None = None
    reason: str = ""


def csv_rows(text: TextIO, name: str) -> Iterator[FedRow]:
    """The rows of a CSV text that was opened with `newline=""`; the first line names the columns.

    A row without any value is none. Raises ToolkitError, beginning with `name`, if two columns have one name.
    """
    csv.field_size_limit(MAX_CELL_BYTES)
    first_line = next(text, "")
    delimiter = max(DELIMITERS, key=first_line.count)
    ahead, taken = deque([first_line] if first_line else []), list[str]()

    def lines() -> Iterator[str]:
        """The lines of one row."""
        while line := ahead.popleft() if ahead else next(text, ""):
            taken.append(line)
            yield line
            if len(taken) > MAX_LINES:
                raise csv.Error("unclosed quote")

    names, number = list[str](), 1
    while True:
        taken.clear()
        try:
            cells = next(csv.reader(lines(), delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error as error:  # it is continued behind the first line
            ahead.extendleft(reversed(taken[1:]))
            del taken[1:]
            yield FedRow(number, _data(taken[0]), reason=str(error))
        else:
            if not any(cells):
                pass
            elif not names:
                names = _names(cells, name)
            elif len(cells) != len(names):
                reason = f"{len(cells)} cells where the first line has {len(names)}"
                yield FedRow(number, _data(*taken), reason=reason)
            else:
                yield FedRow(number, _data(*taken), dict(zip(names, cells, strict=True)))
        number += len(taken)


def _data(*lines: str) -> bytes:
    return "".join(lines).rstrip("\r\n").encode("utf-8", "surrogateescape")


def _names(cells: list[str], name: str) -> list[str]:
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
    for each in names:
        if names.count(each) > 1:
            raise ToolkitError(f"the first line of {name} names {each!r} twice: rename one of the columns")
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
            column = name.encode("ascii", "replace").decode()
            raise ValueError(f"not UTF-8 in column {column}; --encoding names another one") from error
    return b"{" + b",".join(members) + b"}"
