"""What the panels share: a card with title and subtitle, axes or a notice on it, and what the mouse finds there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.text import Text

from consumers.dashboard.fitting import fit
from consumers.dashboard.formatting import heading
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.theme import Palette

PAD = 0.1  # inches between a card and its subfigure's edge


class Hint(NamedTuple):
    """What is shown where the mouse rests: a text for a box of data coordinates, which may be a point."""

    axes: Axes
    box: tuple[float, float, float, float]  # left, bottom, right, top
    text: str


class Panel:
    """A card with a title, a subtitle and axes, or a notice while there is nothing to draw.

    A subclass sets `title` and `empty`, makes its artists in `build` and moves them in `draw`. Lengths are inches times
    `k`. `margins` of the axes inside the card: left, right, bottom, top.
    """

    title = ""
    empty = ""
    margins: tuple[float, ...] = (0.85, 1.0, 0.5, 0.8)

    def __init__(self, card: SubFigure, palette: Palette, k: float) -> None:
        self.card, self.palette, self.k = card, palette, k
        self.hints: list[Hint] = []
        self.heading = self.text(0.3, 0.33, size="x-large", weight="bold")
        self.subtitle = self.text(0.3, 0.57, color=palette.muted)
        self.notice = card.text(0.5, 0.42, "", color=palette.muted, ha="center", va="center")
        self.build()

    @property
    def inch(self) -> float:
        """Pixels of an inch times `k`."""
        return self.k * self.card.dpi

    def text(self, left: float, top: float, **style: Any) -> Text:
        """Text on the card, so many inches from its left and its top."""
        box = self.card.bbox
        x, y = left * self.inch / box.width, 1 - top * self.inch / box.height
        return self.card.text(x, y, "", va="center_baseline", **style)

    def subplots(self, rows: int = 1, **options: Any) -> Any:
        """Axes inside the margins."""
        box = self.card.bbox
        left, right = (margin * self.inch / box.width for margin in self.margins[:2])
        bottom, top = (margin * self.inch / box.height for margin in self.margins[2:])
        ends = {
            "left": left,
            "bottom": bottom,
            "right": max(1 - right, left + 0.01),
            "top": max(1 - top, bottom + 0.01),
        }
        return self.card.subplots(rows, 1, gridspec_kw=ends, **options)

    def build(self) -> None:
        """Make the artists."""
        raise NotImplementedError

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        """Move the artists; return the parts of the subtitle, the most important first."""
        raise NotImplementedError

    def has_data(self, snapshot: Snapshot) -> bool:
        return snapshot.total > 0

    def named(self, text: str, snapshot: Snapshot) -> str:
        """A text with the names of the roles."""
        roles = snapshot.roles
        names = {"record": roles.record, "by": roles.by, "value": roles.value, "histogram": roles.histogram}
        start = "\n\npython -m producers.ragini_producer" if snapshot.stream == "buzz" else ""
        return text.format(**{name: heading(word) for name, word in names.items()}, start=start)

    def update(self, snapshot: Snapshot) -> None:
        self.hints.clear()
        filled, room = self.has_data(snapshot), self.card.bbox.width - 0.6 * self.inch
        fit(self.heading, room, self.named(self.title, snapshot))
        for axes in self.card.axes:
            axes.set_visible(filled)
        fit(self.notice, room, "" if filled else self.named(self.empty, snapshot))
        parts = self.draw(snapshot) if filled else [""]
        fit(self.subtitle, room, *("  \u00b7  ".join(parts[:end]) for end in range(len(parts), 0, -1)))
