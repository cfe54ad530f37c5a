"""The dashboard's arithmetic: rolling mean and summary. NumPy only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consumers.dashboard.snapshot import Summary

Floats = NDArray[np.float64]


def rolling_mean(values: ArrayLike, window: int) -> Floats:
    """Mean of each value and the `window` - 1 before it; NaN where there are fewer."""
    data = np.asarray(values, dtype=float)
    means = np.full(len(data), np.nan)
    if len(data) >= window:
        means[window - 1 :] = np.lib.stride_tricks.sliding_window_view(data, window).mean(axis=1)
    return means


def summary(values: ArrayLike) -> Summary:
    """Mean, median, 95th percentile (linear) and the other measures of one or more numbers."""
    data = np.asarray(values, dtype=float)
    middle, p95 = np.percentile(data, (50, 95))
    sigma = data.std(ddof=1) if len(data) > 1 else 0.0
    mean, low, high = data.mean(), data.min(), data.max()
    return Summary(float(mean), float(middle), float(p95), float(sigma), float(low), float(high), len(data))
