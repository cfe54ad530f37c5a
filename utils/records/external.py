"""Lines of other programs: checks, and `stamp`, which appends ids and leaves the other bytes as they are."""

import re
from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

from utils.records.codec import ABSENT, ProducerId, SequenceNumber, encoder, object_decoder

MAX_RECORD_BYTES = 256 * 1024
MAX_DEPTH = 100


class _Peek(msgspec.Struct, gc=False):
    """The members of an external record whose names the toolkit uses. The decoder skips all others at C speed."""

    timestamp: Raw = ABSENT
    producer_id: Raw = ABSENT
    sequence: Raw = ABSENT


_BYTE = re.compile(r"\(byte (\d+)\)")
_NOT_FINITE = re.compile(rb"NaN|-?Inf")
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")

_NO_BRACKETS = bytes(each for each in range(256) if each not in b"{[")

_peek = Decoder(_Peek)


def check_size(size: int) -> None:
    """Raise ValueError if a record of `size` bytes is too long."""
    if size > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {size} bytes is over the limit of {MAX_RECORD_BYTES}")


def check_depth(line: bytes) -> None:
    """Raise ValueError if arrays and objects of a JSON line are nested more than MAX_DEPTH deep."""
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH:
        brackets = _TEXT.sub(b"", line)
        if max(accumulate((each in b"{[") - (each in b"}]") for each in brackets)) > MAX_DEPTH:
            raise ValueError("nested too deeply")


def are_within_limits(lines: Sequence[bytes], *, are_flat: bool) -> bool:
    """Return whether no line is too long or may be nested too deeply. `are_flat`: the lines have no nested values."""
    if max(map(len, lines), default=0) > MAX_RECORD_BYTES:
        return False
    return are_flat or all(len(line.translate(None, delete=_NO_BRACKETS)) <= MAX_DEPTH for line in lines)


def are_append_only(lines: Sequence[bytes], records: Sequence[Any]) -> bool:
    """Return whether `stamp` would only append to each line. `Codec.decode_strictly` made `records` of the lines."""
    # Not if a line has ids, is an empty object, or has white space before its last bracket.
    if any(map(attrgetter("sequence"), records)) or {line[-2:-1] for line in lines} & {b" ", b"\t", b"{"}:
        return False
    data = b"".join(lines)
    if b"\n" in data or b"\r" in data:
        return False
    # A timestamp that is None in a record may be null in its line. Letters of its name may be escaped there.
    may_be_null = any(each in data for each in (b'"timestamp"', rb"\u006", rb"\u007"))
    return not may_be_null or all(map(attrgetter("timestamp"), records))


def stamp(line: bytes, producer_id: str, sequence: int, timestamp: str) -> bytes:
    """Append ids, a newline and, if the record has none, `timestamp` to the line of another program.

    An empty `timestamp` is not appended. The record's own `producer_id` and `sequence` are renamed to
    `source_producer_id` and `source_sequence`. Raises ValueError with the reason if no sink could store the record.
    """
    line = line.strip()
    check_size(len(line))
    if line[:1] != b"{":
        raise ValueError("not a JSON object")
    try:
        if b"\n" in line or b"\r" in line:  # indented JSON: remove white space, keep digits and escapes
            line = msgspec.json.format(line, indent=-1)
        check_depth(line)
        seen = _peek.decode(line)
        line.decode()  # the decoder does not check the UTF-8 of Raw and skipped values
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid UTF-8 at byte {error.start}") from error
    except msgspec.DecodeError as error:
        raise ValueError(reason_of(error, line)) from error
    if seen.producer_id is not ABSENT or seen.sequence is not ABSENT or bytes(seen.timestamp) == b"null":
        members = object_decoder.decode(line)
        for name in ("producer_id", "sequence"):
            _rename_to_source(members, name)
        if bytes(seen.timestamp) == b"null":
            del members["timestamp"]
            seen.timestamp = ABSENT
        line = b"{" + b",".join(encoder.encode(name) + b":" + bytes(raw) for name, raw in members.items()) + b"}"
    comma = b"" if line[1:].lstrip() == b"}" else b","
    event = timestamp_member(timestamp) if timestamp and seen.timestamp is ABSENT else b""
    return b"%b%b%b%b%d}\n" % (line[:-1].rstrip(), comma, event, id_members(producer_id), sequence)


def timestamp_member(timestamp: str) -> bytes:
    """Return the member to append to a line without a timestamp, before `id_members`."""
    return b'"timestamp":"%b",' % timestamp.encode()


def id_members(producer_id: str) -> bytes:
    """Return the members to append to a line, up to the value of the sequence."""
    return b'"producer_id":"%b","sequence":' % producer_id.encode()


def _rename_to_source(members: dict[str, Raw], name: str) -> None:
    """Rename a member to `source_<name>`. A member that already has this name becomes `source_source_<name>`."""
    if name in members:
        _rename_to_source(members, f"source_{name}")
        members[f"source_{name}"] = members.pop(name)


def reason_of(error: Exception, line: bytes) -> str:
    """Return why a text is not valid JSON. It names the two common causes, for which the decoder names only a byte."""
    reason = str(error)
    byte = _BYTE.search(reason)
    if byte and _NOT_FINITE.match(line, int(byte[1])):
        return f"NaN or Infinity (byte {byte[1]})"
    if "surrogate" in reason or _LONE_SURROGATE.search(line):
        return "a lone surrogate in a text"
    return reason


class _Identity(msgspec.Struct):
    """The ids of a record. The decoder skips all other members."""

    producer_id: ProducerId
    sequence: SequenceNumber


_identity = Decoder(_Identity)


def identity_of(line: bytes) -> tuple[str, int] | None:
    """Return producer_id and sequence of a line; None if it has no ids, is partial or is not a JSON object."""
    try:
        found = _identity.decode(line)
    except (ValueError, RecursionError):
        return None
    return found.producer_id, found.sequence
