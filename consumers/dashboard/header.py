"""Title, status and health strip above the panels."""

from typing import Any

import numpy as np
from matplotlib.figure import SubFigure
from matplotlib.text import Annotation

from consumers.dashboard import formatting
from consumers.dashboard.fitting import fit
from consumers.dashboard.report import tiles
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.theme import Palette

EDGE = 0.3  # inches
TILE = 0.8  # inches from one row of tiles to the next
STATUS_AND_CLOCK = 5.2  # inches of the longest


def strip_height(narrow: bool) -> float:
    """Inches of the health strip."""
    return TILE * (3 if narrow else 1) + 0.22


class Header:
    """Title, local time and status; on two lines, and without words on the status, where the figure is narrow."""

    def __init__(self, figure: SubFigure, palette: Palette, k: float, *, narrow: bool) -> None:
        self.palette, self.narrow = palette, narrow
        inch = k * figure.dpi
        edge = EDGE * inch / figure.bbox.width
        self.room = figure.bbox.width - (2 * EDGE if narrow else STATUS_AND_CLOCK) * inch
        upper, lower = (0.7, 0.28) if narrow else (0.5, 0.5)
        style: dict[str, Any] = {"va": "center_baseline"}
        pill = {"boxstyle": "round,pad=0.45,rounding_size=0.9", "lw": 0}
        self.title = figure.text(edge, upper, "", size="xx-large", weight="bold", **style)
        self.status = figure.text(1 - edge, lower, "", weight="bold", ha="right", bbox=pill, **style)
        self.clock = Annotation("", (0, 0), (-25 * k, 0), self.status, "offset points", annotation_clip=False,
                                color=palette.muted, ha="right", va="bottom")  # fmt: skip
        figure.add_artist(self.clock)

    def update(self, snapshot: Snapshot, *, paused: bool) -> None:
        """Show the snapshot's moment and status."""
        foreground, background = getattr(self.palette, "waiting" if paused else snapshot.status.lower())
        status = snapshot.status if self.narrow else formatting.status(snapshot)
        self.status.set(text=f"\u25cf {'PAUSED' if paused else status}", color=foreground)
        patch: Any = self.status.get_bbox_patch()
        patch.set_facecolor(background)
        self.clock.set_text(formatting.moment(snapshot.now))
        title = "Streaming Dashboard" + ("" if snapshot.stream == "buzz" else f" \u00b7 {snapshot.stream}")
        fit(self.title, self.room, title, title.removeprefix("Streaming "))


class HealthStrip:
    """Six statistics on the health of the stream, each with a line of detail, in one row or three."""

    def __init__(self, figure: SubFigure, palette: Palette, k: float, *, narrow: bool) -> None:
        self.palette = palette
        columns = 2 if narrow else 6
        inch, pixels = k * figure.dpi, figure.bbox.width
        self.room = (pixels - 2 * EDGE * inch) / columns - 0.12 * inch
        self.texts = []
        for number in range(6):
            x = EDGE * inch / pixels + number % columns * (self.room + 0.12 * inch) / pixels
            tops = (0.28, 0.54, 0.78)
            looks: list[dict[str, Any]] = [{"size": "small", "color": palette.muted, "weight": "bold"},
                                           {"size": "x-large", "weight": "bold"}, {"color": palette.muted}]  # fmt: skip
            heights = [1 - (top + TILE * (number // columns)) * inch / figure.bbox.height for top in tops]
            self.texts.append([figure.text(x, y, "", va="center_baseline", **look)
                               for y, look in zip(heights, looks, strict=True)])  # fmt: skip
            if number == 1:  # beside the name of the throughput
                tall = 0.2 * inch / figure.bbox.height
                box = (x + inch / pixels, heights[0] - 0.75 * tall, (self.room - 1.1 * inch) / pixels, tall)
                self.spark_axes = figure.add_axes(box)
        self.spark_axes.set_axis_off()
        (self.spark,) = self.spark_axes.plot([], [], "-o", lw=1.5 * k, ms=4 * k, markevery=[-1], clip_on=False)

    def update(self, snapshot: Snapshot) -> None:
        for (name, value, detail), tile in zip(self.texts, tiles(snapshot), strict=True):
            fit(name, self.room, tile.name.upper())
            fit(value, self.room, *tile.values)
            fit(detail, self.room, tile.detail)
            value.set_color(self.palette.stale[0] if tile.is_warning else self.palette.text)
        rates = np.asarray(snapshot.sparkline)
        self.spark_axes.set_visible(bool(rates.any()))
        if rates.any():
            self.spark.set_data(np.arange(len(rates)), rates)
            self.spark_axes.set(xlim=(0, len(rates) - 1), ylim=(0, rates.max() * 1.1))
