"""The panels. Artists are made once in `build`; `draw(snapshot)` moves them."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from dateutil import tz  # type: ignore[import-untyped]  # matplotlib brings it
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from consumers.dashboard import stats
from consumers.dashboard.fitting import fit, fit_first, spread, width, width_of
from consumers.dashboard.formatting import (
    brief,
    clock,
    counted,
    decimals,
    heading,
    number,
    plain,
    plural,
    rate,
    share,
    span,
)
from consumers.dashboard.snapshot import Series, Snapshot
from consumers.dashboard.theme import MARKERS, Palette
from consumers.dashboard.totals import TOP

NARROW = 4.0  # inches; there margins are less
_Dates: Any = dates  # they have no types

PAD = 0.1  # inches between a card and its subfigure's edge
DAY_S = 86_400  # matplotlib counts time in days
TIME_STEPS_S = (1, 2, 4, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


class Hint(NamedTuple):
    """What is shown where the mouse rests: a text for a box of data coordinates, which may be a point."""

    axes: Axes
    box: tuple[float, float, float, float]  # left, bottom, right, top
    text: str


class Panel:
    """A card with a title, a subtitle and axes, or a notice while there is nothing to draw.

    A subclass sets `title` and `empty`, makes its artists in `build` and moves them in `draw`. Lengths are inches times
    `k`. `margins` of the axes inside the card: left, right, bottom, top.
    """

    title = ""
    empty = ""
    margins: tuple[float, ...] = (0.85, 1.05, 0.5, 0.8)

    def __init__(self, card: SubFigure, palette: Palette, k: float) -> None:
        self.card, self.palette, self.k = card, palette, k
        self.width, self.height = card.bbox.width / card.figure.dpi, card.bbox.height / card.figure.dpi
        self.inch = k * card.figure.dpi  # pixels
        left, right, bottom, top = self.margins
        self.margins = (left, right * (1 if self.width > NARROW * k else 0.85), bottom, top)
        self.hints: list[Hint] = []
        self.heading = self.text(0.3, 0.33, size="x-large", weight="bold")
        self.subtitle = self.text(0.3, 0.57, color=palette.muted)
        self.notice = card.text(0.5, 0.42, "", color=palette.muted, ha="center", va="center")
        self.build()

    def text(self, left: float, top: float, **style: Any) -> Text:
        """Text on the card, so many inches from its left and its top."""
        x, y = left * self.k / self.width, 1 - top * self.k / self.height
        return self.card.text(x, y, "", va="center_baseline", **style)

    def subplots(self, rows: int = 1, **options: Any) -> Any:
        """Axes inside the margins."""
        left, right, bottom, top = (margin * self.k for margin in self.margins)
        x, y = left / self.width, bottom / self.height
        ends = {"right": max(1 - right / self.width, x + 0.01), "top": max(1 - top / self.height, y + 0.01)}
        grid = {"left": x, "bottom": y, **ends}
        axes = self.card.subplots(rows, 1, gridspec_kw=grid | options.pop("gridspec_kw", {}), **options)
        for each in self.card.axes:  # where labels are is not looked for in each frame
            each.xaxis.set_label_coords(0.5, -0.28 * self.inch / each.bbox.height)
            each.yaxis.set_label_coords(-0.1, 0.5)
        return axes

    @property
    def room(self) -> float:
        """Pixels for a line of text."""
        return self.card.bbox.width - 0.6 * self.inch

    def build(self) -> None:
        """Make the artists."""
        raise NotImplementedError

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        """Move the artists; return the parts of the subtitle, the most important first."""
        raise NotImplementedError

    def has_data(self, snapshot: Snapshot) -> bool:
        return snapshot.total > 0

    def named(self, text: str, snapshot: Snapshot) -> str:
        """A text with the names of the roles."""
        roles = snapshot.roles
        names = {"records": roles.record, "by": roles.by, "value": roles.value,
                 "histogram": roles.histogram}  # fmt: skip
        start = "\n\npython -m producers.ragini_producer" if snapshot.stream == "buzz" else ""
        return text.format(**{name: heading(word) for name, word in names.items()}, start=start)

    def update(self, snapshot: Snapshot) -> None:
        self.hints.clear()
        filled = self.has_data(snapshot)
        fit(self.heading, self.named(self.title, snapshot), self.room)
        for axes in self.card.axes:
            axes.set_visible(filled)
        fit(self.notice, "" if filled else self.named(self.empty, snapshot), self.room)
        parts = self.draw(snapshot) if filled else [""]
        fit_first(self.subtitle, ["  \u00b7  ".join(parts[:end]) for end in range(len(parts), 0, -1)], self.room)


class FlowPanel(Panel):
    """Cumulative total over event time up to now, with the record rate below."""

    title = "{records} Flow Over Time"
    empty = "Waiting for the first record{start}"
    BINS = 24
    LONG_SILENCE = 1.5  # times the time before it

    def build(self) -> None:
        grid = {"gridspec_kw": {"hspace": 0.06}, "height_ratios": (4, 1), "sharex": True}
        self.axes, self.rate_axes = self.subplots(2, **grid)
        accent, (foreground, background) = self.palette.accent, self.palette.stale
        (self.line,) = self.axes.plot([], [], drawstyle="steps-post")
        (self.end,) = self.axes.plot([], [], "o", ms=5.5 * self.k, mew=0, clip_on=False)
        self.area = self.axes.fill_between([0, 1], [0, 1], step="post", color=self.palette.area, alpha=0.6, lw=0)
        beside = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
        self.total = self.axes.annotate("", (0, 0), (8, 0), color=accent, weight="bold", size="large", **beside)
        self.bars = self.rate_axes.bar(range(self.BINS + 2), 0, align="edge", alpha=0.45, lw=0)
        self.scale = self.rate_axes.text(1.02, 0.5, "", transform=self.rate_axes.transAxes, va="center",
                                         color=self.palette.muted)  # fmt: skip
        self.axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: brief(round(y))))
        self.axes.xaxis.set_visible(False)
        self.rate_axes.yaxis.set_visible(False)
        plot_inches = self.width - (self.margins[0] + self.margins[1]) * self.k
        most = max(3, min(5, int(plot_inches / self.k)))
        locator = _Dates.AutoDateLocator(tz=tz.tzlocal(), minticks=1 + (most == 5), maxticks=most)
        formats = ["%Y", "%b %Y", "%b %d", "%H:%M", "%H:%M", "%H:%M:%S"]
        zeros = ["", "%Y", "%b %d", "%b %d", "%H:%M", "%H:%M:%S"]
        self.rate_axes.xaxis.set_major_locator(locator)
        self.rate_axes.xaxis.set_major_formatter(
            _Dates.ConciseDateFormatter(
                locator, tz=tz.tzlocal(), formats=formats, zero_formats=zeros, show_offset=False
            )
        )
        self.silence = [axes.axvspan(0, 1, color=background, lw=0) for axes in (self.axes, self.rate_axes)]
        self.no_data = self.axes.text(0, 0.5, "", transform=self.axes.get_xaxis_transform(), color=foreground,
                                      rotation=90, ha="center", va="center", weight="bold")  # fmt: skip

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        times, totals = (np.array(column, dtype=float) for column in zip(*snapshot.flow, strict=True))
        begin, last, stale = min(times[0], times[-1] - 10), times[-1], snapshot.status == "STALE"
        end = max(last, snapshot.flow_end)
        if shortened := stale and end - last > max(60.0, self.LONG_SILENCE * (last - begin)):
            end = last + 0.25 * (last - begin)
        high = totals[-1]
        floor = 0 if totals[0] < 0.3 * high else max(0, totals[0] - 0.06 * (high - totals[0]) - 1)
        x, y = np.append(times, end) / DAY_S, np.append(totals, high)
        self.line.set_data(x, y)
        self.area.set_data(x, floor, y)
        self.end.set_data([x[-1]], [high])
        self.total.set_text(brief(snapshot.total))
        self.total.xy = x[-1], high
        self.axes.set(xlim=(begin / DAY_S, x[-1]), ylim=(floor, high + 0.08 * (high - floor)))
        self.draw_rates(snapshot, times, totals, begin, end)
        for region in self.silence:
            region.set(x=x[-2], width=x[-1] - x[-2], visible=stale)
        pixels = (end - last) / (end - begin) * self.axes.bbox.width
        silence = f"no data\nfor {span(snapshot.idle_s)}" if shortened else "no data"
        self.no_data.set(x=x[-2:].mean(), text=silence if stale and pixels > 0.25 * self.inch else "")
        for at, time, total in zip(x, times, totals, strict=False):
            told = f"{brief(int(total))} \u00b7 {clock(time, snapshot.now)}"
            self.hints.append(Hint(self.axes, (at, total, at, total), told))
        reach = f"last {span(max(snapshot.now - times[0], 1))}" if len(times) > 1 else "latest record"
        return [reach, f"{rate(snapshot.rate, snapshot.roles.records)} mean of 60 s"]

    def draw_rates(self, snapshot: Snapshot, times: Any, totals: Any, begin: float, end: float) -> None:
        """A bar for each step of time."""
        least = (end - begin) / self.BINS
        step = next((each for each in TIME_STEPS_S if each >= least), np.ceil(least / DAY_S) * DAY_S)
        edges = (begin // step + np.arange(len(self.bars) + 1)) * step
        # The first point stands for itself only: what came before it is not known in time.
        known = np.concatenate([[totals[0] - 1], totals])
        counts = np.diff(known[np.searchsorted(times, edges, side="left")])
        for bar, left, count in zip(self.bars, edges[:-1], counts, strict=True):
            bar.set(x=(left + 0.08 * step) / DAY_S, width=0.84 * step / DAY_S, height=count, visible=count > 0)
            if count:
                text = f"{counted(int(count), snapshot.roles.record)} in {span(step)} from {clock(left, snapshot.now)}"
                self.hints.append(Hint(self.rate_axes, (left / DAY_S, 0, (left + step) / DAY_S, count), text))
        self.rate_axes.set_ylim(0, max(1, counts.max()))
        self.scale.set_text(f"per {span(step)}\nmax {brief(int(counts.max()))}")


class GroupsPanel(Panel):
    """Records per `by` value: the busiest six and all others, with count and share."""

    title = "{records}s by {by}"
    empty = "Needs at least one record"
    margins = (1.4, 1.65, 0.25, 0.8)
    ROWS = TOP + 1

    def build(self) -> None:
        self.axes = self.subplots()
        self.axes.set_axis_off()
        self.bars = self.axes.barh(range(self.ROWS), 0, height=0.62)
        across = self.axes.get_yaxis_transform()
        share_x = 1 + (self.margins[1] - 0.3) * self.inch / self.axes.bbox.width
        style: dict[str, Any] = {"va": "center_baseline", "clip_on": False}
        self.names = [
            self.axes.text(-0.025, row, "", ha="right", transform=across, **style) for row in range(self.ROWS)
        ]
        self.counts = [self.axes.annotate("", (0, row), (5, 0), textcoords="offset points", weight="bold",
                                          annotation_clip=False, va="center") for row in range(self.ROWS)]  # fmt: skip
        self.shares = [self.axes.text(share_x, row, "", ha="right", color=self.palette.muted, transform=across, **style)
                       for row in range(self.ROWS)]  # fmt: skip

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        rows = [(plain(name) or "(no name)", count) for name, count in snapshot.groups]
        named, others = len(rows), snapshot.total - sum(count for _, count in rows)
        if others:
            rows.append((f"Other ({brief(snapshot.group_count - named)})", others))
        room = (self.margins[0] - 0.35) * self.inch
        self.axes.set(xlim=(0, max(count for _, count in rows)), ylim=(max(len(rows), 4) - 0.5, -0.5))
        for row, (bar, name, label, part) in enumerate(
            zip(self.bars, self.names, self.counts, self.shares, strict=True)
        ):
            text, count = rows[row] if row < len(rows) else ("", 0)
            bar.set(width=count, visible=count > 0, color=self.palette.accent if row < named else self.palette.other)
            fit(name, text, room)
            label.set_text(brief(count) if count else "")
            label.xy = count, row
            part.set_text(share(count, snapshot.total) if count else "")
            if count:
                told = f"{text}: {counted(count, snapshot.roles.record)}, {share(count, snapshot.total)}"
                self.hints.append(Hint(self.axes, (0, row - 0.4, count, row + 0.4), told))
        more = "over " if snapshot.more_groups else ""
        kinds = counted(snapshot.group_count, plain(snapshot.roles.by), plural(plain(snapshot.roles.by)))
        return [f"{more}{kinds}", counted(snapshot.total, snapshot.roles.record)]


class TrendPanel(Panel):
    """The latest values of each `by` value or of all records, with rolling means, zones and anomalies."""

    title = "{value} Trends"
    empty = "{value} appears after the first record"
    margins = (0.85, 1.55, 0.6, 0.8)

    def build(self) -> None:
        axes, k, outline = self.subplots(), self.k, self.palette.negative[0]
        self.axes, across = axes, axes.get_yaxis_transform()
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter("{x:,.6g}")
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{-x:.0f}" if x < 0 else "now" if x == 0 else ""))
        self.zones = [axes.axhspan(0, 1, lw=0, zorder=0) for _ in range(2)]
        self.zone_names = [axes.text(0.02, 0, "", size="small", weight="bold", va="center", transform=across)
                           for _ in range(3)]  # fmt: skip
        self.raw = [axes.plot([], [], marker, ls="-", lw=0.9 * k, alpha=0.6)[0] for marker in MARKERS]
        self.rolling = [axes.plot([], [], lw=2.6 * k)[0] for _ in MARKERS]
        (self.average,) = axes.plot([], [], "--", color=self.palette.text, lw=1.3 * k)
        self.outliers = [axes.plot([], [], marker, mfc="none", mec=outline, ms=9 * k, mew=2 * k, clip_on=False)[0]
                         for marker in "D^v"]  # fmt: skip
        beside = self.inch / axes.bbox.width
        self.keys = [axes.plot([1 + 0.12 * beside], [0], marker, transform=across, clip_on=False, ms=5 * k)[0]
                     for marker in MARKERS]  # fmt: skip
        self.labels = [axes.text(1 + 0.22 * beside, 0, "", va="center", transform=across) for _ in MARKERS]

    def has_data(self, snapshot: Snapshot) -> bool:
        return bool(snapshot.series)

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        shown, roles = snapshot.series, snapshot.roles
        count = max(len(series.values) for series in shown)
        low, high = roles.scale or limits(shown, roles.zones)
        places, pad = decimals(high - low), 0.04 * (high - low)
        bottom, top = low - pad, high + pad
        self.axes.set(ylim=(bottom, top))
        each = f", each {plain(roles.by)}" if shown[0].name else ""
        fit(self.axes.xaxis.label, f"{roles.records} ago{each}", self.axes.bbox.width)
        if roles.scale:
            self.axes.set_yticks([*roles.scale, *(roles.zones or ())])
        names = self.draw_zones(snapshot, bottom, top) / self.axes.bbox.width
        self.axes.set_xlim(-max(count, 5) / (0.96 - min(names, 0.25)), 0.6)
        self.draw_series(snapshot, places)
        found = [(x, y) for series in shown for x, y, odd in points(series) if odd]
        for line, side in zip(self.outliers, (0, 1, -1), strict=True):
            here = [(x, min(max(y, bottom), top)) for x, y in found if (y > top) - (y < bottom) == side]
            line.set(data=([x for x, _ in here], [y for _, y in here]), visible=bool(here))
        beyond = [number(y, places) for _, y in found if not bottom <= y <= top]
        marked = f"{counted(len(found), 'anomaly', 'anomalies')} marked"
        self.subtitle.set_color(self.palette.negative[0] if found else self.palette.muted)
        parts = [f"last {count} {roles.records}" if count > 1 else f"first {roles.record}"]
        parts += [marked] if found else []
        parts += [f"beyond the scale: {beyond[-1]}"] if beyond else []
        return [*parts, f"rolling mean of {snapshot.buffers.rolling}", *([] if found else ["no anomalies"])]

    def draw_zones(self, snapshot: Snapshot, bottom: float, top: float) -> float:
        """Fill below and above the two limits, and write what they are where there is room; the width of that."""
        lower, upper = snapshot.roles.zones or (bottom, top)
        names = [f"BELOW {lower:g}", "", f"ABOVE {upper:g}"]
        colors = [self.palette.negative, (self.palette.muted, "none"), self.palette.negative]
        if snapshot.roles.scale:  # of sentiment, where more is better
            names, colors[2] = ["NEGATIVE", "NEUTRAL", "POSITIVE"], self.palette.positive
        least = 0.17 * self.inch / self.axes.bbox.height * (top - bottom)
        edges = np.clip([bottom, lower, upper, top], bottom, top)
        for span_, low, high, color in zip(self.zones, edges[::2], edges[1::2], colors[::2], strict=True):
            span_.set(y=low, height=high - low, facecolor=color[1])
        for text, name, low, high, color in zip(self.zone_names, names, edges, edges[1:], colors, strict=False):
            text.set(y=(low + high) / 2, text=name if high - low > least else "", color=color[0])
        return max(width_of(text) if text.get_text() else 0.0 for text in self.zone_names)

    def draw_series(self, snapshot: Snapshot, places: int) -> None:
        """A line for each series, and at its end its name and latest mean; for a single one its average too."""
        shown, palette, ends = snapshot.series, self.palette, []
        single = not shown[0].name
        for series, raw, rolling, color in zip_longest(shown, self.raw, self.rolling, palette.lines):
            raw.set_visible(bool(series))
            rolling.set_visible(bool(series))
            if not series:
                continue
            values = points(series)
            x = [at for at, _, _ in values]
            raw.set(data=(x, series.values), color=palette.raw if single else color)
            rolling.set(data=(x, series.rolling), color=palette.accent if single else color)
            is_mean = np.isfinite(series.rolling[-1])
            latest = series.rolling[-1] if is_mean else series.values[-1]
            name = (plain(series.name) or "(no name)") if series.name else "rolling" if is_mean else "latest"
            ends.append((latest, name, palette.accent if single else color))
            for (at, value, odd), time, key in zip(values, series.times, series.keys, strict=True):
                told = (number(value, places), clock(time, snapshot.now), plain(key))
                self.hints.append(Hint(self.axes, (at, value, at, value), "anomaly: " * odd + " \u00b7 ".join(told)))
        if single:
            ends.append((shown[0].average, "average", palette.text))
        self.average.set_data(([1 - len(shown[0].values), 0.6], [shown[0].average] * 2) if single else ((), ()))
        bottom, top = self.axes.get_ylim()
        line = 0.2 * self.inch / self.axes.bbox.height * (top - bottom)
        heights = spread([value for value, _, _ in ends], [line] * len(ends), bottom - line / 2, top + line / 2)
        room = (self.margins[1] - 0.42) * self.inch
        for label, key, end, y in zip_longest(self.labels, self.keys, ends, heights):
            value, name, color = end or (0, "", "k")
            key.set(ydata=[y or 0], color=color, visible=bool(end) and not single)
            label.set(y=y or 0, color=color if single else palette.text)
            fit(label, name, room, f" {number(value, places)}" if name else "")


def points(series: Series) -> list[tuple[int, float, bool]]:
    """Minus how many records ago, value and whether it is an anomaly."""
    return list(zip(range(1 - len(series.values), 1), series.values, series.anomalies, strict=True))


def limits(shown: Sequence[Series], zones: tuple[float, float] | None) -> tuple[float, float]:
    """The range of all values but anomalies, which would flatten the others, and of zones that are near."""
    usual = [value for series in shown for _, value, odd in points(series) if not odd]
    usual = usual or [value for series in shown for value in series.values]
    low, high = min(usual), max(usual)
    if high - low <= 1e-9 * abs(high):
        low, high = low - max(0.05 * abs(low), 0.5), high + max(0.05 * abs(high), 0.5)
    near = [zone for zone in zones or () if low - 0.5 * (high - low) <= zone <= high + 0.5 * (high - low)]
    return min([low, *near]), max([high, *near])


class HistogramPanel(Panel):
    """Histogram of the latest measures with mean, median, 95th percentile and one standard deviation."""

    title = "{histogram} Analysis"
    empty = "Needs at least one record"
    margins = (0.75, 0.4, 0.6, 1.05)
    NAMES = ("mean", "median", "p95")

    def build(self) -> None:
        axes = self.axes = self.subplots()
        palette, k = self.palette, self.k
        self.ticks = MaxNLocator(6)
        axes.xaxis.set_major_locator(self.ticks)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        self.sigma = axes.axvspan(0, 1, color=palette.sigma, lw=0, zorder=0)
        self.bars = axes.bar(range(stats.MAX_BINS), 0, align="edge", alpha=0.77, ec=palette.card)
        styles = ((palette.text, "-", 2.0), (palette.muted, "--", 1.8), (palette.p95, "-", 1.8))
        self.lines = [axes.axvline(0, color=color, ls=ls, lw=lw * k) for color, ls, lw in styles]
        up = {"transform": axes.get_xaxis_transform(), "va": "bottom"}
        self.labels = [axes.text(0, 1.03, "", color=color, weight="bold", ha="center", **up) for color, _, _ in styles]

    def has_data(self, snapshot: Snapshot) -> bool:
        return snapshot.measures is not None

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        roles, found = snapshot.roles, snapshot.measures
        assert found is not None  # has_data
        first, step, counts = stats.bins(snapshot.measured, whole=roles.whole)
        places = 0 if roles.whole else decimals(step * stats.MAX_BINS)
        for index, bar in enumerate(self.bars):
            count = counts[index] if index < len(counts) else 0
            left = first + index * step
            bar.set(x=left, width=step, height=count, visible=count > 0)
            if count:
                ends = (left + 0.5, left + step - 0.5) if roles.whole else (left, left + step)
                told = f"{between(*ends, places)}: {counted(count, roles.record)}"
                self.hints.append(Hint(self.axes, (left, 0, left + step, count), told))
        self.ticks.set_params(integer=roles.whole)
        end = first + len(counts) * step
        pad = max(0.05 * (end - first), 0.5 * step)
        self.axes.set(xlim=(first - pad, end + pad), ylim=(0, 1.12 * max(counts)))
        fit(self.axes.xaxis.label, roles.unit or plain(roles.histogram), self.axes.bbox.width)
        self.sigma.set(x=found.mean - found.sigma, width=2 * found.sigma)
        self.draw_marks([found.mean, found.median, found.p95], places + roles.whole)
        reach = f"{between(found.low, found.high, places)} {roles.unit}".rstrip()
        sigma = f"\u03c3 {number(found.sigma, places + roles.whole)} shaded"
        return [f"last {counted(found.count, roles.record)}", reach, sigma]

    def draw_marks(self, values: Sequence[float], places: int) -> None:
        """A line for each statistic, and above it its name and value."""
        (left, right), box = self.axes.get_xlim(), self.axes.get_window_extent()
        pixel = (right - left) / box.width
        sizes = [(width(label, f"{name} {number(value, places)}") + 10) * pixel
                 for label, name, value in zip(self.labels, self.NAMES, values, strict=True)]  # fmt: skip
        before, after = (0.6 * margin * self.inch * pixel for margin in self.margins[:2])
        if sum(sizes) > right - left + before + after:  # the median is near the mean
            self.labels[1].set_text("")
            sizes[1] = 0
        centres = spread(values, sizes, left - before, right + after)
        for label, line, value, x in zip(self.labels, self.lines, values, centres, strict=True):
            line.set_xdata([value, value])
            label.set_x(x)


def between(low: float, high: float, places: int) -> str:
    """Both ends of a range, or what both are."""
    return "\u2013".join(dict.fromkeys((number(low, places), number(high, places))))


PANELS: tuple[type[Panel], ...] = (FlowPanel, GroupsPanel, TrendPanel, HistogramPanel)
