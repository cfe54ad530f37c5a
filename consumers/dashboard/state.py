"""What the dashboard knows: totals, short histories and health behind one lock. No drawing, no thread of its own."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import pairwise
from statistics import median
from typing import Any

from consumers.dashboard.counts import AuthorCounts, Rates
from utils.reading.tracker import Tracker
from utils.records.codec import epoch_s
from utils.sources.base import Chunk

AUTO = "auto"
SERIES = 50
ANALYSIS = 30
STATISTICS = 130
TOP_AUTHORS = 6
POINT_SPACING_S = 1.0
STALE_AFTER_S, STALE_GAPS = 10.0, 5.0
MISPLACED_S = 60.0
EARLIEST_S = 31_536_000.0  # 1971; what other languages call their zero time has no local time everywhere


@dataclass(frozen=True)
class Snapshot:
    """Everything one frame shows, at time `now`; times are seconds since 1970, lags and gaps seconds.

    `version` changes when anything but the clocks does. `flow` holds (event time, true total) of the
    latest points, `sentiments` up to 130 and `lengths` up to 30 latest values, `sparkline` messages per
    second in steps of 10 s over 5 minutes. `moved` is the source used before, when it was left and why.
    `last` is the time of the newest message, None before it.
    """

    version: int
    now: float
    started: float
    source: str
    detail: str
    trouble: str = ""
    trouble_since: float | None = None
    moved: tuple[str, float, str] | None = None
    total: int = 0
    invalid: int = 0
    lost: int = 0
    duplicate: int = 0
    last_invalid: str = ""
    authors: tuple[tuple[str, int], ...] = ()
    author_count: int = 0
    more_authors: bool = False
    flow: tuple[tuple[float, int], ...] = ()
    sentiments: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    rate: float = 0.0
    sparkline: tuple[float, ...] = ()
    lags: tuple[float, ...] = ()
    last: float | None = None
    median_gap: float = 0.0

    @property
    def idle_s(self) -> float:
        return 0.0 if self.last is None else max(0.0, self.now - self.last)

    @property
    def status(self) -> str:
        """`WAITING` before the first message, `STALE` after max(10 s, 5 median gaps) without one, else `LIVE`."""
        if self.last is None:
            return "WAITING"
        return "STALE" if self.idle_s > max(STALE_AFTER_S, STALE_GAPS * self.median_gap) else "LIVE"


@dataclass
class _Part:
    """What came without ids from one file, table or partition and would count again if that were read again."""

    invalid: int = 0
    anonymous: AuthorCounts = field(default_factory=AuthorCounts)


class State:
    """Collects chunks in the reader thread and gives snapshots to the drawing one.

    `clock` gives seconds since 1970; `from_end` says that reading begins at the end of the source. Only one thread
    may call `add`; `snapshot` may come from any.
    """

    def __init__(
        self, source: str, detail: str = "", clock: Callable[[], float] = time.time, *, from_end: bool = False
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._undisturbed = threading.Event()
        self._undisturbed.set()
        self._started = clock()
        self._version = 0
        self.source, self.detail = source, detail
        self._trouble, self._trouble_since = "", None  # type: tuple[str, float | None]
        self._moved: tuple[str, float, str] | None = None
        self._tracker = Tracker(from_end=from_end)
        self._counts = AuthorCounts()
        self._parts: dict[str, _Part] = {}
        self._live = False
        self._last_invalid = ""
        self._last: float | None = None
        self._clear_histories()

    def _clear_histories(self) -> None:
        self._flow: deque[tuple[float, int]] = deque(maxlen=SERIES)
        self._times: deque[float] = deque(maxlen=SERIES)
        self._lengths: deque[int] = deque(maxlen=ANALYSIS)
        self._sentiments: deque[float] = deque(maxlen=STATISTICS)
        self._lags: deque[float] = deque(maxlen=STATISTICS)
        self._rates = Rates()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """While this lasts the reader waits before its next chunk: two busy threads would slow a frame tenfold."""
        self._undisturbed.clear()
        try:
            yield
        finally:
            self._undisturbed.set()

    def give_way(self) -> None:
        """Wait while a frame is drawn, but never long."""
        self._undisturbed.wait(1.0)

    def using(self, source: str, detail: str) -> None:
        """Name the source in use; records without ids count only from there."""
        if (source, detail) == (self.source, self.detail):
            return
        with self._lock:
            if source != self.source:
                if self.source != AUTO:
                    self._moved = (self.source, self._clock(), self._trouble)
                elif self._moved and self._moved[0] == source:
                    self._moved = None  # it was given up and found again
                self._live = False
                self._drop(*self._parts)
                if self.begun:  # the other sink brings once more what this one has brought
                    self._tracker.begin_again()
            self.source, self.detail = source, detail
            self._version += 1

    def _drop(self, *names: str) -> None:
        """Let go of parts; what they hold without ids is in the histories too, so those begin again."""
        gone = [self._parts.pop(name) for name in names]
        if any(part.anonymous.total for part in gone):
            self._clear_histories()

    @property
    def begun(self) -> bool:
        """Whether any message has come."""
        return self._last is not None

    def troubled(self, reason: str) -> None:
        """The source cannot be read, for this reason; the first call since it worked sets the time."""
        with self._lock:
            if reason != self._trouble:
                self._trouble = reason
                self._version += 1
            if self._trouble_since is None:
                self._trouble_since = self._clock()

    def healthy(self, *, caught_up: bool = False) -> None:
        """The source answers; `caught_up` once it has nothing more: from then on messages count when they come."""
        self._live = self._live or caught_up
        if self._trouble:
            with self._lock:
                self._trouble, self._trouble_since = "", None
                self._version += 1

    def add(self, chunk: Chunk) -> None:
        """Take in one chunk. Never raises for what messages may hold."""
        now = self._clock()
        part = self._parts.get(chunk.partition) or _Part()
        fresh = self._tracker.admit(chunk.records)
        identified = [message for message in fresh if message.sequence is not None]
        anonymous = [message for message in fresh if message.sequence is None]
        events = [epoch_s(message.timestamp) for message in fresh]
        with self._lock:
            self._parts[chunk.partition] = part
            part.invalid += len(chunk.invalid)
            if chunk.invalid:
                self._last_invalid = f"{chunk.invalid[-1].where}: {chunk.invalid[-1].reason}"
            self._counts.add(identified)
            part.anonymous.add(anonymous)
            self._remember(fresh, events, now)
            if chunk.begins_again:  # what it holds is the last of what was read before
                self._drop(chunk.partition)
                self._tracker.begin_again()
            self._version += 1

    @property
    def _total(self) -> int:
        return self._counts.total + sum(part.anonymous.total for part in self._parts.values())

    def _remember(self, messages: list[Any], events: list[float | None], now: float) -> None:
        if not messages:
            return
        times = self._place(events, now)
        self._times.extend(times[-SERIES:])
        self._last = now if self._live else times[-1]
        if self._live:
            self._rates.add_now(len(times), now)
        else:
            self._rates.add(times, now)
        flow = self._flow
        for total, at in enumerate(times, start=self._total - len(times) + 1):
            if len(flow) > 1 and (at - flow[-2][0] < POINT_SPACING_S or at == flow[-1][0]):
                flow[-1] = (at, total)
            else:
                flow.append((at, total))
        self._lengths.extend(message.message_length for message in messages[-ANALYSIS:])
        latest = (message.sentiment for message in messages[-STATISTICS:])
        self._sentiments.extend(value for value in latest if 0.0 <= value <= 1.0)  # a NaN is in no zone
        # What was written before the dashboard began waited for the dashboard, not for the stream.
        born = (event for event in events[-STATISTICS:] if event is not None and event >= self._started)
        self._lags.extend(now - event for event in born)

    def _place(self, events: list[float | None], now: float) -> list[float]:
        """Event times on an axis that never runs backwards or ahead of now; times that make no sense become now."""
        times = []
        last = self._times[-1] if self._times else float("-inf")
        for event in events:
            if event is None or not EARLIEST_S <= event <= now or (self._live and event < last - MISPLACED_S):
                last = max(now, last)
            elif event > last:
                last = event
            times.append(last)
        return times

    def _authors(self) -> tuple[tuple[tuple[str, int], ...], int, bool]:
        extra = [part.anonymous for part in self._parts.values() if part.anonymous.total]
        count, more = self._counts.distinct
        authors = self._counts.authors
        if extra:
            merged = Counter(authors)
            for counts in extra:
                merged.update(counts.authors)
                count, more = count + counts.distinct[0], more or counts.distinct[1]
            count -= len(authors) + sum(len(counts.authors) for counts in extra) - len(merged)
            authors = merged
        return tuple(nlargest(TOP_AUTHORS, authors.items(), key=lambda item: item[1])), count, more

    def snapshot(self) -> Snapshot:
        """What is known now; costs about a millisecond whatever went through."""
        with self._lock:
            now = self._clock()
            authors, author_count, more = self._authors()
            times = list(self._times)
            gaps = [later - earlier for earlier, later in pairwise(times)]
            return Snapshot(
                version=self._version,
                now=now,
                started=self._started,
                source=self.source,
                detail=self.detail,
                trouble=self._trouble,
                trouble_since=self._trouble_since,
                moved=self._moved,
                total=self._total,
                invalid=sum(part.invalid for part in self._parts.values()),
                lost=self._tracker.counts.lost,
                duplicate=self._tracker.counts.duplicate,
                last_invalid=self._last_invalid,
                authors=authors,
                author_count=author_count,
                more_authors=more,
                flow=tuple(self._flow),
                sentiments=tuple(self._sentiments),
                lengths=tuple(self._lengths),
                rate=self._rates.mean(now, self._started),
                sparkline=self._rates.sparkline(now),
                lags=tuple(self._lags),
                last=self._last,
                median_gap=median(gaps) if gaps else 0.0,
            )
