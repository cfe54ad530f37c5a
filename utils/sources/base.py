"""What a sink's reader promises."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from utils.records.record import Invalid, Message

Resume = Callable[[str], str]
"""Part -> stored position; "" = from the start, "end" = only what comes from now on."""


@dataclass(frozen=True)
class Chunk:
    """Records of one part, in order, and the positions around them.

    `part` is the file, table or partition. `start` and `end` are opaque texts: whoever has handled
    the chunk stores `end` and gives it to `resume` later. Each chunk's `start` is what `resume` gave or
    the `end` before it. `messages` is empty when only invalid records or a moved position are reported.
    """

    part: str
    start: str
    end: str
    messages: list[Message]
    invalid: list[Invalid] = field(default_factory=list)

    @property
    def begins_again(self) -> bool:
        """Whether this only says that the part was rotated, truncated or rebuilt and is read from its beginning."""
        return self.end == "" and self.start not in ("", "end")


class Source(Protocol):
    """Reads one sink, each record once. Constructing opens nothing that could fail; polling does."""

    def poll(self, max_records: int) -> Chunk | None:
        """The next records, at most `max_records`, or None: nothing yet. Never waits long.

        Raises Unavailable (can heal: poll again later) or another ToolkitError (the user must act).
        """
        ...

    def close(self) -> None:
        """Release everything; may be called twice; never raises."""
        ...
