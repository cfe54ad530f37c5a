"""The records that producers make, lines of other programs, and batches of both. No I/O, no SQL."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from operator import attrgetter
from typing import Any, get_type_hints

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

from utils.records.codec import Codec, encoder, kept_fields
from utils.records.made import columns_of_made
from utils.records.row_types import NONE

MAX_RECORD_BYTES = 256 * 1024
MAX_DEPTH = 100


class Record(msgspec.Struct, kw_only=True, gc=False):
    """Base of the records that a producer makes: subclass it with the fields of a stream.

    `timestamp` is RFC 3339 UTC with milliseconds (`2026-11-23T19:04:05.123Z`), set when the record is acknowledged
    unless the producer has set it. `producer_id` and `sequence` are assigned by the journal.
    """

    timestamp: str = ""
    producer_id: str | None = None
    sequence: int | None = None


class Message(Record, gc=False):
    """One message of the stream `buzz`. `sentiment` is in [0, 1]; `message_length` counts characters."""

    message: str
    author: str
    category: str
    sentiment: float
    keyword_mentioned: str
    message_length: int


class Invalid(msgspec.Struct, frozen=True):
    """A record that cannot be read: `where` (partition and place) and `reason`, both for people; `line` as it came."""

    where: str
    reason: str
    line: bytes = b""


class Line(msgspec.Struct):
    """A JSON object as another program wrote it, and its event time if it is known."""

    line: bytes
    timestamp: str = ""


class _Peek(msgspec.Struct, gc=False):
    """The members of an external record whose names are ours; decoding it skips the rest at C speed."""

    timestamp: Raw = NONE
    producer_id: Raw = NONE
    sequence: Raw = NONE


_PLACE = re.compile(r"\(byte (\d+)\)")
_NOT_FINITE = re.compile(rb"NaN|-?Inf")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")

_peek = Decoder(_Peek)
_object = Decoder(dict[str, Raw])


def encode_records(records: Sequence[Record]) -> bytes:
    """JSON lines of records, each ending in a newline. Raises ValueError for what no sink could store."""
    try:
        lines = encoder.encode_lines(records)
    except UnicodeEncodeError as error:
        raise ValueError(f"text that is not valid Unicode: {error.reason}") from error
    except (OverflowError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    numbers, others = _checked_fields(type(records[0]))
    for name in numbers:
        column = list(map(attrgetter(name), records))
        try:
            finite = all(map(math.isfinite, filter(None, column)))
        except TypeError:  # not what its class declares; it will be in `extra`
            finite = all(map(_finite, column))
        if not finite:
            raise ValueError(f"{name} is not a finite number")
    for name in others:
        if not all(map(_finite, map(attrgetter(name), records))):
            raise ValueError(f"{name} holds a number that is not finite")
    start = 0
    while start + MAX_RECORD_BYTES < len(lines):  # only then can a line be too long
        end = lines.rfind(b"\n", start, start + MAX_RECORD_BYTES + 1)
        if end < 0:
            _check_size(lines.find(b"\n", start) - start)
        start = end + 1
    return lines


@cache
def _checked_fields(kind: type[Record]) -> tuple[list[str], list[str]]:
    """The fields of a class that may hold numbers that are not finite: numbers, and whatever else is no simple type."""
    hints = get_type_hints(kind)
    numbers = [name for name in kind.__struct_fields__ if hints[name] in (float, float | None, int, int | None)]
    simple = (float, float | None, str, int, bool, str | None, int | None, bool | None)
    return numbers, [name for name in kind.__struct_fields__ if hints[name] not in simple]


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return value is None or isinstance(value, str | int) or _finite(msgspec.to_builtins(value))


def _check_size(size: int) -> None:
    if size > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {size} bytes is over the limit of {MAX_RECORD_BYTES}")


def stamp(line: bytes, producer_id: str, sequence: int, timestamp: str) -> bytes:
    """The line of another program as it came, with what is missing appended, and a newline.

    `timestamp` is appended where the record has none. Its own `producer_id` and `sequence` become
    `source_producer_id` and `source_sequence`. Raises ValueError with the reason for what no sink could store.
    """
    line = line.strip()
    _check_size(len(line))
    if line[:1] != b"{":
        raise ValueError("not a JSON object")
    try:
        if b"\n" in line or b"\r" in line:  # pretty: its white space goes, digits and escapes stay
            line = msgspec.json.format(line, indent=-1)
        if line.count(b"{") + line.count(b"[") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
            raise ValueError("nested too deeply")
        seen = _peek.decode(line)
        line.decode()  # what is not decoded is not checked for UTF-8
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid UTF-8 at byte {error.start}") from error
    except msgspec.DecodeError as error:
        raise ValueError(_reason(error, line)) from error
    if seen.producer_id is not NONE or seen.sequence is not NONE or bytes(seen.timestamp) == b"null":
        members = _object.decode(line)  # rare: names that are ours
        for name in ("producer_id", "sequence"):
            _move(members, name)
        if bytes(seen.timestamp) == b"null":
            del members["timestamp"]
            seen.timestamp = NONE
        line = b"{" + b",".join(encoder.encode(name) + b":" + bytes(raw) for name, raw in members.items()) + b"}"
    comma = b"" if line[1:].lstrip() == b"}" else b","
    event = b'"timestamp":"%b",' % timestamp.encode() if seen.timestamp is NONE else b""
    ids = b'"producer_id":"%b","sequence":%d}\n' % (producer_id.encode(), sequence)
    return line[:-1].rstrip() + comma + event + ids


def _move(members: dict[str, Raw], name: str) -> None:
    """Give a member its name as a source's; one that has this name already came from farther and moves as well."""
    if name in members:
        _move(members, f"source_{name}")
        members[f"source_{name}"] = members.pop(name)


