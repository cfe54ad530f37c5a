"""The ranges of axes: what of some values they show, so that a few do not flatten the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from consumers.dashboard.snapshot import Series


def limits(shown: Sequence[Series], zones: tuple[float, float] | None) -> tuple[float, float]:
    """The range of all values but anomalies, which would flatten it, of means without them, and of near zones."""
    values = [pair for series in shown for pair in zip(series.values, series.anomalies, strict=True)]
    usual = [value for value, odd in values if not odd] or [value for value, _ in values]
    usual += [mean for series in shown if not any(series.anomalies) for mean in series.rolling]
    low, high = spread(min(usual), max(usual))
    near = [zone for zone in zones or () if low - 0.5 * (high - low) <= zone <= high + 0.5 * (high - low)]
    return min([low, *near]), max([high, *near])


def spread(low: float, high: float) -> tuple[float, float]:
    """The range of an axis: a wider one where the ends differ by less than a millionth, which no axis can show."""
    size = max(abs(low), abs(high))
    pad = max(0.05 * size, 0.5) if high - low <= 1e-6 * size else 0.0
    return low - pad, high + pad


def usual(values: Sequence[float]) -> Any:
    """The values but those further from the middle half than three times its width, which would flatten the others."""
    found = np.array(values)
    first, third = np.percentile(found, (25, 75))
    reach = 3 * (third - first) or np.inf
    return found[(found >= first - reach) & (found <= third + reach)]


def bins(low: float, high: float, most: int, *, whole: bool) -> Any:
    """The edges of at most so many bins of a round width from low to high; of whole numbers they lie between them."""
    locator: Any = MaxNLocator(most - 2, integer=whole, steps=[1, 2, 2.5, 5, 10])
    return locator.tick_values(*spread(low, high + whole)) - 0.5 * whole
