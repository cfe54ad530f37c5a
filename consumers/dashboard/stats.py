"""The dashboard's arithmetic: rolling mean, summary, the anomaly rule. NumPy only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consumers.dashboard.snapshot import Summary

Floats = NDArray[np.float64]

TRAILING, TRAILING_LEAST = 100, 20
FLOOR_OF_RANGE = 0.05  # of the interquartile range


def rolling_mean(values: ArrayLike, window: int) -> Floats:
    """Mean of each value and the `window` - 1 before it; NaN where there are fewer."""
    data = np.asarray(values, dtype=float)
    means = np.full(len(data), np.nan)
    if len(data) >= window:
        means[window - 1 :] = np.lib.stride_tricks.sliding_window_view(data, window).mean(axis=1)
    return means


def anomalies(values: ArrayLike, latest: int, floor: float | None = None) -> NDArray[np.bool_]:
    """Which of the `latest` values stand out from the up to 100 before each, once there are 20.

    Both must hold: 3.5 robust deviations (1.4826 MAD) from the median, 3 standard deviations from the mean. A deviation
    is at least `floor`, without one 5 % of the interquartile range.
    """
    data = np.asarray(values, dtype=float)
    first = max(0, len(data) - latest)
    flags = np.zeros(len(data) - first, dtype=bool)
    for index in range(max(first, TRAILING_LEAST), len(data)):
        before, value = data[max(0, index - TRAILING) : index], data[index]
        if abs(value - before.mean()) > 3.0 * max(before.std(ddof=1), floor or 0.0):
            low, middle, high = np.percentile(before, (25, 50, 75))
            least = FLOOR_OF_RANGE * (high - low) if floor is None else floor
            deviation = 1.4826 * np.median(np.abs(before - middle))
            far = abs(value - before.mean()) > 3.0 * max(before.std(ddof=1), least)
            flags[index - first] = far and abs(value - middle) > 3.5 * max(deviation, least)
    return flags


def summary(values: ArrayLike) -> Summary:
    """Mean, median, 95th percentile (linear) and the other measures of one or more numbers."""
    data = np.asarray(values, dtype=float)
    middle, p95 = np.percentile(data, (50, 95))
    sigma = data.std(ddof=1) if len(data) > 1 else 0.0
    mean, low, high = data.mean(), data.min(), data.max()
    return Summary(float(mean), float(middle), float(p95), float(sigma), float(low), float(high), len(data))
