"""The dashboard on one figure: header, health strip and a card for each panel."""

import io
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from consumers.dashboard.formatting import status
from consumers.dashboard.header import TILE, Header, HealthStrip, tiles
from consumers.dashboard.options import DEFAULT_SIZE, DPI, ThemeName
from consumers.dashboard.panel import Panel
from consumers.dashboard.panels import PANELS
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.theme import PALETTES, style

NARROW_IN, NARROW_BELOW_IN, NARROW_SCALE = 4.0625, 6.0, 1.16  # 390 CSS pixels; no text under 11 of them
HEIGHTS = {False: (0.6, TILE + 0.22), True: (0.95, 3 * TILE + 0.22)}  # inches of header and strip, wide and narrow
NARROW_CARD_IN = 3.1
REACH_PX = 5.0  # how far from a point the mouse finds it


def column() -> tuple[float, float]:
    """The size of one column for phones."""
    return NARROW_IN, NARROW_SCALE * (sum(HEIGHTS[True]) + NARROW_CARD_IN * len(PANELS))


class Dashboard:
    """All artists on one figure; `update(snapshot)` moves them and leaves drawing to the canvas.

    Without a `figure` it has one of its own, of `size` inches. Call `build` again after a change of `theme` or size.
    For one thread at a time, and only one of a program: matplotlib is not made for more.
    """

    def __init__(self, theme: ThemeName, size: tuple[float, float] = DEFAULT_SIZE, figure: Any = None) -> None:
        self.theme, self.paused = theme, False
        self.figure: Any = figure or FigureCanvasAgg(Figure(figsize=size, dpi=DPI)).figure
        self.build()

    def build(self) -> None:
        """Make everything in the present theme and size."""
        self.rc, palette = style(self.theme), PALETTES[self.theme]
        narrow = self._scale()
        columns = 1 if narrow else 2 if len(PANELS) <= 4 else 3
        rows = [PANELS[first : first + columns] for first in range(0, len(PANELS), columns)]
        rest = max(self.figure.get_figheight() - sum(HEIGHTS[narrow]), 0.1) / len(rows)
        with mpl.rc_context(self.rc):
            self.figure.clear()
            self.figure.set_facecolor(mpl.rcParams["figure.facecolor"])
            frame = {"boxstyle": "round,pad=0.5", "fc": palette.card, "ec": palette.muted, "lw": 0.8}
            self.tip = self.figure.text(0, 0, "", bbox=frame, zorder=10, visible=False)
            heights = [*HEIGHTS[narrow], *[rest] * len(rows)]
            header, strip, *bands = self.figure.subfigures(len(heights), 1, height_ratios=heights)
            self.header, self.strip = Header(header, palette), HealthStrip(strip, palette)
            self.panels: list[Panel] = []
            for band, row in zip(bands, rows, strict=True):
                ratios = (56, 44) if len(row) == 2 else [1] * len(row)
                areas = band.subfigures(1, len(row), width_ratios=ratios, squeeze=False)[0]
                self.panels += [kind(area, palette) for kind, area in zip(row, areas, strict=True)]

    def _scale(self) -> bool:
        """Scale all lengths with the figure, by its dots per inch; whether it is narrow."""
        figure, canvas = self.figure, self.figure.canvas
        pixels, unit = figure.bbox.size.round(), DPI * canvas.device_pixel_ratio
        narrow = bool(pixels[0] < NARROW_BELOW_IN * unit)
        scale = NARROW_SCALE if narrow else np.clip(min(pixels / unit / DEFAULT_SIZE), 0.8, 1.6)
        figure._set_dpi(unit * scale, forward=False)  # forward: to the size of the window
        figure.set_size_inches((pixels + 0.01) / figure.dpi, forward=False)  # what is cut to pixels is not one less
        figure._original_dpi = DPI * scale  # what a toolkit multiplies by its ratio
        return narrow

    def update(self, snapshot: Snapshot) -> None:
        """Move all artists to this snapshot."""
        with mpl.rc_context(self.rc):
            self.header.update(snapshot, paused=self.paused)
            self.strip.update(snapshot)
            for panel in self.panels:
                panel.update(snapshot)

    def point_at(self, x: float, y: float) -> bool:
        """Show the text of what is at these pixels, if anything is; whether that has changed."""
        under = [(abs(x - (x0 + x1) / 2) + abs(y - (y0 + y1) / 2), text)
                 for x0, y0, x1, y1, text in self.hints() if x0 <= x <= x1 and y0 <= y <= y1]  # fmt: skip
        text, before = min(under)[1] if under else "", self.tip.get_text()
        across, up = (x, y) / self.figure.bbox.size
        self.tip.set(text=text, x=across, y=up + 0.015, visible=bool(text),
                     ha="left" if across < 0.5 else "right", va="bottom" if up < 0.9 else "top")  # fmt: skip
        return bool(text != before)

    def hints(self) -> list[tuple[float, float, float, float, str]]:
        """What is shown where the mouse rests: left, bottom, right and top in pixels from the lower left, and text."""
        found = []
        for axes, (left, bottom, right, top), text in (hint for panel in self.panels for hint in panel.hints):
            corners = np.sort(axes.transData.transform([(left, bottom), (right, top)]), axis=0)
            inside = axes.bbox.padded(2 * REACH_PX)
            box = np.clip(np.add(corners, [[-REACH_PX], [REACH_PX]]), inside.min, inside.max)
            found.append((*box.ravel().tolist(), text))
        return found

    def image(self, snapshot: Snapshot, kind: str = "png", **options: Any) -> bytes:
        """The snapshot as a file of this kind."""
        self.update(snapshot)
        buffer = io.BytesIO()
        with mpl.rc_context(self.rc):
            self.figure.savefig(buffer, format=kind, dpi=self.figure.dpi, **options)
        return buffer.getvalue()

    def svg(self, snapshot: Snapshot) -> str:
        """The snapshot as SVG, with labels where the mouse rests."""
        text = self.image(snapshot, "svg", metadata={"Date": None}).decode()
        points, height = 72 / self.figure.dpi, self.figure.bbox.height
        labels = (
            f'<rect x="{x0 * points:.1f}" y="{(height - y1) * points:.1f}" width="{(x1 - x0) * points:.1f}"'
            f' height="{(y1 - y0) * points:.1f}" aria-label="{escape(hint)}"/>'
            for x0, y0, x1, y1, hint in self.hints()
        )
        return text.replace("</svg>", f'<g style="fill: none; pointer-events: all">{"".join(labels)}</g></svg>')

    def words(self, snapshot: Snapshot) -> list[tuple[str, str]]:
        """What the image of the snapshot shows, for people who cannot see it: headings and words."""
        head = [("Status", status(snapshot)), ("Where", snapshot.where)]
        health = [tile[:3] for tile in tiles(snapshot)]
        rows = [*head, *health, *(panel.words for panel in self.panels)]
        return [(name, "; ".join(filter(None, words))) for name, *words in rows if any(words)]
