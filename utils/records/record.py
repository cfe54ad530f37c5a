"""The message, batches of messages, and reading records that others wrote. No I/O, no SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from utils.records import sentiment

MAX_INT64 = 2**63 - 1
MAX_MESSAGE_BYTES = 256 * 1024

_Unit = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=0, le=MAX_INT64)]
_Ordinal = Annotated[int, Meta(ge=1, le=MAX_INT64)]
_Name = Annotated[str, Meta(min_length=1)]


class Message(msgspec.Struct, omit_defaults=True, gc=False):
    """One message; its fields are the columns and JSON names everywhere.

    `timestamp` is RFC 3339 UTC with milliseconds (`2026-11-23T19:04:05.123Z`); foreign data may
    hold other text. `sentiment` is in [0, 1]. `message_length` counts characters. `producer_id`
    and `sequence` (1, 2, 3 ... per producer) are absent in foreign data.
    """

    message: str
    author: str
    timestamp: str
    category: str
    sentiment: _Unit
    keyword_mentioned: str
    message_length: _Count
    producer_id: _Name | None = None
    sequence: _Ordinal | None = None


class _Record(msgspec.Struct):
    """What a foreign record may look like: only `message` is required, numbers may be text."""

    message: str
    author: str | None = None
    timestamp: str | None = None
    category: str | None = None
    sentiment: _Unit | None = None
    keyword_mentioned: str | None = None
    message_length: _Count | None = None
    producer_id: str | None = None
    sequence: _Ordinal | None = None


class Invalid(msgspec.Struct, frozen=True):
    """A record that cannot be read: `where` (part and place) and `reason`, both for people."""

    where: str
    reason: str


class Identity(msgspec.Struct):
    """Only what tells one message from another; decoding it skips the rest at C speed."""

    producer_id: str | None = None
    sequence: int | None = None


encoder = msgspec.json.Encoder()
_strict = msgspec.json.Decoder(Message)
_lenient = msgspec.json.Decoder(_Record, strict=False)


def _complete(record: _Record) -> Message:
    identified = record.producer_id and record.sequence is not None
    return Message(
        message=record.message,
        author=record.author or "Unknown",
        timestamp=record.timestamp or "",
        category=record.category or "",
        sentiment=sentiment.score(record.message) if record.sentiment is None else record.sentiment,
        keyword_mentioned=record.keyword_mentioned or "",
        message_length=len(record.message) if record.message_length is None else record.message_length,
        producer_id=record.producer_id if identified else None,
        sequence=record.sequence if identified else None,
    )


def decode_record(data: bytes | str) -> Message:
    """Message from one JSON object; fills what foreign records leave out. Raises ValueError with the reason."""
    try:
        try:
            message = _strict.decode(data)
        except msgspec.ValidationError:
            return _complete(_lenient.decode(data))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if (message.producer_id is None) != (message.sequence is None):
        message.producer_id = message.sequence = None
    return message


def decode_lines(data: bytes) -> list[Message]:
    """Messages from JSON lines that are all complete, at C speed. Raises ValueError if any line is not."""
    try:
        return _strict.decode_lines(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def from_mapping(record: Mapping[str, Any]) -> Message:
    """Message from any mapping with a text `message`. Raises ValueError with the reason."""
    return _complete(msgspec.convert({str(key): value for key, value in record.items()}, _Record, strict=False))


def decode_each(
    records: Iterable[tuple[str, Any]], decode: Callable[[Any], Message] = decode_record
) -> tuple[list[Message], list[Invalid]]:
    """One by one, what could not be decoded all at once: messages, and what is invalid; each comes with where it is."""
    messages, invalid = [], []
    for where, record in records:
        try:
            messages.append(decode(record))
        except ValueError as error:
            invalid.append(Invalid(where, str(error)))
    return messages, invalid


def without_ids(record: Mapping[str, Any]) -> tuple[Message, bytes]:
    """Message from any mapping, and its JSON line, outside all numbering. Raises ValueError with the reason."""
    message = from_mapping(record)
    message.producer_id = message.sequence = None
    return message, encode_lines([message])


def encode_lines(messages: Sequence[Message]) -> bytes:
    """JSON lines, each ending in a newline; refuses what some sink could never hold.

    Raises ValueError for a message over 256 KiB, a lone surrogate, an integer outside 64 bits or
    a number that is not finite.
    """
    for message in messages:
        if not 0.0 <= message.sentiment <= 1.0:
            raise ValueError(f"sentiment {message.sentiment!r} is not between 0 and 1")
        if not 0 <= message.message_length <= MAX_INT64:
            raise ValueError(f"message_length {message.message_length!r} is not a 64-bit count")
    try:
        lines = encoder.encode_lines(messages)
    except UnicodeEncodeError as error:
        raise ValueError(f"text that is not valid Unicode: {error.reason}") from error
    if len(lines) > MAX_MESSAGE_BYTES:
        longest = max(map(len, lines.split(b"\n")))
        if longest > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {longest} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return lines


def timestamp_text(epoch_s: float) -> str:
    """RFC 3339 UTC text with milliseconds."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def timestamp_epoch_s(text: str) -> float | None:
    """Seconds since 1970 of a timestamp; text without a zone is local time; None if it is no timestamp."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


class Batch:
    """Consecutive messages of one producer on their way from the journal to a sink.

    `first` and `last` are sequences, `lines` the messages as JSON lines. `messages` is decoded on
    demand and shared by all sinks: do not change them.
    """

    def __init__(self, producer_id: str, last: int, count: int, lines: bytes) -> None:
        self.producer_id = producer_id
        self.last = last
        self.count = count
        self.lines = lines

    @classmethod
    def of(cls, messages: list[Message]) -> Batch:
        """Batch of messages that carry consecutive sequences. Raises ValueError like `encode_lines`."""
        producer_id, last = messages[-1].producer_id, messages[-1].sequence
        assert producer_id is not None and last is not None
        batch = cls(producer_id, last, len(messages), encode_lines(messages))
        batch.messages = messages
        return batch

    @property
    def first(self) -> int:
        return self.last - self.count + 1

    @cached_property
    def messages(self) -> list[Message]:
        return decode_lines(self.lines)

    @cached_property
    def rows(self) -> list[tuple[Any, ...]]:
        """The messages as tuples in the order of the fields."""
        return list(map(msgspec.structs.astuple, self.messages))

    def between(self, first: int, last: int) -> Batch:
        """The part from sequence `first` to `last`, both included."""
        if first <= self.first and last >= self.last:
            return self
        first, last = max(first, self.first), min(last, self.last)
        part = slice(first - self.first, last - self.first + 1)
        lines = b"".join(self.lines.splitlines(keepends=True)[part])
        batch = Batch(self.producer_id, last, last - first + 1, lines)
        if "messages" in self.__dict__:
            batch.messages = self.messages[part]
        return batch

    @staticmethod
    def join(batches: Iterable[Batch]) -> Batch:
        """One batch of batches that follow each other."""
        parts = list(batches)
        if len(parts) == 1:
            return parts[0]
        joined = Batch(
            parts[0].producer_id,
            parts[-1].last,
            sum(part.count for part in parts),
            b"".join(part.lines for part in parts),
        )
        if all("messages" in part.__dict__ for part in parts):
            joined.messages = [message for part in parts for message in part.messages]
        return joined
