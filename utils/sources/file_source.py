"""Reads a JSON lines file while others append to it, truncate, rotate or replace it.

A line is read when its newline has come; nothing partial is kept between polls. The open file is kept: after a
rotation by rename its rest is read before the new file begins. A position is `offset:length:crc` of the last bytes
that were handled; where they are not found again (rotated, truncated, rebuilt) the partition begins again. A run of
zero bytes, which a power cut or a copied and truncated log leaves, ends a line and is passed over.
"""

import os
import re
import stat
import time
from codecs import BOM_UTF8
from io import FileIO
from pathlib import Path
from typing import Any

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.records.codec import Codec
from utils.records.record import Invalid
from utils.records.stream import Stream
from utils.sources.base import Chunk, Resume, decode_each
from utils.sources.file_place import FINGERPRINT_BYTES, FilePlace

MAX_LINE_BYTES = 1024 * 1024
_BYTES_PER_RECORD = 300
_MIN_READ_BYTES = 64 * 1024
_BLANK = b" \t\r\n\0"
_HOLE = re.compile(rb"\0{16,}")  # shorter: UTF-16 text, or one wrong character
_LINE_END = re.compile(rb"\n|\0{16,}")
_HEAD_BYTES = 256
_ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")
_OTHER_FILES = {
    re.compile(rb"\x1f\x8b"): "is compressed by gzip: unpack it first",
    re.compile(rb"\xff\xfe|\xfe\xff"): "is UTF-16 text: save it as UTF-8",
    _ARRAY: "is a JSON array, not JSON lines: feed it to a stream with producers.feed_producer",
}


