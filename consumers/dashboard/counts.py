"""Totals in bounded memory: how many messages each author wrote, and how many came in each second."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_AUTHORS = 10_000
MAX_DISTINCT = 200_000
NAME_CHARS = 100
RATE_WINDOW_S = 60
SPARK_WINDOW_S, SPARK_STEP_S = 300, 10


class AuthorCounts:
    """Messages in all and per author; beyond 10,000 authors a new one is counted only in the total."""

    def __init__(self) -> None:
        self.total = 0
        self.authors: dict[str, int] = {}
        self._others: set[int] = set()

    def add(self, messages: Sequence[Any]) -> None:
        self.total += len(messages)
        authors = self.authors
        for full_name, count in Counter([message.author for message in messages]).items():
            name = full_name[:NAME_CHARS]
            if name in authors:
                authors[name] += count
            elif len(authors) < MAX_AUTHORS:
                authors[name] = count
            elif len(self._others) < MAX_DISTINCT:
                self._others.add(hash(name))

    @property
    def distinct(self) -> tuple[int, bool]:
        """How many authors, and whether there may be more."""
        return len(self.authors) + len(self._others), len(self._others) >= MAX_DISTINCT


class Rates:
    """Messages per second over the last five minutes."""

    def __init__(self) -> None:
        self._seconds: dict[int, int] = {}

    def add_now(self, count: int, now: float) -> None:
        """Count messages that have come now."""
        self._add({int(now): count}, now)

    def add(self, times: Iterable[float], now: float) -> None:
        """Count messages at the times when they were written."""
        self._add(Counter(int(at) for at in times if at > now - SPARK_WINDOW_S), now)

    def _add(self, counts: Mapping[int, int], now: float) -> None:
        for second, count in counts.items():
            self._seconds[second] = self._seconds.get(second, 0) + count
        if len(self._seconds) > 2 * SPARK_WINDOW_S:
            oldest = int(now) - SPARK_WINDOW_S
            self._seconds = {second: count for second, count in self._seconds.items() if second >= oldest}

    def mean(self, now: float, started: float) -> float:
        """Messages per second over the last minute, or since the first message if that is less."""
        since = int(now) - RATE_WINDOW_S + 1
        seconds = [second for second in self._seconds if since <= second <= now]
        if not seconds:
            return 0.0
        begin = since if min(self._seconds) < since else max(since, min(*seconds, int(started)))
        return sum(self._seconds[second] for second in seconds) / max(1.0, now - begin)

    def sparkline(self, now: float) -> tuple[float, ...]:
        """Messages per second in steps of ten seconds."""
        steps = SPARK_WINDOW_S // SPARK_STEP_S
        end = int(now) // SPARK_STEP_S
        sums = [0] * steps
        for second, count in self._seconds.items():
            step = second // SPARK_STEP_S - end + steps
            if 0 <= step < steps:
                sums[step] += count
        return tuple(count / SPARK_STEP_S for count in sums)
