"""The rule for anomalies, for alerts and the dashboard's trends alike."""

from collections.abc import Sequence
from math import hypot, sqrt
from statistics import median, quantiles

from utils.records.stream import BUZZ, Stream

TRAILING, TRAILING_LEAST = 100, 20  # a value is compared with at most and at least so many before it
FLOOR_OF_RANGE = 0.05  # of the interquartile range
SENTIMENT_FLOOR = 0.05


def floor_of(stream: Stream, name: str | None) -> float | None:
    """Return the lower bound of a field's deviations; None stands for 5 % of the interquartile range."""
    return SENTIMENT_FLOOR if (stream.name, name) == (BUZZ.name, BUZZ.value) else None


def stands_out(value: float, before: Sequence[float], floor: float | None) -> bool:
    """Return whether a value is an anomaly after the up to 100 values before it; False after fewer than 20.

    An anomaly is over 3 standard deviations from their mean and over 3.5 robust ones (1.4826 MAD) from their median.
    A robust deviation counts as at least `floor`, see `floor_of`.
    """
    if len(before) < TRAILING_LEAST:
        return False
    mean = sum(before) / len(before)
    deviation = hypot(*(each - mean for each in before)) / sqrt(len(before) - 1)  # hypot does not overflow
    distance = abs(value - mean)
    if distance <= 3 * deviation:  # true for most values, and faster than the medians below
        return False
    low, middle, high = quantiles(before, n=4, method="inclusive")
    least = FLOOR_OF_RANGE * (high - low) if floor is None else floor
    robust = 1.4826 * median(abs(each - middle) for each in before)
    return abs(value - middle) > 3.5 * max(robust, least)


def anomalies(values: Sequence[float], latest: int, floor: float | None = None) -> list[bool]:
    """Return whether each of the last `latest` values stands out from the values before it."""
    places = range(max(0, len(values) - latest), len(values))
    return [stands_out(values[place], values[max(0, place - TRAILING) : place], floor) for place in places]