class FileSource:
    """Reads one file, a partition named after it.

    With `finished` a last line without its newline is read too. A file that was replaced is left once nothing has come
    into it for `linger_s`.
    """

    name = "file"

    def __init__(
        self, path: Path, codec: Codec, resume: Resume, *, finished: bool = False, linger_s: float = 0.0
    ) -> None:
        self._path, self._codec, self._resume, self._finished, self._linger_s = path, codec, resume, finished, linger_s
        self._file: FileIO | None = None
        self._position: str | None = None  # as it was given to or by the loop
        self._counted = -1  # offset of the unfinished line that was counted as invalid

    @property
    def detail(self) -> str:
        """What exactly is read, for people."""
        return str(self._path)

    def poll(self, max_records: int) -> Chunk | None:
        """The next records. See Source."""
        if self._position is None:
            self._position = self._resume(self._path.name)
        try:
            if self._position == "end" and not self._path.exists():
                return self._begin_again()  # stored: whatever appears later is new
            file = self._file = self._file or self._open()
            if self._position == "end":
                return self._go_to_end(file)
            replaced = self._was_replaced(file) and self._is_quiet(file)
            chunk = self._read_lines(file, max_records, replaced)
            if chunk is None and replaced:
                if self._position:
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

    def _open(self) -> FileIO:
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise ToolkitError(f"{self._path} is not a file; give the path of a JSON lines file")
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise Absent(f"{self._path} does not exist yet") from error
        except PermissionError as error:
            raise ToolkitError(f"{self._path} may not be read by this user; change its permissions") from error
        head = file.read(_HEAD_BYTES)
        for pattern, other in _OTHER_FILES.items():
            if pattern.match(head) and (pattern != _ARRAY or self._path.suffix == ".json"):
                file.close()
                raise ToolkitError(f"{self._path} {other}")
        return file

    def _was_replaced(self, file: FileIO) -> bool:
        """Whether the path names another file by now; while it names none, more may come into the old one."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _is_quiet(self, file: FileIO) -> bool:
        """Whether nothing has come into the file for a while."""
        return self._linger_s == 0 or time.time() - os.fstat(file.fileno()).st_mtime >= self._linger_s

    # Positions

    @property
    def _place(self) -> FilePlace:
        return FilePlace.parse(self._position or "")

    def _chunk(self, end: str, records: list[Any], invalid: list[Invalid]) -> Chunk:
        start, self._position = self._position, end
        assert start is not None
        return Chunk(self._path.name, start, end, records, invalid)

    def _advance(self, place: FilePlace, records: list[Any], invalid: list[Invalid]) -> Chunk:
        return self._chunk(str(place), records, invalid)

    def _begin_again(self) -> Chunk:
        self._counted = -1
        return self._chunk("", [], [])

    def _leave(self, records: list[Any], invalid: list[Invalid]) -> Chunk:
        """The last of a file that was replaced; next the new one is opened."""
        self.close()
        self._counted = -1
        return self._chunk("", records, invalid)

    def _go_to_end(self, file: FileIO) -> Chunk:
        """Only what comes from now on: after the last newline."""
        offset = os.fstat(file.fileno()).st_size
        while offset > 0:
            begin = max(0, offset - MAX_LINE_BYTES)
            file.seek(begin)
            data = file.read(offset - begin)
            if end := data.rfind(b"\n") + 1:
                return self._advance(FilePlace.after(begin + end, data[:end]), [], [])
            offset = begin
        return self._begin_again()

    # Lines

    def _read_lines(self, file: FileIO, max_records: int, replaced: bool) -> Chunk | None:
        place = self._place
        file.seek(place.offset - place.length)
        wanted = min(MAX_LINE_BYTES + 1, max(_MIN_READ_BYTES, max_records * _BYTES_PER_RECORD))
        data = file.read(place.length + wanted)
        before, data = data[: place.length], data[place.length :]
        if not place.is_after(before):
            return self._begin_again()
        full = len(data) == wanted
        if full and not _LINE_END.search(data):
            data += file.read(MAX_LINE_BYTES + 1 - wanted)
            full = len(data) > MAX_LINE_BYTES
        lines = data if full else data.rstrip(b"\0")  # zeros at the end may be where somebody is writing
        if b"\0" in lines:
            lines = _HOLE.sub(lambda hole: b"\n" * len(hole[0]), lines)
        blank = len(lines) - len(lines.lstrip(_BLANK))
        if blank > FINGERPRINT_BYTES:
            return self._advance(FilePlace.after(place.offset + blank, data[:blank]), [], [])
        end = lines.rfind(b"\n") + 1
        if end == 0:
            return self._skip_line(file, replaced) if full else self._read_unfinished(before, lines, replaced)
        if lines.count(b"\n", 0, end) > max_records:
            end -= len(lines[:end].split(b"\n", max_records)[-1])
        records, invalid = self._decode(lines[:end])
        return self._advance(FilePlace.after(place.offset + end, before, data[:end]), records, invalid)

    def _decode(self, lines: bytes) -> tuple[list[Any], list[Invalid]]:
        text = lines.removeprefix(BOM_UTF8) if self._place.offset == 0 else lines
        try:
            return self._codec.decode_lines(text), []
        except ValueError:
            pass  # at least one line is no record
        found, offset = [], self._place.offset + len(lines) - len(text)
        for line in text.split(b"\n"):
            if stripped := line.strip(_BLANK):
                found.append((f"{self._path.name} byte {offset}", stripped))
            offset += len(line) + 1
        return decode_each(self._codec, found)

    def _read_unfinished(self, before: bytes, line: bytes, replaced: bool) -> Chunk | None:
        """A last line without newline: left for later, unless nobody will complete it."""
        if not line.strip(_BLANK) or not (replaced or self._finished):
            return None
        records, invalid = self._decode(line)
        if invalid and b"\r" in line.strip():
            invalid = [Invalid(invalid[0].where, "lines end in CR alone: save the file with LF or CRLF")]
        if invalid or replaced:
            return self._end(records, invalid, replaced)
        return self._advance(FilePlace.after(self._place.offset + len(line), before, line), records, invalid)

    def _end(self, records: list[Any], invalid: list[Invalid], replaced: bool) -> Chunk | None:
        """The end of a file that does not end in a newline, once.

        An invalid last line is counted, and read again next time: perhaps its other half is being written.
        """
        if replaced:
            return self._leave(records, invalid)
        if not self._finished or self._counted == self._place.offset:
            return None
        self._counted = self._place.offset
        return self._chunk(self._position or "", records, invalid)

    def _skip_line(self, file: FileIO, replaced: bool) -> Chunk | None:
        """Pass over a line that is too long, block by block, once its end is there."""
        begin = offset = self._place.offset
        found, line = None, b""
        file.seek(begin)
        while not found and (data := file.read(MAX_LINE_BYTES)):
            found = _LINE_END.search(data)
            line = line or data[: found.start() if found else None]
            offset += found.end() if found else len(data)
        reason = f"a line of {offset - begin} bytes is over the limit of {MAX_LINE_BYTES}"
        invalid = [Invalid(f"{self._path.name} byte {begin}", reason, line)]
        if not found:
            return self._end([], invalid, replaced)
        file.seek(offset - FINGERPRINT_BYTES)
        return self._advance(FilePlace.after(offset, file.read(FINGERPRINT_BYTES)), [], invalid)


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> FileSource:
    """The source of the sink `file`. See Sink."""
    return FileSource(settings.file_path(stream.name), stream.codec, resume, finished=finished)
