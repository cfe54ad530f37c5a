"""Totals in bounded memory: records in all, per key and per second."""

from collections import Counter
from collections.abc import Iterable, Sequence

from utils.reading.tracker import Tracker
from utils.records.record import Invalid

MAX_KEYS = 10_000
NAME_CHARS = 100
TOP = 6
RATE_WINDOW_S = 60
SPARK_WINDOW_S, SPARK_STEP_S = 300, 10


class KeyCounts:
    """Records in all and per key; beyond 10,000 keys a new one is counted only in the total."""

    def __init__(self) -> None:
        self.total = 0
        self.keys: Counter[str] = Counter()

    def add(self, keys: Sequence[str]) -> None:
        self.total += len(keys)
        for key, count in Counter(keys).items():
            name = key[:NAME_CHARS]
            if name in self.keys or len(self.keys) < MAX_KEYS:
                self.keys[name] += count


class _Partition:
    def __init__(self) -> None:
        self.invalid = 0
        self.counts = KeyCounts()


class Totals:
    """What came in all. What has no ids counts per partition, because it would count again if that were read again."""

    def __init__(self, *, from_end: bool) -> None:
        self.tracker = Tracker(from_end=from_end)
        self.identified = KeyCounts()
        self.partitions: dict[str, _Partition] = {}
        self.last_invalid = ""

    def _partition(self, name: str) -> _Partition:
        return self.partitions.setdefault(name, _Partition())

    def add(self, partition: str, keys: Sequence[str], identified: Sequence[bool]) -> int:
        """Count records by their keys and whether they have ids; the total."""
        self.identified.add([key for key, has_ids in zip(keys, identified, strict=True) if has_ids])
        self._partition(partition).counts.add(
            [key for key, has_ids in zip(keys, identified, strict=True) if not has_ids]
        )
        return self.total

    def note_invalid(self, partition: str, found: Sequence[Invalid]) -> None:
        self._partition(partition).invalid += len(found)
        if found:
            self.last_invalid = f"{found[-1].where}: {found[-1].reason}"

    def drop(self, names: Iterable[str]) -> bool:
        """Let go of what partitions held without ids; whether that was anything."""
        gone = [self.partitions.pop(name) for name in tuple(names) if name in self.partitions]
        return any(each.counts.total for each in gone)

    @property
    def total(self) -> int:
        return self.identified.total + sum(each.counts.total for each in self.partitions.values())

    @property
    def invalid(self) -> int:
        return sum(each.invalid for each in self.partitions.values())

    def busiest(self) -> tuple[tuple[tuple[str, int], ...], int, bool]:
        """The six busiest keys with their counts, how many keys there are, and whether there are more."""
        counts = [each.counts.keys for each in self.partitions.values() if each.counts.keys]
        merged = sum(counts, self.identified.keys) if counts else self.identified.keys
        return tuple(merged.most_common(TOP)), len(merged), len(merged) >= MAX_KEYS


class Rates:
    """Records per second over the last five minutes."""

    def __init__(self) -> None:
        self._seconds: dict[int, int] = {}

    def add(self, times: Iterable[float], now: float) -> None:
        """Count records at the times when they came or were written."""
        for second, count in Counter(int(at) for at in times if at > now - SPARK_WINDOW_S).items():
            self._seconds[second] = self._seconds.get(second, 0) + count
        if len(self._seconds) > 2 * SPARK_WINDOW_S:
            oldest = int(now) - SPARK_WINDOW_S
            self._seconds = {second: count for second, count in self._seconds.items() if second >= oldest}

    def mean(self, now: float, started: float) -> float:
        """Records per second over the last minute, or since the first record if that is less."""
        since = int(now) - RATE_WINDOW_S + 1
        seconds = [second for second in self._seconds if since <= second <= now]
        if not seconds:
            return 0.0
        begin = since if min(self._seconds) < since else max(since, min(*seconds, int(started)))
        return sum(self._seconds[second] for second in seconds) / max(1.0, now - begin)

    def sparkline(self, now: float) -> tuple[float, ...]:
        """Records per second in steps of ten seconds."""
        steps = SPARK_WINDOW_S // SPARK_STEP_S
        end = int(now) // SPARK_STEP_S
        sums = [0] * steps
        for second, count in self._seconds.items():
            step = second // SPARK_STEP_S - end + steps
            if 0 <= step < steps:
                sums[step] += count
        return tuple(count / SPARK_STEP_S for count in sums)
