"""The counts of the dashboard, against pandas; sources that change, restart and repeat; bounded memory."""

import json
import random
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from consumers.dashboard import serve
from consumers.dashboard import state as state_module
from consumers.dashboard.state import State
from tests.helpers import make_messages
from utils.reading.tracker import Tracker
from utils.records.instants import instant_text
from utils.records.record import Invalid, Message
from utils.records.stream import BUZZ
from utils.sources.base import Chunk

NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> State:
    return named(State(BUZZ, "file", clock=clock))


def named(state: State) -> State:
    state.using("file", "data/project_live.json")
    return state


def timestamp_text(epoch_s: float) -> str:
    return instant_text(int(epoch_s * 1000) * 1000)


def chunk(messages: list[Message], part: str = "f", start: str = "a", end: str = "b", invalid: int = 0) -> Chunk:
    return Chunk(part, start, end, messages, [Invalid(f"{part} line 1", "no text")] * invalid)


def stream(rng: random.Random, count: int, begin: float = NOW) -> list[Message]:
    messages = make_messages(count, producer_id="ann-1")
    for number, message in enumerate(messages):
        message.author = rng.choice(["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal"])
        message.timestamp = timestamp_text(begin + number * 0.5 + rng.uniform(0, 0.4))
        message.sentiment, message.message_length = rng.random(), rng.randint(1, 200)
    return messages


@pytest.mark.parametrize("seed", range(4))
def test_statistics_are_those_of_pandas(seed: int, state: State, clock: Clock) -> None:
    rng = random.Random(seed)
    messages = stream(rng, 700)
    table = pd.DataFrame(
        {
            "author": message.author,
            "event": round(pd.Timestamp(message.timestamp).timestamp(), 3),
            "sentiment": message.sentiment,
            "length": message.message_length,
        }
        for message in messages
    )
    state.go_live()
    arrivals, place = [], 0
    while place < len(messages):
        count = rng.randint(1, 9)
        batch = messages[place : place + count]
        clock.now = float(table["event"][place + len(batch) - 1]) + rng.uniform(0.1, 2.0)
        arrivals += [clock.now] * len(batch)
        state.add(chunk(batch))
        place += count
    table["arrival"] = arrivals
    clock.now += 3.25
    snapshot = state.snapshot()

    counts = table["author"].value_counts()
    assert snapshot.total == len(table)
    assert dict(snapshot.groups) == {name: counts[name] for name, _ in snapshot.groups}
    assert [count for _, count in snapshot.groups] == counts.head(6).tolist()
    assert snapshot.group_count == counts.size
    (series,) = snapshot.series
    assert list(series.values) == table["sentiment"].tail(30).tolist()
    np.testing.assert_allclose(series.rolling, table["sentiment"].rolling(10).mean().tail(30))
    assert list(series.keys) == table["author"].tail(30).tolist()
    assert list(snapshot.measured) == table["length"].tail(30).tolist()
    lags = (table["arrival"] - table["event"]).tail(100)
    assert snapshot.lag is not None
    assert (snapshot.lag.median, snapshot.lag.p95) == pytest.approx((lags.median(), lags.quantile(0.95)), abs=2e-3)
    window = int(clock.now) - 59
    assert snapshot.rate == pytest.approx((table["arrival"] >= window).sum() / (clock.now - window))
    seconds = table["arrival"].astype(int).drop_duplicates()
    assert snapshot.usual_gap == pytest.approx(seconds.tail(50).diff().quantile(0.95))
    placed = table["event"].cummax()
    for at, total in snapshot.flow:
        assert placed[total - 1] == pytest.approx(at, abs=2e-3)
    assert snapshot.flow[-1][1] == len(table)
    read = json.loads(serve.statistics(snapshot))
    assert (read["lag"]["p95"], read["rate"]) == (snapshot.lag.p95, snapshot.rate)


def test_move_to_another_source_counts_nothing_twice(state: State) -> None:
    state.using("kafka", "buzz")
    state.add(chunk(make_messages(10, producer_id="ann-1"), part="buzz-0"))
    state.using("file", "live.json")
    state.add(chunk(make_messages(14, producer_id="ann-1"), part="live.json"))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.lost, snapshot.duplicate) == (14, 0, 0)
    state.using("kafka", "buzz")
    state.add(chunk(make_messages(20, producer_id="ann-1"), part="buzz-0"))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.lost, snapshot.duplicate, snapshot.source.name) == (20, 0, 0, "kafka")


