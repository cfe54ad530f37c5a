"""What the panels share: a card with title and subtitle, axes or a notice on it, and what the mouse finds there."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, ScaledTranslation

from consumers.dashboard.formatting import why_empty
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.theme import Palette

EDGE, PAD = 0.3, 0.1  # inches from the edge of a part of the figure to its texts, and to its background
NARROW_IN = 5.2  # all cards of one column are, and of the others those that have no room for names on their right


class Card:
    """A part of the figure on a background with round corners. `inches` are counted from its left and its top."""

    def __init__(self, area: SubFigure, palette: Palette, *, filled: bool = True) -> None:
        self.area, self.palette, corner = area, palette, area.transSubfigure
        self.width: float = area.bbox.width / area.dpi
        self.height: float = area.bbox.height / area.dpi
        self.narrow = self.width < NARROW_IN
        self.inches: Any = Affine2D().scale(1, -1) + area.dpi_scale_trans + ScaledTranslation(0, 1, corner)  # type: ignore[arg-type]
        area.patch.set_visible(False)
        if filled:
            look: Any = {"lw": 0, "fc": palette.card, "boxstyle": "round,pad=0,rounding_size=0.06", "zorder": -1}
            size = self.width - 2 * PAD, self.height - 2 * PAD
            area.add_artist(FancyBboxPatch((PAD, PAD), *size, transform=self.inches, **look))

    def text(self, left: float, top: float, **look: Any) -> Text:
        """An empty text, so many inches from the left and the top."""
        return self.area.text(left, top, "", va="center_baseline", transform=self.inches, **look)


def fit(text: Text, room: float, *forms: str) -> None:
    """Set the first form that `room` inches hold, else the beginning of the last one with an ellipsis.

    An artist always has the same room: a first form that it shows already is not measured again.
    """
    if text.get_text() == forms[0]:
        return
    figure: Any = text.get_figure(root=True)
    renderer = figure.canvas.get_renderer()  # not what drew it last, which may have been an SVG's: it counts otherwise

    def is_long(words: str) -> bool:
        text.set_text(words)
        return bool(text.get_window_extent(renderer).width > room * figure.dpi)

    if all(map(is_long, forms)):
        cut = [f"{forms[-1][:length].rstrip()}\u2026" for length in range(len(forms[-1]))]
        text.set_text(cut[max(bisect_left(cut, True, key=is_long) - 1, 0)])


class Panel(Card):
    """A card with a title, a subtitle and axes, or a notice while there is nothing to draw.

    A subclass sets `title` and `empty`, makes its artists in `build` and moves them in `draw`. `margins` of the axes
    inside the card are inches: left, right, bottom, top. `words` are what it shows, for people who cannot see it:
    title, subtitle, and what `draw` adds.
    """

    title = ""
    empty = ""
    margins: tuple[float, ...] = (0.85, 1.0, 0.5, 0.8)

    def __init__(self, area: SubFigure, palette: Palette) -> None:
        super().__init__(area, palette)
        self.hints: list[tuple[Axes, tuple[float, ...], str]] = []  # left, bottom, right and top in data coordinates
        self.words: list[str] = []
        self.heading = self.text(EDGE, 0.33, size="x-large", weight="bold")
        self.subtitle = self.text(EDGE, 0.57, color=palette.muted)
        self.notice = area.text(0.5, 0.42, "", color=palette.muted, ha="center", va="center")
        self.build()
        for axes in area.axes:
            axes.yaxis.get_offset_text().set_fontsize("small")  # it stands close below the subtitle

    @property
    def inner(self) -> tuple[float, float]:
        """Width and height inside the margins, in inches."""
        left, right, bottom, top = self.margins
        return max(self.width - left - right, 0.05), max(self.height - bottom - top, 0.05)

    def subplots(self, rows: int = 1, **options: Any) -> Any:
        """Axes inside the margins."""
        (left, _, bottom, _), (width, height) = self.margins, self.inner
        ends = {"left": left / self.width, "right": (left + width) / self.width,
                "bottom": bottom / self.height, "top": (bottom + height) / self.height, "hspace": 0.06}  # fmt: skip
        return self.area.subplots(rows, 1, gridspec_kw=ends, **options)

    def hint(self, axes: Any, left: float, bottom: float, text: str, *end: float) -> None:
        """Show the text where the mouse is on a point, or on the box to this right and top `end`."""
        self.hints.append((axes, (left, bottom, *(end or (left, bottom))), text))

    def draw_bars(self, stairs: Any, edges: Any, counts: Any, hints: Iterable[str]) -> None:
        """Give one artist of `axes.stairs` the shape of bars: to draw each by itself takes a twentieth of a frame."""
        gap = 0.03 * (edges[1] - edges[0])
        sides = np.column_stack([edges[:-1] + gap, edges[1:] - gap]).ravel()
        stairs.set_data(np.insert(counts, range(1, len(counts)), 0), sides)
        for left, right, count, text in zip(edges, edges[1:], counts, hints, strict=False):
            if count:
                self.hint(stairs.axes, left, 0, text, right, count)

    def build(self) -> None:
        """Make the artists."""
        raise NotImplementedError

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        """Move the artists; return the parts of the subtitle, the most important first, none if there is no data."""
        raise NotImplementedError

    def update(self, snapshot: Snapshot) -> None:
        """Show the snapshot."""
        self.hints, self.words = [], []
        parts, room, roles = self.draw(snapshot), self.width - 2 * EDGE, snapshot.roles
        names = {name: getattr(roles, name) for name in ("record", "by", "value", "histogram")}
        title = self.title.format_map({name: text.title() for name, text in names.items()})
        fit(self.heading, room, title)
        fit(self.notice, room, "" if parts else self.empty.format_map(names | {"why": why_empty(snapshot)}))
        for axes in self.area.axes:
            axes.set_visible(bool(parts))
        fit(self.subtitle, room, *("  \u00b7  ".join(parts[:end]) for end in range(max(len(parts), 1), 0, -1)))
        self.words = [title, self.notice.get_text(), *parts, *self.words]
