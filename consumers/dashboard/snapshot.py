"""What one frame shows: each quantity once, so that image, page, JSON and metrics cannot differ."""

from dataclasses import dataclass

from consumers.dashboard.options import DEFAULT_BUFFERS, Buffers

TOP, MAX_KEYS = 6, 10_000  # `by` values that are shown, and known
STALE_AFTER_S, STALE_GAPS = 10.0, 5.0
MISPLACED_S = 60.0  # behind others an event time is not of today
LEAST_SILENCE_S = 60.0  # has room on the time axis, however short the flow before it


@dataclass(frozen=True)
class Roles:
    """What is charted, as texts for people, and how."""

    by: str = "author"
    value: str = "sentiment"
    histogram: str = "message length"
    record: str = "message"  # of buzz, else "record"
    zones: tuple[float, float] | None = None  # two limits of the value
    scale: tuple[float, float] | None = None  # its fixed range; None: from the data
    whole: bool = True  # the histogram counts whole numbers
    unit: str = ""  # of the histogram: "characters" for lengths of texts


@dataclass(frozen=True)
class Series:
    """The latest values of one `by` value, or of all records where `name` is "". First rolling means are of fewer."""

    name: str
    times: tuple[float, ...]  # of the events
    values: tuple[float, ...]
    rolling: tuple[float, ...]
    anomalies: tuple[bool, ...]
    keys: tuple[str, ...] = ()  # the `by` value of each


@dataclass(frozen=True)
class Summary:
    """Mean, median, 95th percentile, sample standard deviation (0 for one value), least and greatest of numbers."""

    mean: float
    median: float
    p95: float
    sigma: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Source:
    """Where records come from."""

    name: str  # file, sqlite, duckdb, kafka or auto
    detail: str = ""
    trouble: str = ""  # why it cannot be read
    trouble_since: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """What is known at time `now`. Times are seconds since 1970. No text can disturb an image or a terminal."""

    stream: str
    now: float
    started: float
    source: Source
    roles: Roles = Roles()
    where: str = ""  # of the records that are shown; "": all
    received: int = 0  # whether they are shown or not, invalid and duplicate ones too
    total: int = 0  # that are shown
    invalid: int = 0
    lost: int = 0
    duplicate: int = 0
    groups: tuple[tuple[str, int], ...] = ()  # the six busiest `by` values and their counts
    group_count: int = 0  # how many there are; of more than 10,000 the others are counted together
    flow: tuple[tuple[float, int], ...] = ()  # event time and true total of the latest points
    series: tuple[Series, ...] = ()
    measured: tuple[float, ...] = ()  # the latest values of the histogram, and their summary
    measures: Summary | None = None
    rate: float = 0.0  # per second over the last minute
    sparkline: tuple[float, ...] = ()  # per second in steps of 10 s over 5 minutes
    lag: Summary | None = None
    last: float | None = None  # when the newest record came
    usual_gap: float = 0.0  # the 95th percentile of the latest pauses of a second or more
    buffers: Buffers = DEFAULT_BUFFERS

    @property
    def flow_end(self) -> float:
        """Where the time axis ends: now, or for event times that are not of today as long after them as nothing came.

        What ended before the dashboard began is a recording, and its silence takes at most half of the axis: an hour
        of last week would be a dot.
        """
        oldest, newest = self.flow[0][0], self.flow[-1][0]
        end = self.now if self.now - newest - self.idle_s < MISPLACED_S else newest + self.idle_s
        end = max(end, newest)  # a clock may be set back
        is_recording = self.last is not None and self.last < self.started
        return min(end, newest + max(newest - oldest, LEAST_SILENCE_S)) if is_recording else end

    @property
    def idle_s(self) -> float:
        """Seconds since the newest record; 0 before it."""
        return 0.0 if self.last is None else max(0.0, self.now - self.last)

    @property
    def status(self) -> str:
        """`WAITING` before the first record, `STALE` after max(10 s, 5 usual gaps) without one, else `LIVE`."""
        if self.last is None:
            return "WAITING"
        return "STALE" if self.idle_s > max(STALE_AFTER_S, STALE_GAPS * self.usual_gap) else "LIVE"
