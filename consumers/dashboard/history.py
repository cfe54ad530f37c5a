"""What of the records is kept: counts, when they came, and the latest values. Bounded."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from consumers.dashboard import stats
from consumers.dashboard.charted import Charted
from consumers.dashboard.snapshot import MISPLACED_S, Buffers, Series
from utils.reading.anomaly import TRAILING, anomalies
from utils.reading.tracker import Tracker

TOP = 6
MAX_KEYS = 10_000
NAME_CHARS = 100
MAX_LINES = 5
POINT_SPACING_S = 1.0
EARLIEST_S = 31_536_000.0  # 1971; what other languages call their zero time has no local time everywhere
RATE_WINDOW_S = 60
SPARK_WINDOW_S, SPARK_STEP_S = 300, 10


class Point(NamedTuple):
    """A value, its event time in seconds since 1970 and its key."""

    time: float
    value: float
    key: str


class Counts:
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


class Totals:
    """What came in all. What has no ids counts on its own, because it would count again if it were read again."""

    def __init__(self, *, from_end: bool) -> None:
        self.tracker = Tracker(from_end=from_end)
        self.identified, self.external = Counts(), Counts()
        self.invalid = 0

    def add(self, keys: Sequence[str], identified: Sequence[bool]) -> int:
        """Count records by their keys and whether they have ids; the total."""
        self.identified.add([key for key, has_ids in zip(keys, identified, strict=True) if has_ids])
        self.external.add([key for key, has_ids in zip(keys, identified, strict=True) if not has_ids])
        return self.total

    def begin_again(self) -> bool:
        """What was read may come again: let go of what has no ids; whether that was any record."""
        self.tracker.begin_again()
        had_any = self.external.total > 0
        self.external, self.invalid = Counts(), 0
        return had_any

    @property
    def total(self) -> int:
        return self.identified.total + self.external.total

    def busiest(self) -> tuple[tuple[tuple[str, int], ...], int, bool]:
        """The six busiest keys with their counts, how many keys there are, and whether there are more."""
        keys = self.identified.keys + self.external.keys
        return tuple(keys.most_common(TOP)), len(keys), len(keys) >= MAX_KEYS


class Arrivals:
    """When records came. Until `live` they are history that is read: they came when they were written."""

    def __init__(self, started: float, points: int) -> None:
        self.started, self.live = started, False
        self.last: float | None = None
        self._moments: deque[float] = deque(maxlen=points)
        self.clear()

    def clear(self) -> None:
        """Begin again, but for what is known of the newest record."""
        self._moments.clear()
        self.lags: deque[float] = deque(maxlen=TRAILING)
        self._seconds: Counter[int] = Counter()

    def add(self, times: Sequence[float], events: Sequence[float | None], now: float) -> None:
        came = [now] * len(times) if self.live else times
        self._seconds.update(int(at) for at in came if at > now - SPARK_WINDOW_S)
        if len(self._seconds) > 2 * SPARK_WINDOW_S:
            known = self._seconds.items()
            self._seconds = Counter({second: count for second, count in known if second >= now - SPARK_WINDOW_S - 1})
        for at in came:
            if not self._moments or at - self._moments[-1] >= POINT_SPACING_S:
                self._moments.append(at)
        self.last = came[-1]
        # What was written before the dashboard began waited for the dashboard, not for the stream.
        born = (event for event in events[-TRAILING:] if event is not None and event >= self.started)
        self.lags.extend(now - event for event in born)

    def rate(self, now: float) -> float:
        """Records per second over the last minute, or since the first record if that is less."""
        since = int(now) - RATE_WINDOW_S + 1
        begin = max(since, min([int(self.started), *self._seconds]))
        count = sum(count for second, count in self._seconds.items() if since <= second <= now)
        return count / max(1.0, now - begin)

    def sparkline(self, now: float) -> tuple[float, ...]:
        """Records per second in steps of ten seconds, up to the last whole one."""
        steps: Counter[int] = Counter()
        for second, count in self._seconds.items():
            steps[int(now) // SPARK_STEP_S - second // SPARK_STEP_S] += count
        return tuple(steps[ago] / SPARK_STEP_S for ago in range(SPARK_WINDOW_S // SPARK_STEP_S, 0, -1))

    def usual_gap(self) -> float:
        """The 95th percentile of the pauses of at least a second, so that what comes in bursts is not stale."""
        gaps = [later - earlier for earlier, later in pairwise(self._moments)]
        return float(np.percentile(gaps, 95)) if gaps else 0.0


class Histories:
    """Event times, values and measures of the latest records."""

    def __init__(self, charted: Charted, buffers: Buffers) -> None:
        self.charted, self.buffers = charted, buffers
        self.flow: deque[tuple[float, int]] = deque(maxlen=buffers.points)
        self.points: deque[Point] = deque(maxlen=(MAX_LINES + 1) * (buffers.window + TRAILING))
        self.measures: deque[float] = deque(maxlen=buffers.window)

    def add(self, records: Sequence[Any], keys: Sequence[str], times: Sequence[float], total: int) -> None:
        """Take in records with their keys and times; `total` counts them."""
        flow, charted, latest = self.flow, self.charted, slice(-(self.points.maxlen or 0), None)
        pauses = [times[0] - flow[-1][0] if flow else 0.0, *(later - earlier for earlier, later in pairwise(times))]
        for count, at in enumerate(times, start=total - len(times) + 1):
            if len(flow) > 1 and (at - flow[-2][0] < POINT_SPACING_S or at == flow[-1][0]):
                flow[-1] = (at, count)
            else:
                flow.append((at, count))
        for record, key, at, pause_s in zip(records[latest], keys[latest], times[latest], pauses[latest], strict=True):
            if (value := charted.value(record, pause_s)) is not None:
                self.points.append(Point(at, value, key))
            if (measure := charted.measure(record, pause_s)) is not None:
                self.measures.append(measure)

    def placed(self, events: Iterable[float | None], now: float, *, live: bool) -> list[float]:
        """Event times on an axis that never runs backwards or ahead of now; times that make no sense become now."""
        times = []
        last = self.flow[-1][0] if self.flow else float("-inf")
        for event in events:
            if event is None or not EARLIEST_S <= event <= now or (live and event < last - MISPLACED_S):
                last = max(now, last)
            elif event > last:
                last = event
            times.append(last)
        return times


def series(points: Sequence[Point], charted: Charted, buffers: Buffers) -> tuple[Series, ...]:
    """A series of each key, the busiest five, by name; or one of all where keys are no lines or nearly all differ."""
    counts = Counter(point.key for point in points)
    if not charted.has_lines or (len(counts) > MAX_LINES and 2 * len(counts) > len(points)):
        return (_one("", points, charted, buffers),) if points else ()
    named = sorted(key for key, _ in counts.most_common(MAX_LINES))
    return tuple(_one(name, [each for each in points if each.key == name], charted, buffers) for name in named)


def _one(name: str, points: Sequence[Point], charted: Charted, buffers: Buffers) -> Series:
    latest, known = slice(-buffers.window, None), points[-buffers.window - TRAILING :]
    values = [point.value for point in known]
    rolling = stats.rolling_mean(values, buffers.rolling)
    odd = anomalies(values, buffers.window, charted.floor)
    shown = known[latest]
    return Series(
        name=name,
        times=tuple(point.time for point in shown),
        values=tuple(values[latest]),
        rolling=tuple(rolling[latest].tolist()),
        anomalies=tuple(odd),
        keys=tuple(point.key for point in shown),
    )
