"""New, duplicate and lost records by (producer_id, sequence), in bounded memory."""

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import asdict, astuple

from utils.sources.base import Chunk

MAX_RUNS = MAX_GAPS = 1_000
MAX_LOST = 2**40  # counted per gap: the sum must not overflow, whatever sequences external records have
_RUN = re.compile(r"(.+-[0-9a-f]{8})-[0-9a-f]{8}")


@lru_cache(maxsize=4 * MAX_RUNS)
def journal_of(producer_id: str) -> str:
    """Return the journal `<name>-<journal>` of a run; an id of another form is a journal of its own."""
    found = _RUN.fullmatch(producer_id)
    return found[1] if found else producer_id


class Track(msgspec.Struct, omit_defaults=True):
    """The sequences seen of one run: `first` to `high` without the `gaps`. Up to `again` they may be read again."""

    first: int
    high: int
    again: int = 0
    gaps: list[tuple[int, int]] = []


class Counts(msgspec.Struct):
    """Totals: `records` are the new ones, `external` those of them without ids, `lost` the missing ones so far.

    `again` are those that were read once more after their partition began again.
    """

    records: int = 0
    external: int = 0
    invalid: int = 0
    lost: int = 0
    duplicate: int = 0
    again: int = 0

    def items(self) -> dict[str, int]:
        """Return the totals by name."""
        return asdict(self)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Tracker(msgspec.Struct, omit_defaults=True):
    """A counter of new, duplicate and lost records. It must see every record once, in the order of reading.

    A journal begins at 1 and continues over its runs: sequences missing before, in and between them are lost. A run
    that begins at or below the highest sequence of its journal belongs to a restored or copied journal: no loss. With
    `from_end` nothing is lost before the first record of an unknown journal: reading began at the end, the partition
    began again, or a journal was dropped. Above `max_gaps` a run's oldest gap is dropped: its records, if they come,
    are duplicates. Above `max_runs` the run that was silent longest is dropped: if it continues, it is a new run.
    """

    from_end: bool = False
    max_runs: int = MAX_RUNS
    max_gaps: int = MAX_GAPS
    counts: Counts = msgspec.field(default_factory=Counts)
    tracks: dict[str, Track] = {}  # by producer_id, the latest last

    def admit_chunk(self, chunk: Chunk) -> list[Any]:
        """Count the records and invalid lines of a chunk. Return the records that are new or have no ids, in order."""
        new = self.admit(chunk.records)
        self.counts.invalid += len(chunk.invalid)
        if chunk.begins_again:  # noted after counting: the records in this chunk are still of the old file
            self.begin_again()
        return new

    def admit(self, records: Iterable[Any]) -> list[Any]:
        """Count the records. Return those that are new or have no ids, in order."""
        counts, new = self.counts, []
        latest, track = "", Track(0, 0)
        for record in records:
            producer_id, sequence = record.producer_id, record.sequence
            if producer_id is None:  # a record has both ids or none
                counts.external += 1
            elif producer_id == latest and sequence == track.high + 1:
                track.high = sequence
            else:
                if producer_id != latest:
                    latest, track = producer_id, self._track(producer_id, sequence)
                if not self._is_new(track, sequence):
                    continue
            new.append(record)
        counts.records += len(new)
        return new

    def _track(self, producer_id: str, sequence: int) -> Track:
        """Return the track of a run, made if it is missing, and move it to the end of `tracks`."""
        track = self.tracks.pop(producer_id, None)
        if track is None:
            highs = [each.high for each in self._of_journal(producer_id)]
            expected = sequence if self.from_end else 1
            first = min(sequence, max(highs) + 1 if highs else expected)
            track = Track(first, first - 1)
        self.tracks[producer_id] = track
        while len(self.tracks) > self.max_runs:
            silent = next(iter(self.tracks))
            del self.tracks[silent]
            self.from_end |= not self._of_journal(silent)
        return track

    def _of_journal(self, producer_id: str) -> list[Track]:
        journal = journal_of(producer_id)
        return [track for run, track in self.tracks.items() if journal_of(run) == journal]

    def _is_new(self, track: Track, sequence: int) -> bool:
        """Count a record whose sequence does not follow its predecessor's. Return whether it is new."""
        counts, gaps = self.counts, track.gaps
        at = bisect_right(gaps, (sequence, MAX_LOST**2)) - 1  # the only gap that can contain it
        if sequence > track.high:
            self._miss(track, track.high + 1, sequence - 1)
            track.high = sequence
        elif sequence < track.first:  # it was not counted as lost, but it comes after all
            self._miss(track, sequence + 1, track.first - 1)
            track.first = sequence
        elif at >= 0 and gaps[at][1] >= sequence:
            first, last = gaps[at]
            rest = (first, sequence - 1), (sequence + 1, last)
            gaps[at : at + 1] = [gap for gap in rest if gap[0] <= gap[1]]
            del gaps[: -self.max_gaps]
            counts.lost -= 1
        elif sequence <= track.again:
            counts.again += 1
            return False
        else:
            counts.duplicate += 1
            return False
        return True

    def _miss(self, track: Track, first: int, last: int) -> None:
        if first <= last:
            self.counts.lost += min(last - first + 1, MAX_LOST)
            track.gaps.insert(bisect_right(track.gaps, (first, last)), (first, last))
            del track.gaps[: -self.max_gaps]

    def begin_again(self) -> None:
        """Note that the partition is read from its beginning again: records that were seen then count as `again`."""
        for track in self.tracks.values():
            track.again = track.high
        self.from_end = True

    def learn(self, other: "Tracker", journals: set[str]) -> None:
        """Take over another tracker's tracks of these journals, which may have moved to this partition."""
        for run, track in other.tracks.items():
            if journal_of(run) in journals:
                self.tracks.setdefault(run, track)
