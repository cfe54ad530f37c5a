"""The dashboard on one figure: header, health strip and a card for each panel."""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import FancyBboxPatch

from consumers.dashboard.header import Header, HealthStrip, strip_height
from consumers.dashboard.panel import PAD, Panel
from consumers.dashboard.panels import PANELS
from consumers.dashboard.snapshot import Snapshot, ThemeName
from consumers.dashboard.theme import DEFAULT_SIZE, PALETTES, style

DPI = 100
NARROW_IN, NARROW_SCALE = 4.0625, 1.16  # 390 CSS pixels; no text under 11 of them
NARROW_BELOW_IN = 6.0
NARROW_CARD_IN = 2.9
HEADER_IN, NARROW_HEADER_IN = 0.6, 0.95
REACH_PX = 5.0  # how far from a point the mouse finds it


class Dashboard:
    """All artists on one figure; `update(snapshot)` moves them and leaves drawing to the canvas.

    For one thread at a time. Call `build()` again after a change of `theme` or of the figure's size.
    """

    def __init__(self, figure: Figure, theme: ThemeName, panels: Sequence[type[Panel]] = PANELS) -> None:
        self.figure, self.theme, self.kinds = figure, theme, panels
        self.build()

    def build(self) -> None:
        """Create everything in the present theme and size."""
        width, height = self.figure.get_size_inches()
        narrow, palette = width < NARROW_BELOW_IN, PALETTES[self.theme]
        k = NARROW_SCALE if narrow else min(max(min(width / DEFAULT_SIZE[0], height / DEFAULT_SIZE[1]), 0.8), 1.6)
        self.rc = style(self.theme, k)
        columns = 1 if narrow else 2 if len(self.kinds) <= 4 else 3
        rows = -(-len(self.kinds) // columns)
        heights = [(NARROW_HEADER_IN if narrow else HEADER_IN) * k, strip_height(narrow) * k]
        heights += [max(height - sum(heights), 0.1) / rows] * rows
        with mpl.rc_context(self.rc):
            self.figure.clear()
            self.figure.set_facecolor(mpl.rcParams["figure.facecolor"])
            frame = {"boxstyle": "round,pad=0.5", "fc": palette.card, "ec": palette.muted, "lw": 0.8}
            self.tip = self.figure.text(0, 0, "", bbox=frame, zorder=10, visible=False)
            parts: Any = self.figure.subfigures(2 + rows, 1, height_ratios=heights)
            header, strip, *bands = parts
            self.header = Header(header, palette, k, narrow=narrow)
            self.strip = HealthStrip(as_card(strip, palette.card, k), palette, k, narrow=narrow)
            self.panels = []
            for row, band in enumerate(bands):
                kinds = self.kinds[row * columns : (row + 1) * columns]
                ratios = (56, 44) if len(kinds) == 2 else [1] * len(kinds)
                cards = band.subfigures(1, len(kinds), width_ratios=ratios, squeeze=False)[0]
                self.panels += [kind(as_card(card, palette.card, k), palette, k)
                                for kind, card in zip(kinds, cards, strict=True)]  # fmt: skip

    def update(self, snapshot: Snapshot, *, paused: bool = False) -> None:
        """Move all artists to this snapshot."""
        with mpl.rc_context(self.rc):
            self.header.update(snapshot, paused=paused)
            self.strip.update(snapshot)
            for panel in self.panels:
                panel.update(snapshot)

    def point_at(self, x: float, y: float) -> bool:
        """Show the text of what is at these pixels, if anything is; whether that has changed."""
        under = [(abs(x - (x0 + x1) / 2) + abs(y - (y0 + y1) / 2), text)
                 for x0, y0, x1, y1, text in self.hints() if x0 <= x <= x1 and y0 <= y <= y1]  # fmt: skip
        text, before = min(under)[1] if under else "", self.tip.get_text()
        box = self.figure.bbox
        across, up = "left" if x < box.width / 2 else "right", "bottom" if y < 0.9 * box.height else "top"
        self.tip.set(text=text, x=x / box.width, y=y / box.height + 0.015, visible=bool(text), ha=across, va=up)
        return text != before

    def hints(self) -> list[tuple[float, float, float, float, str]]:
        """What is shown where the mouse rests: left, bottom, right and top in pixels from the lower left, and text."""
        found = []
        for panel in self.panels:
            for axes, (left, bottom, right, top), text in panel.hints:
                corners = axes.transData.transform([(left, bottom), (right, top)])
                low, high = corners.min(axis=0) - REACH_PX, corners.max(axis=0) + REACH_PX
                inside = axes.bbox.padded(2 * REACH_PX)
                (x0, y0), (x1, y1) = np.clip(low, inside.min, inside.max), np.clip(high, inside.min, inside.max)
                found.append((x0, y0, x1, y1, text))
        return found


def as_card(figure: SubFigure, color: str, k: float) -> SubFigure:
    """Give a subfigure a background with round corners, a little inside its edges."""
    figure.patch.set_visible(False)
    pad, width, height = PAD * k, figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
    box = FancyBboxPatch((pad / width, pad / height), 1 - 2 * pad / width, 1 - 2 * pad / height, lw=0, facecolor=color,
                         boxstyle=f"round,pad=0,rounding_size={0.06 * k / width}", mutation_aspect=width / height,
                         transform=figure.transSubfigure, zorder=-1)  # fmt: skip
    figure.add_artist(box)
    return figure


class Drawing:
    """A dashboard without a window, as an image of `size` inches or as one column for phones.

    For one thread at a time, and only one of a program: matplotlib is not made for more.
    """

    def __init__(
        self,
        theme: ThemeName,
        narrow: bool = False,
        size: tuple[float, float] = DEFAULT_SIZE,
        panels: Sequence[type[Panel]] = PANELS,
    ) -> None:
        column = NARROW_HEADER_IN + strip_height(narrow=True) + NARROW_CARD_IN * len(panels)
        figure = Figure(figsize=(NARROW_IN, NARROW_SCALE * column) if narrow else size, dpi=DPI)
        FigureCanvasAgg(figure)
        self.dashboard = Dashboard(figure, theme, panels)

    def png(self, snapshot: Snapshot) -> bytes:
        """The snapshot as a PNG file."""
        return self._saved(snapshot, "png")

    def svg(self, snapshot: Snapshot) -> bytes:
        """The snapshot as an <svg> element whose size its page decides, with titles where the mouse rests."""
        text = self._saved(snapshot, "svg").decode()
        text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text[text.index("<svg") :], count=2)
        points, height = 72 / DPI, self.dashboard.figure.bbox.height
        titles = (
            f'<rect x="{x0 * points:.1f}" y="{(height - y1) * points:.1f}" width="{(x1 - x0) * points:.1f}"'
            f' height="{(y1 - y0) * points:.1f}"><title>{escape(hint)}</title></rect>'
            for x0, y0, x1, y1, hint in self.dashboard.hints()
        )
        group = f'<g style="fill: none; pointer-events: all">{"".join(titles)}</g>'
        return f"{text[: text.rindex('</svg>')]}{group}</svg>".encode()

    def _saved(self, snapshot: Snapshot, kind: str) -> bytes:
        buffer, dashboard = io.BytesIO(), self.dashboard
        dashboard.update(snapshot)
        with mpl.rc_context(dashboard.rc):
            metadata = {"Date": None} if kind == "svg" else None
            dashboard.figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        return buffer.getvalue()
