"""Places in files: where they are, and a fingerprint of what comes before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from msgspec import Raw

FINGERPRINT_BYTES = 256
MAX_OFFSET = 1 << 62


@dataclass(frozen=True)
class FilePlace:
    """After `offset` bytes, of which the last `length` have this checksum; in an array after `offset` items."""

    offset: int
    length: int
    crc: int
    in_array: bool = False

    @classmethod
    def parse(cls, position: str) -> FilePlace:
        """The place of a stored position; one that cannot be understood is found nowhere."""
        in_array = position.startswith("[")
        try:
            offset, length, crc = map(int, position.removeprefix("[").split(":"))
        except ValueError:
            return cls(0, 0, -1 if position else 0, in_array)
        # Without a fingerprint (length 0) nothing would be compared.
        compared = in_array or offset == length == 0 or min(offset, length) > 0
        if 0 <= length <= offset <= MAX_OFFSET and compared:
            return cls(offset, length, crc, in_array)
        return cls(0, 0, -1, in_array)

    @classmethod
    def after(cls, offset: int, *before: bytes) -> FilePlace:
        """The place in a file of lines; `before` are at least the last bytes before it."""
        last = b"".join(each[-FINGERPRINT_BYTES:] for each in before)[-FINGERPRINT_BYTES:]
        return cls(offset, len(last), crc32(last))

    def is_after(self, before: bytes) -> bool:
        """Whether these bytes come before the place."""
        return len(before) == self.length and crc32(before) == self.crc

    @classmethod
    def after_item(cls, items: Sequence[Raw], count: int) -> FilePlace:
        """The place in an array that begins with these items, after `count` of them."""
        return cls(count, 0, crc32(items[count - 1]) if count else 0, True)

    def is_after_item(self, items: Sequence[Raw]) -> bool:
        """Whether an item of these is the last before the place."""
        return self.offset <= len(items) and self.crc == FilePlace.after_item(items, self.offset).crc

    def __str__(self) -> str:
        """The position to store."""
        if self.offset == 0:
            return ""
        return f"{'[' * self.in_array}{self.offset}:{self.length}:{self.crc}"
