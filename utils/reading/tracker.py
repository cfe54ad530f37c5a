"""New, duplicate and lost records by (producer_id, sequence), in bounded memory."""

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

MAX_RUNS = MAX_GAPS = 1_000
MAX_LOST = 2**40  # what one external sequence claims must not overflow a sum
_RUN = re.compile(r"(.+-[0-9a-f]{8})-[0-9a-f]{8}")


def journal_of(producer_id: str) -> str:
    """The journal `<name>-<journal>` whose run this is; an id of another form is a journal of its own."""
    found = _RUN.fullmatch(producer_id)
    return found[1] if found else producer_id


class Track(msgspec.Struct):
    """What was seen of one run: everything from `first` up to `high`, except the `gaps`.

    Sequences up to `again` may come once more. With `jumped` the next record may leave a gap that is no loss.
    """

    first: int
    high: int
    again: int = 0
    jumped: bool = False
    gaps: list[tuple[int, int]] = []

    def fill(self, sequence: int) -> bool:
        """Whether the record was missing; then it is not any more."""
        at = bisect_right(self.gaps, (sequence, MAX_LOST**2)) - 1
        if at < 0 or self.gaps[at][1] < sequence:
            return False
        first, last = self.gaps[at]
        rest = ((first, sequence - 1), (sequence + 1, last))
        self.gaps[at : at + 1] = [gap for gap in rest if gap[0] <= gap[1]]
        return True


class Counts(msgspec.Struct):
    """Totals: `records` are the new ones, `external` those of them that carry no ids.

    `again` was read once more after a restart, `lost` is missing so far.
    """

    records: int = 0
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

    A journal begins at 1 and continues over its runs. So what is missing before, in and between them is lost, and a
    run that begins at or below the highest sequence of its journal belongs to a restored or copied journal: no loss.
    No claim is made on what came before a journal that is met after reading began at the end or a partition began
    again, or after a journal was evicted, for it may be a known one. Past `max_gaps` gaps of a run the oldest is
    dropped, past `max_runs` runs (and journals) the one that was silent longest: what still comes of them counts as
    duplicate (a gap) or as a run just met.
    """

    def __init__(self, *, from_end: bool = False, max_runs: int = MAX_RUNS, max_gaps: int = MAX_GAPS) -> None:
        self.counts = Counts()
        self.tracks: OrderedDict[str, Track] = OrderedDict()  # by producer_id, the latest last
        self.highs: OrderedDict[str, int] = OrderedDict()  # by journal: its highest sequence, up to the present run
        self.open_ended, self._max_runs, self._max_gaps = from_end, max_runs, max_gaps
        self._latest = ("", Track(0, 0))

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
            else:
                is_new = self._add(producer_id, sequence)
                latest, track = self._latest
                if not is_new:
                    continue
            new.append(record)
        counts.records += len(new)
        return new

    def _add(self, producer_id: str, sequence: int) -> bool:
        """Count a record that does not simply continue the one before; whether it is new."""
        if producer_id != self._latest[0]:
            self._note_high()
            self._latest = producer_id, self.tracks.get(producer_id) or self._meet(producer_id, sequence)
            self.tracks.move_to_end(producer_id)
        track = self._latest[1]
        if sequence > track.high:
            if sequence > track.high + 1 and not track.jumped:
                self._miss(track, (track.high + 1, sequence - 1))
            track.high, track.jumped = sequence, False
        elif sequence < track.first:  # no claim was made on it, but it comes after all
            if sequence < track.first - 1:
                self._miss(track, (sequence + 1, track.first - 1))
            track.first = sequence
        elif track.fill(sequence):
            self.counts.lost -= 1
            self._bound(track)
        else:
            if sequence <= track.again:
                self.counts.again += 1
            else:
                self.counts.duplicate += 1
            return False
        return True

    def _meet(self, producer_id: str, sequence: int) -> Track:
        """The track of a run that was not known."""
        highest = self.highs.get(journal_of(producer_id))
        claimed = (sequence if self.open_ended else 1) if highest is None else highest + 1
        first = min(sequence, claimed)
        self.tracks[producer_id] = Track(first, first - 1)
        if len(self.tracks) > self._max_runs:
            self.tracks.popitem(last=False)
        return self.tracks[producer_id]

    def _note_high(self) -> None:
        """Remember how far the journal of the latest run has come, before another run is looked at."""
        producer_id, track = self._latest
        if producer_id:
            journal = journal_of(producer_id)
            self.highs[journal] = max(track.high, self.highs.get(journal, 0))
            self.highs.move_to_end(journal)
            if len(self.highs) > self._max_runs:
                self.highs.popitem(last=False)
                self.open_ended = True

    def _miss(self, track: Track, gap: tuple[int, int]) -> None:
        self.counts.lost += min(gap[1] - gap[0] + 1, MAX_LOST)
        track.gaps.insert(bisect_right(track.gaps, gap), gap)
        self._bound(track)

    def _bound(self, track: Track) -> None:
        if len(track.gaps) > self._max_gaps:
            del track.gaps[0]

    def begin_again(self) -> None:
        """The partition is read from its beginning: what was seen is no duplicate, and it may begin anywhere."""
        for track in self.tracks.values():
            track.again = track.high
        self.open_ended = True
