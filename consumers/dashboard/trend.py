"""The panel of the values: a line for each series, with rolling means, zones and anomalies."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from consumers.dashboard.fitting import fit, spread, width_of
from consumers.dashboard.formatting import clock, counted, decimals, number, plain
from consumers.dashboard.panel import Hint, Panel
from consumers.dashboard.snapshot import Series, Snapshot
from consumers.dashboard.theme import MARKERS


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
        fit(self.axes.xaxis.label, f"{roles.records} ago{each}", self.axes.bbox.width + 1.2 * self.inch)
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
                hint = (number(value, places), clock(time, snapshot.now), plain(key))
                self.hints.append(Hint(self.axes, (at, value, at, value), "anomaly: " * odd + " \u00b7 ".join(hint)))
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
