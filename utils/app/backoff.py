"""How long to wait before the next attempt."""

import random
from collections.abc import Iterator


def backoff(first_s: float = 0.1, cap_s: float = 5.0) -> Iterator[float]:
    """Seconds to wait, each time about twice as long, never above `cap_s`; begin another after progress.

    The upper half of each is random, so that those who wait for the same thing do not come back together.
    """
    while True:
        yield first_s * random.uniform(0.5, 1.0)
        first_s = min(first_s * 2, cap_s)
