"""The panels. Artists are made once in `build`; `draw(snapshot)` moves them."""

from collections.abc import Sequence
from datetime import UTC
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from consumers.dashboard.panel import MARKERS, Panel, ThousandsFormatter, fit
from consumers.dashboard.snapshot import MAX_KEYS, TOP, Roles, Snapshot, brief, clock, number, span
from utils.app.cli import counted
from utils.records.instants import local_time

DAY_S = 86_400
STEPS_S = (1, 2, 4, 5, 10, 15, 20, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, DAY_S)


class FlowPanel(Panel):
    """Cumulative total over event time up to `flow_end`, with the record rate below."""

    title = "{record} Flow Over Time"
    empty = "Waiting for the first {record}{why}"
    BARS = 24

    def build(self) -> None:
        self.axes, self.rate_axes = self.area.subplots(2, height_ratios=(4, 1), sharex=True)
        (self.line,) = self.axes.plot([], [], "-o", drawstyle="steps-post", ms=5.5, markevery=[-1], clip_on=False)
        self.below = self.axes.fill_between([0, 1], [0, 1], step="post", color=self.palette.area, alpha=0.6, lw=0)
        look: Any = {"color": "C0", "weight": "bold", "size": "large", "va": "center"}
        self.total = self.axes.annotate("", (0, 0), (8, 0), textcoords="offset points", annotation_clip=False, **look)
        self.bars = self.rate_axes.bar(range(self.BARS + 2), 0, alpha=0.45)
        foreground, background = self.palette.stale
        self.silence = self.axes.axvspan(0, 1, color=background, lw=0)
        self.no_data = self.axes.text(0, 0.5, "no data", transform=self.axes.get_xaxis_transform(), color=foreground,
                                      rotation=90, ha="center", va="center", weight="bold")  # fmt: skip
        self.axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        self.axes.xaxis.set_visible(False)
        self.rate_axes.yaxis.set_visible(False)

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        if not snapshot.flow:
            return ()
        times, totals = np.array(snapshot.flow, dtype=float).T
        begin, end = min(times[0], times[-1] - 10), snapshot.flow_end
        self.draw_total(snapshot, times, totals)
        if self.inner[0] <= 3 or end - begin >= DAY_S:  # few labels: the axis is short, or they have dates
            ticks = np.linspace(begin, end, 2 if self.inner[0] <= 3 else 3)
        else:
            ticks = round_times(begin, end, next(each for each in STEPS_S if 4 * each >= end - begin))
            ticks = ticks[(begin <= ticks) & (ticks <= end)]
        self.axes.set_xlim(begin, end)
        self.rate_axes.set_xticks(ticks, [clock(tick, tick + end - begin) for tick in ticks])
        least_s = (end - begin) / self.BARS
        step_s = next((each for each in STEPS_S if each >= least_s), np.ceil(least_s / DAY_S) * DAY_S)
        edges = round_times(begin, end, step_s)
        # The first point counts as one record: the times of those before it are not known.
        counts, _ = np.histogram(times, edges, weights=np.diff(totals, prepend=totals[0] - 1))
        self.rate_axes.set_ylim(0, max(1, counts.max()))
        record, now = snapshot.roles.record, snapshot.now
        self.draw_bars(self.bars, edges, counts, record, lambda left, _: f"{span(step_s)} from {clock(left, now)}")
        shown = f"bars per {span(step_s)}, at most {brief(int(counts.max()))}"
        return [f"since {clock(times[0], snapshot.now)}", f"{snapshot.rate_text} mean of 60 s", shown]

    def draw_total(self, snapshot: Snapshot, times: Any, totals: Any) -> None:
        """Draw the total up to `flow_end`, and if the stream is stale the time since its last record."""
        last, end, high = times[-1], snapshot.flow_end, totals[-1]
        floor = 0 if totals[0] < 0.3 * high else max(0, totals[0] - 0.06 * (high - totals[0]) - 1)
        x, y = np.append(times, end), np.append(totals, high)
        self.line.set_data(x, y)
        self.below.set_data(x, floor, y)
        self.axes.set_ylim(floor, high + 0.08 * (high - floor))
        self.total.set_text(brief(snapshot.total))
        self.total.xy = end, high
        is_stale = snapshot.status == "STALE"
        self.silence.set(x=last, width=end - last, visible=is_stale)
        self.no_data.set(x=(last + end) / 2, visible=is_stale)
        for time, total in snapshot.flow:
            self.hint(self.axes, time, total, f"{brief(total)} \u00b7 {clock(time, snapshot.now)}")


