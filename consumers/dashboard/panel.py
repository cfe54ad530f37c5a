"""Base of the panels: colours, and a card with title, subtitle, axes or a notice, and texts at the mouse."""

import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from matplotlib.ticker import ScalarFormatter
from matplotlib.transforms import Affine2D, ScaledTranslation

from consumers.dashboard.options import ThemeName
from consumers.dashboard.snapshot import Snapshot
from utils.app.cli import counted

# matplotlib's own font is wide: a text that fits in it also fits in a browser's font. The others have more letters.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC")
MARKERS = "os^Dv"  # one per series; the colours of series are in the style sheets (palette of Okabe and Ito)
_FIRST = re.compile(r"(?<!\S)\w")  # letters of words; the others stay as in "US gross"
EDGE, PAD = 0.3, 0.1  # inches from the edge of a card to its texts and to its background
NARROW_IN = 5.2  # a narrower card has no room for names on its right; every card of one column is narrower


# Colours beside those of the style sheets: light and dark, or pairs of text and background for light and dark.
COLOURS = {
    "card": ("#FFFFFF", "#171E27"),
    "text": ("#17202B", "#E8EDF3"),
    "muted": ("#5B6775", "#A3AFBD"),
    "raw": ("#9AA5B1", "#65727F"),
    "area": ("#DCEBF5", "#1D3547"),
    "other": ("#B4BDC8", "#4C5866"),
    "p95": ("#8F3F76", "#E596C7"),
    "sigma": ("#EAF2F8", "#1B2C3A"),
    "positive": (("#007A5A", "#E9F5F1"), ("#3CCFA4", "#16302C")),
    "negative": (("#B84A00", "#FCEFE6"), ("#FF9B66", "#352318")),
    "live": (("#00694D", "#DDF3EB"), ("#5FE0B8", "#12382F")),
    "stale": (("#8A5A00", "#FFF1CC"), ("#FFCF66", "#40330F")),
    "waiting": (("#4A5563", "#E6EAEF"), ("#C3CCD6", "#2B3543")),
}


def palette_of(theme: ThemeName) -> SimpleNamespace:
    """Return the colours of a theme as attributes."""
    return SimpleNamespace(**{name: dark if theme == "dark" else light for name, (light, dark) in COLOURS.items()})


def style(theme: ThemeName) -> dict[Any, Any]:
    """Return settings of matplotlib: the light style sheet, that of the theme over it, and the installed fonts."""
    for unknown in (r"(?s)Glyph .* missing from", "Matplotlib currently does not support"):  # letters in some names
        warnings.filterwarnings("ignore", message=unknown, category=UserWarning)
    installed, found = set(font_manager.get_font_names()), dict[Any, Any]()
    for sheet in ("light", theme):
        found |= mpl.rc_params_from_file(Path(__file__).with_name(f"{sheet}.mplstyle"), use_default_template=False)
    return found | {"font.family": [font for font in FONTS if font in installed]}


class Card:
    """A part of the figure. `inches` are the coordinates from its left and top edge.

    `alt_texts` are pairs (heading, text) of its content, for people who cannot see it.
    """

    def __init__(self, area: SubFigure, palette: SimpleNamespace) -> None:
        self.area, self.palette, corner = area, palette, area.transSubfigure
        self.width: float = area.bbox.width / area.dpi
        self.height: float = area.bbox.height / area.dpi
        self.narrow = self.width < NARROW_IN
        self.inches: Any = Affine2D().scale(1, -1) + area.dpi_scale_trans + ScaledTranslation(0, 1, corner)  # type: ignore[arg-type]
        self.alt_texts: list[tuple[str, str]] = []

    def fill(self, top: float = 0.0) -> None:
        """Draw a background with round corners, from `top` inches on."""
        look: Any = {"lw": 0, "fc": self.palette.card, "boxstyle": "round,pad=0,rounding_size=0.06", "zorder": -1}
        size = self.width - 2 * PAD, self.height - top - 2 * PAD
        self.area.add_artist(FancyBboxPatch((PAD, top + PAD), *size, transform=self.inches, **look))

    def text(self, left: float, top: float, **look: Any) -> Text:
        """Add an empty text, at inches from the left and top edge."""
        return self.area.text(left, top, "", va="center_baseline", transform=self.inches, **look)


