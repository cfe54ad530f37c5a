"""What pictures are made of: texts, boxes and plots on one figure, in inches from the lower left corner.

Ticks and grids are our own few artists, made once and moved: matplotlib's cost most of a frame.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from math import ceil
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform, ScaledTranslation, Transform

from consumers.dashboard import theme
from consumers.dashboard.theme import Rect, Theme

MAX_STAMPS = 1_000
TICK_SIZE = theme.TICK + 0.5
_Sheet: Any = RendererAgg  # it has no types


@lru_cache(maxsize=64)
def font(size: float, bold: bool = False) -> FontProperties:
    return FontProperties(size=size, weight="bold" if bold else "normal")


class Stamp(Text):
    """Text that keeps its pixels and stamps them where it is: drawing glyphs was most of a frame.

    All texts of one picture share `kept`; whole pixels are precise enough for horizontal text.
    """

    def __init__(self, kept: dict[object, tuple[Any, int, int]], *place: Any, **style: Any) -> None:
        super().__init__(*place, **style)
        self._kept = kept

    def draw(self, renderer: Any) -> None:
        if not (self.get_visible() and self.get_text().strip()):
            return
        look = self.get_text(), self.get_fontproperties(), self.get_color(), self.get_rotation()
        key = look, self.get_horizontalalignment(), self.get_verticalalignment(), renderer.dpi
        if key not in self._kept:
            if len(self._kept) >= MAX_STAMPS:
                self._kept.clear()
            self._kept[key] = self._rasterise(renderer)
        pixels, left, below = self._kept[key]
        x, y = self.get_transform().transform(self.get_position())
        renderer.draw_image(renderer.new_gc(), round(x) - left, round(y) - below, pixels)

    def _rasterise(self, renderer: Any) -> tuple[Any, int, int]:
        """Pixels from the bottom row up, and where in them the text's own position is."""
        # matplotlib keeps 4,096 measures for each renderer: one of our own lets them go.
        ruler: Any = _Sheet(1, 1, renderer.dpi)
        place, transform, box = self.get_position(), self.get_transform(), self.get_window_extent(ruler)
        x, y = transform.transform(place)
        left, below = ceil(x - box.x0) + 2, ceil(y - box.y0) + 2
        sheet: Any = _Sheet(left + ceil(box.x1 - x) + 2, below + ceil(box.y1 - y) + 2, renderer.dpi)
        self.set(position=(left, below), transform=IdentityTransform())
        super().draw(sheet)
        self.set(position=place, transform=transform)
        return np.asarray(sheet.buffer_rgba())[::-1].copy(), left, below


class Ink:
    """Makes artists on one figure, in one theme, with every length and font scaled by `k`."""

    def __init__(self, figure: Figure, colours: type[Theme], k: float) -> None:
        self.figure, self.colours, self.k = figure, colours, k
        self.inches = figure.dpi_scale_trans
        self._stamps: dict[object, tuple[Any, int, int]] = {}
        self.width = lru_cache(maxsize=1024)(self._width)

    def text(
        self, x: float, y: float, size: float, colour: str, text: str = "", *,
        bold: bool = False, axes: Axes | None = None, **style: Any,
    ) -> Text:  # fmt: skip
        """Text on the whole picture, or on `axes` where `transform` says."""
        options: dict[str, Any] = {"va": "center", "clip_on": False, "transform": self.inches} | style
        made = Stamp(self._stamps, x, y, text, color=colour, fontproperties=font(size * self.k, bold), **options)
        (axes or self.figure).add_artist(made)
        return made

    def box(self, rect: Rect, colour: str, radius: float = 0.06, **style: Any) -> FancyBboxPatch:
        """A rectangle with round corners, behind everything unless `zorder` says otherwise."""
        rounding = f"round,pad=0,rounding_size={radius * self.k}"
        options: dict[str, Any] = {"lw": 0, "zorder": -1, "transform": self.inches} | style
        box = FancyBboxPatch((rect.x, rect.y), rect.w, rect.h, boxstyle=rounding, fc=colour, **options)
        self.figure.add_artist(box)
        return box

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, **style: Any) -> Line2D:
        line = Line2D(xs, ys, color=colour, transform=self.inches, **style)
        self.figure.add_artist(line)
        return line

    def _width(self, text: str, size: float, bold: bool = False) -> float:
        """Inches that one line of text takes."""
        canvas: Any = self.figure.canvas
        extent = canvas.get_renderer().get_text_width_height_descent(text, font(size * self.k, bold), False)
        return float(extent[0]) / self.figure.dpi

    def fit(self, text: str, room: float, size: float, bold: bool = False) -> str:
        """The text, or as much of its beginning as `room` inches hold, with an ellipsis."""
        if self.width(text, size, bold) <= room:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(text[:middle].rstrip() + "\u2026", size, bold) <= room:
                low = middle
            else:
                high = middle - 1
        return text[:low].rstrip() + "\u2026"

    def best(self, forms: Sequence[str], room: float, size: float, bold: bool = False, lines: int = 1) -> str:
        """The first form that fits into `room` inches; if none does the last one, in 2 `lines` or cut."""
        for form in forms:
            if self.width(form, size, bold) <= room:
                return form
        return self.wrap(forms[-1], room, size) if lines == 2 else self.fit(forms[-1], room, size, bold)

    def wrap(self, text: str, room: float, size: float) -> str:
        """The text in at most two lines of `room` inches, broken between words, with an ellipsis if it is longer."""
        first, rest = "", text.split()
        while rest and self.width(f"{first} {rest[0]}".strip(), size) <= room:
            first = f"{first} {rest.pop(0)}".strip()
        if not first:
            return self.fit(text, room, size)
        return "\n".join(filter(None, (first, self.fit(" ".join(rest), room, size))))


