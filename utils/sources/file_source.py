"""Source of a JSON lines file that other processes append to, truncate, rotate or replace.

A line is read once it has its newline; no partial line is kept between polls. The file stays open, so that after a
rotation by rename its rest is read before the new file. A position is `offset:length:crc` of the last bytes that were
handled. If they are no longer there (rotated, truncated, rebuilt), the partition begins again. A run of zero bytes,
as a power cut or logrotate's copytruncate leaves it, ends a line and is skipped.
"""

import os
import re
import stat
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients.line_file import BLANK, HOLE, MAX_LINE_BYTES, last_line, read_at
from utils.records.codec import Codec
from utils.records.record import Invalid
from utils.records.stream import Stream
from utils.sources.base import Chunk, Resume, decode_all

FINGERPRINT_BYTES = 256
_MAX_OFFSET = 1 << 62
_HEAD_BYTES = 256
_ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")


class _Page(NamedTuple):
    """A part of the file, from `offset` on. A line without an end in a page that `is_full` is too long."""

    offset: int
    before: bytes  # the bytes before the offset, which were handled
    data: bytes
    lines: bytes  # the data up to where a process is writing; each run of zeros in them is blank and ends a line
    is_full: bool

    def position_after(self, size: int) -> str:
        """Return the position after the first `size` bytes of the data."""
        return _position(self.offset + size, self.before + self.data[:size])


class FileSource:
    """Source of one file, which is one partition with the file's name.

    With `finished`, a last line without its newline is read too.
    """

    name = "file"

    def __init__(self, path: Path, codec: Codec, resume: Resume, *, finished: bool = False) -> None:
        self._path, self._codec, self._resume, self._finished = path, codec, resume, finished
        self.detail = str(path)
        self._file: FileIO | None = None
        self._position: str | None = None  # what `resume` returned, or the end of the last chunk
        self._counted: str | None = None  # the position before an unfinished line that was reported as invalid

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next records. See Source."""
        if self._position is None:
            self._position = self._resume(self._path.name)
        try:
            if self._position == "end" and not self._path.exists():
                return self._restart()  # the consumer stores this start, so that all of a later file is new
            file = self._file = self._file or self._open()
            if self._position == "end":
                return self._go_to_end(file)
            is_replaced = self._is_replaced(file)
            chunk = self._read(file, max_records, is_replaced)
            if chunk is None and is_replaced:
                self.close()
                return self._restart()
            return chunk
        except OSError as error:
            self.close()
            raise Unavailable(f"{self._path} cannot be read: {error}") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> FileIO:
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise ToolkitError(f"{self._path} is not a file; give the path of a JSON lines file")
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise Absent(f"{self._path} does not exist yet") from error
        except PermissionError as error:
            raise ToolkitError(f"{self._path} may not be read by this user; change its permissions") from error
        head, other = file.read(_HEAD_BYTES), ""
        if head.startswith(b"\x1f\x8b"):
            other = "is compressed by gzip: unpack it first"
        elif head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            other = "is UTF-16 text: save it as UTF-8"
        elif self._path.suffix == ".json" and _ARRAY.match(head):
            other = "is a JSON array, not JSON lines: feed it to a stream with producers.feed_producer"
        if other:
            file.close()
            raise ToolkitError(f"{self._path} {other}")
        return file

    def _is_replaced(self, file: FileIO) -> bool:
        """Return whether the path now names another file. While it names none, the old file may still grow."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _chunk(self, end: str, records: list[Any], invalid: list[Invalid]) -> Chunk:
        start, self._position = self._position, end
        assert start is not None
        return Chunk(self._path.name, start, end, records, invalid)

    def _restart(self) -> Chunk:
        """Return a chunk which reports that the file is read from its beginning."""
        self._counted = None
        return self._chunk("", [], [])

    def _go_to_end(self, file: FileIO) -> Chunk:
        """Return a chunk whose end is the position after the last newline."""
        offset, _ = last_line(file.fileno())
        start = max(0, offset - FINGERPRINT_BYTES)
        return self._chunk(_position(offset, read_at(file.fileno(), start, offset - start)), [], [])

    def _read(self, file: FileIO, max_records: int, is_replaced: bool) -> Chunk | None:
        """Return the next complete lines, or the report about a line that is too long or unfinished, if any."""
        offset, length, crc = parse_position(self._position or "")
        page = _read_page(file, offset, length, may_grow=not is_replaced)
        if (len(page.before), crc32(page.before)) != (length, crc):
            return self._restart()
        lines, size = page.lines, page.lines.rfind(b"\n") + 1  # size of the complete lines
        is_rest = page.before[-1:] not in b"\n\0"  # of a line that is too long, or was read without its newline
        if lines and (is_rest or (size == 0 and page.is_full)):
            return self._reject_part(page)
        if size == 0:
            return self._read_unfinished(page, is_replaced)
        if lines.count(b"\n", 0, size) > max_records:
            size -= len(lines[:size].split(b"\n", max_records)[-1])
        return self._chunk(page.position_after(size), *self._decode(lines[:size], offset))

    def _reject_part(self, page: _Page) -> Chunk:
        """Return a chunk that reports the part of a line at the beginning of the page as invalid."""
        part = page.data[: page.lines.find(b"\n") + 1 or len(page.lines)]
        where, reason = f"{self._path.name} byte {page.offset}", "part of a line that is too long, or was read in part"
        kept = part.rstrip(b"\r\n\0")
        return self._chunk(page.position_after(len(part)), [], [Invalid(where, reason, kept)] if kept else [])

    def _decode(self, lines: bytes, offset: int) -> tuple[list[Any], list[Invalid]]:
        text = lines.removeprefix(BOM_UTF8) if offset == 0 else lines
        with suppress(ValueError):
            return self._codec.decode_lines(text), []
        found: dict[str, bytes] = {}
        offset += len(lines) - len(text)
        for line in text.split(b"\n"):
            if stripped := line.strip(BLANK):
                found[f"{self._path.name} byte {offset}"] = stripped
            offset += len(line) + 1
        return decode_all(self._codec, list(found.values()), found)

    def _read_unfinished(self, page: _Page, is_replaced: bool) -> Chunk | None:
        """Return a last line without its newline if no process will complete it, else None."""
        line = page.lines
        if not line.strip(BLANK) or not (is_replaced or self._finished):
            return None
        records, invalid = self._decode(line, page.offset)
        if invalid and b"\r" in line.strip():
            invalid = [Invalid(invalid[0].where, "lines end in CR alone: save the file with LF or CRLF")]
        if is_replaced or not invalid:
            return self._chunk(page.position_after(len(line)), records, invalid)
        if self._counted == self._position:
            return None
        self._counted = self._position  # it is read again next time, as its other half may be on the way
        return self._chunk(self._position or "", records, invalid)


