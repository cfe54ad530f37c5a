"""What is kept of the records of one source, bounded: counts, when they came, and the latest values."""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from consumers.dashboard.charted import Charted
from consumers.dashboard.snapshot import MISPLACED_S, Buffers
from consumers.dashboard.stats import MAX_LINES, SECONDS, Point
from utils.reading.anomaly import TRAILING

TOP, MAX_KEYS = 6, 10_000
POINT_SPACING_S = 1.0
EARLIEST_S = 31_536_000.0  # 1971; what other languages call their zero time has no local time everywhere


class History:
    """Until `live`, what is read came when it was written; then it comes when it is read."""

    def __init__(self, charted: Charted, buffers: Buffers) -> None:
        self.charted, self.live = charted, False
        self.keys: Counter[str] = Counter()  # "" stands for all beyond the first 10,000
        self.seconds: Counter[int] = Counter()  # how many came in it
        self.lags: deque[float] = deque(maxlen=TRAILING)
        self.flow: deque[tuple[float, int]] = deque(maxlen=buffers.points)
        self.points: deque[Point] = deque(maxlen=(MAX_LINES + 1) * (buffers.window + TRAILING))
        self.measures: deque[float] = deque(maxlen=buffers.window)

    def add(self, records: Sequence[Any], now: float, started: float) -> float:
        """Take in records that are read now, by a dashboard that started then; when the last of them came."""
        charted, flow, total = self.charted, self.flow, self.keys.total()
        keys = [charted.key(record) for record in records]
        for key, count in Counter(keys).items():
            self.keys[key if key in self.keys or len(self.keys) < MAX_KEYS else ""] += count
        events = [charted.event_s(record) for record in records]
        times = self._placed(events, now)
        pauses = np.diff([flow[-1][0] if flow else times[0], *times]).tolist()
        for count, at in enumerate(times, start=total + 1):
            if len(flow) > 1 and (at - flow[-2][0] < POINT_SPACING_S or at == flow[-1][0]):
                flow.pop()
            flow.append((at, count))
        rows = list(zip(records, keys, times, pauses, strict=True))
        for record, key, at, pause_s in rows[-(self.points.maxlen or 0) :]:
            if (value := charted.number(record, charted.stream.value, pause_s)) is not None:
                self.points.append(Point(at, value, key))
            if (measure := charted.number(record, charted.measured, pause_s)) is not None:
                self.measures.append(measure)
        came = [now] * len(times) if self.live else times
        self.seconds.update(map(int, came))
        for second in sorted(self.seconds)[:-SECONDS]:
            del self.seconds[second]
        # What was written before the dashboard began waited for the dashboard, not for the stream.
        self.lags.extend(now - event for event in events[-TRAILING:] if event is not None and event >= started)
        return came[-1]

    def _placed(self, events: Sequence[float | None], now: float) -> list[float]:
        """Event times on an axis that never runs backwards or ahead of now; times that make no sense become now."""
        latest = self.flow[-1][0] if self.flow else EARLIEST_S
        earliest = latest - MISPLACED_S if self.live else EARLIEST_S
        times = np.array(events, dtype=float)  # None is no number
        times[~((times >= max(earliest, EARLIEST_S)) & (times <= now))] = now
        placed: list[float] = np.maximum.accumulate([latest, *times]).tolist()
        return placed[1:]
