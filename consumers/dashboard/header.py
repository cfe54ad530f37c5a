"""Title, status and health strip above the panels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import SubFigure

from consumers.dashboard import formatting
from consumers.dashboard.fitting import fit_first, width, width_of
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.theme import Palette

KEYS = "keys:  space pause   t theme   s save   q quit"
EDGE = 0.3  # inches
TILES = {
    "SOURCE": 1.9,
    "THROUGHPUT": 2.0,
    "LAG": 1.25,
    "INVALID / LOST / DUPLICATE": 2.0,
    "LAST RECORD": 1.5,
    "UPTIME": 1.7,
}


class Header:
    """Title, local time and status, on two lines where the figure is narrow; in a window also what the keys do."""

    def __init__(self, figure: SubFigure, palette: Palette, k: float, *, narrow: bool) -> None:
        self.palette, self.narrow = palette, narrow
        self.inch = k * figure.dpi / figure.bbox.width  # as a part of the width
        upper, lower = (0.7, 0.28) if narrow else (0.5, 0.5)
        self.pixels = figure.bbox.width
        style: dict[str, Any] = {"va": "center_baseline"}
        pill = {"boxstyle": "round,pad=0.45,rounding_size=0.9", "lw": 0}
        self.title = figure.text(EDGE * self.inch, upper, "", size="xx-large", weight="bold", **style)
        self.keys = figure.text(0, lower, "", color=palette.muted, **style)
        self.clock = figure.text(EDGE * self.inch, lower, "", color=palette.muted, **style)
        right = 1 - (EDGE - 0.02) * self.inch
        self.status = figure.text(right, lower, "", weight="bold", ha="right", bbox=pill, **style)

    def update(self, snapshot: Snapshot, keys: str, *, paused: bool) -> None:
        """Show the snapshot's moment and status; `keys` say what can be pressed."""
        foreground, background = getattr(self.palette, "waiting" if paused else snapshot.status.lower())
        status = "PAUSED \u00b7 space resumes" if paused else formatting.status(snapshot)
        self.status.set(text=f"\u25cf {status}", color=foreground)
        patch = self.status.get_bbox_patch()
        if patch:
            patch.set_facecolor(background)
        title = "Streaming Dashboard" + ("" if snapshot.stream == "buzz" else f" \u00b7 {snapshot.stream}")
        taken = width_of(self.status) / self.pixels + 0.6 * self.inch
        self.title.set_text("")  # its room may be another one now
        time = width(self.clock, formatting.moment(snapshot.now)) / self.pixels
        if self.narrow:
            fit_first(self.title, [title, title.removeprefix("Streaming ")], self.pixels * (1 - 2 * EDGE * self.inch))
            if time > 1 - taken - EDGE * self.inch:
                self.clock.set_text("")
            return
        self.clock.set_x(1 - taken - time)
        fit_first(self.title, [title], self.pixels * (1 - taken - time - 0.6 * self.inch))
        left = EDGE * self.inch + width_of(self.title) / self.pixels + 0.3 * self.inch
        fits = left + width(self.keys, keys) / self.pixels < 1 - taken - time - 0.2 * self.inch
        self.keys.set(x=left, text=keys if fits else "")


