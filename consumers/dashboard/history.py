"""What a stream's records are charted by, and what is kept of those of one source. Bounded."""

from collections import Counter, deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.dashboard.formatting import plain
from consumers.dashboard.options import Buffers
from consumers.dashboard.snapshot import MISPLACED_S, Roles
from consumers.dashboard.stats import MAX_LINES, SECONDS, Point
from utils.reading.anomaly import TRAILING, floor_of
from utils.records.infer import event_time
from utils.records.stream import BUZZ, Stream

TOP, MAX_KEYS, KEY_CHARS = 6, 10_000, 100
MAX_NUMBER = 1e100  # beyond it is no measurement
POINT_SPACING_S = 1.0
EARLIEST_S = 31_536_000.0  # 1971; what other languages call their zero time has no local time everywhere


class Charted:
    """The roles of a stream's fields.

    Without `by` records count per producer; without `value` or `histogram` the lengths of the first text are charted,
    or else the first number, whatever it is.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream, self.event_us, self._field = stream, event_time(stream), stream.codec.value
        self._name = lru_cache(MAX_KEYS)(lambda text: plain(text) or "(no name)")
        types = {field.name: field.type for field in stream.fields}
        texts = [name for name, kind in types.items() if kind == "text" and name != stream.by]
        numbers = [name for name, kind in types.items() if kind in ("number", "integer")]
        other = next(iter(texts + numbers), stream.by)
        self.value, self.measured = stream.value or other, stream.histogram or other
        kind, is_buzz = types.get(self.measured or ""), stream.name == BUZZ.name

        def words(name: str | None) -> str:
            return plain((name or "number").replace("_", " ")) + " length" * (types.get(name or "") == "text")

        self.floor = floor_of(stream, stream.value)
        self.roles = Roles(
            by=plain((stream.by or "producer").replace("_", " ")),
            value=words(self.value),
            histogram=words(self.measured),
            records="messages" if is_buzz else "records",
            zones=stream.zones,
            scale=(0.0, 1.0) if is_buzz and stream.value == BUZZ.value else None,
            whole=kind in ("integer", "text"),
            unit="characters" if kind == "text" or (is_buzz and self.measured == BUZZ.histogram) else "",
        )

    @property
    def has_lines(self) -> bool:
        """Whether each `by` value has a line of its own."""
        return self.stream.by is not None and self.stream.name != BUZZ.name

    def key(self, record: Any) -> str:
        """What the record counts for, as it is shown."""
        by, run = self.stream.by, record.producer_id
        found = self._field(record, by) if by else run and run.rsplit("-", 2)[0]
        return self._name(found[:KEY_CHARS]) if isinstance(found, str) else "(none)"

    def number(self, record: Any, name: str | None) -> float | None:
        """The number of a field or the length of its text; None if there is none that can be drawn."""
        found = self._field(record, name) if name else None
        found = len(found) if isinstance(found, str) else found
        return float(found) if isinstance(found, int | float) and abs(found) <= MAX_NUMBER else None


class History:
    """Counts, times and latest values. Until `live`, records came when they were written; then when they are read."""

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
        events = np.array([charted.event_us(record) for record in records], dtype=float) / 1e6  # None is no number
        times = self._placed(events, now)
        for count, at in enumerate(times, start=total + 1):
            if len(flow) > 1 and (at - flow[-2][0] < POINT_SPACING_S or at == flow[-1][0]):
                flow.pop()
            flow.append((at, count))
        for record, key, at in list(zip(records, keys, times, strict=True))[-(self.points.maxlen or 0) :]:
            if (value := charted.number(record, charted.value)) is not None:
                self.points.append(Point(at, value, key))
            if (measure := charted.number(record, charted.measured)) is not None:
                self.measures.append(measure)
        came = [now] * len(times) if self.live else times
        self.seconds.update(map(int, came))
        for second in sorted(self.seconds)[:-SECONDS]:
            del self.seconds[second]
        # What was written before the dashboard began waited for the dashboard, not for the stream.
        self.lags.extend((now - events[events >= started][-TRAILING:]).tolist())
        return came[-1]

    def _placed(self, events: NDArray[np.float64], now: float) -> list[float]:
        """Event times on an axis that never runs backwards or ahead of now.

        A time that makes no sense becomes now, or in what was there before the time of its neighbour: one bad date in a
        recording would put all that follows it at the present end.
        """
        latest = self.flow[-1][0] if self.flow else EARLIEST_S
        earliest = max(EARLIEST_S, latest - MISPLACED_S if self.live else 0)
        good = (events >= earliest) & (events <= now)
        if not self.flow and good.any():
            latest = float(events[good][0])
        times = np.where(good, events, now if self.live or latest == EARLIEST_S else latest)
        placed: list[float] = np.maximum.accumulate([latest, *times]).tolist()
        return placed[1:]
