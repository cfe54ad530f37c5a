"""What the dashboard knows, behind one lock. No drawing, no thread of its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from consumers.dashboard import history, stats
from consumers.dashboard.charted import Charted
from consumers.dashboard.history import Arrivals, Histories, Totals
from consumers.dashboard.snapshot import DEFAULT_BUFFERS, Buffers, Snapshot, Source
from utils import sinks
from utils.records.stream import Stream
from utils.sources.base import Chunk

Keep = Callable[[list[Any]], list[Any]]
"""What --where leaves of records."""


class State:
    """Collects chunks in the reader thread and gives snapshots to the drawing one.

    `clock` gives seconds since 1970; `from_end` says that reading begins at the end of the source. Only one thread may
    call `add`; `snapshot` may come from any.
    """

    def __init__(
        self,
        stream: Stream,
        source: str,
        *,
        buffers: Buffers = DEFAULT_BUFFERS,
        keep: Keep = list,
        clock: Callable[[], float] = time.time,
        from_end: bool = False,
    ) -> None:
        self._lock, self._clock, self._keep = threading.Lock(), clock, keep
        self._source = Source(source)
        self._totals = Totals(from_end=from_end)
        self._arrivals = Arrivals(clock(), buffers.points)
        self._histories = Histories(Charted(stream), buffers)

    def using(self, name: str, detail: str) -> None:
        """Name the source in use; records without ids count only from there."""
        before = self._source
        if (name, detail) == (before.name, before.detail):
            return
        with self._lock:
            moved = before.moved
            if name != before.name:
                if before.name != sinks.AUTO:
                    moved = (before.name, self._clock(), before.trouble)
                elif moved and moved[0] == name:
                    moved = None  # it was given up and found again
                self._arrivals.live = False
                if self.begun:  # the other sink brings once more what this one has brought
                    self._begin_again()
            self._source = replace(before, name=name, detail=detail, moved=moved)

    def _begin_again(self) -> None:
        """What was read comes again; what of it has no ids is in the histories too, so those begin again."""
        if self._totals.begin_again():
            self._histories = Histories(self._histories.charted, self._histories.buffers)
            self._arrivals.clear()

    @property
    def begun(self) -> bool:
        """Whether any record has come."""
        return self._arrivals.last is not None

    def troubled(self, reason: str) -> None:
        """The source cannot be read, for this reason; the first call since it worked sets the time."""
        with self._lock:
            since = self._source.trouble_since or self._clock()
            self._source = replace(self._source, trouble=reason, trouble_since=since)

    def healthy(self, *, caught_up: bool = False) -> None:
        """The source answers; `caught_up` once it has nothing more: from then on records count when they come."""
        self._arrivals.live = self._arrivals.live or caught_up
        if self._source.trouble_since is not None:
            with self._lock:
                self._source = replace(self._source, trouble="", trouble_since=None)

    def add(self, chunk: Chunk) -> None:
        """Take in one chunk. Never raises for what records may hold."""
        fresh = self._keep(self._totals.tracker.admit(chunk.records))
        with self._lock:
            self._totals.invalid += len(chunk.invalid)
            if fresh:
                self._take(fresh)
            if chunk.begins_again:  # what it holds is the last of what was read before
                self._begin_again()

    def _take(self, records: list[Any]) -> None:
        charted, arrivals, now = self._histories.charted, self._arrivals, self._clock()
        keys = list(map(charted.key, records))
        total = self._totals.add(keys, [record.sequence is not None for record in records])
        events = [None if (found := charted.event_us(record)) is None else found / 1e6 for record in records]
        times = self._histories.placed(events, now, live=arrivals.live)
        self._histories.add(records, keys, times, total)
        arrivals.add(times, events, now)

    def snapshot(self) -> Snapshot:
        """What is known now; costs a few milliseconds whatever went through."""
        with self._lock:
            now, source, charted = self._clock(), self._source, self._histories.charted
            totals, arrivals, histories = self._totals, self._arrivals, self._histories
            groups, group_count, more_groups = totals.busiest()
            points, measured, lags = list(histories.points), tuple(histories.measures), list(arrivals.lags)
            known = Snapshot(
                stream=charted.stream.name,
                now=now,
                started=arrivals.started,
                source=source,
                roles=charted.roles,
                total=totals.total,
                invalid=totals.invalid,
                lost=totals.tracker.counts.lost,
                duplicate=totals.tracker.counts.duplicate,
                groups=groups,
                group_count=group_count,
                more_groups=more_groups,
                flow=tuple(histories.flow),
                measured=measured,
                rate=arrivals.rate(now),
                sparkline=arrivals.sparkline(now),
                last=arrivals.last,
                usual_gap=arrivals.usual_gap(),
                buffers=histories.buffers,
            )
        return replace(
            known,
            series=history.series(points, charted, histories.buffers),
            measures=stats.summary(measured) if measured else None,
            lag=stats.summary(lags) if lags else None,
        )
