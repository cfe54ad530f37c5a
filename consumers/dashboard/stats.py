"""The dashboard's arithmetic, by pandas."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from consumers.dashboard.options import Buffers
from consumers.dashboard.snapshot import Series, Summary
from utils.reading.anomaly import TRAILING, anomalies

MAX_LINES = 5
RATE_WINDOW_S, SPARK_STEP_S, SPARK_STEPS, GAPS = 60, 10, 30, 50
SECONDS = SPARK_STEP_S * (SPARK_STEPS + 1)  # that are to be known for these


class Point(NamedTuple):
    """A value, its event time in seconds since 1970 and its key."""

    time: float
    value: float
    key: str


def summary(values: Sequence[float]) -> Summary | None:
    """Mean, percentiles (linear) and the other measures of numbers; None if there is none."""
    if not values:
        return None
    described = pd.Series(values, dtype=float).describe(percentiles=[0.5, 0.95]).fillna(0.0)
    _, mean, sigma, low, median, p95, high = described.tolist()
    return Summary(mean, median, p95, sigma, low, high, len(values))


def rate(seconds: Counter[int], now: float, started: float) -> float:
    """Records per second over the last minute, or since the first record if that is less."""
    since = int(now) - RATE_WINDOW_S + 1
    count = sum(count for second, count in seconds.items() if since <= second <= now)
    return count / max(1.0, now - max(since, min([int(started), *seconds])))


def sparkline(seconds: Counter[int], now: float) -> tuple[float, ...]:
    """Records per second in steps of ten seconds, up to the last whole one."""
    steps: Counter[int] = Counter()
    for second, count in seconds.items():
        steps[int(now) // SPARK_STEP_S - second // SPARK_STEP_S] += count
    return tuple(steps[ago] / SPARK_STEP_S for ago in range(SPARK_STEPS, 0, -1))


def usual_gap(seconds: Counter[int]) -> float:
    """The 95th percentile of the latest pauses of a second or more, so that what comes in bursts is not stale."""
    return float(pd.Series(sorted(seconds)[-GAPS:]).diff().quantile(0.95)) if len(seconds) > 1 else 0.0


def all_series(points: Sequence[Point], buffers: Buffers, floor: float | None, *, lines: bool) -> tuple[Series, ...]:
    """A series of each key, the busiest five, by name; or one of all without `lines` or if nearly all keys differ."""
    counts = Counter(point.key for point in points)
    if not lines or (len(counts) > MAX_LINES and 2 * len(counts) > len(points)):
        return (_series("", points, buffers, floor),) if points else ()
    busiest = sorted(key for key, _ in counts.most_common(MAX_LINES))
    return tuple(_series(name, [each for each in points if each.key == name], buffers, floor) for name in busiest)


def _series(name: str, points: Sequence[Point], buffers: Buffers, floor: float | None) -> Series:
    known = pd.DataFrame(points[-buffers.window - TRAILING :], columns=list(Point._fields))
    # Each window for itself: a sum that is carried on does not recover from values such as 1e20.
    known["rolling"] = known["value"].rolling(buffers.rolling, min_periods=1).apply(np.mean, raw=True)
    shown = known.tail(buffers.window)
    odd = anomalies(known["value"].tolist(), len(shown), floor)
    times, values, rolling, keys = (tuple(shown[each].tolist()) for each in ("time", "value", "rolling", "key"))
    return Series(name, times, values, rolling, tuple(odd), keys)
