"""Exponential backoff with jitter."""

import random
from collections.abc import Iterator


def backoff(first_s: float = 0.1, cap_s: float = 5.0) -> Iterator[float]:
    """Yield the seconds to wait before each retry: about twice as long each time, at most `cap_s`.

    Half of each wait is random, so that waiting threads do not retry together. Make a new iterator after progress.
    """
    while True:
        yield first_s * random.uniform(0.5, 1.0)
        first_s = min(first_s * 2, cap_s)
