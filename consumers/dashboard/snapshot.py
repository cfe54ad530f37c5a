"""What one frame shows: each quantity once, so that image, page, JSON and metrics cannot differ."""

from dataclasses import dataclass, field
from typing import Literal

ThemeName = Literal["light", "dark"]

STALE_AFTER_S, STALE_GAPS = 10.0, 5.0
MISPLACED_S = 60.0


@dataclass(frozen=True)
class Buffers:
    """How much is shown: `points` of the flow, a `window` of values and measures, `rolling` values in a mean."""

    points: int = 50
    window: int = 30
    rolling: int = 10


DEFAULT_BUFFERS = Buffers()


@dataclass(frozen=True)
class Roles:
    """What is charted, as texts for people, and how.

    `by`, `value` and `histogram` are names such as "device", "temperature c", "humidity pct". `records` is "messages"
    for buzz, else "records". `zones` are two limits of the value, `scale` its fixed range or None: from the data.
    `whole` says that the histogram counts whole numbers, in `unit` ("characters" for lengths of texts, else "").
    """

    by: str = "author"
    value: str = "sentiment"
    histogram: str = "message length"
    records: str = "messages"
    zones: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    whole: bool = True
    unit: str = ""

    @property
    def record(self) -> str:
        """One of the records."""
        return self.records.removesuffix("s")


@dataclass(frozen=True)
class Series:
    """The latest values of one `by` value, or of all records where `name` is "".

    The five tuples have one entry per value: event time in seconds since 1970, value, rolling mean (NaN at first), and
    whether the value is an anomaly. `keys` are their `by` values.
    """

    name: str
    times: tuple[float, ...]
    values: tuple[float, ...]
    rolling: tuple[float, ...]
    anomalies: tuple[bool, ...]
    keys: tuple[str, ...] = ()

    @property
    def average(self) -> float:
        """The mean of the values."""
        return sum(self.values) / len(self.values)


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
    """Where records come from: `name` (file, sqlite, duckdb, kafka, auto) and `detail`, for people.

    `trouble` is why it cannot be read since `trouble_since`. `moved` is the source before, when it was left and why.
    """

    name: str
    detail: str = ""
    trouble: str = ""
    trouble_since: float | None = None
    moved: tuple[str, float, str] | None = None


@dataclass(frozen=True)
class Snapshot:
    """Everything that is known at time `now`; times are seconds since 1970, lags and gaps seconds.

    `stream` is its name. `groups` are the six busiest `by` values with their counts, `group_count` how many there are
    (at least that many if `more_groups`). `flow` holds (event time, true total) of the latest points, `measured` the
    latest values of the histogram and `measures` their summary, `rate` is per second over the last minute,
    `sparkline` per second in steps of 10 s over 5 minutes. `last` is when the newest record came, None before it;
    `usual_gap` the 95th percentile of the pauses between the latest ones.
    """

    stream: str
    now: float
    started: float
    source: Source
    roles: Roles = field(default_factory=Roles)
    total: int = 0
    invalid: int = 0
    lost: int = 0
    duplicate: int = 0
    groups: tuple[tuple[str, int], ...] = ()
    group_count: int = 0
    more_groups: bool = False
    flow: tuple[tuple[float, int], ...] = ()
    series: tuple[Series, ...] = ()
    measured: tuple[float, ...] = ()
    measures: Summary | None = None
    rate: float = 0.0
    sparkline: tuple[float, ...] = ()
    lag: Summary | None = None
    last: float | None = None
    usual_gap: float = 0.0
    buffers: Buffers = DEFAULT_BUFFERS

    @property
    def flow_end(self) -> float:
        """Where the time axis ends: now, or for event times that are not of today as long after the newest record."""
        newest = self.flow[-1][0] if self.flow else self.now
        return self.now if self.now - newest - self.idle_s < MISPLACED_S else newest + self.idle_s

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
