"""Reads JSON lines files while others append to them, truncate, rotate or replace them.

A line is read when its newline has come; nothing partial is kept between polls (rule 15). The open
file is kept: after a rotation by rename its rest is read before the new file begins. A position is
`offset:length:crc` of the last bytes that were handled; where they are not found again (rotated, truncated,
rebuilt) the partition begins again. A `.json` file that is one array of objects is read as a whole; its
positions are `[count:0:crc`.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.records.codec import Codec
from utils.records.record import Invalid
from utils.sources.base import Chunk, Resume, decode_each

MAX_LINE_BYTES = 1024 * 1024
MAX_OFFSET = 1 << 62
_BYTES_PER_RECORD = 300
_MIN_READ_BYTES = 64 * 1024
_FINGERPRINT_BYTES = 256
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n\0"  # a power cut may leave zeros

_array = msgspec.json.Decoder(list[msgspec.Raw])


class FileSource:
    """Reads one or more files, each a partition named after its file (its path where names repeat).

    Files that exist are read while others do not exist yet; if none does, polling raises Unavailable.
    A file is read to its end before the next one, so rotated files can be given oldest first. With
    `finished` a last line that lacks only its newline is read too, and an array must be complete.
    """

    name = "file"

    def __init__(self, paths: Sequence[Path], codec: Codec, resume: Resume, *, finished: bool = False) -> None:
        names = [path.name for path in paths]
        self._partitions = [
            _Partition(path, path.name if names.count(path.name) == 1 else str(path), codec, resume, finished)
            for path in paths
        ]
        self._current = 0
        self.detail = ", ".join(map(str, paths))

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of the present file, or of the next one that has any. See Source."""
        missing: list[Unavailable] = []
        for _ in self._partitions:
            try:
                chunk = self._partitions[self._current].poll(max_records)
            except Unavailable as error:
                missing.append(error)
            else:
                if chunk is not None:
                    return chunk
            self._current = (self._current + 1) % len(self._partitions)
        if len(missing) == len(self._partitions):
            raise missing[0]
        return None

    def close(self) -> None:
        for partition in self._partitions:
            partition.close()