def test_source_that_is_lost_and_found_begins_again_without_an_empty_image(state: State) -> None:
    state.using("sqlite", "buzz.sqlite")
    state.add(chunk(make_messages(10, producer_id="ann-1")))
    state.using("sqlite", "buzz.sqlite", "database is locked")
    state.using("auto", "what has data", "no source has data")
    assert (state.snapshot().total, state.snapshot().source.name) == (10, "auto")
    state.using("sqlite", "buzz.sqlite")
    state.add(chunk(make_messages(12, producer_id="ann-1")))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.lost, snapshot.duplicate, snapshot.source.trouble) == (12, 0, 0, "")


def test_the_history_of_another_source_is_stale_too(state: State, clock: Clock) -> None:
    state.using("kafka", "buzz")
    state.go_live()
    state.using("file", "live.json")
    messages = make_messages(600)
    for number, message in enumerate(messages):
        message.timestamp = timestamp_text(NOW - 3600 + number)
    state.add(chunk(messages))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.rate, snapshot.status) == (600, 0.0, "STALE")


def test_records_without_ids_count_only_from_the_source_in_use(state: State) -> None:
    state.using("file", "live.json")
    state.add(chunk(make_messages(5) + make_messages(3, producer_id="ann-1"), part="live.json", invalid=2))
    assert (state.snapshot().total, state.snapshot().invalid) == (8, 2)
    state.using("sqlite", "buzz.sqlite")
    assert (state.snapshot().total, state.snapshot().invalid) == (0, 0)
    state.add(chunk(make_messages(5) + make_messages(3, producer_id="ann-1"), part="buzz.sqlite"))
    assert state.snapshot().total == 8
    assert dict(state.snapshot().groups) == {"Ann": 8}


def test_rotated_part_is_read_again_without_counting_twice(state: State) -> None:
    messages = make_messages(6, producer_id="ann-1")
    state.add(chunk(messages, start="", end="x", invalid=1))
    state.add(chunk([], start="x", end=""))
    state.add(chunk(messages + make_messages(2, producer_id="ann-1", first=7), start="", end="y", invalid=1))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.invalid, snapshot.lost, snapshot.duplicate) == (8, 2, 0, 0)
    again = make_messages(2, producer_id="ann-1", first=7)
    state.add(chunk(again, start="y", end="z"))  # the sink itself contains them twice
    assert state.snapshot().duplicate == 2


def test_the_last_line_of_a_rotated_file_counts_for_that_file(state: State) -> None:
    """A last line without a newline is read together with the news that the file was replaced."""
    ours, others = make_messages(3, producer_id="ann-1"), make_messages(3)
    state.add(chunk(ours[:2] + others[:2], start="", end="x"))
    state.add(chunk([ours[2], others[2]], start="x", end=""))
    state.add(chunk(ours + others, start="", end="y"))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.duplicate) == (3 + 3 + 3, 0)  # records without ids count at each reading


@pytest.mark.parametrize("sequences", [[1, 2, 4, 3, 5], [3, 4, 9], [1, 1, 2, 2, 7, 3, 3]])
def test_lost_and_duplicate_are_those_of_the_tracker(state: State, sequences: list[int]) -> None:
    tracker = Tracker()
    for number in sequences:
        messages = make_messages(1, producer_id="ann-1", first=number)
        tracker.admit(messages)
        state.add(chunk(messages))
    snapshot = state.snapshot()
    assert (snapshot.lost, snapshot.duplicate) == (tracker.counts.lost, tracker.counts.duplicate)


def test_status_waits_lives_goes_stale_and_recovers(state: State, clock: Clock) -> None:
    state.go_live()
    assert state.snapshot().status == "WAITING"
    for number in range(1, 6):  # one message every 5 s
        clock.now += 5
        message = make_messages(1, producer_id="ann-1", first=number)
        message[0].timestamp = timestamp_text(clock.now)
        state.add(chunk(message))
    clock.now += 24
    assert state.snapshot().status == "LIVE"
    clock.now += 2
    assert state.snapshot().status == "STALE"
    state.add(chunk(make_messages(1, producer_id="ann-1", first=6)))
    assert state.snapshot().status == "LIVE"


