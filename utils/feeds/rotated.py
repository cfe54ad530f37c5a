"""A file that grows, and the files that a rotation has left beside it."""

import os
import re
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path
from zlib import crc32

from loguru import logger

from utils.app.errors import Unavailable
from utils.records.codec import Codec
from utils.sources.base import Chunk, Resume
from utils.sources.file_source import FileSource, parsed

LINGER_S = 1.0
"""How long a renamed file must be quiet before the new one is read: who writes may not have opened the new one yet."""
_ROTATED = r"[._-]\d[\d._:T-]*"  # what comes behind the name: .1, -20261126, .2026-11-26_19-04


class RotatedFile(FileSource):
    """Follows a file as FileSource does, across rotations that happened while nobody read.

    Where the file no longer has what comes before the position, a rotated file beside it may: then this one is read
    from there, and those rotated after it, before the file itself. Compressed ones are not looked at. A link names the
    newest file of a series, whose names differ in their digits.
    """

    def __init__(
        self, path: Path, codec: Codec, resume: Resume, *, finished: bool = False, linger_s: float = LINGER_S
    ) -> None:
        super().__init__(path, codec, resume, finished=finished, linger_s=0.0 if finished else linger_s)
        self._behind = ""  # the position of what was handed on last
        self._done: set[int] = set()  # inodes of the files that were read to their end since

    def poll(self, max_records: int) -> Chunk | None:
        """The next lines of a rotated file, else of the file. See Source."""
        while True:
            if self._behind and not self._position:
                self._go_on()
            inode = self._file and os.fstat(self._file.fileno()).st_ino
            chunk = super().poll(max_records)
            if chunk is None:
                return None
            if chunk.end or chunk.records or chunk.invalid:
                self._behind = chunk.end
                self._done.clear()
                return chunk
            if inode and self._file is None:  # it was left
                self._done.add(inode)
            self._behind = self._behind or chunk.start
            if self._behind and not self._go_on():
                self._behind = ""
                return chunk

    def _go_on(self) -> bool:
        """Whether a file has what comes before the place: then it is open there, or a newer one once it was read."""
        found = self._found()
        status = {file: os.fstat(file.fileno()) for file in found}
        unread = [file for file in found if status[file].st_ino not in self._done and status[file].st_size]
        chosen = (unread or found[-1:])[0] if found else None
        for file in found:
            if file is not chosen:
                file.close()
        if chosen is None:
            return False
        self.close()
        self._file, self._position = chosen, self._behind if chosen is found[0] else ""
        if self._position and len(found) > 1:
            logger.info("{} was rotated: it is continued in the rotated file", self._path)
        return True

    def _found(self) -> list[FileIO]:
        """The file that has what comes before the place, and all newer ones, the newest last; none if none has it."""
        while True:
            beside, found, has_place = self._rotated(), list[FileIO](), False
            for path in (str(self._path), *(path for _, path, _ in beside)):
                try:
                    found.insert(0, FileIO(path))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
                if has_place := _is_before(found[0], self._behind):
                    break
            is_stable = beside == self._rotated()  # else they were rotated meanwhile, and one may have been missed
            if is_stable and has_place:
                return found
            for file in found:
                file.close()
            if is_stable:
                return []

    def _rotated(self) -> list[tuple[int, str, int]]:
        """Time, path and inode of the files beside this one with its name and a number or a date, the newest first."""
        target = self._path.resolve()
        name = re.escape(target.name)
        if self._path.is_symlink():
            name = re.sub(r"\d+", r"\\d+", name)
        pattern = re.compile(f"{name}({_ROTATED})?")
        found = []
        with suppress(FileNotFoundError), os.scandir(target.parent) as beside:
            for entry in beside:
                with suppress(FileNotFoundError):
                    status = os.stat(entry.path)
                    if entry.name != target.name and pattern.fullmatch(entry.name) and stat.S_ISREG(status.st_mode):
                        found.append((status.st_mtime_ns, entry.path, status.st_ino))
        return sorted(found, reverse=True)


def _is_before(file: FileIO, position: str) -> bool:
    """Whether the file has what comes before the position."""
    offset, length, crc = parsed(position)
    file.seek(offset - length)
    before = file.read(length)
    return (len(before), crc32(before)) == (length, crc)
