"""The source protocol, and the chunks that sources return."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from utils.records.codec import Codec
from utils.records.record import Invalid

Resume = Callable[[str], str]
"""Function from a partition to its stored position: "" = the start, "end" = the present end of the partition."""


@dataclass(frozen=True)
class Chunk:
    """Records of one partition, in order, and the positions before and after them.

    `partition` names the file, table or topic partition. `start` and `end` are opaque texts. A consumer stores `end`
    once it has handled the chunk, for `resume` to return it later. `start` is the `end` of the chunk before, or what
    `resume` returned. `records` is empty if the chunk reports only invalid records or another position.
    """

    partition: str
    start: str
    end: str
    records: list[Any]
    invalid: list[Invalid] = field(default_factory=list)

    @property
    def begins_again(self) -> bool:
        """True if the chunk only reports that the partition was rotated or rebuilt, and is read from its beginning."""
        return self.end == "" and self.start not in ("", "end")


class Source(Protocol):
    """The source protocol: reads one sink, each record once. The constructor opens nothing that could fail."""

    @property
    def name(self) -> str:
        """The name of the sink."""

    @property
    def detail(self) -> str:
        """The file or topic that is read, in words for people."""

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next records, at most `max_records`, or None if there are none yet. Never waits long.

        Raises Unavailable (can heal: poll again later) or another ToolkitError (the user must act).
        """

    def close(self) -> None:
        """Release everything; may be called twice; never raises."""


def decode_all(codec: Codec, lines: Sequence[bytes], places: Iterable[str]) -> tuple[list[Any], list[Invalid]]:
    """Decode lines, all at once if all are valid. Return the records, and the invalid lines with their `places`."""
    with suppress(ValueError):
        return codec.decode_each(lines), []
    decoded, invalid = [], []
    for line, where in zip(lines, places, strict=True):
        try:
            decoded.append(codec.decode(line))
        except ValueError as error:
            invalid.append(Invalid(where, str(error), line))
    return decoded, invalid