def test_after_a_clock_was_set_back_it_is_as_before(state: State, clock: Clock) -> None:
    """More seconds are known than are kept; what comes is counted, placed and timed, and a silence is noticed."""
    state.go_live()
    messages = make_messages(800, producer_id="ann-1")
    for message in messages:
        clock.now += 1
        if message.sequence == 401:
            clock.now -= 3600
        message.timestamp = timestamp_text(clock.now - 0.5)
        state.add(chunk([message]))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.status, snapshot.flow[-1]) == (800, "LIVE", (clock.now - 0.5, 800))
    assert snapshot.rate == pytest.approx(1.0, rel=0.05)
    assert snapshot.now - snapshot.started == 399
    clock.now -= 3600
    assert state.snapshot().idle_s == 0
    clock.now += 20
    assert state.snapshot().status == "STALE"


def test_a_history_is_stale_until_the_source_is_read_to_its_end(state: State, clock: Clock) -> None:
    messages = make_messages(100, producer_id="ann-1")
    for number, message in enumerate(messages):
        message.timestamp = timestamp_text(NOW - 3600 + number)
    state.add(chunk(messages))
    snapshot = state.snapshot()
    assert (snapshot.status, snapshot.rate, snapshot.lag) == ("STALE", 0.0, None)
    state.go_live()
    clock.now += 1
    old_recording = make_messages(1, producer_id="bob-2")
    state.add(chunk(old_recording))
    assert state.snapshot().status == "LIVE"


@pytest.mark.parametrize("text", ["", "garbage", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-11-23 19:04:05"])
def test_time_axis_neither_runs_ahead_nor_backwards(state: State, clock: Clock, text: str) -> None:
    for number in range(1, 40):
        clock.now += 1
        message = make_messages(1, producer_id="ann-1", first=number)
        message[0].timestamp = text if number % 3 else timestamp_text(clock.now)
        state.add(chunk(message))
    flow = state.snapshot().flow
    assert all(one[0] <= other[0] for one, other in pairwise(flow))
    assert flow[-1][0] == pytest.approx(clock.now, abs=1)
    assert flow[-1][1] == 39


@pytest.mark.parametrize("bad", [0, 3, 39])
@pytest.mark.parametrize("at_once", [7, 40])
def test_one_bad_time_in_a_recording_does_not_move_the_others(state: State, bad: int, at_once: int) -> None:
    messages = make_messages(40, producer_id="ann-1")
    times = [NOW - 36_000 + 60 * number for number in range(40)]
    for message, at in zip(messages, times, strict=True):
        message.timestamp = timestamp_text(at)
    messages[bad].timestamp = "8 o'clock"
    for place in range(0, 40, at_once):
        state.add(chunk(messages[place : place + at_once]))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.status) == (40, "STALE")
    assert {at for at, _ in snapshot.flow} == set(times) - {times[bad]}


def test_trouble_keeps_its_beginning_and_ends(state: State, clock: Clock) -> None:
    state.using("file", "live.json", "database is locked")
    clock.now += 5
    state.using("file", "live.json", "disk I/O error")
    snapshot = state.snapshot()
    assert (snapshot.source.trouble, snapshot.source.trouble_since) == ("disk I/O error", NOW)
    state.using("file", "live.json")
    assert state.snapshot().source.trouble_since is None


def test_authors_are_bounded_and_counted(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_KEYS", 1000)
    messages = make_messages(20_000, producer_id="ann-1")
    for number, message in enumerate(messages):
        message.author = f"author {number}" if number % 10 else "Ann"
    for place in range(0, len(messages), 2000):
        state.add(chunk(messages[place : place + 2000]))
    snapshot = state.snapshot()
    assert (snapshot.total, snapshot.group_count) == (20_000, 1_000)
    assert snapshot.groups[0] == ("Ann", 2_000)
    assert len(state._history.keys) == 1001


def test_flood_is_bounded_but_in_the_totals(state: State, clock: Clock) -> None:
    state.go_live()
    for second in range(60):
        clock.now = NOW + second
        messages = make_messages(200, producer_id="ann-1", first=second * 200 + 1)
        for place, message in enumerate(messages):
            message.timestamp = timestamp_text(clock.now - 0.9 + place / 250)
        state.add(chunk(messages))
    snapshot = state.snapshot()
    assert (snapshot.total, len(snapshot.flow), len(snapshot.series[0].values)) == (12_000, 50, 30)
    assert len(snapshot.measured) == 30
    assert snapshot.flow[-1][1] == 12_000
    assert snapshot.flow[-1][0] - snapshot.flow[0][0] == pytest.approx(49, abs=1)
