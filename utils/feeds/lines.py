"""What sources give to a feed instead of records: the lines as they came, if sinks can store them."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

from utils.app.errors import ToolkitError
from utils.feeds.csv_pages import json_lines
from utils.records.codec import Codec, Field, encoder
from utils.records.external import are_plain, are_small, check_size, stamp
from utils.records.infer import event_time
from utils.records.instants import instant_text, present
from utils.records.record import Line
from utils.records.stream import Stream

Parse = Callable[[bytes, Mapping[str, str]], bytes]
"""The JSON line of a line of text, given the types of fields. Raises ValueError with the reason if there is none."""


class LineCodec(Codec):
    """Decodes as the codec of a stream does, to see that it can, and gives the lines."""

    def __init__(self, stream: Stream, parse: Parse | None = None) -> None:
        """`parse` reads lines that are no JSON."""
        self._codec, self._parse = stream.codec, parse
        self._event_us = event_time(stream) if stream.time not in (None, "timestamp") else None
        self._types = {field.name: field.type for field in stream.fields}
        self._is_dated = Field("timestamp", "timestamp") in self._codec.fields  # else a timestamp goes to `extra`

    def decode_each(self, lines: Sequence[bytes]) -> list[Any]:
        if self._parse:
            lines = [self._parse(line, self._types) for line in lines]
        fitting = self._codec.decode_fitting(lines)
        records = self._codec.decode_each(lines) if fitting is None else fitting
        is_small = are_small(lines, are_flat=fitting is not None and self._codec.is_flat)
        if not is_small:
            for line in lines:
                stamp(line, "", 1, "")  # raises the reason, if there is one
        now = present()
        times = [self._time(record, now) for record in records] if self._event_us else repeat(now)
        is_plain = is_small and self._is_dated and fitting is not None and are_plain(lines, records)
        return list(map(Line, lines, times, records, repeat(is_plain)))

    def decode(self, line: bytes) -> Line:
        data = self._parse(line, self._types) if self._parse else line
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

    def parse(line: bytes, types: Mapping[str, str]) -> bytes:
        check_size(len(line))  # of a longer one the middle may be missing
        try:
            text = line.decode(encoding).strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"not {encoding} at byte {error.start}; --encoding names another one") from error
        found = expression.search(text)
        if not found:
            raise ValueError("does not match --pattern" if text else "no text")
        if not pattern:
            return encoder.encode({"line": text})
        return json_lines([*found.groupdict()], [[*found.groupdict("").values()]], types)[0]

    return parse
