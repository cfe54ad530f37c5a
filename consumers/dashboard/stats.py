"""The dashboard's arithmetic: rolling mean, percentiles, the anomaly rule, bins, ticks, label places. NumPy only."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ROLLING = 10
TRAILING = 100
TRAILING_LEAST = 20
MAX_BINS = 16

_TIME_STEPS_S = (1, 2, 4, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAY_S = 86_400


def rolling_mean(values: ArrayLike, window: int = ROLLING) -> Floats:
    """Mean of each value and the `window` - 1 before it; NaN where there are fewer."""
    data = np.asarray(values, dtype=float)
    means = np.full(len(data), np.nan)
    if len(data) >= window:
        means[window - 1 :] = np.lib.stride_tricks.sliding_window_view(data, window).mean(axis=1)
    return means


def anomalies(values: ArrayLike, latest: int) -> NDArray[np.bool_]:
    """Which of the `latest` values stand out from the up to 100 before each, once there are 20.

    Both must hold: 3.5 robust deviations (1.4826 MAD) from the median, 3 standard deviations from the mean.
    """
    data = np.asarray(values, dtype=float)
    first = max(0, len(data) - latest)
    flags = np.zeros(len(data) - first, dtype=bool)
    for index in range(max(first, TRAILING_LEAST), len(data)):
        before, value = data[max(0, index - TRAILING) : index], data[index]
        if abs(value - before.mean()) > 3.0 * max(before.std(ddof=1), 0.05):
            middle = np.median(before)
            mad = np.median(np.abs(before - middle))
            flags[index - first] = abs(value - middle) > 3.5 * max(1.4826 * mad, 0.05)
    return flags


@dataclass(frozen=True)
class Summary:
    """Mean, median, 95th percentile (linear) and sample standard deviation (0 for one value)."""

    mean: float
    median: float
    p95: float
    sigma: float


def summary(values: ArrayLike) -> Summary:
    data = np.asarray(values, dtype=float)
    middle, p95 = np.percentile(data, (50, 95))
    return Summary(float(data.mean()), float(middle), float(p95), float(data.std(ddof=1)) if len(data) > 1 else 0.0)


def histogram(values: Sequence[int]) -> tuple[int, int, list[int]]:
    """First value, width and counts of at most 16 bins of equal whole width that hold every value."""
    low, high = min(values), max(values)
    width = (high - low) // MAX_BINS + 1
    first = low - low % width
    if (high - first) // width >= MAX_BINS:
        first = low
    counts = [0] * ((high - first) // width + 1)
    for value in values:
        counts[(value - first) // width] += 1
    return first, width, counts


def nice_step(span: float, most: int) -> int:
    """The smallest of 1, 2, 3, 5 x 10^n that divides `span` into at most `most` parts."""
    rough = max(1.0, span / max(1, most))
    power: int = 10 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 3, 5, 10) if step * power >= rough * (1 - 1e-9))


def whole_ticks(low: float, high: float, most: int) -> list[int]:
    """Round whole numbers from `low` to `high`, about `most` of them."""
    step = nice_step(high - low, most)
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))


def y_ticks(low: float, high: float) -> list[int]:
    """About three round numbers from `low` to `high`, a whole number at least 1 above it; never fewer than two."""
    ticks = whole_ticks(low, high, 3)
    return ticks if len(ticks) > 2 else whole_ticks(low, high, 4)


def time_step(span_s: float, most: int) -> int:
    """The smallest handy step in seconds that divides a span into at most `most` parts."""
    for step in _TIME_STEPS_S:
        if span_s <= step * most:
            return step
    return nice_step(span_s / _DAY_S, most) * _DAY_S


def time_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Round local times between two epochs, with their labels."""
    step = time_step(high - low, most)
    offset = time.localtime(low).tm_gmtoff
    pattern = "%H:%M:%S" if step < 60 else "%H:%M" if step < _DAY_S else "%Y-%m-%d"
    first = math.ceil((low + offset) / step)
    last = math.floor((high + offset) / step)
    ticks = [index * step - offset for index in range(first, last + 1)]
    return [(tick, datetime.fromtimestamp(tick).strftime(pattern)) for tick in ticks]


def spread(centres: Sequence[float], sizes: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """Centres moved as little as needed so that labels of these sizes neither touch nor leave low..high."""
    order = sorted(range(len(centres)), key=lambda index: centres[index])
    placed = [min(max(centres[i], low + sizes[i] / 2), high - sizes[i] / 2) for i in range(len(centres))]
    for _ in range(len(order)):
        for one, other in pairwise(order):
            overlap = placed[one] + (sizes[one] + sizes[other]) / 2 + gap - placed[other]
            if overlap > 0:
                placed[one] -= overlap / 2
                placed[other] += overlap / 2
    for one, other in pairwise(order):
        placed[one] = max(placed[one], low + sizes[one] / 2)
        placed[other] = max(placed[other], placed[one] + (sizes[one] + sizes[other]) / 2 + gap)
    for other, one in pairwise(reversed(order)):
        placed[other] = min(placed[other], high - sizes[other] / 2)
        placed[one] = min(placed[one], placed[other] - (sizes[one] + sizes[other]) / 2 - gap)
    return placed
