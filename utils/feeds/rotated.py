"""A file that grows, and the files that a rotation has left beside it."""

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
from utils.sources.file_source import FileSource, parsed

LINGER_S = 1.0
"""How long a renamed file must be quiet before the new one is read: who writes may not have opened the new one yet."""
_ROTATED = r"[._-]\d[\d._:T-]*"  # what comes behind the name: .1, -20261126, .2026-11-26_19-04
_COUNT = re.compile(r"[._-](\d{1,3})")  # of such: the newest file has the lowest, of dates the highest


class RotatedFile(FileSource):
    """Follows a file as FileSource does, across rotations that happened while nobody read.

    Where the file no longer has what comes before the position, a rotated file beside it may: then this one is read
    from there, and those rotated after it, before the file itself. Compressed ones are not looked at. A link names the
    newest file of a series, whose names differ in their digits.
    """

    def __init__(
        self, path: Path, codec: Codec, resume: Resume, *, finished: bool = False, linger_s: float = LINGER_S
    ) -> None:
        super().__init__(path, codec, resume, finished=finished)
        self._linger_s = 0.0 if finished else linger_s
        self._behind = ""  # the position of what was handed on last, as long as a file has it

    def poll(self, max_records: int) -> Chunk | None:
        """The next lines of a rotated file, else of the file. See Source."""
        while True:
            if self._behind and not self._position:  # until something of a file was read, another may come before it
                self.close()
            chunk = super().poll(max_records)
            if chunk is None or not self._behind or chunk.end:
                self._behind = chunk.end if chunk else self._behind
                return chunk
            if chunk.invalid:  # of a first line without its end: nothing of this file is handled
                return replace(chunk, end=self._behind)
            self.close()  # it is left, or was truncated: `_open` knows where to continue

    def _is_replaced(self, file: FileIO) -> bool:
        return super()._is_replaced(file) and self._is_quiet(file)

    def _is_quiet(self, file: FileIO) -> bool:
        return time.time() - os.fstat(file.fileno()).st_mtime >= self._linger_s

    def _open(self) -> FileIO:
        """The file in which to continue, from `_position` on."""
        place = self._position or self._behind
        files = self._since(place) if place else []
        if not files:  # nothing of it is left: the chunk says that it begins again
            self._position, self._behind = place, ""
            return super()._open()
        self._behind, chosen = place, files[0]
        if len(files) > 1 and self._is_quiet(chosen) and not _has_more(chosen, parsed(place)[0]):
            chosen = next((file for file in files[1:] if _has_more(file, 0)), files[-1])
        elif len(files) > 1:
            logger.info("{} was rotated: it is continued in the rotated file", self._path)
        self._position = place if chosen is files[0] else ""
        for file in files:
            if file is not chosen:
                file.close()
        return chosen

    def _since(self, place: str) -> list[FileIO]:
        """The file that has what comes before the place, and all newer ones, the newest last; none if none has it."""
        while True:
            beside, found = self._rotated(), list[FileIO]()
            with ExitStack() as opened:
                for path in (str(self._path), *(path for *_, path, _ in beside)):
                    with suppress(FileNotFoundError):
                        found.insert(0, opened.enter_context(FileIO(path)))
                        if _is_before(found[0], place):
                            break
                else:
                    found.clear()
                if beside == self._rotated():  # else they were rotated meanwhile, and one may have been missed
                    if found:
                        opened.pop_all()
                    return found

    def _rotated(self) -> list[tuple[int, int, str, int]]:
        """The files beside this one with its name and a number or a date, the newest first.

        Of each the time, the number below zero, path and inode: several may be of one tick of the clock.
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


def _is_before(file: FileIO, position: str) -> bool:
    """Whether the file has what comes before the position."""
    offset, length, crc = parsed(position)
    file.seek(offset - length)
    before = file.read(length)
    return (len(before), crc32(before)) == (length, crc)


def _has_more(file: FileIO, offset: int) -> bool:
    """Whether the file has a line, or a part of one, from the offset on."""
    file.seek(offset)
    data = file.read(MAX_LINE_BYTES + 1)
    return len(data) > MAX_LINE_BYTES or bool(data.strip(BLANK))
