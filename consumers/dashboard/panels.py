"""The panels. Artists are made once in `build`; `draw(snapshot)` moves them."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from dateutil import tz  # type: ignore[import-untyped]  # matplotlib brings it
from matplotlib import dates
from matplotlib.ticker import FuncFormatter, MaxNLocator

from consumers.dashboard.fitting import fit
from consumers.dashboard.formatting import brief, clock, counted, decimals, number, plain, rate, share, span
from consumers.dashboard.history import TOP
from consumers.dashboard.panel import Hint, Panel
from consumers.dashboard.snapshot import Series, Snapshot
from consumers.dashboard.theme import MARKERS

_Dates: Any = dates  # they have no types
DAY_S = 86_400  # matplotlib counts time in days
TIME_STEPS_S = (1, 2, 4, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


class FlowPanel(Panel):
    """Cumulative total over event time up to now, with the record rate below."""

    title = "{record} Flow Over Time"
    empty = "Waiting for the first record{start}"
    BARS = 24

    def build(self) -> None:
        self.axes, self.rate_axes = self.subplots(2, height_ratios=(4, 1), sharex=True)
        self.card.subplots_adjust(hspace=0.06)
        accent, (foreground, background) = self.palette.accent, self.palette.stale
        (self.line,) = self.axes.plot([], [], "-o", drawstyle="steps-post", ms=5.5 * self.k, markevery=[-1],
                                      clip_on=False)  # fmt: skip
        self.area = self.axes.fill_between([0, 1], [0, 1], step="post", color=self.palette.area, alpha=0.6, lw=0)
        self.total = self.axes.annotate("", (0, 0), (8, 0), textcoords="offset points", annotation_clip=False,
                                        color=accent, weight="bold", size="large", va="center")  # fmt: skip
        self.bars = self.rate_axes.bar(range(self.BARS + 2), 0, align="edge", alpha=0.45, lw=0)
        self.axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: brief(round(y))))
        self.axes.xaxis.set_visible(False)
        self.rate_axes.yaxis.set_visible(False)
        most = max(3, min(5, int(self.axes.bbox.width / self.inch)))
        locator = _Dates.AutoDateLocator(tz=tz.tzlocal(), minticks=1 + (most == 5), maxticks=most)
        formats = ["%Y", "%b %Y", "%b %d", "%H:%M", "%H:%M", "%H:%M:%S"]
        zeros = ["", "%Y", "%b %d", "%b %d", "%H:%M", "%H:%M:%S"]
        self.rate_axes.xaxis.set_major_locator(locator)
        self.rate_axes.xaxis.set_major_formatter(
            _Dates.ConciseDateFormatter(
                locator, tz=tz.tzlocal(), formats=formats, zero_formats=zeros, show_offset=False
            )
        )
        self.silence = self.axes.axvspan(0, 1, color=background, lw=0)
        self.no_data = self.axes.text(0, 0.5, "", transform=self.axes.get_xaxis_transform(), color=foreground,
                                      rotation=90, ha="center", va="center", weight="bold")  # fmt: skip

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        times, totals = (np.array(column, dtype=float) for column in zip(*snapshot.flow, strict=True))
        begin, end = min(times[0], times[-1] - 10), max(times[-1], snapshot.flow_end)
        high = totals[-1]
        floor = 0 if totals[0] < 0.3 * high else max(0, totals[0] - 0.06 * (high - totals[0]) - 1)
        x, y = np.append(times, end) / DAY_S, np.append(totals, high)
        self.line.set_data(x, y)
        self.area.set_data(x, floor, y)
        self.total.set_text(brief(snapshot.total))
        self.total.xy = x[-1], high
        self.axes.set(xlim=(begin / DAY_S, x[-1]), ylim=(floor, high + 0.08 * (high - floor)))
        stale, silence = snapshot.status == "STALE", (x[-1] - x[-2]) * DAY_S / (end - begin) * self.axes.bbox.width
        self.silence.set(x=x[-2], width=x[-1] - x[-2], visible=stale)
        self.no_data.set(x=x[-2:].mean(), text="no data" if stale and silence > 0.25 * self.inch else "")
        for at, time, total in zip(x, times, totals, strict=False):
            hint = f"{brief(int(total))} \u00b7 {clock(time, snapshot.now)}"
            self.hints.append(Hint(self.axes, (at, total, at, total), hint))
        reach = f"last {span(max(snapshot.now - times[0], 1))}" if len(times) > 1 else "latest record"
        mean = f"{rate(snapshot.rate, snapshot.roles.records)} mean of 60 s"
        return [reach, mean, self.draw_rates(snapshot, times, totals, begin, end)]

    def draw_rates(self, snapshot: Snapshot, times: Any, totals: Any, begin: float, end: float) -> str:
        """Draw a bar for each step of time; say what they are."""
        least = (end - begin) / self.BARS
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
        return f"bars per {span(step)}, at most {brief(int(counts.max()))}"


class GroupsPanel(Panel):
    """Records per `by` value: the busiest six and all others, with count and share."""

    title = "{record}s by {by}"
    empty = "Needs at least one record"
    margins = (1.4, 1.45, 0.25, 0.8)
    ROWS = TOP + 1

    def build(self) -> None:
        self.axes = self.subplots()
        self.axes.set_axis_off()
        self.bars = self.axes.barh(range(self.ROWS), 0, height=0.62)
        self.counts = self.axes.bar_label(self.bars, padding=5 * self.k, weight="bold")
        across = self.axes.get_yaxis_transform()
        self.names = [self.axes.text(-0.025, row, "", ha="right", va="center_baseline", transform=across)
                      for row in range(self.ROWS)]  # fmt: skip

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        rows = [(plain(name) or "(no name)", count) for name, count in snapshot.groups]
        named, others = len(rows), snapshot.total - sum(count for _, count in rows)
        if others:
            rows.append((f"Other ({brief(snapshot.group_count - named)})", others))
        self.axes.set(xlim=(0, max(count for _, count in rows)), ylim=(max(len(rows), 4) - 0.5, -0.5))
        rows += [("", 0)] * (self.ROWS - len(rows))
        artists = zip(self.bars, self.names, self.counts, rows, strict=True)
        for row, (bar, name, label, (text, count)) in enumerate(artists):
            bar.set(width=count, visible=count > 0, color=self.palette.accent if row < named else self.palette.other)
            fit(name, (self.margins[0] - 0.35) * self.inch, text)
            label.set(text=f"{brief(count)}  {share(count, snapshot.total)}" if count else "")
            label.xy = count, row
            if count:
                hint = f"{text}: {counted(count, snapshot.roles.record)}, {share(count, snapshot.total)}"
                self.hints.append(Hint(self.axes, (0, row - 0.4, count, row + 0.4), hint))
        more = "over " if snapshot.more_groups else ""
        return [more + counted(snapshot.group_count, plain(snapshot.roles.by)),
                counted(snapshot.total, snapshot.roles.record)]  # fmt: skip


class TrendPanel(Panel):
    """The latest values of each `by` value or of all records, with rolling means, zones and anomalies."""

    title = "{value} Trends"
    empty = "{value} appears after the first record"
    margins = (0.85, 1.5, 0.6, 0.8)

    def build(self) -> None:
        axes, k = self.subplots(), self.k
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
        (self.outliers,) = axes.plot([], [], "D", mfc="none", mec=self.palette.negative[0], ms=9 * k, mew=2 * k,
                                     clip_on=False)  # fmt: skip

    def has_data(self, snapshot: Snapshot) -> bool:
        return bool(snapshot.series)

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        shown, roles = snapshot.series, snapshot.roles
        count = max(len(series.values) for series in shown)
        low, high = roles.scale or limits(shown, roles.zones)
        places, pad = decimals(high - low), 0.04 * (high - low)
        bottom, top = low - pad, high + pad
        self.axes.set(xlim=(-1.28 * max(count, 5), 0.6), ylim=(bottom, top))
        each = f", each {plain(roles.by)}" if shown[0].name else ""
        fit(self.axes.xaxis.label, self.axes.bbox.width + 1.2 * self.inch, f"{roles.records} ago{each}")
        if roles.scale:
            self.axes.set_yticks([*roles.scale, *(roles.zones or ())])
        self.draw_zones(snapshot, bottom, top)
        self.draw_series(snapshot, places)
        found = [(x, y) for series in shown for x, y, odd in points(series) if odd]
        self.outliers.set_data([x for x, _ in found], [min(max(y, bottom), top) for _, y in found])
        beyond = [number(y, places) for _, y in found if not bottom <= y <= top]
        self.subtitle.set_color(self.palette.negative[0] if found else self.palette.muted)
        parts = [f"last {count} {roles.records}" if count > 1 else f"first {roles.record}"]
        parts += [f"{counted(len(found), 'anomaly')} marked"] if found else []
        parts += [f"beyond the scale: {beyond[-1]}"] if beyond else []
        return [*parts, f"rolling mean of {snapshot.buffers.rolling}", *([] if found else ["no anomalies"])]

    def draw_zones(self, snapshot: Snapshot, bottom: float, top: float) -> None:
        """Fill below and above the two limits, and write what they are where there is room."""
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

    def draw_series(self, snapshot: Snapshot, places: int) -> None:
        """A line for each series, and in the legend its latest mean and name; for a single one its average too."""
        shown, palette, entries = snapshot.series, self.palette, []
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
            name = (plain(series.name) or "(no name)") if not single else "rolling" if is_mean else "latest"
            entries.append((latest, rolling if single else raw, name))
            for (at, value, odd), time, key in zip(values, series.times, series.keys, strict=True):
                hint = (number(value, places), clock(time, snapshot.now), plain(key))
                self.hints.append(Hint(self.axes, (at, value, at, value), "anomaly: " * odd + " \u00b7 ".join(hint)))
        first = shown[0]
        self.average.set_data(([1 - len(first.values), 0.6], [first.average] * 2) if single else ((), ()))
        entries += [(first.average, self.average, "average")] if single else []
        entries.sort(key=lambda entry: -entry[0])
        legend = self.axes.legend([line for _, line, _ in entries], [""] * len(entries), loc="center left",
                                  bbox_to_anchor=(1, 0.5), handlelength=1, frameon=False)  # fmt: skip
        for text, (value, _, name) in zip(legend.texts, entries, strict=True):
            fit(text, (self.margins[1] - 0.5) * self.inch, f"{number(value, places)} {name}")


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
    margins = (0.75, 0.4, 0.6, 1.2)
    BINS = 16

    def build(self) -> None:
        axes = self.axes = self.subplots()
        palette, k = self.palette, self.k
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        self.sigma = axes.axvspan(0, 1, color=palette.sigma, lw=0, zorder=0)
        self.bars = axes.bar(range(self.BINS), 0, align="edge", alpha=0.77, ec=palette.card)
        styles = ((palette.text, "-", 2.0), (palette.muted, "--", 1.8), (palette.p95, "-", 1.8))
        self.lines = [axes.axvline(0, color=color, ls=ls, lw=lw * k) for color, ls, lw in styles]
        self.legend = axes.legend(self.lines, [""] * 3, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3,
                                  handlelength=1, columnspacing=1.5, frameon=False)  # fmt: skip

    def has_data(self, snapshot: Snapshot) -> bool:
        return snapshot.measures is not None

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        roles, found = snapshot.roles, snapshot.measures
        assert found is not None  # has_data
        edges = bins(found.low, found.high, self.BINS, whole=roles.whole)
        counts, _ = np.histogram(np.clip(snapshot.measured, edges[0], edges[-1]), edges)
        places = 0 if roles.whole else decimals(edges[-1] - edges[0])
        for bar in self.bars:
            bar.set_visible(False)
        for bar, left, right, count in zip(self.bars, edges[:-1], edges[1:], counts, strict=False):
            bar.set(x=left, width=right - left, height=count, visible=count > 0)
            if count:
                inner = 0.5 if roles.whole else 0.0
                hint = f"{between(left + inner, right - inner, places)}: {counted(int(count), roles.record)}"
                self.hints.append(Hint(self.axes, (left, 0, right, count), hint))
        self.axes.xaxis.set_major_locator(MaxNLocator(6, integer=roles.whole))
        pad = 0.05 * (edges[-1] - edges[0])
        self.axes.set(xlim=(edges[0] - pad, edges[-1] + pad), ylim=(0, 1.12 * max(counts)))
        fit(self.axes.xaxis.label, self.axes.bbox.width, roles.unit or plain(roles.histogram))
        self.sigma.set(x=found.mean - found.sigma, width=2 * found.sigma)
        for line, text, name in zip(self.lines, self.legend.texts, ("mean", "median", "p95"), strict=True):
            value = getattr(found, name)
            line.set_xdata([value, value])
            text.set_text(f"{name}\n{number(value, places + roles.whole)}")
        reach = f"{between(found.low, found.high, places)} {roles.unit}".rstrip()
        sigma = f"\u03c3 {number(found.sigma, places + roles.whole)} shaded"
        return [f"last {counted(found.count, roles.record)}", reach, sigma]


def bins(low: float, high: float, most: int, *, whole: bool) -> Any:
    """The edges of at most so many bins of a round width from low to high; of whole numbers they lie between them."""
    locator: Any = MaxNLocator(most - 2, integer=whole, steps=[1, 2, 2.5, 5, 10])
    if whole:
        return locator.tick_values(low, high + 1) - 0.5
    return locator.tick_values(low, high)


def between(low: float, high: float, places: int) -> str:
    """Both ends of a range, or what both are."""
    return "\u2013".join(dict.fromkeys((number(low, places), number(high, places))))


PANELS: tuple[type[Panel], ...] = (FlowPanel, GroupsPanel, TrendPanel, HistogramPanel)
