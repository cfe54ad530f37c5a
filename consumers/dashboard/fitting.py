"""Texts that stay inside their room."""

from bisect import bisect_right
from typing import Any

from matplotlib.text import Text


def fit(text: Text, room: float, *forms: str) -> None:
    """Set the first form that `room` pixels hold, else the beginning of the last one with an ellipsis.

    An artist always has the same room: a first form that it shows already is not measured again.
    """
    if text.get_text() == forms[0]:
        return
    figure: Any = text.get_figure(root=True)
    renderer = figure.canvas.get_renderer()  # not what drew it last, which may have been an SVG's: it counts otherwise

    def width(words: str) -> float:
        text.set_text(words)
        return float(text.get_window_extent(renderer).width)

    last = forms[-1]
    if not any(width(form) <= room for form in forms):
        kept = bisect_right(range(len(last)), room, key=lambda count: width(f"{last[:count]}\u2026")) - 1
        text.set_text(f"{last[: max(kept, 0)].rstrip()}\u2026")
