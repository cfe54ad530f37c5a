"""New, duplicate and lost records by (producer_id, sequence), in bounded memory."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

MAX_RUNS = MAX_GAPS = 1_000


class Track(msgspec.Struct):
    """What was seen of one journal: everything from `first` up to `high`, except the `gaps`.

    All runs of a journal that continue each other share one track. Sequences up to `again` may come once more.
    """

    first: int
    high: int
    again: int = 0
    gaps: list[tuple[int, int]] = []

    def fills(self, sequence: int) -> bool:
        """Whether the record was missing; then it is not any more."""
        at = bisect_right(self.gaps, (sequence, 1 << 64)) - 1
        if at < 0 or self.gaps[at][1] < sequence:
            return False
        first, last = self.gaps[at]
        rest = ((first, sequence - 1), (sequence + 1, last))
        self.gaps[at : at + 1] = [gap for gap in rest if gap[0] <= gap[1]]
        return True


class State(msgspec.Struct):
    """A tracker as it is stored: tracks, and runs (the one that was silent longest first) with their track's number."""

    tracks: list[Track] = []
    runs: list[tuple[str, int]] = []
    open_ended: bool = False


class Counts(msgspec.Struct):
    """Totals: `new` and `external` (without ids) are stored; `again` was read once more after a restart."""

    new: int = 0
    external: int = 0
    invalid: int = 0
    lost: int = 0
    duplicate: int = 0
    again: int = 0

    def items(self) -> dict[str, int]:
        """The totals by name."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Tracker:
    """Feed it every record once, in the order read.

    A journal begins at 1 and continues over its runs, so what is missing before and between them is lost; a run that
    begins at or below what was seen is a restored or copied journal, and no loss. No claim is made on what came before
    where reading began at the `end`, nor, once a run was evicted, before a journal that is met then: it may be a
    known one. Past MAX_GAPS gaps of a journal the oldest is let go of, past MAX_RUNS runs the one that was silent
    longest: what still comes of them counts as duplicate (a gap) or as a run just met.
    """

    def __init__(self, *, from_end: bool = False, max_runs: int = MAX_RUNS, max_gaps: int = MAX_GAPS) -> None:
        self._open_ended, self._max_runs, self._max_gaps = from_end, max_runs, max_gaps
        self._runs: OrderedDict[str, Track] = OrderedDict()
        self._latest: tuple[str, Track] = ("", Track(0, 0))
        self.counts = Counts()

    def admit(self, records: Iterable[Any]) -> list[Any]:
        """Count the records; those that are new, or have no ids, in order."""
        counts, new = self.counts, []
        latest, track = self._latest
        for record in records:
            producer_id, sequence = record.producer_id, record.sequence
            if producer_id is None or sequence is None:
                counts.external += 1
            elif producer_id == latest and sequence == track.high + 1:
                track.high = sequence
                counts.new += 1
            else:
                if not self._add(producer_id, sequence):
                    continue
                latest, track = self._latest
            new.append(record)
        return new

    def _add(self, producer_id: str, sequence: int) -> bool:
        """Count one record; whether it is new."""
        counts = self.counts
        track = self._runs.get(producer_id) or self._meet(producer_id, sequence)
        self._runs.move_to_end(producer_id)
        self._latest = producer_id, track
        if sequence > track.high:
            if sequence > track.high + 1:
                self._miss(track, (track.high + 1, sequence - 1))
            track.high = sequence
        elif sequence < track.first:  # reading began at the end, and older ones come after all
            if sequence < track.first - 1:
                self._miss(track, (sequence + 1, track.first - 1))
            track.first = sequence
        elif track.fills(sequence):
            counts.lost -= 1
        else:
            if sequence <= track.again:
                counts.again += 1
            else:
                counts.duplicate += 1
            return False
        counts.new += 1
        return True

    def _miss(self, track: Track, gap: tuple[int, int]) -> None:
        self.counts.lost += gap[1] - gap[0] + 1
        track.gaps.insert(bisect_right(track.gaps, gap), gap)
        if len(track.gaps) > self._max_gaps:
            del track.gaps[0]

    def _meet(self, producer_id: str, sequence: int) -> Track:
        """The track of a run that was not known."""
        journal = producer_id.rpartition("-")[0] or producer_id
        known = list({id(t): t for name, t in self._runs.items() if name.rpartition("-")[0] == journal}.values())
        track = next((each for each in known if each.high + 1 == sequence), None)
        if track is None and known:
            highest = max(known, key=lambda each: each.high)
            if sequence > highest.high:
                track = highest
            else:  # a late record of an earlier run, or else a restored or copied journal
                track = next((each for each in known if _has_gap(each, sequence)), None)
                track = track or Track(sequence, sequence - 1)
        elif track is None:
            first = sequence if self._open_ended else 1
            track = Track(first, first - 1)
        self._runs[producer_id] = track
        if len(self._runs) > self._max_runs:
            self._runs.popitem(last=False)
            self._open_ended = True
        return track

    def begin_again(self) -> None:
        """The partition is read from its beginning: what was seen is no duplicate."""
        for track in self._runs.values():
            track.again = track.high
        self._open_ended = True  # a rotated file may begin in the middle of a journal

    def jump_to_end(self) -> None:
        """Reading continues at the end: what was passed over is no loss."""
        self._runs.clear()
        self._latest = ("", Track(0, 0))
        self._open_ended = True

    def state(self) -> State:
        """What `restore` needs to continue."""
        numbers: dict[int, int] = {}
        tracks: list[Track] = []
        for track in self._runs.values():
            if numbers.setdefault(id(track), len(tracks)) == len(tracks):
                tracks.append(track)
        return State(tracks, [(name, numbers[id(track)]) for name, track in self._runs.items()], self._open_ended)

    def restore(self, state: State, counts: Counts) -> None:
        """Continue where another tracker ended."""
        self._runs = OrderedDict((name, state.tracks[number]) for name, number in state.runs)
        self._open_ended, self.counts = state.open_ended, counts


def _has_gap(track: Track, sequence: int) -> bool:
    at = bisect_right(track.gaps, (sequence, 1 << 64)) - 1
    return at >= 0 and track.gaps[at][1] >= sequence
