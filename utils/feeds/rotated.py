"""A file that grows, and the files that a rotation has left beside it."""

import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from loguru import logger

from utils.app.errors import Unavailable
from utils.feeds.lines import LineCodec
from utils.sources.base import Chunk, Resume
from utils.sources.file_source import FileSource

LINGER_S = 1.0
"""How long a renamed file must be quiet before the new one is read: who writes may not have opened the new one yet."""
_ROTATED = r"[._-]\d[\d._:T-]*"  # what comes behind the name: .1, -20261126, .2026-11-26_19-04


class RotatedFile:
    """Follows a file as FileSource does, across rotations that happened while nobody read.

    Where the file no longer has what comes before the position, a rotated file beside it may: then this one is read
    from there, and those rotated after it, before the file itself. Compressed ones are not looked at.
    """

    name = "file"

    def __init__(
        self, path: Path, codec: LineCodec, resume: Resume, *, finished: bool = False, linger_s: float = LINGER_S
    ) -> None:
        self._path, self._codec, self._finished, self._linger_s = path, codec, finished, linger_s
        self._sources = [self._open(path, resume)]  # of rotated files, the oldest first, and of the file itself
        self._ready: Chunk | None = None  # of the first source
        self._behind = ""  # where the rotated files end, until something of the file itself has been read
        self._beside: list[tuple[str, int]] = []  # the rotated files then

    @property
    def detail(self) -> str:
        """What exactly is read, for people."""
        return str(self._path)

    def poll(self, max_records: int) -> Chunk | None:
        """The next lines of a rotated file, else of the file. See Source."""
        while True:
            chunk, self._ready = self._ready or self._sources[0].poll(max_records), None
            is_lost = chunk is not None and chunk.begins_again and not (chunk.records or chunk.invalid)
            if chunk is not None and is_lost and self._find(chunk.start, max_records):
                continue
            if (chunk is None or is_lost) and len(self._sources) > 1:
                self._sources.pop(0).close()
                continue
            if chunk is None:
                # Without anything read of it, nothing else shows that the file itself was rotated meanwhile.
                if self._behind and self._beside != self._rotated() and self._find(self._behind, max_records):
                    continue
                return None
            self._behind = chunk.end if len(self._sources) > 1 else ""
            return replace(chunk, partition=self._path.name)

    def close(self) -> None:
        """Release everything. See Source."""
        for source in self._sources:
            source.close()

    def _open(self, path: Path, resume: Resume) -> FileSource:
        finished = self._finished or path != self._path
        return FileSource(path, self._codec, resume, finished=finished, linger_s=0.0 if finished else self._linger_s)

    def _find(self, position: str, max_records: int) -> bool:
        """Whether a file has what comes before the position: then it is read, and all newer ones, the oldest first.

        The file itself comes first: it may have been written anew with all that it had.
        """
        found: list[FileSource] = []
        beside = self._rotated()
        for path in (self._path, *(Path(path) for path, _ in beside)):
            found.insert(0, self._open(path, lambda _: position))
            try:
                chunk = found[0].poll(max_records)
            except Unavailable:  # the file itself may not be there yet; another one was removed meanwhile
                if path != self._path:
                    found.pop(0)
                continue
            if chunk is None or not chunk.begins_again:
                logger.info("{} was rotated: it is continued from {}", self._path, path.name)
                self.close()
                self._sources, self._ready = found, chunk
                self._behind, self._beside = position, beside
                return True
        for source in found:
            source.close()
        return False

    def _rotated(self) -> list[tuple[str, int]]:
        """Paths and inodes of the files beside this one that have its name and a number or a date, the newest first."""
        target = self._path.resolve()
        pattern = re.compile(re.escape(target.name) + _ROTATED)
        found: list[tuple[int, str, int]] = []
        with suppress(OSError), os.scandir(target.parent) as beside:
            for entry in beside:
                if pattern.fullmatch(entry.name) and entry.is_file():
                    status = os.stat(entry.path)
                    found.append((status.st_mtime_ns, entry.path, status.st_ino))
        return [(path, inode) for _, path, inode in sorted(found, reverse=True)]
