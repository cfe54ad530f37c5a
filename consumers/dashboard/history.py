"""What is kept of the records of one source, bounded: counts, when they came, and the latest values."""

from collections import Counter, deque
from itertools import pairwise
from typing import Any

from consumers.dashboard.charted import Charted
from consumers.dashboard.snapshot import MISPLACED_S, Buffers
from consumers.dashboard.stats import MAX_LINES, SECONDS, Point
from utils.reading.anomaly import TRAILING

TOP, MAX_KEYS = 6, 10_000
POINT_SPACING_S = 1.0
EARLIEST_S = 31_536_000.0  # 1971; what other languages call their zero time has no local time everywhere


class History:
    """Until `live`, what is read came when it was written; then it comes when it is read."""

    def __init__(self, charted: Charted, buffers: Buffers, started: float) -> None:
        self.charted, self.started, self.live = charted, started, False
        self.keys: Counter[str] = Counter()  # "" stands for all beyond the first 10,000
        self.seconds: Counter[int] = Counter()  # how many came in it
        self.lags: deque[float] = deque(maxlen=TRAILING)
        self.flow: deque[tuple[float, int]] = deque(maxlen=buffers.points)
        self.points: deque[Point] = deque(maxlen=(MAX_LINES + 1) * (buffers.window + TRAILING))
        self.measures: deque[float] = deque(maxlen=buffers.window)

    def add(self, records: list[Any], now: float) -> float:
        """Take in records that were read now; when the last of them came."""
        charted, before = self.charted, self.keys.total()
        keys = [charted.key(record) for record in records]
        for key, count in Counter(keys).items():
            self.keys[key if key in self.keys or len(self.keys) < MAX_KEYS else ""] += count
        events = [charted.event_s(record) for record in records]
        times = self._placed(events, now)
        self._add_values(records, keys, times)
        for total, at in enumerate(times, start=before + 1):
            if len(self.flow) > 1 and (at - self.flow[-2][0] < POINT_SPACING_S or at == self.flow[-1][0]):
                self.flow.pop()
            self.flow.append((at, total))
        came = [now] * len(times) if self.live else times
        self.seconds.update(map(int, came))
        for second in sorted(self.seconds)[:-SECONDS]:
            del self.seconds[second]
        # What was written before the dashboard began waited for the dashboard, not for the stream.
        self.lags.extend(now - event for event in events[-TRAILING:] if event is not None and event >= self.started)
        return came[-1]

    def _placed(self, events: list[float | None], now: float) -> list[float]:
        """Event times on an axis that never runs backwards or ahead of now; times that make no sense become now."""
        times, last = [], self.flow[-1][0] if self.flow else float("-inf")
        for event in events:
            odd = event is None or not EARLIEST_S <= event <= now or (self.live and event < last - MISPLACED_S)
            last = max(now if odd or event is None else event, last)
            times.append(last)
        return times

    def _add_values(self, records: list[Any], keys: list[str], times: list[float]) -> None:
        pauses = [later - earlier for earlier, later in pairwise((self.flow[-1][0] if self.flow else times[0], *times))]
        latest = slice(-(self.points.maxlen or 0), None)
        for record, key, at, pause_s in zip(records[latest], keys[latest], times[latest], pauses[latest], strict=True):
            if (value := self.charted.value(record, pause_s)) is not None:
                self.points.append(Point(at, value, key))
            if (measure := self.charted.measure(record, pause_s)) is not None:
                self.measures.append(measure)
