"""Reading a large file of lines from its end, in bounded memory."""

import os
import re
from collections.abc import Iterator

SCAN_BYTES = 4 << 20
MAX_LINE_BYTES = 1 << 20
BLANK = b" \t\r\n\0"  # a power cut may leave zeros
HOLE = re.compile(rb"\0{16,}")  # of a power cut, or a copied and truncated log; shorter: UTF-16, or one wrong character


def read_at(fd: int, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, fewer at the end of the file."""
    os.lseek(fd, offset, os.SEEK_SET)
    blocks = []
    while size and (block := os.read(fd, size)):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def is_whole(fd: int) -> bool:
    """Whether the file ends in a newline, if in anything."""
    size = os.lseek(fd, 0, os.SEEK_END)
    return size == 0 or read_at(fd, size - 1, 1) == b"\n"


def last_line(fd: int) -> tuple[int, bytes]:
    """Where the last line begins, and as much of it as a line may have, without the zeros and blanks around it."""
    size = start = os.lseek(fd, 0, os.SEEK_END)
    newline = -1
    while start and newline < 0:
        step = min(SCAN_BYTES, start)
        start -= step
        newline = read_at(fd, start, step).rfind(b"\n")
    start += newline + 1
    line, offset = b"", start
    while offset < size and len(line) <= MAX_LINE_BYTES:
        block = read_at(fd, offset, min(SCAN_BYTES, size - offset))
        line = (line + block).lstrip(BLANK)
        offset += len(block)
    return start, line.rstrip(BLANK)


def lines_backwards(fd: int, needle: bytes, start: int, low: int) -> Iterator[tuple[bytes, int]]:
    """Lines between the offsets `low` and `start` that contain `needle`, last first, and the offsets behind them.

    Zeros before a line are passed over. Of a line that is too long for a record only the end is given.
    """
    for end in range(start, low, -SCAN_BYTES):
        lowest = max(low, end - SCAN_BYTES)
        begin = max(low, lowest - MAX_LINE_BYTES)  # of a line that ends here, of which the step before had not all
        data = read_at(fd, begin, end - begin)
        cut = len(data)
        while (found := data.rfind(needle, 0, cut)) >= 0:
            cut = data.rfind(b"\n", 0, found) + 1
            newline = data.find(b"\n", found)
            line_end = end if newline < 0 else begin + newline + 1
            if line_end <= lowest:
                break
            if newline >= 0 or end == start:
                yield data[cut : line_end - begin].strip(BLANK), line_end


def first_hole(fd: int, start: int, end: int) -> int:
    """Where the first line that has a zero begins, from the beginning of a line up to `end`; `end` if none has."""
    found = start
    for offset in range(start, end, SCAN_BYTES):
        before, zero, _ = read_at(fd, offset, min(SCAN_BYTES, end - offset)).partition(b"\0")
        if newline := before.rfind(b"\n") + 1:
            found = offset + newline
        if zero:
            return found
    return end
