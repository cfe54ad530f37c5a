"""The dashboard on one figure: a header with the health of the stream, and a card for each panel."""

import io
from html import escape
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from consumers.dashboard.options import DEFAULT_SIZE, DPI, ThemeName
from consumers.dashboard.panel import EDGE, Card, Panel, fit, palette_of, style
from consumers.dashboard.panels import PANELS
from consumers.dashboard.snapshot import Snapshot, brief, clock, span
from utils.records.instants import local_time

NARROW_IN, NARROW_BELOW_IN, NARROW_SCALE = 4.0625, 6.0, 1.16  # 390 CSS pixels, and texts of at least 11
TITLE, TILE = {False: 0.6, True: 0.95}, 0.8  # heights in inches: the title (by whether narrow), a row of tiles
HEADER = {False: TITLE[False] + TILE + 0.22, True: TITLE[True] + 3 * TILE + 0.22}
NARROW_CARD_IN = 3.1
STATUS_AND_CLOCK = 5.2  # width in inches of the longest status, and the clock
REACH_PX = 5.0  # distance at which the mouse finds a point
SOURCES = {"file": "JSONL", "sqlite": "SQLite", "duckdb": "DuckDB", "kafka": "Kafka", "auto": "Auto"}


def column() -> tuple[float, float]:
    """Return the size of the figure for phones, with one column of panels, in inches."""
    return NARROW_IN, NARROW_SCALE * (HEADER[True] + NARROW_CARD_IN * len(PANELS))


def tiles(snapshot: Snapshot) -> list[tuple[str, str, str, bool]]:
    """Return six statistics on the health of the stream: name, value, detail, and whether it is a warning."""
    source, last, delay, stale = snapshot.source, snapshot.last, snapshot.lag, snapshot.status == "STALE"
    down_s = source.trouble_since
    origin = f"down since {clock(down_s, snapshot.now)}: {source.trouble}" if down_s else source.detail
    bad = (snapshot.invalid, snapshot.lost, snapshot.duplicate)
    lag = (f"{delay.median:,.2f} s", f"p95 {delay.p95:,.2f} s") if delay else ("\u2013", "")
    age = (f"{span(snapshot.idle_s)} ago", f"at {clock(last, snapshot.now)}") if last else ("none yet", "")
    uptime, since = span(snapshot.now - snapshot.started), f"since {clock(snapshot.started, snapshot.now)}"
    return [
        ("Source", SOURCES.get(source.name, source.name), origin, bool(down_s)),
        ("Throughput", snapshot.rate_text, "mean of 60 s", False),
        ("Lag", *lag, False),
        ("Invalid / lost / dup", " / ".join(map(brief, bad)), f"of {brief(snapshot.received)} received", any(bad)),
        ("Last record", *age, stale),
        ("Uptime", uptime, since, False),
    ]