def _read_page(file: FileIO, offset: int, length: int, *, may_grow: bool) -> _Page:
    """Read a page with `length` bytes before the offset, or fewer if the file has become shorter."""
    size = os.fstat(file.fileno()).st_size
    # Zeros at the end are where a process is writing, also if it has extended the file in advance.
    is_open = may_grow and read_at(file.fileno(), max(0, size - 1), 1) == b"\0"
    file.seek(offset - length)
    found = file.read(min(length + MAX_LINE_BYTES + 1, max(0, size + length - offset)))
    before, data = found[:length], found[length:]
    is_full = len(data) > MAX_LINE_BYTES and not (is_open and data.endswith(b"\0"))
    lines = data if is_full else data.rstrip(b"\0")
    if b"\0" in lines:
        lines = HOLE.sub(lambda hole: b" " * (len(hole[0]) - 1) + b"\n", lines)
    return _Page(offset, before, data, lines, is_full)


def _position(offset: int, before: bytes) -> str:
    """Return the position after the bytes `before`, which end at `offset`."""
    last = before[-FINGERPRINT_BYTES:]
    return f"{offset}:{len(last)}:{crc32(last)}" if offset else ""


def parse_position(position: str) -> tuple[int, int, int]:
    """Return the offset of a position, and length and checksum of the bytes before it; checksum -1 if it is invalid."""
    try:
        offset, length, crc = map(int, position.split(":"))
    except ValueError:
        return 0, 0, -1 if position else 0
    return (offset, length, crc) if 0 < length <= offset <= _MAX_OFFSET else (0, 0, -1)


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> FileSource:
    """Make the source of the sink `file`. See Sink."""
    return FileSource(settings.file_path(stream.name), stream.codec, resume, finished=finished)
