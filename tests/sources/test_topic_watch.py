"""TopicWatch, which notices that a topic was created again or got more partitions; without a broker."""

from dataclasses import dataclass
from typing import Any

import pytest

from utils.app.config import Settings
from utils.app.errors import Absent, Unavailable
from utils.sources.kafka_source import TopicWatch


@dataclass
class Brokers:
    """A fake client that counts how often the brokers are asked."""

    settings: Settings
    found: tuple[str, int] | None = ("one", 4)
    asked: int = 0

    def described(self, name: str) -> tuple[str, int] | None:
        self.asked += 1
        return self.found


@pytest.mark.parametrize("found", [("two", 4), ("one", 5)])
def test_another_topic_of_the_name_and_more_partitions_are_noticed(settings: Settings, found: tuple[str, int]) -> None:
    """Only the topic's id shows that it was deleted and created again between two checks."""
    brokers: Any = Brokers(settings)
    watch = TopicWatch(brokers, "things")
    watch.check(0.0)
    brokers.found = found
    with pytest.raises(Unavailable, match="connecting again"):
        watch.check(0.0)


def test_a_topic_that_is_gone_is_waited_for(settings: Settings) -> None:
    brokers: Any = Brokers(settings)
    watch = TopicWatch(brokers, "things")
    brokers.found = None
    with pytest.raises(Absent, match="things does not exist"):
        watch.check(0.0)


def test_brokers_are_asked_at_intervals(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    brokers: Any = Brokers(settings)
    watch, before = TopicWatch(brokers, "things"), brokers.asked
    for tenth in range(1, 31):
        now_s = tenth / 10
        watch.check(1.0)
    assert brokers.asked - before == 3
