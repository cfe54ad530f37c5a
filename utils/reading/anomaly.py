"""The one rule for values that stand out: alerts follow it, and the dashboard's trends."""

from collections.abc import Sequence
from math import hypot, sqrt
from statistics import median, quantiles

from utils.records.stream import BUZZ, Stream

TRAILING, TRAILING_LEAST = 100, 20  # values that one is judged by
FLOOR_OF_RANGE = 0.05  # of the interquartile range
SENTIMENT_FLOOR = 0.05


def floor_of(stream: Stream, name: str | None) -> float | None:
    """What a deviation of this field is at least; None stands for 5 % of the interquartile range."""
    return SENTIMENT_FLOOR if (stream.name, name) == (BUZZ.name, BUZZ.value) else None


def stands_out(value: float, before: Sequence[float], floor: float | None) -> bool:
    """Whether a value is no likely next one after up to 100 before it, of which there must be 20.

    Both must be true: it is over 3 standard deviations from their mean, and over 3.5 robust ones (1.4826 MAD) from
    their median. A deviation is at least `floor`, see `floor_of`.
    """
    if len(before) < TRAILING_LEAST:
        return False
    mean = sum(before) / len(before)
    deviation = hypot(*(each - mean for each in before)) / sqrt(len(before) - 1)  # which no number overflows
    distance = abs(value - mean)
    if distance <= 3 * max(deviation, floor or 0):  # most values end here
        return False
    low, middle, high = quantiles(before, n=4, method="inclusive")
    least = FLOOR_OF_RANGE * (high - low) if floor is None else floor
    robust = 1.4826 * median(abs(each - middle) for each in before)
    return distance > 3 * least and abs(value - middle) > 3.5 * max(robust, least)


def anomalies(values: Sequence[float], latest: int, floor: float | None = None) -> list[bool]:
    """Which of the `latest` values stand out from those before them."""
    places = range(max(0, len(values) - latest), len(values))
    return [stands_out(values[place], values[max(0, place - TRAILING) : place], floor) for place in places]
