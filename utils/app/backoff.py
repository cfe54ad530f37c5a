"""How long to wait before the next attempt."""

import random


class Backoff:
    """Exponential delays with full jitter on the upper half: `first_s`, doubling, never above `cap_s`."""

    def __init__(self, first_s: float = 0.1, cap_s: float = 5.0) -> None:
        self._first_s, self._cap_s = first_s, cap_s
        self._ceiling_s = first_s

    def next_s(self) -> float:
        """Seconds to wait now; the next call waits about twice as long."""
        delay_s = self._ceiling_s * random.uniform(0.5, 1.0)
        self._ceiling_s = min(self._ceiling_s * 2, self._cap_s)
        return delay_s

    def reset(self) -> None:
        """Start again from `first_s`; call it on progress, not on mere connection."""
        self._ceiling_s = self._first_s
