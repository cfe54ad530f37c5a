"""Losses and repeats, counted in a few bytes per producer."""

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import make_messages
from utils.reading.tracker import MAX_GAPS, MAX_LOST, Tally
from utils.records.record import Invalid, Message
from utils.sources.base import Chunk


def message(sequence: int, producer_id: str = "ann-1") -> Message:
    return make_messages(1, producer_id=producer_id, first=sequence)[0]


def chunk(*sequences: int, start: str = "1", end: str = "2") -> Chunk:
    return Chunk("live", start, end, [message(sequence) for sequence in sequences])


def seen(tally: Tally, *sequences: int) -> list[int | None]:
    return [new.sequence for new in tally.admit(chunk(*sequences))]


def test_in_order() -> None:
    tally = Tally()
    assert seen(tally, 1, 2, 3) == [1, 2, 3]
    assert tally.counts() == {"messages": 3, "foreign": 0, "invalid": 0, "lost": 0, "duplicate": 0, "again": 0}


def test_a_gap_is_a_loss_until_it_is_filled() -> None:
    tally = Tally()
    seen(tally, 1, 2, 7)
    assert tally.lost == 4
    assert seen(tally, 4, 4, 8) == [4, 8]
    assert (tally.lost, tally.duplicate) == (3, 1)
    assert seen(tally, 3, 5, 6) == [3, 5, 6]
    assert (tally.lost, tally.duplicate) == (0, 1)
    assert tally.producers["ann-1"].gaps == []


def test_a_repeat_is_dropped_and_counted() -> None:
    tally = Tally()
    assert seen(tally, 1, 2, 2, 1, 3) == [1, 2, 3]
    assert tally.duplicate == 2


def test_what_came_before_the_first_is_no_loss_but_new_if_it_comes() -> None:
    tally = Tally()
    seen(tally, 100, 101)
    assert tally.lost == 0
    assert seen(tally, 1, 2, 101) == [1, 2]
    assert (tally.lost, tally.duplicate) == (0, 1)


def test_after_a_jump_a_gap_is_no_loss() -> None:
    tally = Tally()
    seen(tally, 1, 2)
    tally.expect_jump()
    seen(tally, 10)
    assert tally.lost == 0
    seen(tally, 12)
    assert tally.lost == 1


def test_a_part_that_begins_again_brings_no_duplicates() -> None:
    tally = Tally()
    seen(tally, 1, 2, 3)
    tally.admit(chunk(end=""))
    assert seen(tally, 1, 2, 3, 4) == [4]
    assert (tally.again, tally.duplicate) == (3, 0)
    seen(tally, 4)
    assert (tally.again, tally.duplicate) == (3, 1)


def test_foreign_and_invalid_are_counted_apart() -> None:
    tally = Tally()
    half = make_messages(1)[0]
    half.producer_id = "ann-1"
    foreign = [*make_messages(2), half]
    assert tally.admit(Chunk("live", "", "1", foreign, [Invalid("live byte 3", "bad")])) == foreign
    assert (tally.messages, tally.foreign, tally.invalid) == (3, 3, 1)


def test_memory_is_bounded_per_producer() -> None:
    tally = Tally()
    seen(tally, *range(1, 10 * MAX_GAPS, 2))
    assert len(tally.producers["ann-1"].gaps) == MAX_GAPS
    assert tally.lost == 5 * MAX_GAPS - 1


def test_what_comes_for_a_forgotten_gap_is_judged_by_who_stores() -> None:
    tally = Tally()
    seen(tally, *range(1, 4 * MAX_GAPS, 2))
    lost = tally.lost
    assert seen(tally, 2, 4 * MAX_GAPS - 2) == [4 * MAX_GAPS - 2]
    assert (tally.lost, tally.duplicate) == (lost - 1, 1)
    tally = Tally(tally.producers, is_stored=lambda producer_id, sequence: sequence == 4)
    assert seen(tally, 2, 2, 4) == [2]
    assert (tally.lost, tally.duplicate) == (-1, 2)


def test_what_huge_sequences_claim_is_bounded() -> None:
    tally = Tally()
    seen(tally, 1, 2**63 - 1)
    assert tally.lost == MAX_LOST


@pytest.mark.parametrize("max_gaps", [1, MAX_GAPS])
@given(st.lists(st.tuples(st.sampled_from(["ann-1", "bob-2"]), st.integers(1, 30)), max_size=60), st.integers(1, 60))
def test_against_a_set(max_gaps: int, pairs: list[tuple[str, int]], cut: int) -> None:
    new: list[tuple[str | None, int | None]] = []
    stored: set[tuple[str | None, int | None]] = set()
    tally = Tally(is_stored=lambda *pair: pair in stored)
    for part in (pairs[:cut], pairs[cut:]):
        messages = [message(sequence, producer_id) for producer_id, sequence in part]
        with patch("utils.reading.tracker.MAX_GAPS", max_gaps):
            new += [(made.producer_id, made.sequence) for made in tally.admit(Chunk("live", "1", "2", messages))]
        stored.update(new)
        assert all(len(seen.gaps) <= max_gaps for seen in tally.producers.values())
    assert new == list(dict.fromkeys(pairs))
    assert tally.duplicate == len(pairs) - len(set(pairs))
    missing = 0
    for producer_id in {producer_id for producer_id, _ in pairs}:
        own = [sequence for other, sequence in pairs if other == producer_id]
        missing += len(set(range(own[0], max(own) + 1)) - set(own))
    assert tally.lost == missing