class Header(Card):
    """Title, local time and status, and below them six tiles with a statistic each.

    A narrow figure has two lines of title, time and short status, and three rows of tiles.
    """

    def __init__(self, area: SubFigure, palette: SimpleNamespace) -> None:
        super().__init__(area, palette)
        top, columns = TITLE[self.narrow], 2 if self.narrow else 6
        self.fill(top)
        lower = 0.2 if self.narrow else 0.0  # the narrow figure has its status below the title, not beside it
        self.title_room = self.width - (2 * EDGE if self.narrow else STATUS_AND_CLOCK)
        self.title = self.text(EDGE, top / 2 - lower, size="xx-large", weight="bold")
        self.status = self.text(self.width - EDGE, top / 2 + lower, weight="bold", ha="right")
        self.clock = Annotation("", (0, 0), (-25, 0), self.status, "offset points", annotation_clip=False,
                                color=palette.muted, ha="right", va="bottom")  # fmt: skip
        self.step, self.tiles = (self.width - 2 * EDGE) / columns, []
        for tile in range(6):
            left, above = EDGE + tile % columns * self.step, top + TILE * (tile // columns)
            name = self.text(left, above + 0.28, size="small", color=palette.muted, weight="bold")
            value = self.text(left, above + 0.54, size="x-large", weight="bold")
            self.tiles.append((name, value, self.text(left, above + 0.78, color=palette.muted)))
        look: Any = {"lw": 1.5, "color": "C0", "marker": "o", "ms": 4, "markevery": [-1]}
        self.spark = Line2D([], [], transform=self.inches, **look)
        for artist in (self.clock, self.spark):
            area.add_artist(artist)

    def update(self, snapshot: Snapshot, *, paused: bool) -> None:
        """Show the snapshot's time, status and statistics."""
        status = "PAUSED" if paused else snapshot.status if self.narrow else snapshot.status_text
        foreground, background = getattr(self.palette, "waiting" if paused else snapshot.status.lower())
        pill = {"boxstyle": "round,pad=0.45,rounding_size=0.9", "lw": 0, "fc": background}
        self.status.set(text=f"\u25cf {status}", color=foreground, bbox=pill)
        self.clock.set_text(f"{local_time(snapshot.now):%Y-%m-%d  %H:%M:%S}")
        parts = "Streaming Dashboard", snapshot.stream if snapshot.stream != "buzz" else "", snapshot.where
        title, room = " \u00b7 ".join(filter(None, parts)), self.step - 0.12
        fit(self.title, self.title_room, title, title.removeprefix("Streaming "))
        self.alt_texts = [("Status", snapshot.status_text), ("Where", snapshot.where)]
        for artists, (name, value, detail, is_warning) in zip(self.tiles, tiles(snapshot), strict=True):
            for artist, text in zip(artists, (name.upper(), value, detail), strict=True):
                is_time = name in ("Last record", "Uptime")  # whose "ago", or hour of another day, may be left out
                fit(artist, room, text, text.rpartition(" ")[0] if is_time else text)
            artists[1].set_color(self.palette.stale[0] if is_warning else self.palette.text)
            self.alt_texts.append((name, "; ".join(filter(None, (value, detail)))))
        rates, left = np.asarray(snapshot.sparkline), EDGE + self.step  # in the second tile, beside its name
        self.spark.set_visible(bool(rates.any()))
        if rates.any():
            x = np.linspace(left + 1.0, left + room - 0.1, len(rates))
            self.spark.set_data(x, TITLE[self.narrow] + 0.43 - 0.18 * rates / rates.max())


class Dashboard:
    """All artists on one figure. `update(snapshot)` moves them; the canvas draws them.

    Without a `figure` it makes one, of `size` inches. Call `build` again after a change of `theme` or size. All
    dashboards of a process are for one thread at a time, because matplotlib's settings are global.
    """

    def __init__(self, theme: ThemeName, size: tuple[float, float] = DEFAULT_SIZE, figure: Any = None) -> None:
        mpl.rcdefaults()  # drop the settings of the user's matplotlibrc; the backend stays
        self.theme, self.paused = theme, False
        self.figure: Any = figure or FigureCanvasAgg(Figure(figsize=size, dpi=DPI)).figure
        self.build()

    def build(self) -> None:
        """Make all artists in the present theme and size."""
        self.rc, palette, narrow = style(self.theme), palette_of(self.theme), self._scale()
        mpl.rcParams.update(self.rc)
        self.figure.clear()
        self.figure.set_facecolor(mpl.rcParams["figure.facecolor"])
        frame = {"boxstyle": "round,pad=0.5", "fc": palette.card, "ec": palette.muted, "lw": 0.8}
        self.tip = self.figure.text(0, 0, "", bbox=frame, zorder=10, visible=False)
        columns = 1 if narrow else 2 if len(PANELS) <= 4 else 3
        rows = [PANELS[first : first + columns] for first in range(0, len(PANELS), columns)]
        rest = max(self.figure.get_figheight() - HEADER[narrow], 0.1) / len(rows)
        header, *bands = self.figure.subfigures(len(rows) + 1, 1, height_ratios=[HEADER[narrow], *[rest] * len(rows)])
        self.header, self.panels = Header(header, palette), list[Panel]()
        for band, row in zip(bands, rows, strict=True):
            ratios = (56, 44) if len(row) == 2 else [1] * len(row)
            areas = band.subfigures(1, len(row), width_ratios=ratios, squeeze=False)[0]
            self.panels += [kind(area, palette) for kind, area in zip(row, areas, strict=True)]

    def _scale(self) -> bool:
        """Scale all lengths with the figure, by its dots per inch. Return whether the figure is narrow."""
        figure, canvas = self.figure, self.figure.canvas
        pixels, unit = figure.bbox.size.round(), DPI * canvas.device_pixel_ratio
        narrow = bool(pixels[0] < NARROW_BELOW_IN * unit)
        scale = NARROW_SCALE if narrow else np.clip(min(pixels / unit / DEFAULT_SIZE), 0.8, 1.6)
        figure._set_dpi(unit * scale, forward=False)  # True would resize the window
        figure.set_size_inches((pixels + 0.01) / figure.dpi, forward=False)  # 0.01 against rounding down by a pixel
        figure._original_dpi = DPI * scale  # toolkits multiply it by their pixel ratio
        return narrow

    def update(self, snapshot: Snapshot) -> None:
        """Move all artists to this snapshot, and set the style for the next drawing."""
        mpl.rcParams.update(self.rc)
        self.header.update(snapshot, paused=self.paused)
        for panel in self.panels:
            panel.update(snapshot)

    def point_at(self, x: float, y: float) -> bool:
        """Show the hint nearest to these pixels, or none if there is none here. Return whether that has changed."""
        under = [(abs(x - (x0 + x1) / 2) + abs(y - (y0 + y1) / 2), text)
                 for x0, y0, x1, y1, text in self.hints() if x0 <= x <= x1 and y0 <= y <= y1]  # fmt: skip
        text, before = min(under)[1] if under else "", self.tip.get_text()
        across, up = (x, y) / self.figure.bbox.size
        self.tip.set(text=text, x=across, y=up + 0.015, visible=bool(text),
                     ha="left" if across < 0.5 else "right", va="bottom" if up < 0.9 else "top")  # fmt: skip
        return bool(text != before)

    def hints(self) -> list[tuple[float, float, float, float, str]]:
        """Return the hints of all panels: left, bottom, right and top in pixels from the lower left, and the text."""
        found = []
        for axes, (left, bottom, right, top), text in (hint for panel in self.panels for hint in panel.hints):
            corners = np.sort(axes.transData.transform([(left, bottom), (right, top)]), axis=0)
            inside = axes.bbox.padded(2 * REACH_PX)
            box = np.clip(np.add(corners, [[-REACH_PX], [REACH_PX]]), inside.min, inside.max)
            found.append((*box.ravel().round().tolist(), text))
        return found

    def image(self, snapshot: Snapshot, kind: str = "png") -> bytes:
        """Return the snapshot as the content of a file of this kind."""
        self.update(snapshot)
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format=kind, dpi=self.figure.dpi)
        return buffer.getvalue()

    def svg(self, snapshot: Snapshot) -> str:
        """Return the snapshot as SVG, with each hint as a rectangle that has a label."""
        drawn, points = self.image(snapshot, "svg").decode(), 72 / self.figure.dpi
        upwards = f"matrix({points} 0 0 {-points} 0 {self.figure.get_figheight() * 72})"
        labels = "".join(
            f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" aria-label="{escape(text)}"/>'
            for x0, y0, x1, y1, text in self.hints()
        )
        return drawn.replace("</svg>", f'<g transform="{upwards}" fill="none" pointer-events="all">{labels}</g></svg>')

    def alt_texts(self) -> list[tuple[str, str]]:
        """Return pairs (heading, text) of all that is shown, for people who cannot see it."""
        return [row for card in (self.header, *self.panels) for row in card.alt_texts if row[1]]