def fit(text: Text, room: float, *forms: str) -> None:
    """Set the first of `forms` that fits into `room` inches, else the beginning of the last one with an ellipsis.

    `room` of an artist must not change: a first form that it shows already is not measured again.
    """
    if text.get_text() == forms[0]:
        return
    figure: Any = text.get_figure(root=True)
    renderer = figure.canvas.get_renderer()  # by default that of the last drawing: an SVG's measures differently

    def fits(form: str) -> bool:
        text.set_text(form)
        return bool(text.get_window_extent(renderer).width <= room * figure.dpi)

    if not any(map(fits, forms)):  # else the text now shows the first form that fits
        cut = [f"{forms[-1][:length].rstrip()}\u2026" for length in range(len(forms[-1]))]
        text.set_text(cut[max(bisect_left(cut, True, key=lambda form: not fits(form)) - 1, 0)])


class ThousandsFormatter(ScalarFormatter):
    """Format numbers of an axis with separators of thousands."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        whole, *decimals = super().__call__(x, pos).split(".")
        return ".".join([re.sub(r"(?<=\d)(?=(\d{3})+$)", ",", whole), *decimals])


class Panel(Card):
    """A card with a title, a subtitle and axes, or a notice while there is nothing to draw.

    A subclass sets `title` and `empty`, makes its artists in `build` and moves them in `draw`. `margins` are inches
    from the card to its axes: left, right, bottom, top; a narrow card has `margins_narrow`, if any. `details` are texts
    that `draw` adds to title and subtitle in the `alt_texts`.
    """

    title = ""
    empty = ""
    margins: tuple[float, ...] = (0.85, 1.0, 0.5, 0.8)
    margins_narrow: tuple[float, ...] = ()

    def __init__(self, area: SubFigure, palette: SimpleNamespace) -> None:
        super().__init__(area, palette)
        self.fill()
        self.hints: list[tuple[Axes, tuple[float, ...], str]] = []  # box: left, bottom, right, top in data coordinates
        self.details: list[str] = []
        self.heading = self.text(EDGE, 0.33, size="x-large", weight="bold")
        self.subtitle = self.text(EDGE, 0.57, color=palette.muted)
        self.notice = area.text(0.5, 0.42, "", color=palette.muted, ha="center", va="center")
        left, right, bottom, top = (self.narrow and self.margins_narrow) or self.margins
        self.inner = max(self.width - left - right, 0.05), max(self.height - bottom - top, 0.05)  # inches of the axes
        ends = (left + self.inner[0]) / self.width, (bottom + self.inner[1]) / self.height
        area.subplots_adjust(left / self.width, bottom / self.height, *ends, hspace=0.06)
        self.build()
        for axes in area.axes:
            axes.yaxis.set_major_formatter(ThousandsFormatter())
            axes.yaxis.get_offset_text().set_fontsize("small")  # there is little room below the subtitle

    def hint(self, axes: Any, left: float, bottom: float, text: str, *end: float) -> None:
        """Show a text while the mouse is at this point, or in the box from it to `end` (right, top)."""
        self.hints.append((axes, (left, bottom, *(end or (left, bottom))), text))

    def draw_bars(self, bars: Any, edges: Any, counts: Any, record: str, name: Callable[[float, float], str]) -> None:
        """Set the bars of `axes.bar`, each with `name(left, right)` and its count as hint. Those without are hidden."""
        for bar, left, right, count in zip_longest(bars, edges[:-1], edges[1:], counts):
            bar.set_visible(bool(count))
            if count:
                bar.set(x=left + 0.03 * (right - left), width=0.94 * (right - left), height=count)
                self.hint(bar.axes, left, 0, f"{name(left, right)}: {counted(int(count), record)}", right, count)

    def build(self) -> None:
        """Make the artists."""
        raise NotImplementedError

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        """Move the artists. Return the parts of the subtitle, the most important first; () if there is no data."""
        raise NotImplementedError

    def update(self, snapshot: Snapshot) -> None:
        """Show the snapshot."""
        self.hints, self.details = [], []
        parts, room, roles = self.draw(snapshot), self.width - 2 * EDGE, vars(snapshot.roles)
        capitalized = {name: _FIRST.sub(lambda letter: letter[0].upper(), str(text)) for name, text in roles.items()}
        title = self.title.format_map(capitalized)
        fit(self.heading, room, title)
        fit(self.notice, room, "" if parts else self.empty.format_map(roles | {"why": snapshot.why_empty}))
        for axes in self.area.axes:
            axes.set_visible(bool(parts))
        fit(self.subtitle, room, *("  \u00b7  ".join(parts[:end]) for end in range(max(len(parts), 1), 0, -1)))
        self.alt_texts = [(title, "; ".join(filter(None, (self.notice.get_text(), *parts, *self.details))))]
