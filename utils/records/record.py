"""Records that producers make, lines that other programs wrote, and batches of both. No I/O, no SQL."""

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
    """Base class of the records that producers make. A subclass declares the fields of a stream.

    `timestamp` is RFC 3339 UTC with milliseconds (`2026-11-23T19:04:05.123Z`). If the producer leaves it empty, it
    is set to the present time. The journal assigns `producer_id` and `sequence`.
    """

    timestamp: str = ""
    producer_id: str | None = None
    sequence: int | None = None


class Message(Record, gc=False):
    """A message of the stream `buzz`. `sentiment` is in [0, 1]; `message_length` counts characters."""

    message: str
    author: str
    category: str
    sentiment: float
    keyword_mentioned: str
    message_length: int


class Invalid(msgspec.Struct, frozen=True):
    """A line that is not a valid record. `where` and `reason` are texts for the user; `line` is unchanged."""

    where: str
    reason: str
    line: bytes = b""


class Line(msgspec.Struct, gc=False):
    """A line with a JSON object that another program wrote.

    `timestamp` is appended to a line that has none: its event time, else the time of reading. `record` is the decoded
    line. `is_plain`: see `are_append_only`.
    """

    line: bytes
    timestamp: str = ""
    record: Any = None
    is_plain: bool = False


def encode_records(records: Sequence[Any]) -> bytes:
    """Encode records as JSON lines, each with a newline at its end. A number that is not finite becomes null.

    Raises ValueError if no sink could store one of the records.
    """
    try:
        lines = encoder.encode_lines(records)
    except UnicodeEncodeError as error:
        raise ValueError(f"text that is not valid Unicode: {error.reason}") from error
    except (OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if lines.count(b"\n") != len(records):  # the encoder does not check values of type Raw
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
    """Raise ValueError that names the field if a record has a number that is not finite."""
    for record in records:
        for name, value in zip(record.__struct_fields__, msgspec.structs.astuple(record), strict=True):
            if type(value) not in _NEVER_NAN and not is_finite(value):
                raise ValueError(f"{name} holds a number that is not finite")


def is_finite(value: object) -> bool:
    """Return whether all numbers in a value are finite, also those in nested values."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return value is None or isinstance(value, str | int | msgspec.Raw) or is_finite(msgspec.to_builtins(value))


def without_ids(record: Mapping[str, Any]) -> bytes:
    """Encode a mapping as a JSON line without its ids. Raises ValueError if no sink could store the record."""
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is a mapping of names to values, not {type(record).__name__}")
    plain = {str(name): value for name, value in record.items() if name not in ("producer_id", "sequence")}
    line = encode_records([plain])
    if not is_finite(plain):
        raise ValueError("a number is not finite")
    return line


Columns = Sequence[Sequence[Any]]


def columns_of_made(records: Sequence[Any], codec: Codec) -> list[Sequence[Any]] | None:
    """Compute `Codec.columns_of` of the records' lines without decoding them; None if that is not possible."""
    kind: Any = type(records[0])
    config = kind.__struct_config__
    if config.omit_defaults or config.tag is not None or set(map(type, records)) != {kind}:
        return None
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    members = {name: list(map(attrgetter(attribute), records)) for name, attribute in names}
    ids = [members.pop(name, []) for name in ("producer_id", "sequence")]
    fields = codec.fitting_columns(members, len(records))
    return None if fields is None else [*fields, [None] * len(records), *ids]


class Batch:
    """Consecutive records of one run, which the journal hands to the emitters.

    `first` and `last` are sequences. `lines`, `records`, `columns` and `rows` are computed on demand and shared by the
    threads of all sinks, which must not change them.
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
        """Take lines and columns, or functions that return them. Without columns the lines are decoded on demand."""
        self.producer_id = producer_id
        self.last = last
        self.count = count
        self.codec = codec
        self._lines = lines
        self._columns = columns

    @classmethod
    def of_records(cls, records: Sequence[Record], producer_id: str, first: int, codec: Codec) -> Batch:
        """Make a batch of a producer's records and set their ids. Raises ValueError if no sink could store one."""
        for sequence, record in enumerate(records, first):
            record.producer_id, record.sequence = producer_id, sequence
        lines = encode_records(records)
        columns = columns_of_made(records, codec) if records else None
        if columns is None and b"null" in lines:  # NaN has become null
            check_finite(records)
        return cls(producer_id, first + len(records) - 1, len(records), lines, codec, columns=columns)

    @classmethod
    def of_lines(cls, lines: Sequence[Line], producer_id: str, first: int, codec: Codec) -> Batch:
        """Make a batch of lines of other programs. Raises ValueError like `stamp`."""
        last, records = first + len(lines) - 1, [each.record for each in lines]
        if {codec.type} != set(map(type, records)) or not all(map(attrgetter("is_plain"), lines)):
            stamped = [stamp(each.line, producer_id, first + n, each.timestamp) for n, each in enumerate(lines)]
            return cls(producer_id, last, len(lines), b"".join(stamped), codec)
        ids = id_members(producer_id)  # what `stamp` would append, in place of the last bracket of each line
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
        """The decoded lines."""
        return self.codec.decode_lines(self.lines)

    @property
    def columns(self) -> Columns:
        """The values of the records, one sequence for each column of the codec."""
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
    def extra_counts(self) -> Counter[str]:
        """The number of records in which a field is in `extra`, by field name."""
        extras = self.columns[self.codec.columns.index("extra")]
        return Counter(name for extra in extras if extra is not None for name in object_decoder.decode(extra))

    def between(self, first: int, last: int) -> Batch:
        """Return the part of the batch from sequence `first` to `last`, both included."""
        if first <= self.first and last >= self.last:
            return self
        first, last = max(first, self.first), min(last, self.last)
        wanted = slice(first - self.first, last - self.first + 1)

        def lines() -> bytes:
            start = _skip_lines(self.lines, first - self.first)
            return self.lines[start : _skip_lines(self.lines, last - first + 1, start)]

        def columns() -> Columns:
            return [column[wanted] for column in self.columns]

        known = columns if self._columns is not None else None
        return Batch(self.producer_id, last, last - first + 1, lines, self.codec, columns=known)

    @staticmethod
    def join(batches: Iterable[Batch]) -> Batch:
        """Return one batch of several consecutive batches of a run."""
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


def _skip_lines(lines: bytes, count: int, start: int = 0) -> int:
    """Return the offset after `count` lines from `start`. To split the lines would take ten times as long."""
    for _ in range(count):
        start = lines.index(b"\n", start) + 1
    return start
