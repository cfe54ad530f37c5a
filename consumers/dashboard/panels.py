"""Header, health strip and the four panels: artists are made once, `update(snapshot)` moves them.

A picture of another size or theme is built anew. Positions are inches from the lower left corner
unless they are data; tick labels and grids are our own few artists, because matplotlib's cost most of a frame.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox, ScaledTranslation, Transform, blended_transform_factory

from consumers.dashboard import stats, theme, words
from consumers.dashboard.state import ANALYSIS, Snapshot
from consumers.dashboard.theme import Rect, Theme
from utils.sentiment import NEGATIVE_BELOW, POSITIVE_ABOVE


@lru_cache(maxsize=64)
def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(size=size, weight="bold" if bold else "normal")


class Ink:
    """Makes artists on one figure, in one theme, with every length and font scaled by `k`."""

    def __init__(self, figure: Figure, colours: type[Theme], k: float) -> None:
        self.figure, self.colours, self.k = figure, colours, k
        self.width = lru_cache(maxsize=1024)(self._width)

    def text(self, x: float, y: float, size: float, colour: str, text: str = "", **style: Any) -> Text:
        bold = style.pop("bold", False)
        options: dict[str, Any] = {"va": "center", "clip_on": False, "parse_math": False, **style}
        made = Text(x, y, text, color=colour, **options)
        made.set_fontproperties(_font(size * self.k, bold))
        return made

    def label(self, x: float, y: float, size: float, colour: str, text: str = "", **style: Any) -> Text:
        """Text placed in inches on the whole picture."""
        made = self.text(x, y, size, colour, text, transform=self.figure.dpi_scale_trans, **style)
        return cast(Text, self.figure.add_artist(made))

    def box(self, rect: Rect, colour: str, radius: float = 0.06) -> FancyBboxPatch:
        rounding = f"round,pad=0,rounding_size={radius * self.k}"
        shape = FancyBboxPatch((rect.x, rect.y), rect.w, rect.h, boxstyle=rounding, fc=colour, lw=0, zorder=-1)
        shape.set_transform(self.figure.dpi_scale_trans)
        return cast(FancyBboxPatch, self.figure.add_artist(shape))

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, **style: Any) -> Line2D:
        made = Line2D(xs, ys, color=colour, transform=self.figure.dpi_scale_trans, **style)
        return cast(Line2D, self.figure.add_artist(made))

    def axes(self, rect: Rect) -> Axes:
        axes = self.figure.add_axes(self.fraction(rect))
        axes.set_axis_off()
        return axes

    def fraction(self, rect: Rect) -> tuple[float, float, float, float]:
        width, height = self.figure.get_size_inches()
        return rect.x / width, rect.y / height, rect.w / width, rect.h / height

    def place(self, axes: Axes, rect: Rect) -> None:
        axes.set_position(self.fraction(rect))

    def _width(self, text: str, size: float, bold: bool = False) -> float:
        """Inches that one line of text takes."""
        canvas: Any = self.figure.canvas
        extent = canvas.get_renderer().get_text_width_height_descent(text, _font(size * self.k, bold), False)
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

    def wrap(self, text: str, room: float, size: float) -> str:
        """The text in at most two lines of `room` inches, broken between words, with an ellipsis if it is longer."""
        first, rest = "", text.split()
        while rest and self.width(f"{first} {rest[0]}".strip(), size) <= room:
            first = f"{first} {rest.pop(0)}".strip()
        if not first:
            return self.fit(text, room, size)
        return "\n".join(filter(None, (first, self.fit(" ".join(rest), room, size))))

    def beside(self, base: Transform, dx: float, dy: float) -> Transform:
        """A transform moved by inches."""
        return base + ScaledTranslation(dx * self.k, dy * self.k, self.figure.dpi_scale_trans)


class Labels:
    """A row or column of texts on some axes that is reused from frame to frame."""

    def __init__(self, ink: Ink, axes: Axes, transform: Transform, size: float, colour: str, **style: Any) -> None:
        self._ink, self._axes, self._style = (
            ink,
            axes,
            {"size": size, "colour": colour, "transform": transform, **style},
        )
        self._pool: list[Text] = []

    def show(self, items: Iterable[tuple[float, float, str]]) -> None:
        shown = 0
        for shown, (x, y, text) in enumerate(items, start=1):
            if shown > len(self._pool):
                self._pool.append(self._ink.text(0, 0, **self._style))
                self._axes.add_artist(self._pool[-1])
            label = self._pool[shown - 1]
            label.set_position((x, y))
            label.set_text(text)
            label.set_visible(True)
        for label in self._pool[shown:]:
            label.set_visible(False)


def _bars(axes: Axes, colour: str, **style: Any) -> PolyCollection:
    bars = PolyCollection([], facecolors=colour, lw=0, **style)
    return cast(PolyCollection, axes.add_collection(bars, autolim=False))


def _region(axes: Axes, colour: str, **style: Any) -> Rectangle:
    """A stretch of the x axis from bottom to top."""
    region = Rectangle((0, 0), 0, 1, fc=colour, lw=0, transform=axes.get_xaxis_transform(), **style)
    axes.add_patch(region)
    return region


def _boxes(rects: Iterable[tuple[float, float, float, float]]) -> list[Any]:
    """Corners of rectangles x0, x1, y0, y1."""
    return [np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)]) for x0, x1, y0, y1 in rects]


def _line(axes: Axes, colour: str, width: float, **style: Any) -> Line2D:
    return cast(Line2D, axes.add_artist(Line2D([], [], color=colour, lw=width, **style)))


def _grid(line: Line2D, ticks: Iterable[float]) -> None:
    """Horizontal lines across the axes as one artist; NaN lifts the pen."""
    ys = [y for tick in ticks for y in (tick, tick, np.nan)]
    line.set_data([0.0, 1.0, np.nan] * (len(ys) // 3), ys)


class Group:
    """Artists on a ground of one colour that can be drawn again without the rest; `key` tells if they changed."""

    def __init__(self, ink: Ink, rect: Rect, colour: str) -> None:
        self.ground = ink.figure.add_artist(
            Rectangle((rect.x, rect.y), rect.w, rect.h, fc=colour, lw=0, transform=ink.figure.dpi_scale_trans)
        )
        self.ground.set_zorder(-0.5)
        self.artists: list[Artist] = []
        self.key: object = None
        self._drawn: object = None

    def redraw(self, renderer: RendererBase) -> Bbox | None:
        """Draw what changed since the last call and return where, None if nothing did."""
        if self.key == self._drawn:
            return None
        self._drawn = self.key
        self.ground.draw(renderer)
        for artist in self.artists:
            artist.draw(renderer)
        return self.ground.get_window_extent(renderer)


class Header:
    """Title, local time and the status pill; in a window also what the keys do."""

    def __init__(self, ink: Ink, rect: Rect, help_line: str) -> None:
        k, colours = ink.k, ink.colours
        self._ink, self._rect, self._help_line = ink, rect, help_line
        self.y = rect.top - 0.355 * k
        title = "Streaming Dashboard"
        self.title = ink.label(rect.x + 0.05 * k, self.y, theme.TITLE, colours.ink, title, bold=True)
        self._title_right = rect.x + 0.05 * k + ink.width(title, theme.TITLE, True)
        self.help = ink.label(self._title_right + 0.3 * k, self.y - 0.02 * k, theme.TICK, colours.muted)
        self.clock = ink.label(0, self.y, theme.LABEL + 0.5, colours.muted, ha="right")
        self.pill = ink.box(Rect(rect.right - k, self.y - 0.13 * k, k, 0.26 * k), colours.live_ground, radius=0.12)
        self.pill.set_zorder(0)
        self.dot = ink.line([0], [self.y], colours.live, marker="o", ms=4.5 * k, mew=0)
        right = rect.right - 0.06 * k
        self.status = ink.label(right, self.y - 0.005 * k, theme.PILL, colours.live, ha="right", bold=True)
        left = self._title_right + 0.1 * k
        self.group = Group(ink, Rect(left, rect.y + 0.02, max(rect.right - left, 0.01), rect.h - 0.04), colours.page)
        self.group.artists = [self.help, self.clock, self.pill, self.dot, self.status]

    def update(self, snapshot: Snapshot, paused: bool = False) -> None:
        k, colours, right = self._ink.k, self._ink.colours, self._rect.right
        state = snapshot.status.lower()
        text = "PAUSED \u00b7 space goes on" if paused else words.status(snapshot)
        if paused:
            state = "waiting"
        width = self._ink.width(text, theme.PILL, True)
        self.status.set_text(text)
        self.status.set_color(getattr(colours, state))
        self.dot.set_color(getattr(colours, state))
        self.dot.set_xdata([right - 0.06 * k - width - 0.12 * k])
        self.pill.set_facecolor(getattr(colours, f"{state}_ground"))
        left = right - width - 0.29 * k
        self.pill.set_bounds(left, self.y - 0.13 * k, right - left, 0.26 * k)
        now = words.moment(snapshot.now)
        self.clock.set_text(now)
        self.clock.set_x(left - 0.26 * k)
        free = left - 0.56 * k - self._ink.width(now, theme.LABEL + 0.5) - self._title_right - 0.3 * k
        self.clock.set_visible(free > -0.3 * k)
        self.help.set_text(self._help_line)
        self.help.set_visible(0 < self._ink.width(self._help_line, theme.TICK) < free)
        self.group.key = (now, text)


class HealthStrip:
    """Source, throughput, lag, bad records, age of the last message, uptime: told in words, then in colour."""

    TILES = (
        ("SOURCE", 2.35),
        ("THROUGHPUT", 2.30),
        ("LAG", 1.20),
        ("INVALID / LOST / DUPLICATE", 2.50),
        ("LAST MESSAGE", 1.75),
        ("UPTIME", 2.10),
    )
    SPARK = 0.83

    def __init__(self, ink: Ink, rect: Rect) -> None:
        k, colours = ink.k, ink.colours
        self._ink = ink
        self.card = ink.box(rect, colours.card)
        self.groups: list[Group] = []
        self._tiles: list[tuple[Text, Text, float]] = []
        x, unit = rect.x, rect.w / sum(weight for _, weight in self.TILES)
        for index, (title, weight) in enumerate(self.TILES):
            left, room = x + 0.2 * k, weight * unit - 0.26 * k
            title_text = ink.fit(title, room, theme.TILE_LABEL, True)
            label = ink.label(left, rect.top - 0.17 * k, theme.TILE_LABEL, colours.muted, title_text, bold=True)
            value = ink.label(left, rect.top - 0.42 * k, theme.TILE_VALUE, colours.ink, bold=True)
            below = ink.label(left, rect.top - 0.66 * k, theme.TICK, colours.muted)
            if index:
                ink.line([x, x], [rect.y + 0.14 * k, rect.top - 0.14 * k], colours.grid, lw=k)
            self.groups.append(Group(ink, Rect(x, rect.y, weight * unit, rect.h).inset(*[0.08 * k] * 4), colours.card))
            self.groups[-1].artists = [label, value, below]
            self._tiles.append((value, below, room))
            x += weight * unit
        self._spark = ink.line([], [], colours.accent, lw=1.5 * k, solid_joinstyle="round")
        self._spark_end = ink.line([], [], colours.accent, marker="o", ms=5 * k, mew=0)
        throughput = self._tiles[1]
        self._spark_right, self._spark_y = throughput[0].get_position()[0] + throughput[2] - 0.1 * k, rect.top - 0.5 * k
        self.groups[1].artists += [self._spark, self._spark_end]

    def update(self, snapshot: Snapshot, refresh_s: float, frame_s: float | None) -> None:
        colours = self._ink.colours
        quiet = snapshot.last is None
        dim = colours.muted if quiet else colours.ink
        lags = stats.summary(snapshot.lags) if snapshot.lags else None
        bad = snapshot.invalid or snapshot.lost or snapshot.duplicate
        records = snapshot.total + snapshot.invalid + snapshot.duplicate
        last = "none yet" if snapshot.last is None else f"{words.span(snapshot.idle_s)} ago"
        frame = "" if frame_s is None else f", frame {frame_s * 1000:.0f} ms"
        troubled = snapshot.trouble_since is not None
        tiles = (
            (words.source(snapshot), words.source_line(snapshot), colours.stale if troubled else colours.ink),
            (words.rate(snapshot.rate), "60 s mean; line 5 min", dim),
            (
                words.lag(lags.median) if lags else "\u2013",
                f"p95 {words.lag(lags.p95)}" if lags else "p95 \u2013",
                colours.ink if lags else colours.muted,
            ),
            (
                f"{snapshot.invalid:,} / {snapshot.lost:,} / {snapshot.duplicate:,}",
                f"of {records:,} received",
                colours.stale if bad else dim,
            ),
            (
                last,
                "" if snapshot.last is None else f"at {words.clock(snapshot.last, snapshot.now)}",
                colours.stale if snapshot.status == "STALE" else dim,
            ),
            (words.span(snapshot.now - snapshot.started), f"every {refresh_s:g} s{frame}", colours.ink),
        )
        for (value, below, room), tile, group in zip(self._tiles, tiles, self.groups, strict=True):
            text, detail, colour = group.key = tile
            size = theme.TILE_VALUE if self._ink.width(text, theme.TILE_VALUE, True) <= room else theme.TILE_VALUE - 3
            value.set_fontproperties(_font(size * self._ink.k, True))
            value.set_text(self._ink.fit(text, room, size, True))
            value.set_color(colour)
            whole = self._ink.width(detail, theme.TICK) <= room
            below.set_text(detail if whole else self._ink.wrap(detail, room, theme.TILE_LABEL))
            below.set_fontproperties(_font((theme.TICK if whole else theme.TILE_LABEL) * self._ink.k, False))
        self.groups[1].key = (*tiles[1], snapshot.sparkline)
        self._draw_spark(snapshot)

    def _draw_spark(self, snapshot: Snapshot) -> None:
        k = self._ink.k
        value, _, _ = self._tiles[1]
        free = self._spark_right - value.get_position()[0] - self._ink.width(value.get_text(), theme.TILE_VALUE, True)
        visible = snapshot.last is not None and free > (self.SPARK + 0.15) * k
        self._spark.set_visible(visible)
        self._spark_end.set_visible(visible)
        if visible:
            rates = np.asarray(snapshot.sparkline)
            xs = self._spark_right + np.linspace(-self.SPARK, 0, len(rates)) * k
            ys = self._spark_y + rates / max(rates.max(), 1e-9) * 0.32 * k
            self._spark.set_data(xs, ys)
            self._spark_end.set_data(xs[-1:], ys[-1:])


class Panel:
    """One card: title, subtitle and axes, or a notice while there is nothing to show.

    A new panel is a subclass: `title`, `empty`, artists made in `build`, moved in `draw`.
    """

    title = ""
    empty = ""

    def __init__(self, ink: Ink, rect: Rect) -> None:
        self.ink, self.rect, self.k, self.colours = ink, rect, ink.k, ink.colours
        self.card = ink.box(rect, self.colours.card)
        left, self.room = rect.x + 0.2 * self.k, rect.w - 0.4 * self.k
        heading = ink.fit(self.title, self.room, theme.PANEL_TITLE, True)
        y = rect.top - 0.23 * self.k
        self._title = ink.label(left, y, theme.PANEL_TITLE, self.colours.ink, heading, bold=True)
        self._subtitle = ink.label(left, rect.top - 0.465 * self.k, theme.SUBTITLE, self.colours.muted)
        x, y = rect.x + rect.w / 2, rect.y + rect.h * 0.46
        self._notice = ink.label(
            x, y, theme.SUBTITLE + 1.5, self.colours.muted, ha="center", ma="center", linespacing=1.5
        )
        self.axes: list[Axes] = []
        self.build()

    def build(self) -> None:
        """Make the artists."""

    def draw(self, snapshot: Snapshot) -> None:
        """Move them."""

    def plot(self, left: float, top: float, right: float, bottom: float) -> Rect:
        """The card inside margins in unscaled inches."""
        return self.rect.inset(left * self.k, top * self.k, right * self.k, bottom * self.k)

    def add_axes(self, rect: Rect) -> Axes:
        self.axes.append(self.ink.axes(rect))
        return self.axes[-1]

    def notice(self, snapshot: Snapshot) -> str:
        return self.empty

    def subtitle(self, parts: Sequence[str], colour: str | None = None) -> None:
        """As many parts as there is room for."""
        for count in range(len(parts), 0, -1):
            text = "  \u00b7  ".join(parts[:count])
            if count == 1 or self.ink.width(text, theme.SUBTITLE) <= self.room:
                self._subtitle.set_text(self.ink.fit(text, self.room, theme.SUBTITLE))
                self._subtitle.set_color(colour or self.colours.muted)
                break

    def update(self, snapshot: Snapshot) -> None:
        filled = self.has_data(snapshot)
        for axes in self.axes:
            axes.set_visible(filled)
        self._subtitle.set_visible(filled)
        self._notice.set_visible(not filled)
        if filled:
            self.draw(snapshot)
        else:
            lines = self.notice(snapshot).splitlines()
            fitted = (self.ink.fit(line, self.room, theme.SUBTITLE + 1.5) for line in lines)
            self._notice.set_text("\n".join(fitted))

    def has_data(self, snapshot: Snapshot) -> bool:
        return bool(snapshot.flow)


class FlowPanel(Panel):
    """The true total over event time up to now, and how many messages came per step of time."""

    title = "Message Flow Over Time"
    BROKEN_AXIS = 1.5  # a silence of this many times the data's span is shortened, so that the data stays readable

    def build(self) -> None:
        k, colours = self.k, self.colours
        self._bottom = 0.34
        self.main, self.rates = self.add_axes(self.plot(0.62, 0.70, 1.0, 0.72)), self.add_axes(self.rect)
        self._grid = _line(self.main, colours.grid, 0.8 * k, transform=self.main.get_yaxis_transform(), zorder=0)
        self._area = _bars(self.main, colours.area, alpha=0.6)
        self._silence = [_region(axes, colours.stale_ground, zorder=1) for axes in self.axes]
        self._bars = _bars(self.rates, colours.bars)
        self._steps = _line(self.main, colours.accent, 2 * k, drawstyle="steps-post", solid_joinstyle="miter", zorder=3)
        self._end = _line(self.main, colours.accent, 0, marker="o", ms=5.5 * k, mew=0, clip_on=False, zorder=4)
        ink, main, rates = self.ink, self.main, self.rates
        self._y_ticks = Labels(
            ink, main, ink.beside(main.get_yaxis_transform(), -0.07, 0), theme.TICK + 0.5, colours.muted, ha="right"
        )
        self._x_ticks = Labels(
            ink, rates, ink.beside(rates.get_xaxis_transform(), 0, -0.12), theme.TICK + 0.5, colours.muted, ha="center"
        )
        self._total = Labels(
            ink,
            main,
            ink.beside(main.get_yaxis_transform(), 0.085, 0.015),
            theme.LABEL + 1,
            colours.accent,
            ha="left",
            bold=True,
        )
        self._scale = Labels(
            ink, rates, ink.beside(rates.transAxes, 0.065, 0), theme.TICK, colours.muted, ha="left", linespacing=1.1
        )
        self._no_data = Labels(
            ink, main, main.get_xaxis_transform(), theme.SUBTITLE, colours.stale, ha="center", rotation=90, bold=True
        )

    def notice(self, snapshot: Snapshot) -> str:
        watched = words.plain(snapshot.detail) or words.source(snapshot)
        return (
            f"Waiting for the first message\u2026\nWatching {watched}\n\n"
            "Start a producer in another terminal:\npython -m producers.ragini_producer"
        )

    def draw(self, snapshot: Snapshot) -> None:
        times = np.array([at for at, _ in snapshot.flow])
        totals = np.array([total for _, total in snapshot.flow], dtype=float)
        now, last, low, high = snapshot.now, float(times[-1]), totals[0], totals[-1]
        begin = min(float(times[0]), now - 10.0) if now - last < 60 else min(float(times[0]), last - 10.0)
        broken = snapshot.status == "STALE" and now - last > max(self.BROKEN_AXIS * (last - begin), 60.0)
        end = last + 0.25 * (last - begin) if broken else max(now, last)

        margin = (high - low) * 0.06 or 1.0
        floor = 0.0 if low < 0.3 * high else max(low - margin, 0.0)
        ticks = stats.whole_ticks(floor, high, 3)
        names = [words.whole(tick) for tick in ticks]
        left = max([0.62 * self.k, *(self.ink.width(name, theme.TICK + 0.5) + 0.3 * self.k for name in names)])
        right = max(self.k, self.ink.width(words.whole(high), theme.LABEL + 1, True) + 0.3 * self.k)
        self._lay_out(left, right)
        self.main.set_xlim(begin, end)
        self.rates.set_xlim(begin, end)
        self.main.set_ylim(floor, high + (high - floor) * 0.08)
        _grid(self._grid, ticks)
        self._y_ticks.show((0.0, tick, name) for tick, name in zip(ticks, names, strict=True))

        xs, ys = np.append(times, end), np.append(totals, high)
        self._steps.set_data(xs, ys)
        self._end.set_data([end], [high])
        self._total.show([(1.0, high, words.whole(high))])
        stepped = np.column_stack([np.repeat(xs, 2)[1:], np.repeat(ys, 2)[:-1]])
        self._area.set_verts([np.vstack([(xs[0], floor), stepped, (xs[-1], floor)])])

        plot_width = self.rect.w - left - right
        self._draw_silence(snapshot, last, end, broken, plot_width)
        self._draw_rates(times, totals, begin, last if broken else end, plot_width)
        room = max(2, int(plot_width / (0.8 * self.k)))
        time_ticks = stats.time_ticks(begin, last if broken else end, min(room, 4))
        if broken:
            tail = (end - last) / (end - begin) * plot_width
            half = self.ink.width("00:00:00", theme.TICK + 0.5)
            time_ticks = [tick for tick in time_ticks if (end - tick[0]) / (end - begin) * plot_width > half]
            time_ticks += [(end, "now")] if tail > half else []
        self._x_ticks.show((tick, 0.0, name) for tick, name in time_ticks)

        spacing = len(times) > 1 and high - low > len(times) - 1
        reach = f"last {words.span(max(now - times[0], 1.0))}" if spacing else f"last {len(times)} messages"
        if len(times) == 1:
            reach = "first message" if high == 1 else "latest message"
        self.subtitle([f"cumulative total, {reach}", f"{words.rate(snapshot.rate)} over the last minute"])

    def _lay_out(self, left: float, right: float) -> None:
        k = self.k
        inside = self.rect.inset(left, 0.70 * k, right, self._bottom * k)
        bars = min(0.34 * k, inside.h * 0.25)
        self.ink.place(self.rates, Rect(inside.x, inside.y, inside.w, bars))
        gap = 0.04 * k
        self.ink.place(self.main, Rect(inside.x, inside.y + bars + gap, inside.w, max(inside.h - bars - gap, 0.01)))

    def _draw_silence(self, snapshot: Snapshot, last: float, end: float, broken: bool, plot_width: float) -> None:
        stale = snapshot.status == "STALE"
        for patch in self._silence:
            patch.set_visible(stale)
            patch.set_x(last)
            patch.set_width(end - last)
        begin = self.main.get_xlim()[0]
        wide = stale and (end - last) / (end - begin) * plot_width > 0.2 * self.k
        text = f"no data\nfor {words.span(snapshot.idle_s)}" if broken else "no data"
        self._no_data.show([((last + end) / 2, 0.5, text)] if wide else [])

    def _draw_rates(self, times: Any, totals: Any, begin: float, end: float, plot_width: float) -> None:
        most = max(4, int(min(26.0, plot_width / (0.2 * self.k))))
        step = stats.time_step(end - begin, most)
        edges = np.arange(np.ceil(begin / step) * step - step, end + step, step)
        # The first point stands for itself only: what came before it is not known in time.
        known = np.append(totals[0] - 1, totals)
        counts = np.diff(known[np.searchsorted(times, edges, side="left")])
        most_in_step = max(float(counts.max()), 1.0) if len(counts) else 1.0
        gap = step * 0.09
        self._bars.set_verts(
            _boxes(
                (max(x + gap, begin), min(x + step - gap, end), 0, count / most_in_step)
                for x, count in zip(edges[:-1], counts, strict=True)
                if count and min(x + step - gap, end) > x + gap and (x >= begin or totals[0] == 1)
            )
        )
        self.rates.set_ylim(0, 1)
        self._scale.show([(1.0, 0.5, f"per {words.span(step)}\nmax {words.whole(most_in_step)}")])


class AuthorsPanel(Panel):
    """Who wrote how much: the six busiest and all others, with their shares."""

    title = "Messages by Author"
    empty = "No authors yet"
    SHARE = 0.42

    def build(self) -> None:
        colours, ink = self.colours, self.ink
        self.main = self.add_axes(self.plot(1.12, 0.69, 0.9, 0.18))
        self._bars = _bars(self.main, colours.accent)
        size = theme.TICK + 1
        from_left = blended_transform_factory(self.main.transAxes, self.main.transData)
        self._names = Labels(ink, self.main, ink.beside(from_left, -0.08, 0), size, colours.ink, ha="right")
        self._other = Labels(ink, self.main, ink.beside(from_left, -0.08, 0), size, colours.muted, ha="right")
        self._counts = Labels(
            ink, self.main, ink.beside(self.main.transData, 0.055, 0), size, colours.ink, ha="left", bold=True
        )
        inches = blended_transform_factory(ink.figure.dpi_scale_trans, self.main.transData)
        self._shares = Labels(ink, self.main, inches, theme.TICK + 0.5, colours.muted, ha="right")

    def draw(self, snapshot: Snapshot) -> None:
        k, size = self.k, theme.TICK + 1
        rows = [(words.display_name(author), count) for author, count in snapshot.authors]
        rest = snapshot.total - sum(count for _, count in rows)
        hidden = snapshot.author_count - len(rows)
        plus = "+" if snapshot.more_authors else ""
        if rest:
            rows.append((f"Other ({hidden:,}{plus})", rest))
        widest = max(self.ink.width(name, size) for name, _ in rows)
        left = min(max(widest + 0.28 * k, 0.9 * k), self.rect.w * 0.4)
        rows = [(self.ink.fit(name, left - 0.28 * k, size), count) for name, count in rows]
        counts = max(self.ink.width(words.whole(count), size, True) for _, count in rows)
        right = counts + (0.055 + 0.15 + self.SHARE + 0.2) * k
        inside = self.rect.inset(left, 0.69 * k, right, 0.18 * k)
        self.ink.place(self.main, inside)
        pitch = min(0.42 * k, inside.h / len(rows))
        self.main.set_ylim(inside.h, 0)
        self.main.set_xlim(0, max(count for _, count in rows))
        ys = [(index + 0.5) * pitch for index in range(len(rows))]
        half = min(0.31 * pitch, 0.13 * k)
        self._bars.set_verts(_boxes((0, count, y - half, y + half) for y, (_, count) in zip(ys, rows, strict=True)))
        named = len(snapshot.authors)
        self._bars.set_facecolor([self.colours.accent] * named + [self.colours.other] * (len(rows) - named))
        placed = [(0.0, y, name) for y, (name, _) in zip(ys, rows, strict=True)]
        self._names.show(placed[:named])
        self._other.show(placed[named:])
        self._counts.show((count, y, words.whole(count)) for y, (_, count) in zip(ys, rows, strict=True))
        edge = self.rect.right - 0.25 * k
        self._shares.show((edge, y, words.share(count, snapshot.total)) for y, (_, count) in zip(ys, rows, strict=True))
        authors = "1 author" if snapshot.author_count == 1 else f"{snapshot.author_count:,}{plus} authors"
        messages = "1 message" if snapshot.total == 1 else f"{words.whole(snapshot.total)} messages"
        self.subtitle([authors, messages, "share at right"])


class SentimentPanel(Panel):
    """The latest sentiments between zones, their rolling mean and average, and what stands out."""

    title = "Sentiment Trends"
    empty = "Sentiment appears after the first message"

    def build(self) -> None:
        k, colours, ink = self.k, self.colours, self.ink
        self.main = main = self.add_axes(self.plot(0.5, 0.68, 1.12, 0.5))
        main.set_ylim(-0.03, 1.03)
        across = main.get_yaxis_transform()
        for low, high, colour in (
            (-0.03, NEGATIVE_BELOW, colours.negative_zone),
            (POSITIVE_ABOVE, 1.03, colours.positive_zone),
        ):
            main.add_patch(Rectangle((0, low), 1, high - low, fc=colour, lw=0, transform=across, zorder=0))
        limits = _line(main, colours.grid, 0.8 * k, transform=across, zorder=0.5)
        _grid(limits, (NEGATIVE_BELOW, POSITIVE_ABOVE))
        zones = ink.beside(across, 0.05, 0)
        for y, name, colour in (
            ((1 + POSITIVE_ABOVE) / 2, "POSITIVE", colours.positive),
            ((NEGATIVE_BELOW + POSITIVE_ABOVE) / 2, "NEUTRAL", colours.muted),
            (NEGATIVE_BELOW / 2, "NEGATIVE", colours.negative),
        ):
            label = ink.text(0, y, theme.TILE_LABEL - 0.5, colour, name, transform=zones, bold=True)
            main.add_artist(label)
        ticks = Labels(ink, main, ink.beside(across, -0.07, 0), theme.TICK + 0.5, colours.muted, ha="right")
        ticks.show([(0, 0.0, "0"), (0, NEGATIVE_BELOW, "0.3"), (0, POSITIVE_ABOVE, "0.7"), (0, 1.0, "1")])
        # Room for the zones' names left of the oldest point, whatever the width of the panel.
        inches = self.plot(0.5, 0.68, 1.12, 0.5).w
        self._zone_room = (ink.width("NEGATIVE", theme.TILE_LABEL - 0.5, True) + 0.13 * k) / inches
        last = ANALYSIS - 1
        main.set_xlim(-last - self._zone_room * (last + 0.6) / max(1 - self._zone_room, 0.1), 0.6)
        below = ink.beside(main.get_xaxis_transform(), 0, -0.12)
        x_ticks = Labels(ink, main, below, theme.TICK + 0.5, colours.muted, ha="center")
        x_ticks.show([(-ago, 0.0, str(ago) if ago else "now") for ago in range(0, ANALYSIS, 5)])
        caption = ink.beside(main.transAxes, 0, -0.28)
        main.add_artist(
            ink.text(0.5, 0, theme.TICK + 0.5, colours.muted, "messages ago", ha="center", transform=caption)
        )
        self._bands = _bars(main, colours.negative, alpha=0.14)
        self._raw = _line(main, colours.raw, 0.9 * k, marker="o", ms=4 * k, mec=colours.card, mew=0.6 * k)
        self._average = _line(main, colours.ink, 1.3 * k, dashes=(4, 2.2))
        self._rolling = _line(main, colours.accent, 2.6 * k, solid_joinstyle="round", zorder=3)
        self._odd = _line(
            main, colours.negative, 0, marker="D", ms=9.5 * k, mfc="none", mew=2 * k, clip_on=False, zorder=4
        )
        beside = ink.beside(across, 0.08, 0)
        self._rolling_label = Labels(ink, main, beside, theme.LABEL, colours.accent, ha="left", bold=True)
        self._average_label = Labels(ink, main, beside, theme.LABEL, colours.ink, ha="left")

    def has_data(self, snapshot: Snapshot) -> bool:
        return bool(snapshot.sentiments)

    def draw(self, snapshot: Snapshot) -> None:
        values = np.array(snapshot.sentiments[-ANALYSIS:])
        xs = np.arange(1 - len(values), 1)
        odd = stats.anomalies(snapshot.sentiments, ANALYSIS)
        rolling = stats.rolling_mean(snapshot.sentiments)[-len(values) :]
        average = float(values.mean())
        self._raw.set_data(xs, values)
        self._rolling.set_data(xs, rolling)
        self._average.set_data([xs[0] if len(xs) > 1 else -0.6, 0.6], [average, average])
        self._odd.set_data(xs[odd], values[odd])
        self._bands.set_verts(_boxes((x - 0.5, x + 0.5, -0.03, 1.03) for x in xs[odd]))
        labels = [(self._average_label, average, f"average {average:.2f}")]
        if not np.isnan(rolling[-1]):
            labels.append((self._rolling_label, float(rolling[-1]), f"rolling {rolling[-1]:.2f}"))
        else:
            self._rolling_label.show([])
        height = 0.19 * self.k / self.plot(0.5, 0.68, 1.12, 0.5).h * 1.06
        ys = stats.spread([value for _, value, _ in labels], [height] * len(labels), -0.03, 1.03, 0.0)
        for (label, _, text), y in zip(labels, ys, strict=True):
            label.show([(1.0, y, text)])
        found = int(odd.sum())
        anomalies = f"{found} anomal{'y' if found == 1 else 'ies'} marked" if found else "no anomalies"
        shown = f"last {len(values)} messages" if len(values) > 1 else "first message"
        self.subtitle(
            [shown, f"rolling mean of {stats.ROLLING}", anomalies] if not found else [shown, anomalies],
            self.colours.negative if found else None,
        )


class LengthPanel(Panel):
    """How long the latest messages are: a histogram of whole characters with its statistics."""

    title = "Message Length Analysis"
    empty = "Needs at least one message"

    def build(self) -> None:
        k, colours, ink = self.k, self.colours, self.ink
        self.main = main = self.add_axes(self.plot(0.5, 0.9, 0.35, 0.5))
        up = main.get_xaxis_transform()
        self._grid = _line(main, colours.grid, 0.8 * k, transform=main.get_yaxis_transform(), zorder=0)
        self._band = _region(main, colours.sigma, zorder=0.5)
        self._bars = _bars(main, colours.accent, alpha=0.77)
        over = blended_transform_factory(main.transData, main.transAxes)
        styles: tuple[tuple[str, float, Any], ...] = (
            (colours.ink, 2.0, "-"),
            (colours.muted, 1.8, (0, (3, 2))),
            (colours.p95, 1.8, "-"),
        )
        self._lines = [
            _line(main, colour, width * k, linestyle=style, transform=over, zorder=3) for colour, width, style in styles
        ]
        above = ink.beside(blended_transform_factory(ink.figure.dpi_scale_trans, main.transAxes), 0, 0.06)
        self._labels = [
            Labels(ink, main, above, theme.LABEL, colour, ha="center", bold=True) for colour, _, _ in styles
        ]
        self._band_label = Labels(ink, main, ink.beside(up, 0.04, -0.09), theme.TICK - 0.5, colours.muted, ha="left")
        self._y_ticks = Labels(
            ink, main, ink.beside(main.get_yaxis_transform(), -0.06, 0), theme.TICK + 0.5, colours.muted, ha="right"
        )
        below = ink.beside(up, 0, -0.12)
        self._x_ticks = Labels(ink, main, below, theme.TICK + 0.5, colours.muted, ha="center")
        caption = ink.beside(main.transAxes, 0, -0.28)
        main.add_artist(ink.text(0.5, 0, theme.TICK + 0.5, colours.muted, "characters", ha="center", transform=caption))

    def has_data(self, snapshot: Snapshot) -> bool:
        return bool(snapshot.lengths)

    def draw(self, snapshot: Snapshot) -> None:
        k, ink = self.k, self.ink
        figures = stats.summary(snapshot.lengths)
        low, high = min(snapshot.lengths), max(snapshot.lengths)
        first, width, counts = stats.histogram(snapshot.lengths)
        most = max(counts)
        ticks = stats.whole_ticks(0, most, 3)
        names = [words.whole(tick) for tick in ticks]
        inside = self.plot(0.5, 0.9, 0.35, 0.5)
        left, right = first - 0.5, first + len(counts) * width - 0.5
        pad = max((right - left) * 0.05, 0.5 * width, (6.0 - (right - left)) / 2, high * 1e-6)
        left, right = left - pad, right + pad
        self.main.set_xlim(left, right)
        self.main.set_ylim(0, most * 1.22)
        _grid(self._grid, ticks)
        self._y_ticks.show((0.0, tick, name) for tick, name in zip(ticks, names, strict=True))
        gap = 0.014 * k / inside.w * (right - left) / 2
        edges = [first - 0.5 + index * width for index in range(len(counts))]
        self._bars.set_verts(
            _boxes((x + gap, x + width - gap, 0, count) for x, count in zip(edges, counts, strict=True) if count)
        )
        self._draw_x_ticks(max(left, 0), right, inside)

        band = (max(figures.mean - figures.sigma, left), min(figures.mean + figures.sigma, right))
        self._band.set_x(band[0])
        self._band.set_width(band[1] - band[0])
        marks = (figures.mean, figures.median, figures.p95)
        texts = (
            f"mean {words.measure(figures.mean)}",
            f"median {words.measure(figures.median, 0)}",
            f"p95 {words.measure(figures.p95, 0)}",
        )
        per_inch = inside.w / (right - left)
        inches = [inside.x + (mark - left) * per_inch for mark in marks]
        widths = [ink.width(text, theme.LABEL, True) for text in texts]
        card = self.rect
        placed = stats.spread(inches, widths, card.x + 0.12 * k, card.right - 0.12 * k, 0.12 * k)
        for line, label, mark, x, text in zip(self._lines, self._labels, marks, placed, texts, strict=True):
            line.set_data([mark, mark], [0, 1])
            label.show([(x, 1.0, text)])
        band_text = "mean \u00b1 1\u03c3"
        nearest = min(mark for mark in (*marks, band[1]) if mark >= band[0])
        fits = (nearest - band[0]) * per_inch > ink.width(band_text, theme.TICK - 0.5) + 0.1 * k
        self._band_label.show([(band[0], 1.0, band_text)] if fits and figures.sigma else [])

        shown = f"last {len(snapshot.lengths)} messages" if len(snapshot.lengths) > 1 else "first message"
        reach = words.whole(low) + (f"\u2013{words.whole(high)}" if high > low else "")
        self.subtitle([shown, f"{reach} characters", f"\u03c3 {words.measure(figures.sigma)}"])

    def _draw_x_ticks(self, left: float, right: float, inside: Rect) -> None:
        size = theme.TICK + 0.5
        label = self.ink.width(words.whole(round(right)), size) + 0.15 * self.k
        ticks = stats.whole_ticks(left, right, max(1, min(7, int(inside.w / label))))
        names = [words.whole(tick) for tick in ticks]
        distinct = len(set(names)) == len(names)
        self._x_ticks.show((tick, 0.0, name) for tick, name in zip(ticks, names, strict=True) if distinct)


PANELS = (FlowPanel, AuthorsPanel, SentimentPanel, LengthPanel)
