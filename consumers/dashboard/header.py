"""Title, status and health strip above the panels."""

from typing import Any

import numpy as np
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from consumers.dashboard.formatting import SOURCES, brief, clock, rate, span, status
from consumers.dashboard.panel import EDGE, Card, fit
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.theme import Palette
from utils.records.instants import local_time

TILE = 0.8  # inches from one row of tiles to the next
STATUS_AND_CLOCK = 5.2  # inches of the longest


class Header(Card):
    """Title, local time and status; on two lines, and without words on the status, where the figure is narrow."""

    def __init__(self, area: SubFigure, palette: Palette) -> None:
        super().__init__(area, palette, filled=False)
        lower, middle = 0.2 * self.narrow, self.height / 2
        pill = {"boxstyle": "round,pad=0.45,rounding_size=0.9", "lw": 0}
        self.title = self.text(EDGE, middle - lower, size="xx-large", weight="bold")
        self.status = self.text(self.width - EDGE, middle + lower, weight="bold", ha="right", bbox=pill)
        self.clock = Annotation("", (0, 0), (-25, 0), self.status, "offset points", annotation_clip=False,
                                color=palette.muted, ha="right", va="bottom")  # fmt: skip
        area.add_artist(self.clock)

    def update(self, snapshot: Snapshot, *, paused: bool) -> None:
        """Show the snapshot's moment and status."""
        words = "PAUSED" if paused else snapshot.status if self.narrow else status(snapshot)
        foreground, background = getattr(self.palette, "waiting" if paused else snapshot.status.lower())
        self.status.set(text=f"\u25cf {words}", color=foreground)
        pill: Any = self.status.get_bbox_patch()
        pill.set_facecolor(background)
        self.clock.set_text(f"{local_time(snapshot.now):%Y-%m-%d  %H:%M:%S}")
        parts = "Streaming Dashboard", snapshot.stream if snapshot.stream != "buzz" else "", snapshot.where
        room = self.width - (2 * EDGE if self.narrow else STATUS_AND_CLOCK)
        title = " \u00b7 ".join(filter(None, parts))
        fit(self.title, room, title, title.removeprefix("Streaming "))


def tiles(snapshot: Snapshot) -> list[tuple[str, str, str, bool]]:
    """The six statistics of the health strip: name, value, detail, and whether it is a warning."""
    source, last, delay, stale = snapshot.source, snapshot.last, snapshot.lag, snapshot.status == "STALE"
    down_s = source.trouble_since
    origin = f"down since {clock(down_s, snapshot.now)}: {source.trouble}" if down_s else source.detail
    bad = (snapshot.invalid, snapshot.lost, snapshot.duplicate)
    lag = (f"{delay.median:,.2f} s", f"p95 {delay.p95:,.2f} s") if delay else ("\u2013", "")
    age = (f"{span(snapshot.idle_s)} ago", f"at {clock(last, snapshot.now)}") if last else ("none yet", "")
    uptime, since = span(snapshot.now - snapshot.started), f"since {clock(snapshot.started, snapshot.now)}"
    return [
        ("Source", SOURCES.get(source.name, source.name), origin, bool(down_s)),
        ("Throughput", rate(snapshot.rate, snapshot.roles.record), "mean of 60 s", False),
        ("Lag", *lag, False),
        ("Invalid / lost / dup", " / ".join(map(brief, bad)), f"of {brief(snapshot.received)} received", any(bad)),
        ("Last record", *age, stale),
        ("Uptime", uptime, since, False),
    ]


class HealthStrip(Card):
    """Six statistics on the health of the stream, each with a line of detail, in one row or three."""

    def __init__(self, area: SubFigure, palette: Palette) -> None:
        super().__init__(area, palette)
        columns = 2 if self.narrow else 6
        self.step, self.texts = (self.width - 2 * EDGE) / columns, []
        for tile in range(6):
            left, top = EDGE + tile % columns * self.step, TILE * (tile // columns)
            name = self.text(left, top + 0.28, size="small", color=palette.muted, weight="bold")
            value = self.text(left, top + 0.54, size="x-large", weight="bold")
            self.texts.append((name, value, self.text(left, top + 0.78, color=palette.muted)))
        look: Any = {"lw": 1.5, "color": "C0", "marker": "o", "ms": 4, "markevery": [-1]}
        self.spark = Line2D([], [], transform=self.inches, **look)
        area.add_artist(self.spark)

    def update(self, snapshot: Snapshot) -> None:
        """Show the snapshot's statistics."""
        room = self.step - 0.12
        for artists, (name, *words, is_warning) in zip(self.texts, tiles(snapshot), strict=True):
            for artist, text in zip(artists, (name.upper(), *words), strict=True):
                fit(artist, room, text)
            artists[1].set_color(self.palette.stale[0] if is_warning else self.palette.text)
        rates, left = np.asarray(snapshot.sparkline), EDGE + self.step  # beside the name of the throughput
        self.spark.set_visible(bool(rates.any()))
        if rates.any():
            x = np.linspace(left + 1.0, left + room - 0.1, len(rates))
            self.spark.set_data(x, 0.43 - 0.18 * rates / rates.max())
