"""The panels. Artists are made once in `build`; `draw(snapshot)` moves them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from dateutil import tz  # type: ignore[import-untyped]  # matplotlib brings it
from matplotlib import dates
from matplotlib.ticker import FuncFormatter, MaxNLocator

from consumers.dashboard import stats
from consumers.dashboard.fitting import fit, spread, width
from consumers.dashboard.formatting import brief, clock, counted, decimals, number, plain, plural, rate, share, span
from consumers.dashboard.panel import Hint, Panel
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.totals import TOP
from consumers.dashboard.trend import TrendPanel

_Dates: Any = dates  # they have no types
DAY_S = 86_400  # matplotlib counts time in days
TIME_STEPS_S = (1, 2, 4, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


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
            hint = f"{brief(int(total))} \u00b7 {clock(time, snapshot.now)}"
            self.hints.append(Hint(self.axes, (at, total, at, total), hint))
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
                hint = f"{text}: {counted(count, snapshot.roles.record)}, {share(count, snapshot.total)}"
                self.hints.append(Hint(self.axes, (0, row - 0.4, count, row + 0.4), hint))
        more = "over " if snapshot.more_groups else ""
        kinds = counted(snapshot.group_count, plain(snapshot.roles.by), plural(plain(snapshot.roles.by)))
        return [f"{more}{kinds}", counted(snapshot.total, snapshot.roles.record)]


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
                hint = f"{between(*ends, places)}: {counted(count, roles.record)}"
                self.hints.append(Hint(self.axes, (left, 0, left + step, count), hint))
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
