"""The dashboard's arithmetic, by pandas."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from consumers.dashboard.options import Buffers
from consumers.dashboard.snapshot import Series, Summary
from utils.reading.anomaly import TRAILING, anomalies

MAX_LINES = 5
COLUMNS = ("time", "key", "value", "measure", "lag")  # of each record; times are seconds since 1970
RATE_WINDOW_S, SPARK_STEP_S, SPARK_STEPS, GAPS = 60, 10, 30, 50
SECONDS = SPARK_STEP_S * (SPARK_STEPS + 1)  # that are to be known for these


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
    """A series of each key, the busiest five, by name; or one of all without `lines`."""
    known = table.dropna(subset="value")
    if not lines:
        return (_series("", known, buffers, floor),) if len(known) else ()
    busiest = sorted(known["key"].value_counts().index[:MAX_LINES])
    return tuple(_series(name, known[known["key"] == name], buffers, floor) for name in busiest)


def _series(name: str, known: pd.DataFrame, buffers: Buffers, floor: float | None) -> Series:
    known = known.tail(buffers.window + TRAILING)
    # Each window for itself: a sum that is carried on does not recover from values such as 1e20.
    rolling = known["value"].rolling(buffers.rolling, min_periods=1).apply(np.mean, raw=True)
    odd = anomalies(known["value"].tolist(), buffers.window, floor)
    shown = known.assign(rolling=rolling).tail(buffers.window)
    times, values, means, keys = (tuple(shown[each].tolist()) for each in ("time", "value", "rolling", "key"))
    return Series(name, times, values, means, tuple(odd), keys)
