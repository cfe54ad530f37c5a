"""A file that grows, and the files that a rotation has left beside it."""

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from loguru import logger

from utils.app.errors import ToolkitError
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
        self.detail = str(path)
        self._path, self._codec = path, codec
        self._file = FileSource([path], codec, resume, finished=finished, linger_s=0.0 if finished else linger_s)
        self._older: list[FileSource] = []
        self._ready: Chunk | None = None

    def poll(self, max_records: int) -> Chunk | None:
        """The next lines of a rotated file, else of the file. See Source."""
        while self._older:
            chunk, self._ready = self._ready or _polled(self._older[0], max_records), None
            if chunk is not None:
                return replace(chunk, partition=self._path.name)
            self._older.pop(0).close()
        chunk = self._file.poll(max_records)
        if chunk is None or not chunk.begins_again or chunk.records or chunk.invalid:
            return chunk
        self._find(chunk.start, max_records)
        return self.poll(max_records) if self._older else chunk

    def close(self) -> None:
        """Release everything. See Source."""
        for source in (self._file, *self._older):
            source.close()
        self._older, self._ready = [], None

    def _find(self, position: str, max_records: int) -> None:
        """Open the newest rotated file that has what comes before the position, and those that are newer."""
        older: list[FileSource] = []
        for path in self._rotated():
            source = FileSource([path], self._codec, lambda _: position, finished=True)
            older.insert(0, source)
            chunk = _polled(source, max_records)
            if chunk is None or not chunk.begins_again:
                logger.info("{} was rotated: the rest is read from {}", self._path, path.name)
                self._older, self._ready = older, chunk
                return
        for source in older:
            source.close()

    def _rotated(self) -> list[Path]:
        """The files beside this one that have its name and a number or a date, the newest first."""
        pattern = re.compile(re.escape(self._path.name) + _ROTATED)
        found: list[tuple[int, Path]] = []
        for path in self._path.resolve().parent.iterdir():
            if pattern.fullmatch(path.name) and path.is_file():
                with suppress(OSError):
                    found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found, reverse=True)]


def _polled(source: FileSource, max_records: int) -> Chunk | None:
    """What a rotated file has left; nothing if it was removed."""
    try:
        return source.poll(max_records)
    except ToolkitError as error:
        logger.warning("{}", error)
        return None
