"""Counting what a reader saw: lost and repeated messages, by (producer_id, sequence)."""

from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter

import msgspec

from utils.records.record import Message
from utils.sources.base import Chunk

MAX_GAPS = 1_000
MAX_LOST = 2**40  # what one foreign sequence claims must not overflow a sum
COUNTS = ("messages", "foreign", "invalid", "lost", "duplicate", "again")


class Seen(msgspec.Struct):
    """What was seen of one producer.

    `due` is the sequence that comes next, 0 while any higher one may come without being a loss (at
    the first message, after a jump to the end). `gaps` are (first, last, whether counted as lost), in
    order; those up to `forgotten` were too many. What is missing in `excused` (first, last) is no loss.
    Sequences up to `again` may come once more because their part began again.
    """

    high: int = 0
    due: int = 0
    again: int = 0
    gaps: list[tuple[int, int, bool]] = []
    forgotten: int = 0
    excused: list[tuple[int, int]] = []


class Tally:
    """Counts messages and keeps each one once, in bounded memory per producer.

    `messages` counts what was new, `foreign` what had no ids, `again` what was read once more after a
    part began again. A gap counts as `lost` until its messages come after all. Past MAX_GAPS gaps of
    one producer the oldest are forgotten: what comes for them later is new if `is_stored` (producer_id,
    sequence) says that it is not, else it counts as `duplicate`.
    """

    def __init__(
        self, producers: dict[str, Seen] | None = None, is_stored: Callable[[str, int], bool] = lambda *_: True
    ) -> None:
        self.producers = producers if producers is not None else {}
        self._is_stored = is_stored
        self._late: set[tuple[str, int]] = set()  # new in this chunk though their gaps were forgotten
        self.messages = self.foreign = self.invalid = self.lost = self.duplicate = self.again = 0

    def admit(self, chunk: Chunk) -> list[Message]:
        """Count the chunk; its messages that were not seen before, in order."""
        if chunk.begins_again:
            self.expect_again()
        self.invalid += len(chunk.invalid)
        new = []
        self._late.clear()
        producer_id, seen = "", Seen()
        for message in chunk.records:
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
            elif self._is_new(producer_id, seen, sequence):
                new.append(message)
        for seen in self.producers.values():
            # Only here, so that within a chunk every gap is known: what it brings is not stored yet.
            if len(seen.gaps) > MAX_GAPS:
                seen.forgotten = seen.gaps[-MAX_GAPS - 1][1]
                del seen.gaps[:-MAX_GAPS]
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

    def _is_new(self, producer_id: str, seen: Seen, sequence: int) -> bool:
        if sequence > seen.high:
            if sequence > seen.high + 1:
                first, last, counted = seen.high + 1, sequence - 1, seen.due > 0
                seen.gaps.append((first, last, counted))
                if counted:
                    self.lost += min(last - first + 1, MAX_LOST)
                else:
                    seen.excused = [*seen.excused[1 - MAX_GAPS :], (first, last)]
            seen.high, seen.due = sequence, sequence + 1
            return True
        index = bisect_right(seen.gaps, sequence, key=itemgetter(0)) - 1
        if index >= 0 and sequence <= seen.gaps[index][1]:
            first, last, counted = seen.gaps[index]
            rest = [(first, sequence - 1, counted), (sequence + 1, last, counted)]
            seen.gaps[index : index + 1] = [gap for gap in rest if gap[0] <= gap[1]]
            self.lost -= counted
            return True
        late = producer_id, sequence
        if sequence <= seen.forgotten and late not in self._late and not self._is_stored(*late):
            self._late.add(late)
            self.lost -= not any(first <= sequence <= last for first, last in seen.excused)
            return True
        if sequence <= seen.again:
            self.again += 1
        else:
            self.duplicate += 1
        return False
