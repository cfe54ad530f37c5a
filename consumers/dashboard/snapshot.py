"""The content of one frame, computed once, so that image, page, JSON and metrics cannot differ; text formats of it."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from consumers.dashboard.options import DEFAULT_BUFFERS, Buffers
from utils.records.instants import local_time

TOP, MAX_KEYS = 6, 10_000  # most `by` values that are shown, and that are counted one by one
STALE_AFTER_S, STALE_GAPS = 10.0, 5.0
MISPLACED_S = 60.0  # an event time that is further behind is not one of the present
LEAST_SILENCE_S = 60.0  # always has room on the time axis, however short the flow before it is
UNITS_S = ((31_536_000, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@dataclass(frozen=True)
class Roles:
    """Names and units of the charted fields, and how they are drawn."""

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
    """The latest values of one `by` value, or of all records if `name` is "". The first rolling means are shorter."""

    name: str
    times: tuple[float, ...]  # event times
    values: tuple[float, ...]
    rolling: tuple[float, ...]
    anomalies: tuple[bool, ...]
    keys: tuple[str, ...] = ()  # `by` values


@dataclass(frozen=True)
class Summary:
    """Mean, median, 95th percentile, sample standard deviation (0 for one value), minimum and maximum of numbers."""

    mean: float
    median: float
    p95: float
    sigma: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Source:
    """The sink that is read, and its trouble if it cannot be read."""

    name: str  # file, sqlite, duckdb, kafka or auto
    detail: str = ""
    trouble: str = ""  # why it cannot be read
    trouble_since: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """The statistics at time `now`. Times are seconds since 1970. Texts are `plain`."""

    stream: str
    now: float
    started: float
    source: Source
    roles: Roles = Roles()
    where: str = ""  # condition of the records that are shown; "": all
    received: int = 0  # all records, also invalid, duplicate and not shown ones
    total: int = 0  # records that are shown
    invalid: int = 0
    lost: int = 0
    duplicate: int = 0
    groups: tuple[tuple[str, int], ...] = ()  # the six busiest `by` values and their counts
    group_count: int = 0  # number of `by` values, 10,000 at most: the records of further ones are counted together
    flow: tuple[tuple[float, int], ...] = ()  # event time and total of the latest points
    series: tuple[Series, ...] = ()
    measured: tuple[float, ...] = ()  # the latest values of the histogram
    measures: Summary | None = None  # of `measured`
    rate: float = 0.0  # records per second over the last minute
    sparkline: tuple[float, ...] = ()  # records per second in steps of 10 s over 5 minutes
    lag: Summary | None = None
    last: float | None = None  # when the newest record came
    usual_gap: float = 0.0  # the 95th percentile of the latest pauses of a second or more
    buffers: Buffers = DEFAULT_BUFFERS

    @property
    def flow_end(self) -> float:
        """The end of the time axis: now, or for event times of the past the newest one plus `idle_s`.

        In a recording, whose records are all older than the dashboard, silence takes at most half of the axis: an
        hour of last week would be a dot.
        """
        oldest, newest = self.flow[0][0], self.flow[-1][0]
        end = self.now if self.now - newest - self.idle_s < MISPLACED_S else newest + self.idle_s
        end = max(end, newest)  # the clock may have been set back
        is_recording = (self.last or 0) < self.started
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

    @property
    def status_text(self) -> str:
        """The status, for STALE with the duration of the silence."""
        silence = f" \u00b7 no {self.roles.record}s for {span(self.idle_s)}" if self.status == "STALE" else ""
        return self.status + silence

    @property
    def rate_text(self) -> str:
        """The rate, such as `2.7 msg/s`, for records other than messages `2.7 rec/s`."""
        decimals = 0 if self.rate >= 100 else 2 if 0 < self.rate < 0.1 else 1
        return f"{self.rate:,.{decimals}f} {'msg' if self.roles.record == 'message' else 'rec'}/s"

    @property
    def why_empty(self) -> str:
        """The reason why no record is shown, or a command that sends some."""
        if self.where and self.received:
            return f"\n\nno record of {self.received:,} matches --where yet"
        return "\n\npython -m producers.ragini_producer" if self.stream == "buzz" else ""


def span(seconds: float) -> str:
    """Format a duration: `12 s`, `3 m 4 s`, `12 m`, `3 d 4 h`, `7,978 y`; two units while the first has one digit."""
    whole = max(0, int(seconds))
    for (size, unit), (small, small_unit) in pairwise(UNITS_S):
        if whole >= size:
            first, second = whole // size, whole % size // small
            return f"{first} {unit} {second} {small_unit}" if first < 10 and second else f"{first:,} {unit}"
    return f"{whole} s"


def clock(epoch_s: float, now: float) -> str:
    """Format a local time, with its date if it is over a day away from `now`."""
    return local_time(epoch_s).strftime("%H:%M:%S" if abs(now - epoch_s) < 86_400 else "%Y-%m-%d %H:%M")


def brief(count: int) -> str:
    """Format a count so that it is short: `5,243`, `999,999`, `1.2M`."""
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.1f}M"


def number(value: float, extent: float) -> str:
    """Format one of values that differ by `extent`, two decimals for 1, one for 10: `0.57`, `1,235`, or `1.2e9`."""
    places = 2 - round(math.log10(extent)) if extent > 0 else 2
    if abs(value) >= 1e7 or places > 6:
        return f"{value:.3g}".replace("e+", "e")
    return f"{value:z,.{max(0, min(places, 7 - len(f'{abs(value):.0f}')))}f}"


def plain(text: str) -> str:
    """Remove characters that disturb an image or a terminal: control and format ones, a third accent of a letter."""
    printable = "".join(each if each.isprintable() else " " for each in text[:1000])
    return " ".join(re.sub("([\u0300-\u036f]{2})[\u0300-\u036f]+", r"\1", printable).split())