def round_times(begin: float, end: float, step_s: float) -> Any:
    """Return times in whole steps from local midnight: from `begin` or before it to `end` or after it."""
    zone_s = round(local_time(end).replace(tzinfo=UTC).timestamp() - end)
    return np.arange((begin + zone_s) // step_s, (end + zone_s) // step_s + 2) * step_s - zone_s


class GroupsPanel(Panel):
    """Records per `by` value: the busiest six and all others, with count and share."""

    title = "{record}s by {by}"
    empty = "No {record}s yet"
    margins = (1.4, 1.45, 0.25, 0.8)

    def build(self) -> None:
        self.axes, rows = self.area.subplots(), range(TOP + 1)
        self.axes.set_axis_off()
        self.bars = self.axes.barh(rows, 0, height=0.62)
        self.counts = self.axes.bar_label(self.bars, padding=5, weight="bold")
        left: Any = {"ha": "right", "va": "center_baseline", "transform": self.axes.get_yaxis_transform()}
        self.names = [self.axes.text(-0.025, row, "", **left) for row in rows]

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        record, total = snapshot.roles.record, snapshot.total
        if not total:
            return ()
        rows = [(name, count, "C0") for name, count in snapshot.groups]
        if others := total - sum(count for _, count in snapshot.groups):
            rows.append((f"Other ({brief(snapshot.group_count - len(rows))})", others, self.palette.other))
        self.axes.set(xlim=(0, max(count for _, count, _ in rows)), ylim=(max(len(rows), 4) - 0.5, -0.5))
        rows += [("", 0, "none")] * (len(self.names) - len(rows))
        artists = zip(self.bars, self.names, self.counts, rows, strict=True)
        for row, (bar, name, label, (text, count, color)) in enumerate(artists):
            bar.set(width=count, color=color)
            fit(name, self.margins[0] - 0.35, text)
            # A no-break space, because browsers join two spaces.
            label.set_text(f"{brief(count)} \u00a0{count / total:.0%}" if count else "")
            label.xy = count, row
            if count:
                hint = f"{text}: {counted(count, record)}, {count / total:.0%}"
                self.hint(self.axes, 0, row - 0.4, hint, count, row + 0.4)
                self.details.append(hint)
        more = "at least " if snapshot.group_count == MAX_KEYS else ""
        return [more + counted(snapshot.group_count, snapshot.roles.by), counted(total, record)]


class TrendPanel(Panel):
    """The latest values of each `by` value or of all records, with rolling means, zones and anomalies."""

    title = "{value} Trends"
    empty = "No {value} yet"
    margins = (0.85, 1.5, 0.6, 0.8)
    margins_narrow = (0.85, 0.3, 1.35, 0.8)  # the legend is below

    def build(self) -> None:
        axes = self.axes = self.area.subplots()
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda x, _: f"{-x:g}" if x else "now")
        across: Any = {"transform": axes.get_yaxis_transform(), "size": "small", "weight": "bold", "va": "center"}
        self.zones = [(axes.axhspan(0, 1, lw=0, zorder=0), axes.text(0.02, 0, "", **across)) for _ in range(3)]
        self.raw = [axes.plot([], [], marker, ls="-", lw=0.9, alpha=0.6)[0] for marker in MARKERS]
        self.rolling = [axes.plot([], [], lw=2.6)[0] for _ in MARKERS]
        (self.average,) = axes.plot([], [], "--", color=self.palette.text, lw=1.3)
        (self.outliers,) = axes.plot([], [], "D", mfc="none", mec=self.palette.negative[0], ms=9, mew=2, clip_on=False)

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        if not snapshot.series:
            return ()
        low, high = self.value_range(snapshot)
        extent, bottom, top = high - low, low - 0.04 * (high - low), high + 0.04 * (high - low)
        self.draw_axes(snapshot, bottom, top)
        self.draw_zones(snapshot.roles, bottom, top)
        found = self.draw_lines(snapshot, extent)
        self.outliers.set_data([x for x, _ in found], np.clip([y for _, y in found], bottom, top))
        self.subtitle.set_color(self.palette.negative[0] if found else self.palette.muted)
        count = max(len(series.values) for series in snapshot.series)
        last, mean = f"last {counted(count, snapshot.roles.record)}", f"rolling mean of {snapshot.buffers.rolling}"
        if not found:
            return [last, mean, "no anomalies"]
        return [last, f"{counted(len(found), 'anomaly')}, the latest {number(max(found)[1], extent)}", mean]

    def value_range(self, snapshot: Snapshot) -> tuple[float, float]:
        """Return the range to show. Anomalies are at its edge, because a range with them would flatten the lines."""
        if snapshot.roles.scale:
            return snapshot.roles.scale
        pairs = [pair for series in snapshot.series for pair in zip(series.values, series.anomalies, strict=True)]
        values = [value for value, odd in pairs if not odd] or [value for value, _ in pairs]
        values += [mean for series in snapshot.series if not any(series.anomalies) for mean in series.rolling]
        low, high = self.axes.yaxis.get_major_locator().nonsingular(min(values), max(values))
        near = [zone for zone in snapshot.roles.zones or () if 1.5 * low - 0.5 * high <= zone <= 1.5 * high - 0.5 * low]
        return min([low, *near]), max([high, *near])

    def draw_axes(self, snapshot: Snapshot, bottom: float, top: float) -> None:
        """Set limits, ticks and label of the axes, with room for the names of zones before the values."""
        shown, roles = snapshot.series, snapshot.roles
        count = max(len(series.values) for series in shown)
        before = min(0.9 / self.inner[0], 0.5) if roles.zones else 0.03  # share of the width
        self.axes.set(xlim=(-max(count, 5) / (1 - before), 0.6), ylim=(bottom, top))
        self.axes.set_xticks(np.unique(np.linspace(-count, 0, 4).round()))
        marks = sorted({*(roles.scale or ()), *(roles.zones or ())})
        if roles.scale and (marks[0], marks[-1]) == roles.scale and np.diff(marks).min() > 0.1:
            self.axes.set_yticks(marks)
        self.axes.set_xlabel(f"{roles.record}s ago{', each line' if shown[0].name else ''}")

    def draw_zones(self, roles: Roles, bottom: float, top: float) -> None:
        """Fill the zones below, between and above the two limits, and name them where there is room."""
        lower, upper = roles.zones or (bottom, top)
        names, above = (f"BELOW {lower:g}", "", f"ABOVE {upper:g}"), self.palette.negative
        if roles.scale:  # of sentiment, where higher is better
            names, above = ("NEGATIVE", "NEUTRAL", "POSITIVE"), self.palette.positive
        colors = self.palette.negative, (self.palette.muted, "none"), above
        least = 0.17 / self.inner[1] * (top - bottom)
        edges = np.clip([bottom, lower, upper, top], bottom, top)
        bands = zip(self.zones, names, colors, edges, edges[1:], strict=False)
        for (zone, text), name, (foreground, background), low, high in bands:
            zone.set(y=low, height=high - low, facecolor=background)
            text.set(y=(low + high) / 2, text=name if high - low > least else "", color=foreground)

    def draw_lines(self, snapshot: Snapshot, extent: float) -> list[tuple[int, float]]:
        """Draw each series; a single one is grey, with its average. Return the points of the anomalies."""
        shown, palette, found = snapshot.series, self.palette, list[tuple[int, float]]()
        single = not shown[0].name
        for line in (*self.raw, *self.rolling, self.average):
            line.set_data((), ())
        entries = list[tuple[float, Line2D, str]]()  # of the legend
        for series, raw, rolling in zip(shown, self.raw, self.rolling, strict=False):
            x = range(1 - len(series.values), 1)
            raw.set(data=(x, series.values), color=palette.raw if single else rolling.get_color())
            rolling.set_data(x, series.rolling)
            entries.append((series.rolling[-1], rolling if single else raw, series.name or "rolling"))
            values = zip(x, series.values, series.times, series.keys, series.anomalies, strict=True)
            for ago, value, time, key, odd in values:
                hint = f"{number(value, extent)} \u00b7 {clock(time, snapshot.now)} \u00b7 {key}"
                if odd:
                    hint = f"anomaly: {hint}"
                    found.append((ago, value))
                    self.details.append(hint)
                self.hint(self.axes, ago, value, hint)
        if single:
            average = float(np.mean(shown[0].values))
            self.average.set_data([1 - len(shown[0].values), 0.6], [average, average])
            entries.append((average, self.average, "average"))
        entries.sort(key=lambda entry: -entry[0])
        below: Any = {"loc": "upper center", "bbox_to_anchor": (0.42, -0.46 / self.inner[1]), "ncols": 2}
        place: Any = below if self.narrow else {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        legend = self.axes.legend([line for _, line, _ in entries], [""] * len(entries), columnspacing=1, **place)
        for text, (value, _, name) in zip(legend.texts, entries, strict=True):
            self.details.append(f"{number(value, extent)} {name}")
            fit(text, 1.0, self.details[-1])
        return found


class HistogramPanel(Panel):
    """Histogram of the latest values with mean, median, 95th percentile and one standard deviation."""

    title = "{histogram} Analysis"
    empty = "No {histogram} yet"
    margins = (0.75, 0.4, 0.6, 1.2)
    BINS = 16

    def build(self) -> None:
        self.axes, palette = self.area.subplots(), self.palette
        self.axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        self.axes.xaxis.set_major_formatter(ThousandsFormatter())
        self.sigma = self.axes.axvspan(0, 1, color=palette.sigma, lw=0, zorder=0)
        self.bars = self.axes.bar(range(self.BINS + 2), 0, alpha=0.77)
        looks = ((palette.text, "-", 2.0), (palette.muted, "--", 1.8), (palette.p95, "-", 1.8))
        self.lines = [self.axes.axvline(0, color=color, ls=ls, lw=lw) for color, ls, lw in looks]
        place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 3}
        place |= {"columnspacing": 0.9, "handletextpad": 0.5}  # room for three long numbers
        self.legend = self.axes.legend(self.lines, [""] * 3, **place)

    def draw(self, snapshot: Snapshot) -> Sequence[str]:
        roles, found = snapshot.roles, snapshot.measures
        if not found:
            return ()
        # Whole numbers have their edges halfway between them.
        locator: Any = MaxNLocator(self.BINS - 2, integer=roles.whole, steps=[1, 2, 2.5, 5, 10])
        edges = locator.tick_values(*locator.nonsingular(found.low, found.high + roles.whole)) - 0.5 * roles.whole
        counts, _ = np.histogram(np.clip(snapshot.measured, edges[0], edges[-1]), edges)
        width = edges[-1] - edges[0]
        self.draw_bars(
            self.bars, edges, counts, roles.record, lambda *ends: " to ".join(number(x, width) for x in ends)
        )
        self.axes.xaxis.set_major_locator(MaxNLocator(6, integer=roles.whole, min_n_ticks=1))
        self.axes.set(xlim=(edges[0] - 0.05 * width, edges[-1] + 0.05 * width), ylim=(0, 1.12 * max(counts)))
        fit(self.axes.xaxis.label, self.inner[0], roles.unit or roles.histogram)
        self.sigma.set(x=found.mean - found.sigma, width=2 * found.sigma)
        for line, text, name in zip(self.lines, self.legend.texts, ("mean", "median", "p95"), strict=True):
            value = getattr(found, name)
            line.set_xdata([value, value])
            text.set_text(f"{name}\n{number(value, width)}")
            self.details.append(f"{name} {number(value, width)}")
        low, high = (number(each, 100 if roles.whole else width) for each in (found.low, found.high))
        reach = f"{low}\u2013{high} {roles.unit}".rstrip()
        return [f"last {counted(found.count, roles.record)}", reach, f"\u03c3 {number(found.sigma, width)} shaded"]


PANELS: tuple[type[Panel], ...] = (FlowPanel, GroupsPanel, TrendPanel, HistogramPanel)
