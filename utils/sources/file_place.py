"""Places in files: where they are, and a fingerprint of what comes before them."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

FINGERPRINT_BYTES = 256
MAX_OFFSET = 1 << 62


@dataclass(frozen=True)
class FilePlace:
    """After `offset` bytes, of which the last `length` have this checksum."""

    offset: int
    length: int
    crc: int

    @classmethod
    def parse(cls, position: str) -> FilePlace:
        """The place of a stored position; one that cannot be understood is found nowhere."""
        try:
            offset, length, crc = map(int, position.split(":"))
        except ValueError:
            return cls(0, 0, -1 if position else 0)
        # Without a fingerprint (length 0) nothing would be compared.
        compared = offset == length == 0 or min(offset, length) > 0
        if 0 <= length <= offset <= MAX_OFFSET and compared:
            return cls(offset, length, crc)
        return cls(0, 0, -1)

    @classmethod
    def after(cls, offset: int, *before: bytes) -> FilePlace:
        """The place in a file; `before` are at least the last bytes before it."""
        last = b"".join(each[-FINGERPRINT_BYTES:] for each in before)[-FINGERPRINT_BYTES:]
        return cls(offset, len(last), crc32(last))

    def is_after(self, before: bytes) -> bool:
        """Whether these bytes come before the place."""
        return len(before) == self.length and crc32(before) == self.crc

    def __str__(self) -> str:
        """The position to store."""
        return f"{self.offset}:{self.length}:{self.crc}" if self.offset else ""
