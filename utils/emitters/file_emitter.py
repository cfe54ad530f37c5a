"""The file sink: one JSON line per message."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import portalocker
from loguru import logger

from utils.app.errors import ToolkitError, Unavailable
from utils.emitters.base import check_same_file, sync
from utils.records.record import Batch, Identity, encoder, without_ids

LOCK_WAIT_S = 2.0
_SCAN_BYTES = 1 << 20
_START_BYTES = 256
_BLANK = b" \t\r\n\0"  # a power cut may leave zeros
_identity = msgspec.json.Decoder(Identity)


class FileEmitter:
    """Appends to a JSON lines file that other producers may append to as well.

    A lock file beside it (`<name>.lock`) is held per append: locking the data itself would keep
    readers out on Windows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        self._closed = False
        try:
            with self._errors():
                self._sync_folder()
                status = os.fstat(self._fd)
                if self._read(0, _START_BYTES).removeprefix(b"\xef\xbb\xbf").strip(_BLANK)[:1] not in (b"", b"{"):
                    raise ToolkitError(f"{path} is not a JSON lines file; move it away or name another file")
        except ToolkitError:
            self.close()
            raise
        self._opened = status.st_dev, status.st_ino

    def _sync_folder(self) -> None:
        """Make the new file's name durable as well; Windows knows no such call and does it by itself."""
        if os.name == "posix":
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            except OSError as error:
                if error.errno != errno.EINVAL:  # what a shared or network drive says that cannot do it
                    raise
            finally:
                os.close(folder)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except portalocker.LockException as error:
            raise Unavailable(f"{self._path} is locked by another writer") from error
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror or error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._errors():
            lock = portalocker.Lock(f"{self._path}.lock", timeout=LOCK_WAIT_S, check_interval=0.005)
            with lock:
                yield

    def last_sequence(self, producer_id: str) -> int:
        """Scan backwards for the last whole line of this producer."""
        with self._locked():
            self._mend_tail()
        # The scan needs no lock: nobody else writes lines of this producer.
        with self._errors():
            for line in self._lines_backwards(encoder.encode(producer_id)):
                try:
                    found = _identity.decode(line)
                except (ValueError, RecursionError):  # not ours
                    continue
                if found.producer_id == producer_id and found.sequence is not None:
                    return found.sequence
        return 0

    def emit(self, batch: Batch) -> None:
        check_same_file(self._path, self._opened)
        with self._locked():
            end = self._mend_tail()
            try:
                self._write(batch.lines)
                sync(self._fd)
            except OSError:
                os.ftruncate(self._fd, end)
                raise
        check_same_file(self._path, self._opened)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    def _write(self, data: bytes) -> None:
        """All of `data`, at the end: on a full disk a write takes a part and says nothing."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def _read(self, offset: int, size: int) -> bytes:
        os.lseek(self._fd, offset, os.SEEK_SET)
        parts = []
        while size and (part := os.read(self._fd, size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _mend_tail(self) -> int:
        """Size of the file after its last line is made whole: a torn record is cut, all else gets its newline."""
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size == 0 or self._read(size - 1, 1) == b"\n":
            return size
        start, tail = size, b""
        while start and b"\n" not in tail:
            step = min(_SCAN_BYTES, start)
            start -= step
            tail = self._read(start, step) + tail
        tail = tail[tail.rfind(b"\n") + 1 :]
        if tail.strip(_BLANK)[:1] in (b"", b"{") and not _is_record(tail):
            logger.warning("{}: cut a torn last line of {} bytes", self._path, len(tail))
            os.ftruncate(self._fd, size - len(tail))
            return size - len(tail)
        self._write(b"\n")
        return size + 1

    def _lines_backwards(self, needle: bytes) -> Iterator[bytes]:
        """Lines that contain `needle`, last first, in bounded memory."""
        start = os.lseek(self._fd, 0, os.SEEK_END)
        rest = b""
        while start:
            step = min(_SCAN_BYTES, start)
            start -= step
            block = self._read(start, step) + rest
            cut = block.find(b"\n") + 1 if start else 0
            if start and not cut:
                rest = block
                continue
            end = len(block)
            while (found := block.rfind(needle, cut, end)) >= 0:
                line_start = block.rfind(b"\n", 0, found) + 1
                yield block[line_start : block.find(b"\n", found)]
                end = line_start
            rest = block[:cut]


def _is_record(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def emit_message(message: Mapping[str, Any], *, path: Path | str) -> bool:
    """Append one message to a JSON lines file; True once it is stored, else False with the reason logged.

    Carries no ids, so it is outside the exactly-once promise.
    """
    try:
        _, line = without_ids(message)
        with closing(FileEmitter(Path(path))) as emitter:
            emitter.emit(Batch("", 1, 1, line))
    except (ValueError, ToolkitError) as error:
        logger.error("{}: message not stored: {}", path, error)
        return False
    return True
