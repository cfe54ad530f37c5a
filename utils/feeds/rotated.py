"""Source of a file that grows, and of the rotated files beside it."""

import os
import re
import stat
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from zlib import crc32

from loguru import logger

from utils.clients.line_file import BLANK, MAX_LINE_BYTES
from utils.records.codec import Codec
from utils.sources.base import Chunk, Resume
from utils.sources.file_source import FileSource, parse_position

LINGER_S = 1.0
"""Time without writes to a renamed file before the new one is read: its writer may still have it open."""
SET_BACK_S = 60.0  # a time so far ahead means that the clock was set back since
_ROTATED = r"[._-]\d[\d._:T-]*"  # suffix of a rotated file: .1, -20261126, .2026-11-26_19-04
_COUNT = re.compile(r"[._-](\d{1,3})")  # a suffix that is a number: the newest file has the lowest


class RotatedFile(FileSource):
    """FileSource that follows a file also across rotations that happened while it was not read.

    If the file no longer has the bytes before the position, a rotated file may have them. Then that file is read from
    the position on, then the files that were rotated after it, then the file itself. Compressed files are ignored. A
    symbolic link names the newest file of a series, whose names differ only in digits.
    """

    def __init__(
        self, path: Path, codec: Codec, resume: Resume, *, finished: bool = False, linger_s: float = LINGER_S
    ) -> None:
        super().__init__(path, codec, resume, finished=finished)
        self._linger_s = 0.0 if finished else linger_s
        self._last_end = ""  # the end of the last chunk, as long as a file has the bytes before it

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next lines of a rotated file, or else of the file itself. See Source."""
        while True:
            if self._last_end and not self._position:  # nothing of this file is read yet: another may come before it
                self.close()
            chunk = super().poll(max_records)
            if chunk is None:
                return None
            if chunk.end or not self._last_end:
                self._last_end = chunk.end
                return chunk
            if chunk.invalid:  # a first line without its newline: the position stays in the file before
                return replace(chunk, end=self._last_end)
            self.close()  # the file is finished or was truncated: `_open` finds the next one

    def _is_replaced(self, file: FileIO) -> bool:
        return super()._is_replaced(file) and self._is_quiet(file)

    def _is_quiet(self, file: FileIO) -> bool:
        age_s = time.time() - os.fstat(file.fileno()).st_mtime
        return not -SET_BACK_S < age_s < self._linger_s

    def _open(self) -> FileIO:
        """Open the file in which to continue, and set `_position` to the place where to continue in it."""
        position = self._position or self._last_end
        files = self._files_since(position) if position else []
        if not files:  # no file has the bytes before the position: the next chunk reports that the file begins again
            self._position, self._last_end = position, ""
            return super()._open()
        self._last_end, chosen = position, files[0]
        if len(files) > 1 and self._is_quiet(chosen) and not _has_more(chosen, parse_position(position)[0]):
            chosen = next((file for file in files[1:] if _has_more(file, 0)), files[-1])
        elif len(files) > 1:
            logger.info("{} was rotated: reading continues in the rotated file", self._path)
        self._position = position if chosen is files[0] else ""
        for file in files:
            if file is not chosen:
                file.close()
        return chosen

    def _files_since(self, position: str) -> list[FileIO]:
        """Open the file that has the bytes before a position, and all newer files, the newest last. May be none."""
        while True:
            beside, found = self._rotated(), list[FileIO]()
            with ExitStack() as opened:
                for path in (str(self._path), *(path for *_, path, _ in beside)):
                    with suppress(FileNotFoundError):
                        found.insert(0, opened.enter_context(FileIO(path)))
                        if _has_before(found[0], position):
                            break
                else:
                    found.clear()
                if beside == self._rotated():  # else the files were rotated meanwhile, and one may be missing
                    if found:
                        opened.pop_all()
                    return found

    def _rotated(self) -> list[tuple[int, int, str, int]]:
        """Return the files beside this one that have its name with a number or a date, the newest first.

        Each has its time, its number as a negative one (it orders files of one time), its path and its inode.
        """
        target = self._path.resolve()
        name = re.escape(target.name)
        if self._path.is_symlink():
            name = re.sub(r"\d+", r"\\d+", name)
        pattern = re.compile(f"{name}({_ROTATED})?")
        found = []
        with suppress(FileNotFoundError), os.scandir(target.parent) as beside:
            for entry in beside:
                rotated = pattern.fullmatch(entry.name) if entry.name != target.name else None
                with suppress(FileNotFoundError):
                    if rotated and stat.S_ISREG((status := os.stat(entry.path)).st_mode):
                        count = _COUNT.fullmatch(rotated[1] or "")
                        age = int(count[1]) if count else 0
                        found.append((status.st_mtime_ns, -age, entry.path, status.st_ino))
        return sorted(found, reverse=True)


def _has_before(file: FileIO, position: str) -> bool:
    """Return whether the file has the bytes before the position."""
    offset, length, crc = parse_position(position)
    file.seek(offset - length)
    before = file.read(length)
    return (len(before), crc32(before)) == (length, crc)


def _has_more(file: FileIO, offset: int) -> bool:
    """Return whether the file has a line, or a part of one, after the offset."""
    file.seek(offset)
    data = file.read(MAX_LINE_BYTES + 1)
    return len(data) > MAX_LINE_BYTES or bool(data.strip(BLANK))
