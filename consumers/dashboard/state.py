"""What the dashboard knows, behind one lock. No drawing, no thread of its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import compress

from consumers.dashboard import stats
from consumers.dashboard.formatting import plain
from consumers.dashboard.history import TOP, Charted, History
from consumers.dashboard.options import DEFAULT_BUFFERS, Buffers
from consumers.dashboard.snapshot import Snapshot, Source
from utils import sinks
from utils.reading.expression import Expression
from utils.reading.tracker import Tracker
from utils.records.stream import Stream
from utils.sources.base import Chunk


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
            keys, seconds, flow = history.keys.copy(), history.seconds.copy(), tuple(history.flow)
            points, measured, lags = list(history.points), tuple(history.measures), list(history.lags)
        total, others, charted = keys.total(), keys.pop("", 0), history.charted
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
            more_groups=others > 0,
            flow=flow,
            series=stats.all_series(points, known.buffers, charted.floor, lines=charted.has_lines),
            measured=measured,
            measures=stats.summary(measured),
            rate=stats.rate(seconds, now, known.started),
            sparkline=stats.sparkline(seconds, now),
            lag=stats.summary(lags),
            usual_gap=stats.usual_gap(seconds),
        )
