"""Texts that stay inside their room. What an artist shows already is not measured again."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.text import Text


def width(text: Text, words: str) -> float:
    """Pixels that the artist takes with these words."""
    text.set_text(words)
    return width_of(text) if words else 0.0


def width_of(text: Text) -> float:
    """Pixels that the artist takes, by the canvas: what drew it last may have been an SVG, which counts otherwise."""
    figure: Any = text.get_figure(root=True)
    return float(text.get_window_extent(figure.canvas.get_renderer()).width)


def fit(text: Text, words: str, room: float, tail: str = "") -> None:
    """Set the words and the tail, or as much of the words' beginning as `room` pixels hold, with an ellipsis."""
    if text.get_text() == words + tail or width(text, words + tail) <= room:
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
    shown = text.get_text()
    for form in forms:
        if form == shown or width(text, form) <= room:
            text.set_text(form)
            return
    text.set_text("")  # the last form was only tried
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
