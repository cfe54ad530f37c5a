"""What sources give to a feed instead of records: the lines as they came, if sinks can store them."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

from utils.app.errors import ToolkitError
from utils.records.codec import Codec, instant_text
from utils.records.external import MAX_DEPTH, MAX_RECORD_BYTES, stamp
from utils.records.infer import event_time
from utils.records.record import Line
from utils.records.stream import Stream
from utils.sources.csv_rows import json_line

Parse = Callable[[bytes], Mapping[str, str]]
"""The cells of a line of text, by field. Raises ValueError with the reason if it has none."""


class FedLine(Line):
    """A line to be sent on, and the record that it is.

    Its `timestamp` is the event time where the record has it in another field, else the time of reading.
    """

    record: Any = None


class LineCodec(Codec):
    """Decodes as the codec of a stream does, to see that it can, and gives the lines."""

    def __init__(
        self,
        stream: Stream,
        parse: Parse | None = None,
        texts: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`parse` reads lines that are no JSON; its fields `texts` are texts whatever they look like."""
        self._codec, self._parse, self._clock = stream.codec, parse, clock
        self._event_us = event_time(stream) if stream.time not in (None, "timestamp") else None
        self._types = {field.name: field.type for field in stream.fields} | dict.fromkeys(texts, "text")

    def line_of(self, cells: Mapping[str, str]) -> bytes:
        """The line of named cells. Raises ValueError like `json_line`."""
        return json_line(cells, self._types)

    def decode_lines(self, data: bytes) -> list[Any]:
        if self._parse:
            lines = data.removesuffix(b"\n").split(b"\n")
            data = b"".join(self.line_of(self._parse(line)) + b"\n" for line in lines)
        records = self._codec.decode_lines(data)
        lines = data.split(b"\n")
        brackets = data.count(b"{") + data.count(b"[")
        # Each line has one bracket at least, so that no line can have more than the rest.
        if brackets - len(records) >= MAX_DEPTH or len(max(lines, key=len)) > MAX_RECORD_BYTES:
            for line in filter(None, lines):
                stamp(line, "", 1, "")  # raises the reason, if there is one
        now = instant_text(int(self._clock() * 1000) * 1000)
        if not self._event_us:
            return list(map(FedLine, lines, repeat(now), records))
        return [FedLine(line, self._time(record, now), record) for line, record in zip(lines, records, strict=False)]

    def decode(self, line: bytes) -> FedLine:
        data = self.line_of(self._parse(line)) if self._parse else line
        stamp(data, "", 1, "")  # first, for its reasons are the better ones
        record = self._codec.decode(data)
        now = instant_text(int(self._clock() * 1000) * 1000)
        return FedLine(data, self._time(record, now), record)

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

    def parse(line: bytes) -> Mapping[str, str]:
        try:
            text = line.decode(encoding).strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"not {encoding} at byte {error.start}; --encoding names another one") from error
        found = expression.search(text)
        if not found:
            raise ValueError("does not match --pattern" if text else "no text")
        return {name: value or "" for name, value in found.groupdict().items()}

    return parse