class HealthStrip:
    """Six statistics on the health of the stream, each with a line of detail, in rows of `columns`."""

    def __init__(self, figure: SubFigure, palette: Palette, k: float, *, columns: int) -> None:
        self.palette, self.dpi = palette, figure.dpi
        rows, edge = len(TILES) // columns, EDGE * k * figure.dpi / figure.bbox.width
        inch = k * figure.dpi / figure.bbox.height
        shares = list(TILES.values()) if rows == 1 else [1.0] * len(TILES)
        self.rooms, self.values, self.details = [], [], []
        for index, name in enumerate(TILES):
            row = index // columns
            before, across = (sum(shares[row * columns : end]) for end in (index, row * columns + columns))
            x = edge + (1 - 2 * edge) * before / across
            y = 1 - (0.28 + 0.8 * row) * inch
            room = (1 - 2 * edge) * shares[index] / across - 0.12 * inch * figure.bbox.height / figure.bbox.width
            label = figure.text(x, y, "", size="small", color=palette.muted, weight="bold", va="center_baseline")
            fit_first(label, [name, "BAD / LOST / DUP"] if "/" in name else [name], room * figure.bbox.width)
            self.rooms.append(room * figure.bbox.width)
            self.values.append(figure.text(x, y - 0.26 * inch, "", size="x-large", weight="bold", va="center_baseline"))
            self.details.append(figure.text(x, y - 0.5 * inch, "", color=palette.muted, va="center_baseline"))
            if name == "THROUGHPUT":
                self.spark_axes = figure.add_axes((x + 0.66 * room, y - 0.34 * inch, 0.3 * room, 0.24 * inch))
        self.spark_axes.set_axis_off()
        (self.spark,) = self.spark_axes.plot([], [], lw=1.5 * k)
        (self.spark_end,) = self.spark_axes.plot([], [], "o", ms=4 * k, clip_on=False)

    def update(self, snapshot: Snapshot, refresh_s: float, frame_s: float | None) -> None:
        rates = np.asarray(snapshot.sparkline)
        is_drawn = bool(rates.any())
        tiles = zip(self.values, self.details, self.rooms, self._tiles(snapshot, refresh_s, frame_s), strict=True)
        for index, (value, detail, room, (text, below, color)) in enumerate(tiles):
            value.set_color(color)
            fit_first(value, text, room * (0.62 if index == 1 and is_drawn else 1))
            fit_first(detail, below, room)
        self.spark_axes.set_visible(is_drawn)
        if is_drawn:
            self.spark.set_data(np.arange(len(rates)), rates)
            self.spark_end.set_data([len(rates) - 1], rates[-1:])
            self.spark_axes.set(xlim=(0, len(rates) - 1), ylim=(0, rates.max() * 1.1))

    def _tiles(self, snapshot: Snapshot, refresh_s: float, frame_s: float | None) -> list[Any]:
        """Of each tile the value and the line below, each in forms from the longest to the shortest, and its colour."""
        now, source, bad = snapshot.now, snapshot.source, (snapshot.invalid, snapshot.lost, snapshot.duplicate)
        text, muted, warning = self.palette.text, self.palette.muted, self.palette.stale[0]
        dim = muted if snapshot.last is None else text
        detail = formatting.source_line(snapshot)
        rate = formatting.rate(snapshot.rate, snapshot.roles.records)
        received = f"of {formatting.brief(snapshot.total + snapshot.invalid + snapshot.duplicate)}"
        last: tuple[Sequence[str], Sequence[str]] = (["none yet"], [""])
        if snapshot.last is not None:
            age, at = formatting.span(snapshot.idle_s), formatting.clock(snapshot.last, now)
            last = [f"{age} ago", age], [f"at {at}", at, at[-11:]]
        every = f"every {refresh_s:g} s"
        frame = [] if frame_s is None else [f"{every}, frame {frame_s * 1000:.0f} ms"]
        return [
            ([formatting.SOURCES.get(source.name, source.name)],
             [detail, detail if " " in detail else detail.rpartition("/")[2]], warning if source.trouble else text),
            ([rate, rate.replace(" msg", "").replace(" rec", "")], ["60 s mean; line 5 min", "60 s mean"], dim),
            ([formatting.lag(snapshot.lag.median)], [f"p95 {formatting.lag(snapshot.lag.p95)}"], text)
            if snapshot.lag else (["\u2013"], ["event time to screen", "to screen"], muted),
            ([" / ".join(f"{count:,}" for count in bad), "/".join(map(formatting.brief, bad))],
             [f"{received} received", received], warning if any(bad) else dim),
            (*last, warning if snapshot.status == "STALE" else dim),
            ([formatting.span(now - snapshot.started)], [*frame, every], text),
        ]  # fmt: skip
