"""The picture: all artists on one figure, and what of them is drawn again. For one thread at a time."""

import struct
import time
import warnings
import zlib
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from consumers.dashboard import panels, top
from consumers.dashboard.ink import Ink
from consumers.dashboard.state import Snapshot
from consumers.dashboard.theme import DPI, FONTS, FOREIGN_FONTS, THEMES, ThemeName, layout

FULL_FRAME_S = 20.0


def set_up_drawing() -> None:
    """Settings of matplotlib that every picture needs: fonts, no math in texts, no toolbar, no glyph warnings."""
    installed = set(font_manager.get_font_names())
    mpl.rcParams["font.family"] = [name for name in FONTS + FOREIGN_FONTS if name in installed] or ["DejaVu Sans"]
    mpl.rcParams["text.parse_math"] = False
    mpl.rcParams["toolbar"] = "None"
    warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from", category=UserWarning)
    warnings.filterwarnings("ignore", message="Matplotlib currently does not support")


class Dashboard:
    """One picture on one figure. `update` draws what changed: everything, or only the clocks at the top."""

    def __init__(self, figure: Figure, theme_name: ThemeName, refresh_s: float, help_line: str = "") -> None:
        self.figure, self.theme_name = figure, theme_name
        self._refresh_s, self._help_line = refresh_s, help_line
        self.frame_s: float | None = None
        self.paused = False
        self.full_frames = 0
        self.build()

    def build(self) -> None:
        """Make all artists for the figure's present size and theme."""
        width, height = self.figure.get_size_inches()
        colours, place = THEMES[self.theme_name], layout(width, height)
        self.figure.clear()
        self.figure.set_facecolor(colours.page)
        ink = Ink(self.figure, colours, place.k)
        self.header = top.Header(ink, place.header, self._help_line)
        self.strip = top.HealthStrip(ink, place.strip)
        self.panels = [panel(ink, card) for panel, card in zip(panels.PANELS, place.cards, strict=True)]
        self._groups = [self.header.group, *self.strip.groups]
        self._drawn: tuple[object, ...] | None = None
        self._drawn_at = 0.0

    def move(self, snapshot: Snapshot) -> None:
        """Move all artists to this snapshot without drawing."""
        self._move_top(snapshot)
        for panel in self.panels:
            panel.update(snapshot)
        self._drawn, self._drawn_at = self._key(snapshot), snapshot.now

    def _move_top(self, snapshot: Snapshot) -> None:
        self.header.update(snapshot, self.paused)
        self.strip.update(snapshot, self._refresh_s, self.frame_s)

    def _key(self, snapshot: Snapshot) -> tuple[object, ...]:
        return snapshot.version, snapshot.status

    def update(self, snapshot: Snapshot) -> None:
        """Draw this snapshot: all of it if data or status changed, and every 20 s for the time axis."""
        canvas: Any = self.figure.canvas
        if self._key(snapshot) != self._drawn or abs(snapshot.now - self._drawn_at) >= FULL_FRAME_S:
            begun = time.perf_counter()
            self.move(snapshot)
            canvas.draw()
            for group in self._groups:
                group.drawn()
            self.frame_s = time.perf_counter() - begun
            self.full_frames += 1
            return
        self._move_top(snapshot)
        renderer = canvas.get_renderer()
        drawn = [extent for group in self._groups if (extent := group.redraw(renderer)) is not None]
        if drawn and hasattr(canvas, "blit"):
            canvas.blit(Bbox.union(drawn))

    def png(self) -> bytes:
        """The picture as last drawn, as a PNG file; unfiltered rows take half the time of the usual encoder."""
        canvas: Any = self.figure.canvas
        pixels = np.asarray(canvas.buffer_rgba())
        height, width, _ = pixels.shape
        rows = np.zeros((height, 1 + 4 * width), dtype=np.uint8)
        rows[:, 1:] = pixels.reshape(height, -1)
        parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(rows.data, 2))
        chunks = (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in (*parts, (b"IEND", b""))
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    def image(self) -> Image.Image:
        """The picture as last drawn."""
        canvas: Any = self.figure.canvas
        width, height = canvas.get_width_height(physical=True)
        return Image.frombuffer("RGBA", (width, height), canvas.buffer_rgba(), "raw", "RGBA", 0, 1).convert("RGB")


def headless(size: tuple[float, float], theme_name: ThemeName, refresh_s: float) -> Dashboard:
    """A dashboard without a window."""
    set_up_drawing()
    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)
    return Dashboard(figure, theme_name, refresh_s)
