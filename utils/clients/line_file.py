"""Reading large files of lines, mostly from the end, in bounded memory."""

import os
import re
from collections.abc import Iterator

SCAN_BYTES = 4 << 20  # read at once
MAX_LINE_BYTES = 1 << 20  # no record is so long
BLANK = b" \t\r\n\0"  # a power cut may leave zeros
HOLE = re.compile(rb"\0{16,}")  # left by a power cut or by logrotate's copytruncate; fewer zeros may be UTF-16 text


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset` on, or fewer at the end of the file."""
    os.lseek(fd, offset, os.SEEK_SET)
    blocks = []
    while size and (block := os.read(fd, size)):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def ends_with_newline(fd: int) -> bool:
    """Return whether the file is empty or ends with a newline."""
    size = os.lseek(fd, 0, os.SEEK_END)
    return size == 0 or read_at(fd, size - 1, 1) == b"\n"


def last_line(fd: int) -> tuple[int, bytes]:
    """Return the offset of the last line, and the line without surrounding blanks and zeros (of a long one, a part)."""
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
    """Yield the lines from offset `start` back to `low` that contain `needle`, each with the offset after it.

    Zeros before a line are skipped. Of a line that is too long for a record only the end is yielded.
    """
    for end in range(start, low, -SCAN_BYTES):
        lowest = max(low, end - SCAN_BYTES)
        begin = max(low, lowest - MAX_LINE_BYTES)  # a line that ends after `lowest` may begin before it
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
    """Return the offset of the first line with a zero byte, from `start` (where a line begins) to `end`, else `end`."""
    found = start
    for offset in range(start, end, SCAN_BYTES):
        before, zero, _ = read_at(fd, offset, min(SCAN_BYTES, end - offset)).partition(b"\0")
        if newline := before.rfind(b"\n") + 1:
            found = offset + newline
        if zero:
            return found
    return end