def _reason(error: msgspec.DecodeError, line: bytes) -> str:
    """Why a line is no JSON, in the words of its author: the decoder names a byte only."""
    reason = str(error)
    place = _PLACE.search(reason)
    if place and _NOT_FINITE.match(line, int(place[1])):
        return f"NaN or Infinity (byte {place[1]})"
    if "surrogate" in reason or _LONE_SURROGATE.search(line):
        return "a lone surrogate in a text"
    return reason


def _depth(line: bytes) -> int:
    """How deeply the arrays and objects of a line are nested."""
    depth = deepest = 0
    in_text = escaped = False
    for each in line:
        if escaped:
            escaped = False
        elif in_text:
            escaped, in_text = each == 0x5C, each != 0x22
        elif each == 0x22:
            in_text = True
        elif each in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif each in b"}]":
            depth -= 1
    return deepest


def without_ids(record: Mapping[str, Any]) -> bytes:
    """The JSON line of any mapping, with all its fields but ids. Raises ValueError for what no sink could store."""
    plain = {str(name): value for name, value in record.items() if name not in ("producer_id", "sequence")}
    try:
        line = encoder.encode(plain)
    except (TypeError, OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not _finite(plain):
        raise ValueError("a number is not finite")
    _check_size(len(line))
    return line + b"\n"


class Batch:
    """Consecutive records of one run on their way from the journal to a sink.

    `first` and `last` are sequences, `lines` the records as JSON lines. `records`, `columns` and `rows` are made on
    demand and shared by all sinks: do not change them.
    """

    def __init__(self, producer_id: str, last: int, count: int, lines: bytes, codec: Codec) -> None:
        self.producer_id = producer_id
        self.last = last
        self.count = count
        self.lines = lines
        self.codec = codec

    @classmethod
    def of_records(cls, records: Sequence[Record], producer_id: str, first: int, codec: Codec) -> Batch:
        """Batch of records that a producer made; gives them their ids. Raises ValueError like `encode_records`."""
        for sequence, record in enumerate(records, first):
            record.producer_id, record.sequence = producer_id, sequence
        batch = cls(producer_id, first + len(records) - 1, len(records), encode_records(records), codec)
        if columns := columns_of_made(records, codec):
            batch.columns = columns
        return batch

    @classmethod
    def of_lines(cls, lines: Sequence[Line], producer_id: str, first: int, codec: Codec) -> Batch:
        """Batch of lines of other programs. Raises ValueError like `stamp`."""
        stamped = [stamp(each.line, producer_id, first + n, each.timestamp) for n, each in enumerate(lines)]
        return cls(producer_id, first + len(stamped) - 1, len(stamped), b"".join(stamped), codec)

    @property
    def first(self) -> int:
        return self.last - self.count + 1

    @cached_property
    def records(self) -> list[Any]:
        """The records as a reader of the lines sees them."""
        return self.codec.decode_lines(self.lines, trusted=True)

    @cached_property
    def columns(self) -> list[Sequence[Any]]:
        """The values of the records, a sequence for each of the codec's columns."""
        return self.codec.columns_of(self.records)

    @cached_property
    def rows(self) -> list[tuple[Any, ...]]:
        """The records as tuples, in the order of the codec's columns."""
        return list(zip(*self.columns, strict=True))

    @property
    def kept(self) -> Counter[str]:
        """How often each field went to `extra`."""
        return kept_fields(self.columns[self.codec.columns.index("extra")] if self.count else ())

    def between(self, first: int, last: int) -> Batch:
        """The stretch from sequence `first` to `last`, both included."""
        if first <= self.first and last >= self.last:
            return self
        first, last = max(first, self.first), min(last, self.last)
        wanted = slice(first - self.first, last - self.first + 1)
        lines = b"".join(self.lines.splitlines(keepends=True)[wanted])
        batch = Batch(self.producer_id, last, last - first + 1, lines, self.codec)
        if "columns" in self.__dict__:
            batch.columns = [column[wanted] for column in self.columns]
        return batch

    @staticmethod
    def join(batches: Iterable[Batch]) -> Batch:
        """One batch of batches of one run that follow each other."""
        several = list(batches)
        if len(several) == 1:
            return several[0]
        first, last = several[0], several[-1]
        lines = b"".join(each.lines for each in several)
        joined = Batch(first.producer_id, last.last, sum(each.count for each in several), lines, first.codec)
        if all("columns" in each.__dict__ for each in several):
            parts = zip(*(each.columns for each in several), strict=True)
            joined.columns = [list(chain.from_iterable(each)) for each in parts]
        return joined
