"""Sources that give one row after another and cannot be read from the middle: complete files and standard input."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from operator import attrgetter
from queue import Empty, Queue
from typing import Any
from zlib import crc32

from utils.app.errors import ToolkitError
from utils.feeds.lines import LineCodec
from utils.feeds.pages import Pages, Row
from utils.records.record import Invalid
from utils.sources.base import Chunk, Resume, decode_all

AHEAD_BLOCKS, AHEAD_BYTES = 16, 1 << 16
STOP_S = 0.1


class RowSource:
    """Hands out rows as lines. A position is `rows:crc` of all that were taken before it.

    If the rows before a stored position are other ones, the chunk says that the partition begins again.
    """

    name = "file"

    def __init__(self, name: str, pages: Pages, codec: LineCodec, resume: Resume, row: str = "line") -> None:
        """`row` is what people call one."""
        self.detail, self._row, self._codec = name, row, codec
        self._resume: Resume | None = resume  # until it is asked
        self._pages, self._page = filter(None, pages), list[Row]()  # the rest of one
        self._taken = self._crc = 0

    def poll(self, max_records: int) -> Chunk | None:
        """The next rows; None at the end. Waits for a pipe. See Source."""
        if self._resume:
            stored, self._resume = self._resume(self.detail), None
            rows = stored.partition(":")[0]
            wanted = int(rows) if rows.isdecimal() else 0
            while self._taken < wanted and self._take(wanted - self._taken):
                pass
            if stored not in ("", self._position):
                return Chunk(self.detail, stored, "", [])
        start, taken = self._position, self._take(max_records)
        whole = [row for row in taken if not row.reason]
        records, invalid = decode_all(self._codec, [row.line for row in whole], map(self._where, whole))
        invalid += [Invalid(self._where(row), row.reason, row.data) for row in taken if row.reason]
        return Chunk(self.detail, start, self._position, records, invalid) if taken else None

    def close(self) -> None:
        """Let go of the rows, and so of the file that they come from."""
        self._pages, self._page = filter(None, ()), []

    @property
    def _position(self) -> str:
        return f"{self._taken}:{self._crc}" if self._taken else ""

    def _take(self, max_rows: int) -> list[Row]:
        """The next rows of a page; none at the end."""
        page = self._page or next(self._pages, [])
        rows, self._page = page[:max_rows], page[max_rows:]
        self._taken += len(rows)
        self._crc = crc32(b"\n".join([*map(attrgetter("data"), rows), b""]), self._crc)
        return rows

    def _where(self, row: Row) -> str:
        return f"{self.detail} {self._row} {row.number}"


def pipe_blocks(file: Any, stop: threading.Event) -> Iterator[bytes]:
    """What a pipe brings, as it comes; the last block is empty, unless it was told to stop.

    A thread reads a little ahead, because a read cannot be interrupted. Raises ToolkitError if it fails.
    """
    blocks: Queue[bytes] = Queue(AHEAD_BLOCKS)
    failure = ""

    def read() -> None:
        nonlocal failure
        try:
            while data := file.read1(AHEAD_BYTES):
                blocks.put(data)
        except OSError as error:
            failure = str(error)
        blocks.put(b"")

    threading.Thread(target=read, name="standard input", daemon=True).start()
    while not stop.is_set():
        found = list[bytes]()
        with suppress(Empty):
            found.append(blocks.get(timeout=STOP_S))
            while found[-1]:
                found.append(blocks.get_nowait())
        if any(found):
            yield b"".join(found)
        if b"" in found and failure:
            raise ToolkitError(f"standard input: {failure}")
        if b"" in found:
            yield b""
            return
