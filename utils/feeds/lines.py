"""Lines for a feed. Its sources return them as they came, instead of records, if sinks can store them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import repeat
from typing import Any

from msgspec import Raw

from utils.app.errors import ToolkitError
from utils.records.codec import Codec, Field, encoder
from utils.records.external import are_append_only, are_within_limits, check_size, stamp
from utils.records.infer import event_time_getter
from utils.records.instants import instant_text, present
from utils.records.record import Line
from utils.records.stream import Stream

Types = Mapping[str, str]
"""The types of a stream's fields by name."""

Parse = Callable[[bytes, Types], bytes]
"""Function that makes a line of text a JSON line. Raises ValueError with the reason if it cannot."""

_NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TEXTS = ("text", "timestamp")
MAX_TIME = 60
"""Most characters of a time. Trying to parse longer cells would take most of the time of a feed."""


class LineCodec(Codec):
    """A codec that decodes like the codec of a stream, to check the lines, and returns the lines."""

    def __init__(self, stream: Stream, parse: Parse | None = None) -> None:
        """`parse` is for lines of text."""
        self.stream, self._codec, self._parse = stream, stream.codec, parse
        self.field_types = {field.name: field.type for field in stream.fields}
        if stream.time and self.field_types.get(stream.time) == "text":  # dates, or a first run without --time-format
            self.field_types[stream.time] = "timestamp"
        # A field that differs from `timestamp` only in case takes its column. Then no timestamp is added.
        is_taken = any(name != "timestamp" and name.lower() == "timestamp" for name in self._codec.columns)
        self._present = str if is_taken else present
        self._event_us = event_time_getter(stream) if stream.time not in (None, "timestamp") and not is_taken else None
        self._is_dated = Field("timestamp", "timestamp") in self._codec.fields  # else a timestamp goes to `extra`

    def decode_each(self, lines: Sequence[bytes]) -> list[Any]:
        if self._parse:
            lines = [self._parse(line, self.field_types) for line in lines]
        fitting = self._codec.decode_strictly(lines)
        if not are_within_limits(lines, are_flat=fitting is not None and self._codec.is_flat):
            raise ValueError("a line may be too long or nested too deeply: decode each of them")
        records, now = self._codec.decode_each(lines) if fitting is None else fitting, self._present()
        times = [self._time(record, now) for record in records] if self._event_us else repeat(now)
        is_plain = self._is_dated and fitting is not None and are_append_only(lines, records)
        return list(map(Line, lines, times, records, repeat(is_plain)))

    def decode(self, line: bytes) -> Line:
        data = self._parse(line, self.field_types) if self._parse else line
        stamp(data, "", 1, "")  # first, because its errors name better reasons
        record = self._codec.decode(data)
        return Line(data, self._time(record, self._present()), record)

    def _time(self, record: Any, now: str) -> str:
        at_us = self._event_us(record) if self._event_us else None
        return now if at_us is None else instant_text(at_us)


def text_parser(pattern: str, encoding: str, time_format: str = "") -> Parse:
    """Return a parser of lines of text. Named groups of `pattern` become fields; without a pattern the field is `line`.

    Raises ToolkitError if the pattern cannot be used.
    """
    try:
        expression = re.compile(pattern or r"(?P<line>.+)")
    except re.error as error:
        raise ToolkitError(f"--pattern {pattern} is not a regular expression: {error}") from error
    if not expression.groupindex:
        raise ToolkitError(f"--pattern {pattern} names no field: write a group as (?P<level>[A-Z]+)")

    def parse(line: bytes, types: Types) -> bytes:
        check_size(len(line))  # a longer line may miss its middle
        try:
            text = line.decode(encoding).strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"not {encoding} at byte {error.start}; --encoding names another one") from error
        found = expression.search(text)
        if not found:
            raise ValueError("does not match --pattern" if text else "no text")
        if not pattern:
            return encoder.encode({"line": text})
        return json_line(found.groupdict("").items(), types, time_format)

    return parse


def json_line(cells: Iterable[tuple[str, str]], types: Types, time_format: str = "") -> bytes:
    """Return named cells as a JSON object, without empty cells; times in `time_format` become ISO 8601.

    They are looked for in fields of timestamps and unknown ones, dates alone also in texts, because ISO 8601 dates are
    of the type text. A cell that looks like a number or a boolean becomes one, except in fields of text and timestamps.
    """
    if time_format:
        _, has_clock = _year_and_clock(time_format)
        tried = ("timestamp",) if has_clock else _TEXTS
        cells = [
            (name, in_iso_form(cell, time_format) if types.get(name, "timestamp") in tried else cell)
            for name, cell in cells
        ]
    return encoder.encode(
        {name: cell if types.get(name) in _TEXTS else _value(cell) for name, cell in cells if cell != ""}
    )


@lru_cache(maxsize=16_384)
def _value(cell: str) -> str | Raw:
    if _NUMBER.fullmatch(cell):
        return Raw((cell.replace(".", "0.", 1) if cell.lstrip("-")[0] == "." else cell).encode())  # JSON has no .5
    return Raw(cell.lower().encode()) if cell.lower() in ("true", "false") else cell


def check_time_format(form: str) -> None:
    """Raise ToolkitError if `form` is not a format of times for strptime; "" is ISO 8601."""
    try:
        written = datetime.now(UTC).strftime(form)
        datetime.strptime(written, form)
        if form and written == form:
            raise ValueError("it has no code for a time")
    except ValueError as error:
        hint = "write it in the codes of Python's strptime, such as '%d/%b/%Y:%H:%M:%S %z'"
        raise ToolkitError(f"--time-format {form}: {error}; {hint}") from error


@lru_cache
def _year_and_clock(form: str) -> tuple[bool, bool]:
    """Return whether a form of times has a year, and whether it has the time of day."""
    return bool(re.search("%[YyGcx]", form)), bool(re.search("%[HIcXs]", form))


@lru_cache(maxsize=16_384)
def _parsed(cell: str, form: str) -> datetime | None:
    """Parse a time of this form; None if the text is not one. Without a year in the form, the year is 2000."""
    has_year, _ = _year_and_clock(form)
    with suppress(ValueError):
        return datetime.strptime(cell if has_year else f"2000 {cell}", form if has_year else f"%Y {form}")
    return None


def in_iso_form(cell: str, form: str) -> str:
    """Return a time of this form in ISO 8601, and any other text as it is.

    Without a year in the form, the year is the latest that makes a time at most a day in the future.
    """
    at = _parsed(cell, form) if len(cell) <= MAX_TIME else None
    if at is None:
        return cell
    has_year, has_clock = _year_and_clock(form)
    if not has_year:
        latest = datetime.now() + timedelta(days=1)
        for year in range(latest.year, latest.year - 9, -1):  # 29 February may be up to eight years ago
            with suppress(ValueError):
                if (found := at.replace(year=year)).replace(tzinfo=None) <= latest:
                    at = found
                    break
    return at.isoformat() if has_clock else at.date().isoformat()