class Plot:
    """Axes without axis lines, with grid and ticks made of few artists. Tick positions are data."""

    def __init__(self, ink: Ink, rect: Rect) -> None:
        self.ink = ink
        self.axes = ink.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.across, self.up = self.axes.get_yaxis_transform(), self.axes.get_xaxis_transform()
        self._grid = self.line(ink.colours.grid, 0.8, transform=self.across, zorder=0)
        muted = ink.colours.muted
        self._y_ticks = self.labels(self.across, TICK_SIZE, muted, dx=-0.07, ha="right")
        self._x_ticks = self.labels(self.up, TICK_SIZE, muted, dy=-0.12, ha="center")
        self._caption = self.labels(self.axes.transAxes, TICK_SIZE, muted, dy=-0.28, ha="center")
        self.place(rect)

    def place(self, rect: Rect) -> None:
        width, height = self.ink.figure.get_size_inches()
        self.rect = rect
        self.axes.set_position((rect.x / width, rect.y / height, rect.w / width, rect.h / height))

    def line(self, colour: str, width: float, **style: Any) -> Line2D:
        line = Line2D([], [], color=colour, lw=width * self.ink.k, **style)
        self.axes.add_artist(line)
        return line

    def bars(self, colour: str, **style: Any) -> PolyCollection:
        """Any number of filled shapes as one artist; `boxes` makes its corners."""
        bars = PolyCollection([], facecolors=colour, lw=0, **style)
        self.axes.add_collection(bars, autolim=False)
        return bars

    def region(self, colour: str, **style: Any) -> Rectangle:
        """A stretch of the x axis from bottom to top, unless `transform` says otherwise."""
        region = Rectangle((0, 0), 0, 1, fc=colour, lw=0, **({"transform": self.up} | style))
        self.axes.add_patch(region)
        return region

    def labels(
        self, anchor: Transform, size: float, colour: str, *, dx: float = 0, dy: float = 0, **style: Any
    ) -> "Labels":
        """Texts at `anchor`, moved by unscaled inches."""
        k = self.ink.k
        place = anchor + ScaledTranslation(dx * k, dy * k, self.ink.inches)
        return Labels(partial(self.ink.text, 0, 0, size, colour, axes=self.axes, transform=place, **style))

    def tick_width(self, text: str) -> float:
        """Inches that a tick's label takes."""
        return self.ink.width(text, TICK_SIZE)

    def y_ticks(self, ticks: Sequence[tuple[float, str]], grid: Sequence[float] | None = None) -> None:
        """Labels at the left and lines across, at the labels unless `grid` says where."""
        self._y_ticks.show([(0.0, y, name) for y, name in ticks])
        ys = [y for at in (grid or [at for at, _ in ticks]) for y in (at, at, np.nan)]  # NaN lifts the pen
        self._grid.set_data([0.0, 1.0, np.nan] * (len(ys) // 3), ys)

    def x_ticks(self, ticks: Sequence[tuple[float, str]], caption: str = "") -> None:
        self._x_ticks.show([(x, 0.0, name) for x, name in ticks])
        self._caption.show([(0.5, 0.0, caption)])


class Labels:
    """Texts that are reused from frame to frame; `make` makes one more."""

    def __init__(self, make: Callable[[], Text]) -> None:
        self._make = make
        self.pool: list[Text] = []

    def show(self, places: Sequence[tuple[float, float, str]]) -> None:
        """Each text at its x and y; none but these."""
        while len(self.pool) < len(places):
            self.pool.append(self._make())
        for label, (x, y, text) in zip(self.pool, places, strict=False):
            label.set_position((x, y))
            label.set_text(text)
            label.set_visible(True)
        for label in self.pool[len(places) :]:
            label.set_visible(False)


def boxes(rects: Iterable[tuple[float, float, float, float]]) -> list[Any]:
    """Corners of rectangles x0, x1, y0, y1."""
    return [np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)]) for x0, x1, y0, y1 in rects]


class Group:
    """Artists on a ground of one colour that can be drawn again without the rest; `key` tells if they changed."""

    def __init__(self, ink: Ink, rect: Rect, colour: str, artists: list[Artist]) -> None:
        self._ground = ink.box(rect, colour, radius=0.0001, zorder=-0.5)
        self.artists = artists
        self.key: object = None
        self._drawn: object = None

    def drawn(self) -> None:
        """Remember that everything has just been drawn."""
        self._drawn = self.key

    def redraw(self, renderer: RendererBase) -> Bbox | None:
        """Draw what changed since it was last drawn and return where; None if nothing did."""
        if self.key == self._drawn:
            return None
        self.drawn()
        for artist in (self._ground, *self.artists):
            artist.draw(renderer)
        return self._ground.get_window_extent(renderer)
