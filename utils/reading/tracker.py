"""New, duplicate and lost records by (producer_id, sequence), in bounded memory."""

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import asdict, astuple

MAX_RUNS = MAX_GAPS = 1_000
MAX_LOST = 2**40  # what one external sequence claims must not overflow a sum
_RUN = re.compile(r"(.+-[0-9a-f]{8})-[0-9a-f]{8}")


@lru_cache(maxsize=4 * MAX_RUNS)
def journal_of(producer_id: str) -> str:
    """The journal `<name>-<journal>` whose run this is; an id of another form is a journal of its own."""
    found = _RUN.fullmatch(producer_id)
    return found[1] if found else producer_id


class Track(msgspec.Struct, omit_defaults=True):
    """What was seen of one run: all from `first` to `high` but the `gaps`; what is up to `again` may come once more."""

    first: int
    high: int
    again: int = 0
    gaps: list[tuple[int, int]] = []


class Counts(msgspec.Struct):
    """Totals: `records` are the new ones, `external` those of them that carry no ids, `lost` is missing so far.

    `again` was read once more after a restart.
    """

    records: int = 0
    external: int = 0
    invalid: int = 0
    lost: int = 0
    duplicate: int = 0
    again: int = 0

    def items(self) -> dict[str, int]:
        """The totals by name."""
        return asdict(self)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Tracker(msgspec.Struct, omit_defaults=True):
    """Feed it every record once, in the order read.

    A journal begins at 1 and continues over its runs: what is missing before, in and between them is lost. A run that
    begins at or below the highest sequence of its journal belongs to a restored or copied one: no loss. With `from_end`
    no claim is made on what came before a journal that is met: reading began at the end, a partition began again, or
    a journal was evicted. Past `max_gaps` gaps of a run the oldest is dropped, past `max_runs` runs the one that was
    silent longest: what still comes of them counts as duplicate (a gap) or as a run just met.
    """

    from_end: bool = False
    max_runs: int = MAX_RUNS
    max_gaps: int = MAX_GAPS
    counts: Counts = msgspec.field(default_factory=Counts)
    tracks: dict[str, Track] = {}  # by producer_id, the latest last

    def admit(self, records: Iterable[Any]) -> list[Any]:
        """Count the records; those that are new, or have no ids, in order."""
        counts, new = self.counts, []
        latest, track = "", Track(0, 0)
        for record in records:
            producer_id, sequence = record.producer_id, record.sequence
            if producer_id is None or sequence is None:
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
        """The track of a run, which is the latest one now."""
        track = self.tracks.pop(producer_id, None)
        if track is None:
            highs = [each.high for each in self._of_journal(producer_id)]
            claimed = max(highs) + 1 if highs else sequence if self.from_end else 1
            first = min(sequence, claimed)
            track = Track(first, first - 1)
        self.tracks[producer_id] = track
        while len(self.tracks) > self.max_runs:
            silent = next(iter(self.tracks))
            del self.tracks[silent]
            self.from_end = self.from_end or not self._of_journal(silent)
        return track

    def _of_journal(self, producer_id: str) -> list[Track]:
        journal = journal_of(producer_id)
        return [track for run, track in self.tracks.items() if journal_of(run) == journal]

    def _is_new(self, track: Track, sequence: int) -> bool:
        """Count a record of this run that does not simply continue the one before."""
        counts, gaps = self.counts, track.gaps
        at = bisect_right(gaps, (sequence, MAX_LOST**2)) - 1
        if sequence > track.high:
            self._miss(track, track.high + 1, sequence - 1)
            track.high = sequence
        elif sequence < track.first:  # no claim was made on it, but it comes after all
            self._miss(track, sequence + 1, track.first - 1)
            track.first = sequence
        elif at >= 0 and gaps[at][1] >= sequence:
            first, last = gaps[at]
            rest = (first, sequence - 1), (sequence + 1, last)
            gaps[at : at + 1] = [gap for gap in rest if gap[0] <= gap[1]]
            del gaps[: -self.max_gaps]
            counts.lost -= 1
        else:
            counts.again += sequence <= track.again
            counts.duplicate += sequence > track.again
            return False
        return True

    def _miss(self, track: Track, first: int, last: int) -> None:
        if first <= last:
            self.counts.lost += min(last - first + 1, MAX_LOST)
            track.gaps.insert(bisect_right(track.gaps, (first, last)), (first, last))
            del track.gaps[: -self.max_gaps]

    def begin_again(self) -> None:
        """The partition is read from its beginning, which may be anywhere: what was seen is no duplicate."""
        for track in self.tracks.values():
            track.again = track.high
        self.from_end = True

    def learn(self, other: "Tracker", journals: set[str]) -> None:
        """Take over what another tracker knows of these journals: they may have moved here."""
        for run, track in other.tracks.items():
            if journal_of(run) in journals:
                self.tracks.setdefault(run, track)
