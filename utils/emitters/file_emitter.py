"""The file sink: one JSON line per record."""

import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import portalocker
from loguru import logger

from utils.app.errors import ToolkitError, Unavailable
from utils.clients.files import check_same_file, file_id, sync, sync_path
from utils.records.codec import encoder
from utils.records.record import Batch, without_ids
from utils.records.stream import BUZZ

if sys.platform != "win32":
    import fcntl

LOCK_WAIT_S, LOCK_TRY_S = 2.0, 0.005
_SCAN_BYTES = 1 << 20
_START_BYTES = 256
_MAX_LINE_BYTES = 1 << 20
_BLANK = b" \t\r\n\0"  # a power cut may leave zeros


class _Identity(msgspec.Struct):
    """Only what tells one record from another; decoding it skips the rest at C speed."""

    producer_id: str | None = None
    sequence: int | None = None


_identity = msgspec.json.Decoder(_Identity)


class FileEmitter:
    """Appends to a JSON lines file that other producers may append to as well.

    The lock is on the file itself, so that it holds whatever name the file is opened by; on Windows, where such a
    lock would keep readers out, it is on a file beside the resolved path. Readers need no lock.
    """

    mark = ""
    max_records = 20_000

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closed = False
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        try:
            with self._errors():
                sync_path(path.parent)  # makes the new file's name durable
                if self._read(0, _START_BYTES).removeprefix(b"\xef\xbb\xbf").strip(_BLANK)[:1] not in (b"", b"{"):
                    raise ToolkitError(f"{path} is not a JSON lines file; move it away or name another file")
                self._end = os.fstat(self._fd).st_size  # what comes behind it has not been seen here
        except ToolkitError:
            self.close()
            raise
        self._opened = file_id(path)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (portalocker.LockException, BlockingIOError) as error:
            raise Unavailable(f"{self._path} is locked by another writer") from error
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror or error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._errors():
            if sys.platform == "win32":
                with portalocker.Lock(f"{self._path.resolve()}.lock", timeout=LOCK_WAIT_S, check_interval=LOCK_TRY_S):
                    yield
                return
            deadline_s = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise
                time.sleep(LOCK_TRY_S)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """Scan backwards for the last whole line of these runs. See Emitter."""
        with self._locked():
            self._end = self._repair_tail()
            sync(self._fd)  # what a killed process wrote is durable before it is believed
            common = os.path.commonprefix(list(producer_ids))  # noqa: RUF071 (of texts, not of paths)
            prefix = encoder.encode(common).removesuffix(b'"')
            found, end = self._newest(frozenset(producer_ids), prefix)
            if end < self._end:
                self._remove_behind_hole(end, prefix)
        return found

    def _newest(self, known: Collection[str], prefix: bytes) -> tuple[tuple[str, int] | None, int]:
        """The last record before which the latest ones have no hole, and the offset behind its line.

        Only what one emit wrote can have a hole: a power cut may leave zeros in the middle of it. Where the
        producer_id changes a run began, whose first sequence nobody knows here.
        """
        newest: tuple[str, int] | None = None
        end, seen = self._end, 0
        later: tuple[str, int] | None = None
        for line, line_end in self._lines_backwards(prefix, self._end, 0) if known else ():
            try:
                identity = _identity.decode(line)
            except (ValueError, RecursionError):  # not ours
                continue
            if identity.producer_id is None or identity.producer_id not in known or identity.sequence is None:
                continue
            place = identity.producer_id, identity.sequence
            if newest is None:
                newest = place
            elif later and later[0] == place[0] and later[1] != place[1] + 1:
                newest, end = place, line_end
            later, seen = place, seen + 1
            if seen > self.max_records:  # each batch is synced before the next begins
                break
        return newest, end

    def _remove_behind_hole(self, end: int, prefix: bytes) -> None:
        """Cut what follows a hole, to be delivered again; behind lines of other producers ours come a second time."""
        behind = self._read(end, self._end - end).split(b"\n")
        if any(prefix not in line and _is_record(line.strip(_BLANK)) for line in behind):
            logger.warning(
                "{}: a power cut left a hole; what is behind it is delivered again after lines of others", self._path
            )
            return
        os.ftruncate(self._fd, end)
        sync(self._fd)
        logger.warning("{}: cut {} bytes behind a hole that a power cut left", self._path, self._end - end)
        self._end = end

    def emit(self, batch: Batch) -> None:
        """Append the batch and sync it. See Emitter."""
        check_same_file(self._path, self._opened)
        with self._locked():
            end = self._repair_tail()
            if any(self._lines_backwards(encoder.encode(batch.producer_id), end, self._end)):
                raise Unavailable(
                    f"{self._path}: another process delivered {batch.producer_id}: a copy of its journal?"
                )
            try:
                self._write(batch.lines)
                sync(self._fd)
                written = os.fstat(self._fd).st_size - end
                if written != len(batch.lines):
                    raise OSError(f"{written} bytes were added instead of {len(batch.lines)}")
            except OSError:
                self._cut(end)
                raise
            self._end = end + len(batch.lines)
        check_same_file(self._path, self._opened)

    def _cut(self, end: int) -> bool:
        """Remove what is behind `end`; where that is not allowed, end its line, which readers count as invalid."""
        try:
            os.ftruncate(self._fd, end)
        except OSError:
            self._write(b"\n")
            return False
        return True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    def _write(self, data: bytes) -> None:
        """All of `data`, at the end: on a full disk a write takes a part and reports success."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def _read(self, offset: int, size: int) -> bytes:
        os.lseek(self._fd, offset, os.SEEK_SET)
        blocks = []
        while size and (block := os.read(self._fd, size)):
            blocks.append(block)
            size -= len(block)
        return b"".join(blocks)

    def _repair_tail(self) -> int:
        """Size of the file after its last line is made whole: a partial record is cut, all else gets its newline."""
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size == 0 or self._read(size - 1, 1) == b"\n":
            return size
        start, newline = size, -1
        while start and newline < 0:
            step = min(_SCAN_BYTES, start)
            start -= step
            newline = self._read(start, step).rfind(b"\n")
        start += newline + 1
        tail = self._without_zeros(start, size)
        if tail[:1] in (b"", b"{") and not _is_record(tail):
            if self._cut(start):
                logger.warning("{}: cut a partial last line of {} bytes", self._path, size - start)
            else:
                logger.warning(
                    "{}: ended a partial last line of {} bytes, which may not be cut", self._path, size - start
                )
        else:
            self._write(b"\n")
        return os.lseek(self._fd, 0, os.SEEK_END)

    def _without_zeros(self, start: int, end: int) -> bytes:
        """The bytes of a line without what surrounds it, as many as a line may have."""
        found = b""
        while start < end and len(found) <= _MAX_LINE_BYTES:
            block = self._read(start, min(_SCAN_BYTES, end - start))
            found = (found + block).lstrip(_BLANK)
            start += len(block)
        return found.rstrip(_BLANK)

    def _lines_backwards(self, needle: bytes, start: int, low: int) -> Iterator[tuple[bytes, int]]:
        """Lines between the offsets `low` and `start` that contain `needle`, last first, and the offsets behind them.

        Memory is bounded: zeros before a line are passed over, and a line that no record can be is skipped.
        """
        rest, rest_end = b"", start  # what is known of the line that ends at rest_end, from its end
        while start > low:
            step = min(_SCAN_BYTES, start - low)
            start -= step
            block = self._read(start, step) + rest
            cut = block.find(b"\n") + 1 if start > low else 0
            if start > low and not cut:
                rest = block.lstrip(b"\0")
                rest = rest if len(rest) <= _MAX_LINE_BYTES + _SCAN_BYTES else b"\0"
                continue
            end = len(block)
            while (found := block.rfind(needle, cut, end)) >= 0:
                line_start = block.rfind(b"\n", 0, found) + 1
                line_end = block.find(b"\n", found)
                line_end = len(block) if line_end < 0 else line_end
                yield block[line_start:line_end].strip(_BLANK), rest_end - len(block) + line_end + 1
                end = line_start
            rest, rest_end = block[:cut], rest_end - len(block) + cut


def _is_record(line: bytes) -> bool:
    """Whether a line is a whole JSON object."""
    try:
        return line[:1] == b"{" and msgspec.json.decode(line) is not None
    except (ValueError, RecursionError):
        return False


def emit_message(message: Mapping[str, Any], *, path: Path | str) -> bool:
    """Append one record with all its fields to a JSON lines file; True once it is stored, else False with a log line.

    Carries no ids, so it is outside the exactly-once promise.
    """
    try:
        line = without_ids(message)
        with closing(FileEmitter(Path(path))) as emitter:
            emitter.emit(Batch("", 1, 1, line, BUZZ.codec))
    except (ValueError, ToolkitError) as error:
        logger.error("{}: record not stored: {}", path, error)
        return False
    return True
