"""The records that producers make, lines of other programs, and batches of both. No I/O, no SQL."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter
from types import NoneType
from typing import Any

import msgspec

from utils.records.codec import Codec, encoder, object_decoder
from utils.records.external import (
    MAX_DEPTH,
    MAX_RECORD_BYTES,
    check_depth,
    check_size,
    id_members,
    stamp,
    timestamp_member,
)

_NEVER_NAN = {str, int, bool, NoneType}


class Record(msgspec.Struct, kw_only=True, gc=False):
    """Base of the records that a producer makes: subclass it with the fields of a stream.

    `timestamp` is RFC 3339 UTC with milliseconds (`2026-11-23T19:04:05.123Z`), set when the record is made
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


class Line(msgspec.Struct, gc=False):
    """A JSON object as another program wrote it.

    `timestamp` is for a line that has none: its event time, else the time of reading. `record` is what a reader of the
    line sees. `is_plain`: see `are_plain`.
    """

    line: bytes
    timestamp: str = ""
    record: Any = None
    is_plain: bool = False


def encode_records(records: Sequence[Any]) -> bytes:
    """JSON lines of records, each ending in a newline; a number that is not finite becomes null.

    Raises ValueError for what no sink could store.
    """
    try:
        lines = encoder.encode_lines(records)
    except UnicodeEncodeError as error:
        raise ValueError(f"text that is not valid Unicode: {error.reason}") from error
    except (OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if lines.count(b"\n") != len(records):  # JSON that a record brings is written as it is
        raise ValueError("JSON text that contains a line end")
    start = 0
    while start + MAX_RECORD_BYTES < len(lines):  # only then can a line be too long
        end = lines.rfind(b"\n", start, start + MAX_RECORD_BYTES + 1)
        if end < 0:
            check_size(lines.find(b"\n", start) - start)
        start = end + 1
    if lines.count(b"{") + lines.count(b"[") > len(records) + MAX_DEPTH:  # only then can a line be nested too deeply
        for line in lines.split(b"\n"):
            check_depth(line)
    return lines


def check_finite(records: Sequence[Any]) -> None:
    """Raise ValueError that names the field if a record that was made holds a number that is not finite."""
    for record in records:
        for name, value in zip(record.__struct_fields__, msgspec.structs.astuple(record), strict=True):
            if type(value) not in _NEVER_NAN and not is_finite(value):
                raise ValueError(f"{name} holds a number that is not finite")


def is_finite(value: object) -> bool:
    """Whether all numbers in a value are finite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return value is None or isinstance(value, str | int | msgspec.Raw) or is_finite(msgspec.to_builtins(value))


def without_ids(record: Mapping[str, Any]) -> bytes:
    """The JSON line of any mapping, with all its fields but ids. Raises ValueError for what no sink could store."""
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is a mapping of names to values, not {type(record).__name__}")
    plain = {str(name): value for name, value in record.items() if name not in ("producer_id", "sequence")}
    line = encode_records([plain])
    if not is_finite(plain):
        raise ValueError("a number is not finite")
    return line


Columns = Sequence[Sequence[Any]]


def columns_of_made(records: Sequence[Any], codec: Codec) -> list[Sequence[Any]] | None:
    """What `Codec.columns_of` gives for the lines of records that a producer made; None if only the lines show it."""
    kind: Any = type(records[0])
    config = kind.__struct_config__
    if config.omit_defaults or config.tag is not None or set(map(type, records)) != {kind}:
        return None
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    members = {name: list(map(attrgetter(attribute), records)) for name, attribute in names}
    ids = [members.pop(name, []) for name in ("producer_id", "sequence")]
    fields = codec.fitting(members, len(records))
    return None if fields is None else [*fields, [None] * len(records), *ids]


class Batch:
    """Consecutive records of one run on their way from the journal to a sink.

    `first` and `last` are sequences. `lines`, `records`, `columns` and `rows` are made on demand and shared by all
    sinks: do not change them.
    """

    def __init__(
        self,
        producer_id: str,
        last: int,
        count: int,
        lines: bytes | Callable[[], bytes],
        codec: Codec,
        *,
        columns: Columns | Callable[[], Columns] | None = None,
    ) -> None:
        """Lines and columns may be given as what makes them; without columns they are read from the lines."""
        self.producer_id = producer_id
        self.last = last
        self.count = count
        self.codec = codec
        self._lines = lines
        self._columns = columns

    @classmethod
    def of_records(cls, records: Sequence[Record], producer_id: str, first: int, codec: Codec) -> Batch:
        """Batch of records that a producer made; gives them their ids. Raises ValueError for what none can store."""
        for sequence, record in enumerate(records, first):
            record.producer_id, record.sequence = producer_id, sequence
        lines = encode_records(records)
        columns = columns_of_made(records, codec) if records else None
        if columns is None:
            of_lines = zip(records, lines.split(b"\n"), strict=False)  # a CR within a line is none of its ends
            check_finite([record for record, line in of_lines if b"null" in line])  # NaN has become null
        return cls(producer_id, first + len(records) - 1, len(records), lines, codec, columns=columns)

    @classmethod
    def of_lines(cls, lines: Sequence[Line], producer_id: str, first: int, codec: Codec) -> Batch:
        """Batch of lines of other programs. Raises ValueError like `stamp`."""
        last, records = first + len(lines) - 1, [each.record for each in lines]
        if {codec.type} != set(map(type, records)) or not all(map(attrgetter("is_plain"), lines)):
            stamped = [stamp(each.line, producer_id, first + n, each.timestamp) for n, each in enumerate(lines)]
            return cls(producer_id, last, len(lines), b"".join(stamped), codec)
        ids = id_members(producer_id)
        stamped = [
            b"%b,%b%d}\n"
            % (each.line[:-1], ids if each.record.timestamp else timestamp_member(each.timestamp) + ids, sequence)
            for sequence, each in enumerate(lines, first)
        ]
        columns = codec.columns_of(records)
        columns[codec.columns.index("timestamp")] = [each.record.timestamp or each.timestamp for each in lines]
        columns[-2:] = [producer_id] * len(lines), list(range(first, last + 1))
        return cls(producer_id, last, len(lines), b"".join(stamped), codec, columns=columns)

    @property
    def first(self) -> int:
        return self.last - self.count + 1

    @property
    def lines(self) -> bytes:
        """The records as JSON lines."""
        lines = self._lines
        if callable(lines):
            lines = self._lines = lines()
        return lines

    @cached_property
    def records(self) -> list[Any]:
        """The records as a reader of the lines sees them."""
        return self.codec.decode_lines(self.lines)

    @property
    def columns(self) -> Columns:
        """The values of the records, a sequence for each of the codec's columns."""
        columns = self._columns
        if columns is None:
            columns = self._columns = self.codec.columns_of(self.records)
        elif callable(columns):
            columns = self._columns = columns()
        return columns

    @cached_property
    def rows(self) -> list[tuple[Any, ...]]:
        """The records as tuples, in the order of the codec's columns."""
        return list(zip(*self.columns, strict=True))

    @property
    def kept(self) -> Counter[str]:
        """How often each field went to `extra`."""
        extras = self.columns[self.codec.columns.index("extra")]
        return Counter(name for extra in extras if extra is not None for name in object_decoder.decode(extra))

    def between(self, first: int, last: int) -> Batch:
        """The stretch from sequence `first` to `last`, both included."""
        if first <= self.first and last >= self.last:
            return self
        first, last = max(first, self.first), min(last, self.last)
        wanted = slice(first - self.first, last - self.first + 1)

        def lines() -> bytes:
            start = _behind(self.lines, first - self.first)
            end = len(self.lines) if last == self.last else _behind(self.lines, last - first + 1, start)
            return self.lines[start:end]

        def columns() -> Columns:
            return [column[wanted] for column in self.columns]

        known = columns if self._columns is not None else None
        return Batch(self.producer_id, last, last - first + 1, lines, self.codec, columns=known)

    @staticmethod
    def join(batches: Iterable[Batch]) -> Batch:
        """One batch of batches of one run that follow each other."""
        several = list(batches)
        if len(several) == 1:
            return several[0]
        first, last = several[0], several[-1]

        def lines() -> bytes:
            return b"".join(each.lines for each in several)

        def columns() -> Columns:
            parts = zip(*(each.columns for each in several), strict=True)
            return [list(chain.from_iterable(each)) for each in parts]

        known = columns if all(each._columns is not None for each in several) else None
        count = sum(each.count for each in several)
        return Batch(first.producer_id, last.last, count, lines, first.codec, columns=known)


def _behind(lines: bytes, count: int, start: int = 0) -> int:
    """The offset behind so many lines from `start` on; an object for each line would cost ten times as much."""
    for _ in range(count):
        start = lines.index(b"\n", start) + 1
    return start