class _Partition:
    """One file: the open handle, and the place after the last handled byte."""

    def __init__(self, path: Path, name: str, codec: Codec, resume: Resume, finished: bool) -> None:
        self._path, self._name, self._codec, self._resume, self._finished = path, name, codec, resume, finished
        self._file: FileIO | None = None
        self._position: str | None = None  # as it was given to or by the loop
        self._seek("")

    def poll(self, max_records: int) -> Chunk | None:
        if self._position is None:
            self._position = self._resume(self._name)
            self._seek(self._position)
        try:
            if self._position == "end" and not self._path.exists():
                return self._moved("")  # stored: whatever appears later is new
            file = self._file = self._file or self._open()
            if self._offset < 0:
                return self._go_to_end(file)
            replaced = self._was_replaced(file)
            if self._is_array(file):
                chunk = self._read_array(file, max_records, replaced)
            else:
                chunk = self._read_lines(file, max_records, replaced)
            if chunk is None and replaced:
                if self._position and not self._in_array:
                    return self._leave([], [])
                self.close()
                return self.poll(max_records)
            return chunk
        except OSError as error:
            self.close()
            raise Unavailable(f"{self._path} cannot be read: {error}") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._loaded = (-1, -1)

    def _open(self) -> FileIO:
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise ToolkitError(f"{self._path} is not a file; give the path of a JSON lines file")
            return self._path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise Absent(f"{self._path} does not exist yet") from error
        except PermissionError as error:
            raise ToolkitError(f"{self._path} may not be read by this user; change its permissions") from error

    def _was_replaced(self, file: FileIO) -> bool:
        """Whether the path names another file by now; while it names none, more may come into the old one."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _seek(self, position: str) -> None:
        """Take a stored position; one that cannot be understood never matches, so the partition begins again."""
        self._items: list[msgspec.Raw] = []  # of an array, while they are handed out
        self._loaded = (-1, -1)  # size and time of the array file when it was loaded
        self._counted = -1  # offset of the unfinished line that was counted as invalid
        self._in_array = position.startswith("[")
        self._offset = -1 if position == "end" else 0
        self._length, self._crc = 0, -1 if position else 0
        try:
            numbers = [int(number) for number in position.removeprefix("[").split(":")]
        except ValueError:
            return
        # Without a fingerprint (length 0) nothing would be compared.
        compared = self._in_array or numbers[:2] == [0, 0] or min(numbers[:2]) > 0
        if len(numbers) == 3 and 0 <= numbers[1] <= numbers[0] <= MAX_OFFSET and compared:
            self._offset, self._length, self._crc = numbers

    def _chunk(self, end: str, records: list[Any], invalid: list[Invalid]) -> Chunk:
        start, self._position = self._position, end
        assert start is not None
        return Chunk(self._name, start, end, records, invalid)

    def _moved(self, end: str) -> Chunk:
        self._seek(end)
        return self._chunk(end, [], [])

    def _leave(self, records: list[Any], invalid: list[Invalid]) -> Chunk:
        """The last of a file that was replaced; next the new one is opened."""
        self.close()
        self._seek("")
        return self._chunk("", records, invalid)

    def _advance(self, before: bytes, records: list[Any], invalid: list[Invalid]) -> Chunk:
        """The chunk that ends at the present offset; `before` are at least the last bytes before it."""
        last = before[-_FINGERPRINT_BYTES:]
        self._length, self._crc = len(last), crc32(last)
        return self._chunk(f"{self._offset}:{self._length}:{self._crc}", records, invalid)

    def _go_to_end(self, file: FileIO) -> Chunk:
        """Only what comes from now on: after the last newline, or after the last item of an array."""
        self._offset = 0
        if self._is_array(file) and (items := self._load(file)) is not None:
            return self._moved(f"[{len(items)}:0:{crc32(items[-1])}" if items else "")
        offset = os.fstat(file.fileno()).st_size
        while offset > 0:
            begin = max(0, offset - MAX_LINE_BYTES)
            file.seek(begin)
            data = file.read(offset - begin)
            end = data.rfind(b"\n") + 1
            if end > 0:
                self._offset = begin + end
                return self._advance(data[:end], [], [])
            offset = begin
        return self._moved("")

    # Lines

    def _read_lines(self, file: FileIO, max_records: int, replaced: bool) -> Chunk | None:
        if self._in_array and os.fstat(file.fileno()).st_size == 0:
            return None  # it is being written again: what comes is judged by its fingerprint
        file.seek(self._offset - self._length)
        wanted = min(MAX_LINE_BYTES + 1, max(_MIN_READ_BYTES, max_records * _BYTES_PER_RECORD))
        data = file.read(self._length + wanted)
        if self._in_array or len(data) < self._length or crc32(data[: self._length]) != self._crc:
            return self._moved("")
        handled, data = data[: self._length], data[self._length :]
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == wanted:
            if not data.strip(b"\0"):  # a power cut or a truncated copy may leave any number of zeros
                self._offset += len(data)
                return self._advance(data, [], [])
            data += file.read(MAX_LINE_BYTES + 1 - wanted)
            end = data.rfind(b"\n") + 1
        if end == 0:
            too_long = len(data) > MAX_LINE_BYTES
            return self._skip_line(file, replaced) if too_long else self._read_unfinished(handled, data, replaced)
        lines = data[:end]
        if lines.count(b"\n") > max_records:
            lines = lines[: end - len(lines.split(b"\n", max_records)[-1])]
        records, invalid = self._decode(lines)
        self._offset += len(lines)
        return self._advance(handled + lines[-_FINGERPRINT_BYTES:], records, invalid)

    def _decode(self, lines: bytes) -> tuple[list[Any], list[Invalid]]:
        text = lines.removeprefix(_BOM) if self._offset == 0 else lines
        try:
            return self._codec.decode_lines(text), []
        except ValueError:
            pass  # at least one line is no record
        found, place = [], self._offset + len(lines) - len(text)
        for line in text.split(b"\n"):
            if stripped := line.strip(_BLANK):
                found.append((f"{self._name} byte {place}", stripped))
            place += len(line) + 1
        return decode_each(self._codec, found)

    def _read_unfinished(self, handled: bytes, data: bytes, replaced: bool) -> Chunk | None:
        """A last line without newline: left for later, unless nobody will complete it."""
        if not data.strip(_BLANK) or not (replaced or self._finished):
            return None
        records, invalid = self._decode(data)
        if replaced:
            return self._leave(records, invalid)
        if invalid:  # perhaps its other half is being written: counted once, and read again next time
            if self._counted == self._offset:
                return None
            self._counted = self._offset
            return self._chunk(self._position or "", [], invalid)
        self._offset += len(data)
        return self._advance(handled + data, records, invalid)

    def _skip_line(self, file: FileIO, replaced: bool) -> Chunk | None:
        """Pass over a line that is too long, block by block, once its end is there."""
        begin = offset = self._offset
        end = 0
        file.seek(begin)
        while end == 0 and (data := file.read(MAX_LINE_BYTES)):
            end = data.find(b"\n") + 1
            offset += end or len(data)
        if end == 0 and not replaced:
            return None
        reason = f"a line of {offset - begin} bytes is over the limit of {MAX_LINE_BYTES}"
        invalid = [Invalid(f"{self._name} byte {begin}", reason)]
        if end == 0:
            return self._leave([], invalid)
        self._offset = offset
        file.seek(offset - _FINGERPRINT_BYTES)
        return self._advance(file.read(_FINGERPRINT_BYTES), [], invalid)

    # One array: the offset counts bytes no more but items

    def _is_array(self, file: FileIO) -> bool:
        if self._path.suffix != ".json" or (self._offset > 0 and not self._in_array):
            return False
        file.seek(0)
        return file.read(_FINGERPRINT_BYTES).removeprefix(_BOM).lstrip()[:1] == b"["

    def _read_array(self, file: FileIO, max_records: int, replaced: bool) -> Chunk | None:
        """The next items of an array, which is loaded again only when the file has changed."""
        status = os.fstat(file.fileno())
        if not self._items and self._loaded != (status.st_size, status.st_mtime_ns):
            self._loaded = status.st_size, status.st_mtime_ns
            items = self._load(file)
            if items is None:
                return self._read_lines(file, max_records, replaced)
            self._items = items
        if not self._items:
            return None
        done = self._offset
        if done > len(self._items) or (crc32(self._items[done - 1]) if done else 0) != self._crc:
            return self._moved("")
        items = self._items[done : done + max_records]
        if not items:
            self._items = []
            return None
        found = ((f"{self._name} item {number}", bytes(item)) for number, item in enumerate(items, done + 1))
        records, invalid = decode_each(self._codec, found)
        self._in_array, self._offset, self._crc = True, done + len(items), crc32(items[-1])
        return self._chunk(f"[{self._offset}:0:{self._crc}", records, invalid)

    def _load(self, file: FileIO) -> list[msgspec.Raw] | None:
        """The items, none while the array is not whole; None if the file holds lines, the first of them an array."""
        file.seek(0)
        data = file.readall().removeprefix(_BOM)
        try:
            return _array.decode(data)
        except (ValueError, RecursionError) as error:
            with suppress(ValueError, RecursionError):
                _array.decode(data.partition(b"\n")[0])
                return None
            if self._finished:
                raise ToolkitError(f"{self._path} begins like a JSON array but is not a whole one: {error}") from error
            return []
