"""Counting what a reader saw: lost and repeated messages, by (producer_id, sequence)."""

import msgspec

from utils.message import Message
from utils.sources.base import Chunk

MAX_GAPS = 1_000
COUNTS = ("messages", "foreign", "invalid", "lost", "duplicate", "again")


class Seen(msgspec.Struct):
    """What was seen of one producer.

    `due` is the sequence that comes next, 0 while any higher one may come without being a loss (at
    the first message, after a jump to the end). `gaps` are (first, last, whether counted as lost).
    Sequences up to `again` may come once more because their part began again.
    """

    high: int = 0
    due: int = 0
    again: int = 0
    gaps: list[tuple[int, int, bool]] = []


class Tally:
    """Counts messages and keeps each one once, in a few bytes per producer.

    `messages` counts what was new, `foreign` what had no ids, `again` what was read once more after a
    part began again. A gap counts as `lost` until its messages come after all. Past MAX_GAPS gaps of
    one producer the oldest is forgotten: what comes for it later counts as `duplicate`.
    """

    def __init__(self, producers: dict[str, Seen] | None = None) -> None:
        self.producers = producers if producers is not None else {}
        self.messages = self.foreign = self.invalid = self.lost = self.duplicate = self.again = 0

    def admit(self, chunk: Chunk) -> list[Message]:
        """Count the chunk; its messages that were not seen before, in order."""
        if chunk.begins_again:
            self.expect_again()
        self.invalid += len(chunk.invalid)
        new = []
        producer_id, seen = "", Seen()
        for message in chunk.messages:
            sequence = message.sequence
            if message.producer_id is None or sequence is None:
                self.foreign += 1
                new.append(message)
                continue
            if message.producer_id != producer_id:
                producer_id = message.producer_id
                seen = self.producers.setdefault(producer_id, Seen())
            if sequence == seen.due:
                seen.high = sequence
                seen.due = sequence + 1
                new.append(message)
            elif self._is_new(seen, sequence):
                new.append(message)
        self.messages += len(new)
        return new

    def counts(self) -> dict[str, int]:
        """The counts by name."""
        return {name: getattr(self, name) for name in COUNTS}

    def expect_again(self) -> None:
        """From here on what was already seen is no duplicate: its part is read once more."""
        for seen in self.producers.values():
            seen.again = seen.high

    def expect_jump(self) -> None:
        """From here on the next message of each producer may leave a gap that is no loss."""
        for seen in self.producers.values():
            seen.due = 0

    def _is_new(self, seen: Seen, sequence: int) -> bool:
        if sequence > seen.high:
            if sequence > seen.high + 1:
                counted = seen.due > 0
                self.lost += counted * (sequence - seen.high - 1)
                seen.gaps = [*seen.gaps[1 - MAX_GAPS :], (seen.high + 1, sequence - 1, counted)]
            seen.high, seen.due = sequence, sequence + 1
            return True
        for index, (first, last, counted) in enumerate(seen.gaps):
            if first <= sequence <= last:
                rest = [(first, sequence - 1, counted), (sequence + 1, last, counted)]
                seen.gaps[index : index + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                self.lost -= counted
                return True
        if sequence <= seen.again:
            self.again += 1
        else:
            self.duplicate += 1
        return False
