"""What sources give to a feed instead of records: the lines as they came, if sinks can store them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

from msgspec import Raw

from utils.app.errors import ToolkitError
from utils.records.codec import Codec, Field, encoder
from utils.records.external import are_plain, are_small, check_size, stamp
from utils.records.infer import event_time
from utils.records.instants import instant_text, present
from utils.records.record import Line
from utils.records.stream import Stream

Types = Mapping[str, str]
"""The types of a stream's fields by name."""

Parse = Callable[[bytes, Types], bytes]
"""The JSON line of a line of text. Raises ValueError with the reason if there is none."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_TEXTS = ("text", "timestamp")


class LineCodec(Codec):
    """Decodes as the codec of a stream does, to see that it can, and gives the lines."""

    def __init__(self, stream: Stream, parse: Parse | None = None) -> None:
        """`parse` reads lines that are no JSON."""
        self.stream, self._codec, self._parse = stream, stream.codec, parse
        self.field_types: Types = {field.name: field.type for field in stream.fields}
        self._event_us = event_time(stream) if stream.time not in (None, "timestamp") else None
        self._is_dated = Field("timestamp", "timestamp") in self._codec.fields  # else a timestamp goes to `extra`

    def decode_each(self, lines: Sequence[bytes]) -> list[Any]:
        if self._parse:
            lines = [self._parse(line, self.field_types) for line in lines]
        fitting = self._codec.decode_fitting(lines)
        if not are_small(lines, are_flat=fitting is not None and self._codec.is_flat):
            raise ValueError("one of them may be too long, or nested too deeply: `decode` tells")
        records, now = self._codec.decode_each(lines) if fitting is None else fitting, present()
        times = [self._time(record, now) for record in records] if self._event_us else repeat(now)
        is_plain = self._is_dated and fitting is not None and are_plain(lines, records)
        return list(map(Line, lines, times, records, repeat(is_plain)))

    def decode(self, line: bytes) -> Line:
        data = self._parse(line, self.field_types) if self._parse else line
        stamp(data, "", 1, "")  # first, for its reasons are the better ones
        record = self._codec.decode(data)
        return Line(data, self._time(record, present()), record)

    def _time(self, record: Any, now: str) -> str:
        at_us = self._event_us(record) if self._event_us else None
        return now if at_us is None else instant_text(at_us)


def text_parser(pattern: str, encoding: str) -> Parse:
    """What reads lines of text: the named groups of `pattern` are fields; without one the field is `line`.

    Raises ToolkitError if the pattern cannot be used.
    """
    try:
        expression = re.compile(pattern or r"(?P<line>.+)")
    except re.error as error:
        raise ToolkitError(f"--pattern {pattern} is no regular expression: {error}") from error
    if not expression.groupindex:
        raise ToolkitError(f"--pattern {pattern} names no field: write a group as (?P<level>[A-Z]+)")

    def parse(line: bytes, types: Types) -> bytes:
        check_size(len(line))  # of a longer one the middle may be missing
        try:
            text = line.decode(encoding).strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"not {encoding} at byte {error.start}; --encoding names another one") from error
        found = expression.search(text)
        if not found:
            raise ValueError("does not match --pattern" if text else "no text")
        return json_line(found.groupdict("").items(), types) if pattern else encoder.encode({"line": text})

    return parse


def json_line(cells: Iterable[tuple[str, str]], types: Types) -> bytes:
    """Named cells as a JSON object, without the empty ones.

    Those that look like a JSON number or a boolean become one, except in fields whose type is a text.
    """
    return encoder.encode(
        {name: cell if types.get(name) in _TEXTS else _value(cell) for name, cell in cells if cell != ""}
    )


@lru_cache(maxsize=16_384)
def _value(cell: str) -> str | Raw:
    is_plain = _NUMBER.fullmatch(cell) or cell.lower() in ("true", "false")
    return Raw(cell.lower().encode()) if is_plain else cell
