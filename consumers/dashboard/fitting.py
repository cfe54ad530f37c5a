"""Texts that stay inside their room."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.text import Text


def width(text: Text, words: str) -> float:
    """Pixels that the artist takes with these words."""
    text.set_text(words)
    return text.get_window_extent().width if words else 0.0


def fit(text: Text, words: str, room: float, tail: str = "") -> None:
    """Set the words and the tail, or as much of the words' beginning as `room` pixels hold, with an ellipsis."""
    if width(text, words + tail) <= room:
        return
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if width(text, words[:middle].rstrip() + "\u2026" + tail) <= room:
            low = middle
        else:
            high = middle - 1
    text.set_text(words[:low].rstrip() + "\u2026" + tail)


def fit_first(text: Text, forms: Sequence[str], room: float) -> None:
    """Set the first form that has room; if none has, the last one with an ellipsis."""
    for form in forms:
        if width(text, form) <= room:
            return
    fit(text, forms[-1], room)


def spread(centres: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Centres moved as little as needed so that labels of these sizes neither touch nor leave low..high."""
    order = sorted(range(len(centres)), key=lambda index: centres[index])
    placed = [min(max(centres[i], low + sizes[i] / 2), high - sizes[i] / 2) for i in range(len(centres))]
    for _ in order:
        for one, other in pairwise(order):
            overlap = placed[one] + (sizes[one] + sizes[other]) / 2 - placed[other]
            if overlap > 0:
                placed[one] -= overlap / 2
                placed[other] += overlap / 2
    for one, other in pairwise(order):
        placed[one] = max(placed[one], low + sizes[one] / 2)
        placed[other] = max(placed[other], placed[one] + (sizes[one] + sizes[other]) / 2)
    for other, one in pairwise(reversed(order)):
        placed[other] = min(placed[other], high - sizes[other] / 2)
        placed[one] = min(placed[one], placed[other] - (sizes[one] + sizes[other]) / 2)
    return placed
