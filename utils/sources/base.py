"""What a sink's reader promises."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from utils.records.codec import Codec
from utils.records.record import Invalid

Resume = Callable[[str], str]
"""Partition -> stored position; "" = from the start, "end" = only what comes from now on."""


@dataclass(frozen=True)
class Chunk:
    """Records of one partition, in order, and the positions around them.

    `partition` names the file, table or topic partition. `start` and `end` are opaque texts: whoever has handled
    the chunk stores `end` and gives it to `resume` later. Each chunk's `start` is what `resume` gave or
    the `end` before it. `records` is empty when only invalid records or a moved position are reported.
    """

    partition: str
    start: str
    end: str
    records: list[Any]
    invalid: list[Invalid] = field(default_factory=list)

    @property
    def begins_again(self) -> bool:
        """Whether this only reports that the partition was rotated or rebuilt, and is read from its beginning."""
        return self.end == "" and self.start not in ("", "end")


class Source(Protocol):
    """Reads one sink, each record once. Constructing opens nothing that could fail; polling does."""

    @property
    def name(self) -> str:
        """The sink that is read."""

    @property
    def detail(self) -> str:
        """What exactly is read, for people."""

    def poll(self, max_records: int) -> Chunk | None:
        """The next records, at most `max_records`, or None: nothing yet. Never waits long.

        Raises Unavailable (can heal: poll again later) or another ToolkitError (the user must act).
        """

    def close(self) -> None:
        """Release everything; may be called twice; never raises."""


def decode_all(codec: Codec, lines: Sequence[bytes], places: Iterable[str]) -> tuple[list[Any], list[Invalid]]:
    """Records of lines, all at once where all fit, and what is invalid; `places` say where each line is."""
    with suppress(ValueError):
        return codec.decode_each(lines), []
    decoded, invalid = [], []
    for line, where in zip(lines, places, strict=True):
        try:
            decoded.append(codec.decode(line))
        except ValueError as error:
            invalid.append(Invalid(where, str(error), line))
    return decoded, invalid
