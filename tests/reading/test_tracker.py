"""The tracker against sets of the records that were read: new, lost, duplicate, read again."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.reading.tracker import MAX_GAPS, MAX_LOST, Counts, Tracker, journal_of

JOURNAL = "ann-0000000a"
RUN_1, RUN_2, COPY = f"{JOURNAL}-00000001", f"{JOURNAL}-00000002", f"{JOURNAL}-00000003"


@dataclass
class Read:
    """A record, reduced to its ids."""

    producer_id: str | None
    sequence: int | None


def admit(tracker: Tracker, *sequences: int, producer_id: str = RUN_1) -> list[int | None]:
    return [each.sequence for each in tracker.admit([Read(producer_id, sequence) for sequence in sequences])]


def counts(**changed: int) -> Counts:
    return Counts(**changed)


class TestOneRun:
    def test_records_without_ids_are_new_and_external(self) -> None:
        tracker = Tracker()
        assert len(tracker.admit([Read(None, None), Read(RUN_1, 1), Read(None, None)])) == 3
        assert tracker.counts == counts(records=3, external=2)

    def test_losses_claimed_by_huge_sequences_are_bounded(self) -> None:
        tracker = Tracker()
        admit(tracker, 1, 2**63 - 1)
        assert tracker.counts.lost == MAX_LOST
        admit(tracker, 2**62)
        assert tracker.counts.lost == MAX_LOST - 1


class TestRunsOfAJournal:
    def test_records_missing_between_two_runs_are_lost(self) -> None:
        tracker = Tracker()
        admit(tracker, 1, 2, 3)
        admit(tracker, 6, producer_id=RUN_2)
        assert tracker.counts.lost == 2
        admit(tracker, 5, producer_id=RUN_2)
        assert tracker.counts == counts(records=5, lost=1)

    def test_a_restored_journal_is_no_loss(self) -> None:
        tracker = Tracker()
        admit(tracker, *range(1, 11))
        admit(tracker, 6, 7, producer_id=RUN_2)
        assert tracker.counts == counts(records=12)

    @pytest.mark.parametrize("other", ["ann-2", "ann-0000000b-00000001", "ann"])
    def test_similar_ids_are_not_of_one_journal(self, other: str) -> None:
        tracker = Tracker()
        admit(tracker, 1, 2, producer_id="ann-1")
        assert admit(tracker, 3, producer_id=other) == [3]
        assert admit(tracker, 3, producer_id="ann-1") == [3]
        assert tracker.counts == counts(records=4, lost=2)

    @pytest.mark.parametrize(
        ("producer_id", "journal"),
        [
            (RUN_1, JOURNAL),
            ("a-b-0000000a-00000001", "a-b-0000000a"),
            ("ann-1", "ann-1"),
            ("ann-0000000a", "ann-0000000a"),
        ],
    )
    def test_journal_of(self, producer_id: str, journal: str) -> None:
        assert journal_of(producer_id) == journal


class TestBeginningAgain:
    def test_records_read_again_are_no_duplicates(self) -> None:
        tracker = Tracker()
        admit(tracker, 1, 2, 4)
        tracker.begin_again()
        assert admit(tracker, 1, 2, 3, 4, 5) == [3, 5]
        assert tracker.counts == counts(records=5, again=3)
        assert tracker.tracks[RUN_1].gaps == []
        admit(tracker, 5)
        assert tracker.counts.duplicate == 1


class TestBounds:
    def test_an_evicted_run_makes_no_false_loss(self) -> None:
        tracker = Tracker(max_runs=2)
        for number in range(5):
            admit(tracker, 1, 2, 3, producer_id=f"ann-0000000{number}-00000001")
        admit(tracker, 4, producer_id="ann-00000000-00000001")
        admit(tracker, 4, producer_id="ann-00000001-00000002")
        assert tracker.counts.lost == 0

    def test_a_run_that_is_active_is_not_evicted_by_many_short_ones(self) -> None:
        tracker = Tracker(max_runs=3)
        for number in range(10):
            admit(tracker, number + 1, producer_id="bob-1")
            admit(tracker, 1, producer_id=f"ann-{number}")
        admit(tracker, 1, 10, producer_id="bob-1")
        assert tracker.counts == counts(records=20, duplicate=2)

    @pytest.mark.parametrize(("from_end", "lost"), [(False, 4), (True, 0)])
    def test_while_a_journal_has_another_run_its_claims_stay(self, from_end: bool, lost: int) -> None:
        tracker = Tracker(from_end=from_end, max_runs=2)
        for sequence, run in enumerate((RUN_1, RUN_2, COPY), 1):
            admit(tracker, sequence, producer_id=run)
        admit(tracker, 5, producer_id="bob-1")
        assert tracker.counts.lost == lost

    def test_the_oldest_gap_is_dropped(self) -> None:
        tracker = Tracker(max_gaps=2)
        admit(tracker, 1, 3, 5, 7)
        assert admit(tracker, 4, 6, 2) == [4, 6]
        assert tracker.counts == counts(records=6, lost=1, duplicate=1)

    def test_gaps_that_are_split_are_bounded_too(self) -> None:
        tracker = Tracker()
        admit(tracker, 1, 10 * MAX_GAPS)
        admit(tracker, *range(3, 8 * MAX_GAPS, 2))
        assert all(len(track.gaps) <= MAX_GAPS for track in tracker.tracks.values())


class Model:
    """A tracker without bounds: a set for each run."""

    def __init__(self, from_end: bool) -> None:
        self.open_ended = from_end
        self.seen: dict[str, set[int]] = {}
        self.claimed: dict[str, int] = {}  # first sequence of a run that must have come
        self.again: dict[str, int] = {}
        self.counts = Counts()

    def read(self, producer_id: str, sequence: int) -> bool:
        if producer_id not in self.seen:
            known = [max(seen) for run, seen in self.seen.items() if journal_of(run) == journal_of(producer_id)]
            self.claimed[producer_id] = max(known) + 1 if known else sequence if self.open_ended else 1
        seen = self.seen.setdefault(producer_id, set())
        self.claimed[producer_id] = min(self.claimed[producer_id], sequence)
        if sequence in seen:
            if sequence <= self.again.get(producer_id, 0):
                self.counts.again += 1
            else:
                self.counts.duplicate += 1
            return False
        seen.add(sequence)
        self.counts.records += 1
        self.counts.lost = sum(
            len(set(range(self.claimed[run], max(numbers) + 1)) - numbers) for run, numbers in self.seen.items()
        )
        return True

    def begin_again(self) -> None:
        self.again = {run: max(seen) for run, seen in self.seen.items()}
        self.open_ended = True


IDS = st.sampled_from([RUN_1, RUN_2, COPY, "bob-0000000b-00000001", "sensor-1", "sensor-2"])
STEPS = st.lists(st.one_of(st.none(), st.tuples(IDS, st.integers(1, 25))), max_size=100)


@settings(max_examples=200)
@given(STEPS, st.booleans(), st.integers(1, 7))
def test_against_sets(steps: list[tuple[str, int] | None], from_end: bool, chunk: int) -> None:
    """The tracker equals the model in any order, with several runs of a journal, any chunks, and restarts (None)."""
    tracker, model = Tracker(from_end=from_end), Model(from_end)
    pending: list[Read] = []
    expected: list[Read] = []
    for step in [*steps, None]:
        if step is None or len(pending) == chunk:
            assert tracker.admit(pending) == expected
            assert tracker.counts == model.counts
            pending, expected = [], []
        if step is None:
            tracker.begin_again()
            model.begin_again()
            continue
        pending.append(Read(*step))
        if model.read(*step):
            expected.append(pending[-1])


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 60)), max_size=200), st.booleans())
def test_bounds_are_never_exceeded(pairs: list[tuple[str, int]], from_end: bool) -> None:
    tracker = Tracker(from_end=from_end, max_runs=3, max_gaps=2)
    for pair in pairs:
        tracker.admit([Read(*pair)])
        assert len(tracker.tracks) <= 3
        assert all(len(track.gaps) <= 2 for track in tracker.tracks.values())
    assert tracker.counts.records + tracker.counts.duplicate == len(pairs)
    assert tracker.counts.lost >= 0
