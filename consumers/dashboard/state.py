"""What of a stream is charted, and what the dashboard knows of it: bounded, behind one lock. No drawing."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consumers.dashboard import stats
from consumers.dashboard.formatting import plain
from consumers.dashboard.options import DEFAULT_BUFFERS, Buffers
from consumers.dashboard.snapshot import MAX_KEYS, MISPLACED_S, TOP, Roles, Snapshot, Source
from consumers.dashboard.stats import COLUMNS, MAX_LINES, SECONDS
from utils import sinks
from utils.reading.anomaly import TRAILING, floor_of
from utils.reading.expression import Expression
from utils.reading.tracker import Tracker
from utils.records.infer import event_time
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Chunk

OTHERS = ""  # the key of all beyond the first MAX_KEYS
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
            record="message" if is_buzz else "record",
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
        return self._name(found) if isinstance(found, str) else "(none)"

    def number(self, record: Any, name: str | None) -> float:
        """The number of a field or the length of its text; nan if there is none that can be drawn."""
        found = self._field(record, name) if name else None
        found = len(found) if isinstance(found, str) else found
        return float(found) if isinstance(found, int | float) and abs(found) <= MAX_NUMBER else np.nan


class History:
    """Counts, times and latest values. Until `live`, records came when they were written; then when they are read."""

    def __init__(self, charted: Charted, buffers: Buffers) -> None:
        self.charted, self.live = charted, False
        self.keys: Counter[str] = Counter()
        self.seconds: Counter[int] = Counter()  # how many came in it
        self.flow: deque[tuple[float, int]] = deque(maxlen=buffers.points)
        self.rows: deque[tuple[Any, ...]] = deque(maxlen=(MAX_LINES + 1) * (buffers.window + TRAILING))

    def add(self, records: Sequence[Any], now: float, started: float) -> float:
        """Take in records that are read now, by a dashboard that started then; when the last of them came."""
        charted, flow, total = self.charted, self.flow, self.keys.total()
        keys = [charted.key(record) for record in records]
        for key, count in Counter(keys).items():
            self.keys[key if key in self.keys or len(self.keys) < MAX_KEYS else OTHERS] += count
        events = np.array([charted.event_us(record) for record in records], dtype=float) / 1e6  # None is no number
        # What was written before the dashboard began waited for the dashboard, not for the stream.
        lags = np.where(events >= started, now - events, np.nan).tolist()
        times = self._placed(events, now)
        for count, at in enumerate(times, start=total + 1):
            if len(flow) > 1 and (at - flow[-2][0] < POINT_SPACING_S or at == flow[-1][0]):
                flow.pop()
            flow.append((at, count))
        for record, key, at, lag in list(zip(records, keys, times, lags, strict=True))[-(self.rows.maxlen or 0) :]:
            value, measure = charted.number(record, charted.value), charted.number(record, charted.measured)
            self.rows.append((at, key, value, measure, lag))
        came = [now] * len(times) if self.live else times
        self.seconds.update(map(int, came))
        for second in sorted(self.seconds)[:-SECONDS]:
            del self.seconds[second]
        return came[-1]

    def _placed(self, events: NDArray[np.float64], now: float) -> list[float]:
        """Event times on an axis that never runs backwards or ahead of now.

        A time that makes no sense becomes now, or in what was there before the time of its neighbour: one bad date in a
        recording would put all that follows it at the present end.
        """
        latest = self.flow[-1][0] if self.flow else EARLIEST_S
        good = (events >= max(EARLIEST_S, latest - MISPLACED_S if self.live else 0)) & (events <= now)
        if not self.flow:
            latest = float(events[good][0]) if good.any() else now
        times = np.where(good, events, now if self.live else latest)
        placed: list[float] = np.maximum.accumulate([latest, *times]).tolist()
        return placed[1:]


class State:
    """Collects chunks in the reader thread and gives snapshots to the drawing one.

    Only what is `where` is shown; `clock` gives seconds since 1970, `from_end` says that reading begins at the end of
    each source. `snapshot` may be called by any thread, all else by one.
    """

    def __init__(
        self,
        stream: Stream,
        source: str,
        *,
        buffers: Buffers = DEFAULT_BUFFERS,
        where: Expression | None = None,
        clock: Callable[[], float] = time.time,
        from_end: bool = False,
    ) -> None:
        self._lock, self._clock, self._where, self._from_end = threading.Lock(), clock, where, from_end
        self._history, now = History(Charted(stream), buffers), clock()
        shown, roles = plain(where.text) if where else "", self._history.charted.roles
        self._known = Snapshot(stream.name, now, now, Source(source), roles, shown, buffers=buffers)
        self._tracker = Tracker(from_end=from_end)

    def using(self, name: str, detail: str, trouble: str = "") -> None:
        """Note the source in use, and if it cannot be read, why; the first trouble since it could sets the time.

        Another source contains the same records, so everything begins again.
        """
        with self._lock:
            before = self._known.source
            if name not in (before.name, sinks.AUTO):
                self._tracker = Tracker(from_end=self._from_end)
                self._history = History(self._history.charted, self._known.buffers)
            since = (before.trouble_since or self._clock()) if trouble else None
            self._known = replace(self._known, source=Source(name, plain(detail), plain(trouble), since))

    def go_live(self) -> None:
        """All that was there is read: from now on records count when they come."""
        self._history.live = True

    def add(self, chunk: Chunk) -> None:
        """Take in one chunk. Never raises for what records may hold."""
        tracker = self._tracker
        fresh = tracker.admit(chunk.records)
        if self._where:
            fresh = list(compress(fresh, self._where.matches(fresh)))
        with self._lock:
            tracker.counts.invalid += len(chunk.invalid)
            if fresh:
                last = self._history.add(fresh, self._clock(), self._known.started)
                self._known = replace(self._known, last=last)
            if chunk.begins_again:  # what it holds is the last of what was read before
                tracker.begin_again()

    def snapshot(self) -> Snapshot:
        """What is known now; costs some milliseconds whatever went through."""
        with self._lock:
            known, history, counts, now = self._known, self._history, self._tracker.counts, self._clock()
            keys, seconds = history.keys.copy(), history.seconds.copy()
            flow, rows = tuple(history.flow), list(history.rows)
        total, charted = keys.total(), history.charted
        del keys[OTHERS]
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        measured = table["measure"].dropna().tail(known.buffers.window)
        return replace(
            known,
            now=now,
            received=counts.records + counts.invalid + counts.duplicate,
            total=total,
            invalid=counts.invalid,
            lost=counts.lost,
            duplicate=counts.duplicate,
            groups=tuple(keys.most_common(TOP)),
            group_count=len(keys),
            flow=flow,
            series=stats.all_series(table, known.buffers, charted.floor, lines=charted.has_lines),
            measured=tuple(measured),
            measures=stats.summary(measured),
            rate=stats.rate(seconds, now, known.started),
            sparkline=stats.sparkline(seconds, now),
            lag=stats.summary(table["lag"].dropna().tail(TRAILING)),
            usual_gap=stats.usual_gap(seconds),
        )
