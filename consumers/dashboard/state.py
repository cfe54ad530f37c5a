"""The state of the dashboard: the charted fields, and bounded statistics behind one lock. No drawing."""

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
from utils.records.infer import event_time_getter
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Chunk

OTHERS = ""  # the common key of all beyond the first MAX_KEYS
MAX_NUMBER = 1e100  # a larger one is not charted
POINT_SPACING_S = 1.0  # least time between points of the flow; the latest point may be closer
EARLIEST_S = 31_536_000.0  # 1971: an earlier time, such as the year 1, has no local time on some platforms
MAX_LINES = 5
PROSE = ("message", "msg", "text", "line", "body")  # fields whose lengths vary; a host before them has one length
COLUMNS = ("time", "key", "value", "measure", "lag")  # of History.rows; times are seconds since 1970
RATE_WINDOW_S, SPARK_STEP_S, SPARK_STEPS, GAPS = 60, 10, 30, 50
SECONDS = SPARK_STEP_S * (SPARK_STEPS + 1)  # whose counts are kept, for rate, sparkline and gaps


class ChartedFields:
    """The charted fields of a stream.

    Without `by` records are counted per producer. Without `value` or `histogram` the lengths of a text field are
    charted, of the first one that is named as in PROSE if there is one, or else the first number field.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream, self.event_us, self._field = stream, event_time_getter(stream), stream.codec.value
        self._name = lru_cache(MAX_KEYS)(lambda text: plain(text) or "(no name)")
        types = {field.name: field.type for field in stream.fields}
        texts = [name for name, kind in types.items() if kind == "text" and name != stream.by]
        numbers = [name for name, kind in types.items() if kind in ("number", "integer")]
        prose = [name for name in texts if name.lower() in PROSE]
        other = next(iter(prose + texts + numbers), stream.by)
        self.value, self.measured = stream.value or other, stream.histogram or other
        kind, is_buzz = types.get(self.measured or ""), stream.name == BUZZ.name
        self.has_lines = stream.by is not None and not is_buzz  # one per `by` value

        def label(name: str | None) -> str:
            return plain((name or "number").replace("_", " ")) + (" length" if types.get(name or "") == "text" else "")

        self.roles = Roles(
            by=plain((stream.by or "producer").replace("_", " ")),
            value=label(self.value),
            histogram=label(self.measured),
            record="message" if is_buzz else "record",
            zones=stream.zones,
            scale=(0.0, 1.0) if is_buzz and stream.value == BUZZ.value else None,
            whole=kind in ("integer", "text"),
            unit="characters" if kind == "text" or (is_buzz and self.measured == BUZZ.histogram) else "",
        )

    def key(self, record: Any) -> str:
        """Return the name under which the record is counted, as it is shown."""
        by, producer_id = self.stream.by, record.producer_id
        found = self._field(record, by) if by else producer_id and producer_id.rsplit("-", 2)[0]  # its name
        return self._name(found) if isinstance(found, str) else "(none)"

    def number(self, record: Any, name: str | None) -> float:
        """Return the number in a field or the length of its text; nan if there is none, or it is too large."""
        found = self._field(record, name) if name else None
        found = len(found) if isinstance(found, str) else found
        return float(found) if isinstance(found, int | float) and abs(found) <= MAX_NUMBER else np.nan


class History:
    """Counts, times and latest values. A record comes at its event time, or once `live` when it is read."""

    def __init__(self, charted: ChartedFields, buffers: Buffers, *, from_end: bool) -> None:
        self.charted, self.live, self.tracker = charted, False, Tracker(from_end=from_end)
        self.keys: Counter[str] = Counter()
        self.seconds: Counter[int] = Counter()  # number of records that came in each second
        self.flow: deque[tuple[float, int]] = deque(maxlen=buffers.points)
        self.rows: deque[tuple[Any, ...]] = deque(maxlen=(MAX_LINES + 1) * (buffers.window + TRAILING))

    def add(self, records: Sequence[Any], now: float, started: float) -> float:
        """Take in records read at `now` by a dashboard that began at `started`. Return when the last of them came."""
        charted, before = self.charted, self.keys.total()
        keys = [charted.key(record) for record in records]
        for key, count in Counter(keys).items():
            self.keys[key if key in self.keys or len(self.keys) < MAX_KEYS else OTHERS] += count
        events = np.array([charted.event_us(record) for record in records], dtype=float) / 1e6  # None becomes nan
        times = self._placed(events, now)
        self._extend_flow(times, before)
        # Records from before the start have no lag: they waited for the dashboard.
        lags = np.where(events >= started, now - events, np.nan).tolist()
        for record, key, at, lag in list(zip(records, keys, times, lags, strict=True))[-(self.rows.maxlen or 0) :]:
            value, measure = charted.number(record, charted.value), charted.number(record, charted.measured)
            self.rows.append((at, key, value, measure, lag))
        came = [now] * len(times) if self.live else times
        self.seconds.update(map(int, came))
        known = sorted(second for second in self.seconds if second < now + MISPLACED_S)
        for second in {*self.seconds}.difference(known[-SECONDS:]):
            del self.seconds[second]
        return came[-1]

    def _extend_flow(self, times: Sequence[float], total: int) -> None:
        """Add the times of records that came after `total` others. Of points that are too close only the last stays."""
        flow = self.flow
        for count, at in enumerate(times, start=total + 1):
            if len(flow) > 1 and (at - flow[-2][0] < POINT_SPACING_S or at == flow[-1][0]):
                flow.pop()
            flow.append((at, count))

    def _placed(self, events: NDArray[np.float64], now: float) -> list[float]:
        """Place event times on an axis that never runs backwards or beyond `now`.

        A wrong time becomes `now`, or before `live` the time of the preceding record: with `now` one wrong date in a
        recording would move all later records to the end of the axis.
        """
        while self.flow and self.flow[-1][0] > now:  # the clock was set back: points ahead of it would hide new ones
            self.flow.pop()
        latest = self.flow[-1][0] if self.flow else EARLIEST_S
        good = (events >= max(EARLIEST_S, latest - MISPLACED_S if self.live else 0)) & (events <= now)
        if not self.flow:
            latest = float(events[good][0]) if good.any() else now
        times = np.where(good, events, now if self.live else latest)
        placed: list[float] = np.maximum.accumulate([latest, *times]).tolist()
        return placed[1:]


class State:
    """The statistics of the dashboard, between the thread that reads and the thread that draws.

    Only records that match `where` are shown. `clock` returns seconds since 1970. With `from_end` reading begins at
    the end of each source. Any thread may call `snapshot`; only one may call the other methods.
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
        self._lock, self._clock, self._where, charted = threading.Lock(), clock, where, ChartedFields(stream)
        self._new_history = partial(History, charted, buffers, from_end=from_end)
        self._history, now, shown = self._new_history(), clock(), plain(where.text) if where else ""
        self._known = Snapshot(stream.name, now, now, Source(source), charted.roles, shown, buffers=buffers)

    def using(self, name: str, detail: str, trouble: str = "") -> None:
        """Note the source in use, and as `trouble` why it cannot be read. Its first trouble sets `trouble_since`.

        After a change of the source all statistics begin anew, because the new one has the same records.
        """
        detail, trouble = (plain(text.replace(f"{PROJECT_DIR}{os.sep}", "")) for text in (detail, trouble))
        with self._lock:
            before = self._known.source
            if name not in (before.name, sinks.AUTO):
                self._history = self._new_history()
            since = (before.trouble_since or self._clock()) if trouble else None
            self._known = replace(self._known, source=Source(name, detail, trouble, since))

    def go_live(self) -> None:
        """Note that the older records are read: from now on a record comes when it is read."""
        self._history.live = True

    def add(self, chunk: Chunk) -> None:
        """Take in one chunk. Never raises, whatever its records contain."""
        fresh = self._history.tracker.admit_chunk(chunk)
        if self._where:
            fresh = list(compress(fresh, self._where.matches(fresh)))
        if fresh:
            with self._lock:
                now = self._now()
                self._known = replace(self._known, last=self._history.add(fresh, now, self._known.started))

    def _now(self) -> float:
        """Return the present, after moving known times that a clock set back has left ahead of it."""
        now, known = self._clock(), self._known
        if max(known.started, known.last or now) > now:
            last = None if known.last is None else min(known.last, now)
            self._known = replace(known, started=min(known.started, now), last=last)
        return now

    def snapshot(self) -> Snapshot:
        """Return the present statistics. It takes some milliseconds, however many records there were."""
        with self._lock:
            now, known, history = self._now(), self._known, self._history
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
    """Return mean, percentiles (linear) and other measures of numbers; None if there are no numbers."""
    if numbers.empty:
        return None
    count, mean, sigma, low, median, p95, high = numbers.describe(percentiles=[0.5, 0.95]).fillna(0.0).tolist()
    return Summary(mean, median, p95, sigma, low, high, int(count))


