"""What of a stream is charted, and what the dashboard knows of it: bounded, behind one lock. No drawing."""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consumers.dashboard.options import DEFAULT_BUFFERS, Buffers
from consumers.dashboard.snapshot import MAX_KEYS, MISPLACED_S, TOP, Roles, Series, Snapshot, Source, Summary, plain
from utils import sinks
from utils.app.config import PROJECT_DIR
from utils.reading.anomaly import TRAILING, anomalies, floor_of
from utils.reading.expression import Expression
from utils.reading.tracker import Tracker
from utils.records.infer import event_time
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Chunk

OTHERS = ""  # the key of all beyond the first MAX_KEYS
MAX_NUMBER = 1e100  # beyond it is no measurement
POINT_SPACING_S = 1.0
EARLIEST_S = 31_536_000.0  # 1971; what other languages call their zero time has no local time everywhere
MAX_LINES = 5
COLUMNS = ("time", "key", "value", "measure", "lag")  # of each record; times are seconds since 1970
RATE_WINDOW_S, SPARK_STEP_S, SPARK_STEPS, GAPS = 60, 10, 30, 50
SECONDS = SPARK_STEP_S * (SPARK_STEPS + 1)  # that are to be known for these


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
        self.has_lines = stream.by is not None and not is_buzz  # each `by` value one of its own

        def words(name: str | None) -> str:
            return plain((name or "number").replace("_", " ")) + " length" * (types.get(name or "") == "text")

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

    def __init__(self, charted: Charted, buffers: Buffers, *, from_end: bool) -> None:
        self.charted, self.live, self.tracker = charted, False, Tracker(from_end=from_end)
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
        self._lock, self._clock, self._where, charted = threading.Lock(), clock, where, Charted(stream)
        self._new_history = partial(History, charted, buffers, from_end=from_end)
        self._history, now, shown = self._new_history(), clock(), plain(where.text) if where else ""
        self._known = Snapshot(stream.name, now, now, Source(source), charted.roles, shown, buffers=buffers)

    def using(self, name: str, detail: str, trouble: str = "") -> None:
        """Note the source in use, and if it cannot be read, why; the first trouble since it could sets the time.

        Another source contains the same records, so everything begins again.
        """
        detail, trouble = (plain(text.replace(f"{PROJECT_DIR}{os.sep}", "")) for text in (detail, trouble))
        with self._lock:
            before = self._known.source
            if name not in (before.name, sinks.AUTO):
                self._history = self._new_history()
            since = (before.trouble_since or self._clock()) if trouble else None
            self._known = replace(self._known, source=Source(name, detail, trouble, since))

    def go_live(self) -> None:
        """All that was there is read: from now on records count when they come."""
        self._history.live = True

    def add(self, chunk: Chunk) -> None:
        """Take in one chunk. Never raises for what records may hold."""
        tracker = self._history.tracker
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
            known, history, now = self._known, self._history, self._clock()
            keys, seconds, counts = history.keys.copy(), history.seconds.copy(), history.tracker.counts
            flow, rows = tuple(history.flow), list(history.rows)
        total, charted, stream = keys.total(), history.charted, history.charted.stream
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
            series=all_series(table, known.buffers, floor_of(stream, stream.value), lines=charted.has_lines),
            measured=tuple(measured),
            measures=summary(measured),
            rate=rate(seconds, now, known.started),
            sparkline=sparkline(seconds, now),
            lag=summary(table["lag"].dropna().tail(TRAILING)),
            usual_gap=usual_gap(seconds),
        )


def summary(numbers: "pd.Series[Any]") -> Summary | None:
    """Mean, percentiles (linear) and the other measures of numbers; None if there is none."""
    if numbers.empty:
        return None
    count, mean, sigma, low, median, p95, high = numbers.describe(percentiles=[0.5, 0.95]).fillna(0.0).tolist()
    return Summary(mean, median, p95, sigma, low, high, int(count))


def rate(seconds: Counter[int], now: float, started: float) -> float:
    """Records per second over the last minute, or since the first record if that is less."""
    since = int(now) - RATE_WINDOW_S + 1
    count = sum(count for second, count in seconds.items() if since <= second <= now)
    return count / max(1.0, now - max(since, min([int(started), *seconds])))


def sparkline(seconds: Counter[int], now: float) -> tuple[float, ...]:
    """Records per second in steps of ten seconds, up to the last whole one."""
    edges = (int(now) // SPARK_STEP_S - np.arange(SPARK_STEPS, -1, -1)) * SPARK_STEP_S
    counts, _ = np.histogram([*seconds], edges - 0.5, weights=[*seconds.values()])
    return tuple((counts / SPARK_STEP_S).tolist())


def usual_gap(seconds: Counter[int]) -> float:
    """The 95th percentile of the latest pauses of a second or more, so that what comes in bursts is not stale."""
    return float(np.percentile(np.diff(sorted(seconds)[-GAPS:]), 95)) if len(seconds) > 1 else 0.0


def all_series(table: pd.DataFrame, buffers: Buffers, floor: float | None, *, lines: bool) -> tuple[Series, ...]:
    """A series of each key, the busiest five, by name; or one of all, without a name, without `lines`."""
    known = table.dropna(subset="value")
    names = known["key"] if lines else pd.Series("", index=known.index)
    found = []
    for name in sorted(names.value_counts().index[:MAX_LINES]):
        line = known[names == name].tail(buffers.window + TRAILING)
        # Each window for itself: a sum that is carried on does not recover from values such as 1e20.
        rolling = line["value"].rolling(buffers.rolling, min_periods=1).apply(np.mean, raw=True)
        odd = anomalies(line["value"].tolist(), buffers.window, floor)
        shown = line.assign(rolling=rolling).tail(buffers.window).assign(odd=odd)
        columns = ("time", "value", "rolling", "odd", "key")
        found.append(Series(name, *(tuple(shown[each].tolist()) for each in columns)))
    return tuple(found)
