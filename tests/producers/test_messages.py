"""Messages of the two producers of buzz: repeatable, scored by text, varied, fast, and in the promised patterns."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import get_args

import pytest

from producers import producer_case, ragini_producer
from utils.reading.anomaly import anomalies
from utils.records import sentiment
from utils.records.record import Message, encode_records

Make = Callable[[random.Random], Iterator[tuple[float, Message]]]


def ragini(pattern: ragini_producer.Pattern) -> Make:
    return lambda rng: ragini_producer.messages(pattern, rng)


MAKES: dict[str, Make] = {pattern: ragini(pattern) for pattern in get_args(ragini_producer.Pattern)}
MAKES["case"] = producer_case.messages


@pytest.fixture(params=MAKES)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKES[request.param]


def take(make: Make, count: int, seed: int = 1) -> list[Message]:
    return [message for _, message in islice(make(random.Random(seed)), count)]


def test_same_seed_same_bytes(make: Make) -> None:
    assert encode_records(take(make, 500, seed=7)) == encode_records(take(make, 500, seed=7))
    assert encode_records(take(make, 500, seed=7)) != encode_records(take(make, 500, seed=8))


def test_every_field_follows_from_the_text(make: Make) -> None:
    for message in take(make, 2_000):
        assert message.sentiment == sentiment.score(message.message)
        assert message.message_length == len(message.message)
        assert message.keyword_mentioned in message.message
        assert message.author and message.category
        assert message.timestamp == "" and message.producer_id is None and message.sequence is None


def test_messages_are_not_shared(make: Make) -> None:
    made = take(make, 2_000)
    assert len({id(message) for message in made}) == len(made)


def test_texts_are_bounded_and_varied(make: Make) -> None:
    made = take(make, 20_000)
    assert 200 < len({message.message for message in made}) < 3_000
    assert len({message.author for message in made}) >= 7
    assert len({message.category for message in made}) >= 6


def test_gaps_average_one_interval(make: Make) -> None:
    gaps = [gap for gap, _ in islice(make(random.Random(1)), 18_000)]
    assert statistics.mean(gaps) == pytest.approx(1.0, abs=0.02)
    assert min(gaps) >= 0


def test_every_sentiment_exists_at_every_length() -> None:
    for sentiments in ragini_producer.pool():
        assert len(sentiments) == ragini_producer.SENTIMENTS
        assert all(sentiments)


def test_sentiment_and_length_cover_their_range() -> None:
    made = take(MAKES["steady"], 5_000)
    tenths = Counter(min(int(message.sentiment * 10), 9) for message in take(MAKES["wave"], 5_000))
    assert set(tenths) == set(range(10))
    assert min(message.message_length for message in made) < 40
    assert 240 < max(message.message_length for message in made) <= 280
    assert all("Hello World" in message.message for message in made)


@pytest.mark.parametrize("pattern", get_args(ragini_producer.Pattern))
def test_no_draw_leaves_the_pool(pattern: ragini_producer.Pattern) -> None:
    class Highest(random.Random):
        def random(self) -> float:
            return math.nextafter(1.0, 0.0)

    for rng in (Highest(), random.Random(3)):
        assert len(list(islice(ragini_producer.messages(pattern, rng), 600))) == 600


def test_steady_is_steady() -> None:
    pairs = list(islice(MAKES["steady"](random.Random(2)), 4_000))
    assert {gap for gap, _ in pairs} == {1.0}
    quarters = [statistics.mean(m.sentiment for _, m in pairs[n : n + 1_000]) for n in range(0, 4_000, 1_000)]
    assert max(quarters) - min(quarters) < 0.05


def test_wave_swings_sentiment_and_rate() -> None:
    pairs = list(islice(MAKES["wave"](random.Random(2)), 60))
    crest, trough = pairs[5:26], pairs[35:56]
    assert statistics.mean(m.sentiment for _, m in crest) > 0.7
    assert statistics.mean(m.sentiment for _, m in trough) < 0.3
    assert statistics.mean(gap for gap, _ in trough) > 2 * statistics.mean(gap for gap, _ in crest)


def test_burst_is_silence_and_floods() -> None:
    gaps = [gap for gap, _ in islice(MAKES["burst"](random.Random(2)), 90)]
    assert sum(gap > 10 for gap in gaps) == 3
    assert sum(gap < 0.5 for gap in gaps) == 87


def test_drift_creeps_in_sentiment_and_length() -> None:
    made = take(MAKES["drift"], 600)
    low, high = made[:60], made[270:330]
    assert statistics.median(m.sentiment for m in high) - statistics.median(m.sentiment for m in low) > 0.2
    assert statistics.median(m.message_length for m in high) > 2 * statistics.median(m.message_length for m in low)


def test_the_anomaly_rule_finds_the_outliers_of_drift_and_little_else() -> None:
    made = take(MAKES["drift"], 6_000)
    outliers = {n for n in range(74, 6_000, 75)}
    found = {n for n, odd in enumerate(anomalies([message.sentiment for message in made], len(made))) if odd}
    assert outliers <= found
    assert len(found - outliers) <= 12, "more than 2 false findings per 1,000"


def test_authors_of_buzz_have_habits() -> None:
    made = take(MAKES["case"], 20_000)
    scores = {name: statistics.mean(m.sentiment for m in made if m.author == name) for name in ("Alice", "Eve")}
    assert scores["Alice"] - scores["Eve"] > 0.1
    for habit in producer_case.HABITS:
        topics = Counter(m.keyword_mentioned for m in made if m.author == habit.author)
        favourites = sum(topics[producer_case.TOPICS[topic][0]] for topic in habit.favourites)
        assert favourites > 0.35 * topics.total()


def test_category_and_keyword_follow_from_the_topic() -> None:
    pairs = {(m.keyword_mentioned, m.category) for m in take(MAKES["case"], 5_000)}
    assert pairs == set(producer_case.TOPICS.values())