def rate(seconds: Counter[int], now: float, started: float) -> float:
    """Return the records per second over the last minute, or since the first record if that is less."""
    since = int(now) - RATE_WINDOW_S + 1
    count = sum(count for second, count in seconds.items() if since <= second <= now)
    return count / max(1.0, now - max(since, min([int(started), *seconds])))


def sparkline(seconds: Counter[int], now: float) -> tuple[float, ...]:
    """Return the records per second in steps of ten seconds, up to the last complete step."""
    edges = (int(now) // SPARK_STEP_S - np.arange(SPARK_STEPS, -1, -1)) * SPARK_STEP_S
    counts, _ = np.histogram([*seconds], edges - 0.5, weights=[*seconds.values()])
    return tuple((counts / SPARK_STEP_S).tolist())


def usual_gap(seconds: Counter[int]) -> float:
    """Return the 95th percentile of the latest pauses of a second or more. Bursts with such pauses are not stale."""
    return float(np.percentile(np.diff(sorted(seconds)[-GAPS:]), 95)) if len(seconds) > 1 else 0.0


def all_series(table: pd.DataFrame, buffers: Buffers, floor: float | None, *, lines: bool) -> tuple[Series, ...]:
    """Return a series for each of the five busiest keys, by name; without `lines` one unnamed series of all."""
    known = table.dropna(subset="value")
    names = known["key"] if lines else pd.Series("", index=known.index)
    found = []
    for name in sorted(names.value_counts().index[:MAX_LINES]):
        line = known[names == name].tail(buffers.window + TRAILING)
        # The mean of each window anew: the running sum of pandas does not recover from values such as 1e20.
        rolling = line["value"].rolling(buffers.rolling, min_periods=1).apply(np.mean, raw=True)
        odd = anomalies(line["value"].tolist(), buffers.window, floor)
        shown = line.assign(rolling=rolling).tail(buffers.window).assign(odd=odd)
        columns = ("time", "value", "rolling", "odd", "key")
        found.append(Series(name, *(tuple(shown[each].tolist()) for each in columns)))
    return tuple(found)
