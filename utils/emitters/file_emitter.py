"""The file sink: one JSON line per record."""

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import portalocker
from loguru import logger

from utils.app.config import Settings
from utils.app.errors import SinkReplaced, ToolkitError, Unavailable
from utils.clients.files import check_same_file, mapped_errors, sync, sync_path
from utils.clients.line_file import (
    BLANK,
    MAX_LINE_BYTES,
    ends_with_newline,
    first_hole,
    last_line,
    lines_backwards,
    read_at,
)
from utils.emitters.base import ROW_GROUP_RECORDS, delivered_by_another, emit_one
from utils.records.codec import encoder
from utils.records.external import identity_of
from utils.records.record import Batch
from utils.records.stream import Stream

LOCK_WAIT_S, LOCK_TRY_S = 2.0, 0.005
_START_BYTES = _FINGERPRINT_BYTES = 256


class FileEmitter:
    """Emitter for a JSON lines file, to which other producers may append as well.

    The lock is on the file itself, so it works for every name of the file. On Windows such a lock would keep readers
    out: there it is on another file beside the resolved path. Readers need no lock.

    Each append is synced before the lock is released, so a power cut can leave zeros only in the last append. The mark
    is the offset up to which the file is synced, with a checksum of the bytes before it.
    """

    max_records = ROW_GROUP_RECORDS

    def __init__(self, path: Path, mark: str = "") -> None:
        self._path, self.mark = path, mark
        with mapped_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        self._fd = self._file.fileno()
        try:
            with mapped_errors(path):
                sync_path(path.parent)  # makes the new file's name durable
                if read_at(self._fd, 0, _START_BYTES).removeprefix(b"\xef\xbb\xbf").strip(BLANK)[:1] not in (b"", b"{"):
                    raise ToolkitError(f"{path} is not a JSON lines file; move it away or name another file")
                status = os.fstat(self._fd)
        except ToolkitError:
            self.close()
            raise
        self._opened = status.st_dev, status.st_ino
        self._end = status.st_size  # the bytes after it were not searched yet

    @contextmanager
    def _locked(self) -> Iterator[None]:
        name = self._path if sys.platform != "win32" else f"{self._path.resolve()}.lock"
        try:
            with (
                mapped_errors(self._path),
                portalocker.Lock(name, "ab", timeout=LOCK_WAIT_S, check_interval=LOCK_TRY_S),
            ):
                yield
        except portalocker.LockException as error:
            raise Unavailable(f"{self._path} is locked by another writer") from error

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """Scan backwards for the last complete line of these runs before the first hole. See Emitter."""
        with self._locked():
            self._end = self._repair_tail()
            hole = first_hole(self._fd, self._marked(), self._end)
            own = self._own_backwards(producer_ids)
            found, end = next(own, (None, 0))
            if end > hole:
                found, _ = next((each for each in own if each[1] <= hole), (None, 0))
                self._repair_hole(hole, producer_ids)
            sync(self._fd)  # a killed process may have left lines that are not synced
            self.mark = self._mark_at(self._end)
        return found

    def _own_backwards(self, producer_ids: Sequence[str]) -> Iterator[tuple[tuple[str, int], int]]:
        """Yield the ids of the records of these runs, the last first, with the offsets after their lines."""
        common = os.path.commonprefix(list(producer_ids))  # noqa: RUF071 (of texts, not of paths)
        needle = encoder.encode(common).removesuffix(b'"')
        known = frozenset(producer_ids)
        for line, end in lines_backwards(self._fd, needle, self._end, 0) if known else ():
            if ids := _ids_of(line, known):
                yield ids, end

    def _repair_hole(self, hole: int, known: Collection[str]) -> None:
        """Truncate the file at a hole, so that the rest is delivered again; not if other journals' lines would go."""
        size = self._end - hole
        lines = (line for line, _ in lines_backwards(self._fd, b"{", self._end, hole))
        has_others = any(_is_record(line) and _ids_of(line, known) is None for line in lines)
        if not has_others and self._truncate(hole):
            logger.warning("{}: cut {} bytes after a hole that a power cut left", self._path, size)
            self._end = hole
        else:
            what = f"a power cut left a hole in {size} bytes that may not be cut"
            logger.warning("{}: {}; their records are delivered again", self._path, what)

    def emit(self, batch: Batch) -> None:
        """Append the batch and sync it. See Emitter."""
        check_same_file(self._path, self._opened)
        with self._locked():
            if os.fstat(self._fd).st_size < self._end:
                raise SinkReplaced(f"{self._path} was cut, or an older copy was written over it, while in use")
            end = self._repair_tail()
            since = lines_backwards(self._fd, encoder.encode(batch.producer_id), end, self._end)
            if any(_ids_of(line, (batch.producer_id,)) for line, _ in since):
                raise delivered_by_another(self._path, batch.producer_id)
            try:
                self._write(batch.lines)
                sync(self._fd)
            except OSError:
                if not self._truncate(end) and not ends_with_newline(self._fd):
                    self._write(b"\n")  # readers count the partial line as invalid
                raise
            size = os.fstat(self._fd).st_size
            if size < end + len(batch.lines):
                raise Unavailable(f"{self._path} was shortened by another program while it was written")
            self._end, self.mark = size, self._mark_at(size)
        check_same_file(self._path, self._opened)

    def _mark_at(self, end: int) -> str:
        """Return the mark of an offset: the offset, and a checksum of the bytes before it."""
        start = max(0, end - _FINGERPRINT_BYTES)
        return f"{end}:{crc32(read_at(self._fd, start, end - start)):08x}"

    def _marked(self) -> int:
        """Return the offset of the mark, or the end of the file if the bytes before the offset have changed."""
        offset = self.mark.partition(":")[0]
        known = offset.isdecimal() and int(offset) <= self._end and self._mark_at(int(offset)) == self.mark
        return int(offset) if known else self._end

    def close(self) -> None:
        """Close the file. See Emitter."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        """Append all of `data`. On a full disk one `os.write` writes a part of it and reports success."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def _truncate(self, end: int) -> bool:
        """Truncate the file at `end`. Return False if that is not allowed, as in an append-only file."""
        try:
            os.ftruncate(self._fd, end)
        except OSError:
            return False
        return True

    def _repair_tail(self) -> int:
        """Cut a partial record at the end, give any other last line its newline, and return the size of the file."""
        if not ends_with_newline(self._fd):
            size = os.fstat(self._fd).st_size
            start, line = last_line(self._fd)
            # A line that is too long for a record is another writer's, and `line` is only a part of it.
            is_partial = line[:1] in (b"", b"{") and len(line) <= MAX_LINE_BYTES and not _is_record(line)
            if is_partial and self._truncate(start):
                logger.warning("{}: cut a partial last line of {} bytes", self._path, size - start)
                return start
            self._write(b"\n")
            if is_partial:
                logger.warning("{}: ended a partial last line, which may not be cut", self._path)
        return os.fstat(self._fd).st_size


def _ids_of(line: bytes, known: Collection[str]) -> tuple[str, int] | None:
    """Return the ids of a record of one of these runs, None for any other line."""
    found = identity_of(line)
    return found if found and found[0] in known else None


def _is_record(line: bytes) -> bool:
    """Return whether a line is a complete JSON object."""
    try:
        return line[:1] == b"{" and msgspec.json.decode(line) is not None
    except (ValueError, RecursionError):
        return False


def open_emitter(settings: Settings, stream: Stream, key: str, mark: str) -> FileEmitter:
    """Open the emitter of the sink `file`. See Sink."""
    return FileEmitter(settings.file_path(stream.name), mark)


def emit_message(message: Mapping[str, Any], *, path: Path | str) -> bool:
    """Append one record to a JSON lines file. Return True once it is stored, otherwise log the reason, return False.

    The record carries no ids, so it is outside the exactly-once promise.
    """
    return emit_one(message, Path(path), lambda: FileEmitter(Path(path)))
