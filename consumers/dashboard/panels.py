"""The four panels: artists are made once and moved for each snapshot."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.transforms import blended_transform_factory

from consumers.dashboard import stats, theme, words
from consumers.dashboard.ink import Labels, Plot, boxes
from consumers.dashboard.panel import Panel
from consumers.dashboard.state import ANALYSIS, AUTO, Snapshot
from consumers.dashboard.theme import Rect
from utils.records.sentiment import NEGATIVE_BELOW, POSITIVE_ABOVE


class FlowPanel(Panel):
    """The true total over event time up to now, and how many messages came per step of time."""

    title = "Message Flow Over Time"
    margins = (0.62, 0.70, 1.0, 0.34)
    SHORTEN = 1.5  # a silence of this many times the data's span is shortened, so that the data stays readable

    def build(self) -> None:
        colours, main = self.colours, self.plot
        self._rates = Plot(self.ink, self.rect)
        self.plots.append(self._rates)
        self._area = main.bars(colours.area, alpha=0.6)
        self._silence = [plot.region(colours.stale_ground, zorder=1) for plot in self.plots]
        self._bars = self._rates.bars(colours.bars)
        self.steps = main.line(colours.accent, 2, drawstyle="steps-post", solid_joinstyle="miter", zorder=3)
        self._end = main.line(colours.accent, 0, marker="o", ms=5.5 * self.k, mew=0, clip_on=False, zorder=4)
        side: dict[str, Any] = {"dx": 0.085, "dy": 0.015, "ha": "left", "bold": True}
        self._total = main.labels(main.across, theme.LABEL + 1, colours.accent, **side)
        scale: dict[str, Any] = {"dx": 0.065, "ha": "left", "linespacing": 1.1}
        self._scale = self._rates.labels(self._rates.axes.transAxes, theme.TICK, colours.muted, **scale)
        upright: dict[str, Any] = {"ha": "center", "rotation": 90, "bold": True}
        self._no_data = main.labels(main.up, theme.SUBTITLE, colours.stale, **upright)

    def notice(self, snapshot: Snapshot) -> str:
        watched = words.plain(snapshot.detail) or words.source(snapshot)
        if snapshot.source == AUTO:
            watched = "Kafka, the live file, SQLite and DuckDB"
        start = "Start a producer in another terminal:\npython -m producers.ragini_producer"
        return f"Waiting for the first message\u2026\nWatching {watched}\n\n{start}"

    def draw(self, snapshot: Snapshot) -> None:
        times = np.array([at for at, _ in snapshot.flow])
        totals = np.array([total for _, total in snapshot.flow], dtype=float)
        now, last, low, high = snapshot.now, float(times[-1]), totals[0], totals[-1]
        begin = min(float(times[0]), (now if now - last < 60 else last) - 10.0)
        stale = snapshot.status == "STALE"
        shortened = stale and now - last > max(self.SHORTEN * (last - begin), 60.0)
        end = last + 0.25 * (last - begin) if shortened else max(now, last)
        known_end = last if shortened else end
        scale = self._draw_rates(times, totals, begin, end)

        floor = 0.0 if low < 0.3 * high else max(low - ((high - low) * 0.06 or 1.0), 0.0)
        ticks = [(tick, words.whole(tick)) for tick in stats.y_ticks(floor, high)]
        self._place(max((name for _, name in ticks), key=len, default=""), words.whole(high), scale)
        self.plot.y_ticks(ticks)
        self.plot.axes.set(xlim=(begin, end), ylim=(floor, high + (high - floor) * 0.08))
        self._rates.axes.set(xlim=(begin, end), ylim=(0, 1))

        xs, ys = np.append(times, end), np.append(totals, high)
        self.steps.set_data(xs, ys)
        self._end.set_data([end], [high])
        self._total.show([(1.0, high, words.whole(high))])
        stepped = np.column_stack([np.repeat(xs, 2)[1:], np.repeat(ys, 2)[:-1]])
        self._area.set_verts([np.vstack([(xs[0], floor), stepped, (xs[-1], floor)])])

        per_inch = self.plot.rect.w / (end - begin)
        for region in self._silence:
            region.set(visible=stale, x=last, width=end - last)
        silence = f"no data\nfor {words.span(snapshot.idle_s)}" if shortened else "no data"
        wide = stale and (end - last) * per_inch > 0.2 * self.k
        self._no_data.show([((last + end) / 2, 0.5, silence)] if wide else [])
        self._scale.show([(1.0, 0.5, "\n".join(scale))])
        most = min(4, max(2, int(self.plot.rect.w / (0.8 * self.k))))
        time_ticks = stats.time_ticks(begin, known_end, most)
        if shortened:
            room = self.plot.tick_width("00:00:00")
            time_ticks = [(at, name) for at, name in time_ticks if (end - at) * per_inch > room] + [(end, "now")]
        self._rates.x_ticks(time_ticks)

        reach = f"last {len(times)} messages"
        if len(times) == 1:
            reach = "latest message"
        elif high - low > len(times) - 1:  # points were merged
            reach = f"last {words.span(max(now - times[0], 1.0))}"
        self.subtitle(f"cumulative total, {reach}", f"{words.rate(snapshot.rate)} over the last minute")

    def _place(self, widest_tick: str, total: str, scale: Sequence[str]) -> None:
        """Make room for the labels at both sides."""
        k, ink, (left, top, right, bottom) = self.k, self.ink, self.margins
        left = max(left * k, self.plot.tick_width(widest_tick) + 0.3 * k)
        labels = [ink.width(total, theme.LABEL + 1, True), *(ink.width(line, theme.TICK) for line in scale)]
        inside = self.rect.inset(left, top * k, max(right * k, max(labels) + 0.3 * k), bottom * k)
        bars, gap = min(0.34 * k, inside.h * 0.25), 0.04 * k
        self._rates.place(Rect(inside.x, inside.y, inside.w, bars))
        self.plot.place(inside.inset(0, 0, 0, bars + gap))

    def _draw_rates(self, times: Any, totals: Any, begin: float, end: float) -> Sequence[str]:
        """Draw a bar for each step of time up to the last message; what a step and the highest bar stand for."""
        step = stats.time_step(float(times[-1]) - begin, min(max(int(self.rect.w / (0.2 * self.k)) - 8, 4), 26))
        first, last = begin // step, times[-1] // step
        edges = np.arange(first, last + 2) * step
        # The first point stands for itself only: what came before it is not known in time.
        known = np.append(totals[0] - 1, totals)
        counts = np.diff(known[np.searchsorted(times, edges, side="left")])
        most = max(float(counts.max()), 1.0)
        gap = step * 0.09
        bars = []
        for x, count in zip(edges[:-1], counts, strict=True):
            if count and (x >= begin or totals[0] == 1):
                left, right = min(max(x + gap, begin), end - gap), max(min(x + step - gap, end), begin + gap)
                bars.append((left, right, 0.0, count / most))
        self._bars.set_verts(boxes(bars))
        return f"per {words.span(step)}", f"max {words.whole(most)}"


class AuthorsPanel(Panel):
    """Who wrote how much: the six busiest and all others, with their shares."""

    title = "Messages by Author"
    empty = "No authors yet"
    SIZE = theme.TICK + 1

    def build(self) -> None:
        colours, plot = self.colours, self.plot
        self.bars = plot.bars(colours.accent)
        data = plot.axes.transData
        from_left = blended_transform_factory(plot.axes.transAxes, data)
        self._names = plot.labels(from_left, self.SIZE, colours.ink, dx=-0.08, ha="right")
        self._other = plot.labels(from_left, self.SIZE, colours.muted, dx=-0.08, ha="right")
        self._counts = plot.labels(data, self.SIZE, colours.ink, dx=0.055, ha="left", bold=True)
        in_card = blended_transform_factory(self.ink.inches, data)
        self._shares = plot.labels(in_card, theme.TICK + 0.5, colours.muted, ha="right")

    def draw(self, snapshot: Snapshot) -> None:
        k, ink, total = self.k, self.ink, snapshot.total
        rows = [(words.display_name(author), count) for author, count in snapshot.authors]
        named, rest = len(rows), total - sum(count for _, count in rows)
        plus = "+" if snapshot.more_authors else ""
        if rest:
            rows.append((f"Other ({snapshot.author_count - named:,}{plus})", rest))
        left = min(max(max(ink.width(name, self.SIZE) for name, _ in rows) + 0.28 * k, 0.9 * k), self.rect.w * 0.4)
        right = max(ink.width(words.whole(count), self.SIZE, True) for _, count in rows) + 0.825 * k
        inside = self.rect.inset(left, 0.69 * k, right, 0.18 * k)
        pitch = min(0.42 * k, inside.h / len(rows))
        ys = [(index + 0.5) * pitch for index in range(len(rows))]
        half = min(0.31 * pitch, 0.13 * k)
        self.plot.place(inside)
        self.plot.axes.set(xlim=(0, max(count for _, count in rows)), ylim=(inside.h, 0))
        placed = [
            (y, ink.fit(name, left - 0.28 * k, self.SIZE), count) for y, (name, count) in zip(ys, rows, strict=True)
        ]
        self.bars.set_verts(boxes((0, count, y - half, y + half) for y, _, count in placed))
        self.bars.set_facecolor([self.colours.accent] * named + [self.colours.other] * (len(rows) - named))
        self._names.show([(0.0, y, name) for y, name, _ in placed[:named]])
        self._other.show([(0.0, y, name) for y, name, _ in placed[named:]])
        self._counts.show([(count, y, words.whole(count)) for y, _, count in placed])
        self._shares.show([(self.rect.right - 0.25 * k, y, words.share(count, total)) for y, _, count in placed])
        authors = "1 author" if snapshot.author_count == 1 else f"{snapshot.author_count:,}{plus} authors"
        self.subtitle(authors, "1 message" if total == 1 else f"{words.whole(total)} messages", "share at right")


class SentimentPanel(Panel):
    """The latest sentiments between zones, their rolling mean and average, and what stands out."""

    title = "Sentiment Trends"
    empty = "Sentiment appears after the first message"
    margins = (0.5, 0.68, 1.12, 0.5)
    LOW, HIGH = -0.03, 1.03

    def build(self) -> None:
        k, colours, plot = self.k, self.colours, self.plot
        size, inside = theme.TILE_LABEL - 0.5, plot.rect
        for low, high, colour, middle, name, ink in (
            (self.LOW, NEGATIVE_BELOW, colours.negative_zone, NEGATIVE_BELOW / 2, "NEGATIVE", colours.negative),
            (NEGATIVE_BELOW, POSITIVE_ABOVE, colours.card, 0.5, "NEUTRAL", colours.muted),
            (POSITIVE_ABOVE, self.HIGH, colours.positive_zone, (1 + POSITIVE_ABOVE) / 2, "POSITIVE", colours.positive),
        ):
            plot.region(colour, transform=plot.across, zorder=-1).set_bounds(0, low, 1, high - low)
            plot.labels(plot.across, size, ink, dx=0.05, bold=True).show([(0, middle, name)])
        plot.y_ticks([(0, "0"), (0.3, "0.3"), (0.7, "0.7"), (1, "1")], grid=(NEGATIVE_BELOW, POSITIVE_ABOVE))
        plot.x_ticks([(-ago, str(ago) if ago else "now") for ago in range(0, ANALYSIS, 5)], "messages ago")
        # Room for the zones' names left of the oldest point, whatever the width of the panel.
        names = min((self.ink.width("NEGATIVE", size, True) + 0.13 * k) / inside.w, 0.9)
        oldest = 1 - ANALYSIS
        plot.axes.set(xlim=(oldest - names * (0.6 - oldest) / (1 - names), 0.6), ylim=(self.LOW, self.HIGH))
        self._bands = plot.bars(colours.negative, alpha=0.14)
        self.raw = plot.line(colours.raw, 0.9, marker="o", ms=4 * k, mec=colours.card, mew=0.6 * k)
        self._average = plot.line(colours.ink, 1.3, dashes=(4, 2.2))
        self._rolling = plot.line(colours.accent, 2.6, solid_joinstyle="round", zorder=3)
        diamond: dict[str, Any] = {"marker": "D", "ms": 9.5 * k, "mfc": "none", "mew": 2 * k, "clip_on": False}
        self._odd = plot.line(colours.negative, 0, zorder=4, **diamond)
        self._average_label = plot.labels(plot.across, theme.LABEL, colours.ink, dx=0.08, ha="left")
        self._rolling_label = plot.labels(plot.across, theme.LABEL, colours.accent, dx=0.08, ha="left", bold=True)

    def has_data(self, snapshot: Snapshot) -> bool:
        return bool(snapshot.sentiments)

    def draw(self, snapshot: Snapshot) -> None:
        values = np.array(snapshot.sentiments[-ANALYSIS:])
        xs = np.arange(1 - len(values), 1)
        odd = stats.anomalies(snapshot.sentiments, ANALYSIS)
        rolling = stats.rolling_mean(snapshot.sentiments)[-len(values) :]
        average = float(values.mean())
        self.raw.set_data(xs, values)
        self._rolling.set_data(xs, rolling)
        self._average.set_data([min(xs[0], -0.6), 0.6], [average, average])
        self._odd.set_data(xs[odd], values[odd])
        self._bands.set_verts(boxes((x - 0.5, x + 0.5, self.LOW, self.HIGH) for x in xs[odd]))
        labels = [(self._average_label, average, f"average {average:.2f}")]
        if np.isnan(rolling[-1]):
            self._rolling_label.show([])
        else:
            labels.append((self._rolling_label, float(rolling[-1]), f"rolling {rolling[-1]:.2f}"))
        height = 0.19 * self.k / self.plot.rect.h * (self.HIGH - self.LOW)
        ys = stats.spread([value for _, value, _ in labels], [height] * len(labels), self.LOW, self.HIGH, 0.0)
        for (label, _, text), y in zip(labels, ys, strict=True):
            label.show([(1.0, y, text)])
        shown, found = words.latest(len(values)), int(odd.sum())
        if found:
            marked = f"{found} anomal{'y' if found == 1 else 'ies'} marked"
            self.subtitle(shown, marked, f"rolling mean of {stats.ROLLING}", colour=self.colours.negative)
        else:
            self.subtitle(shown, f"rolling mean of {stats.ROLLING}", "no anomalies")


class LengthPanel(Panel):
    """How long the latest messages are: a histogram of whole characters with its statistics."""

    title = "Message Length Analysis"
    empty = "Needs at least one message"
    margins = (0.5, 0.9, 0.35, 0.5)
    BAND = ("mean \u00b1 1\u03c3", "\u00b1 1\u03c3")

    def build(self) -> None:
        colours, plot = self.colours, self.plot
        self._band = plot.region(colours.sigma, zorder=-1)
        self.bars = plot.bars(colours.accent, alpha=0.77)
        over = blended_transform_factory(self.ink.inches, plot.axes.transAxes)
        styles: Sequence[tuple[str, float, Any]] = (
            (colours.ink, 2.0, "-"),
            (colours.muted, 1.8, (0, (3, 2))),
            (colours.p95, 1.8, "-"),
        )
        self._lines = [
            plot.line(colour, width, ls=style, transform=plot.up, zorder=3) for colour, width, style in styles
        ]
        self._labels: list[Labels] = [
            plot.labels(over, theme.LABEL, colour, dy=0.06, ha="center", bold=True) for colour, _, _ in styles
        ]
        self._band_label = plot.labels(plot.up, theme.TICK - 0.5, colours.muted, dx=0.04, dy=-0.09, ha="left")

    def draw(self, snapshot: Snapshot) -> None:
        k, ink, inside = self.k, self.ink, self.plot.rect
        found, low, high = stats.summary(snapshot.lengths), min(snapshot.lengths), max(snapshot.lengths)
        first, width, counts = stats.histogram(snapshot.lengths)
        left, right = first - 0.5, first + len(counts) * width - 0.5
        pad = max((right - left) * 0.05, 0.5 * width, (6.0 - (right - left)) / 2, high * 1e-6)
        left, right = left - pad, right + pad
        per_inch = inside.w / (right - left)
        self.plot.axes.set(xlim=(left, right), ylim=(0, max(counts) * 1.22))
        self.plot.y_ticks([(tick, words.whole(tick)) for tick in stats.y_ticks(0, max(counts))])
        room = self.plot.tick_width(words.whole(round(right))) + 0.15 * k
        ticks = stats.whole_ticks(max(left, 0), right, max(1, min(7, int(inside.w / room))))
        self.plot.x_ticks([(tick, words.whole(tick)) for tick in ticks], "characters")
        gap = 0.007 * k / per_inch
        edges = [(first - 0.5 + index * width, count) for index, count in enumerate(counts) if count]
        self.bars.set_verts(boxes((x + gap, x + width - gap, 0, count) for x, count in edges))

        marks = (found.mean, found.median, found.p95)
        measures = (words.measure(found.mean), words.measure(found.median, 0), words.measure(found.p95, 0))
        texts = [f"{name} {measure}" for name, measure in zip(("mean", "median", "p95"), measures, strict=True)]
        centres = [inside.x + (mark - left) * per_inch for mark in marks]
        widths = [ink.width(text, theme.LABEL, True) for text in texts]
        edge = 0.12 * k
        placed = stats.spread(centres, widths, self.rect.x + edge, self.rect.right - edge, edge)
        for line, label, mark, x, text in zip(self._lines, self._labels, marks, placed, texts, strict=True):
            line.set_data([mark, mark], [0, 1])
            label.show([(x, 1.0, text)])
        begin, end = max(found.mean - found.sigma, left), min(found.mean + found.sigma, right)
        self._band.set(x=begin, width=end - begin)
        stops = sorted((begin, *(mark for mark in marks if begin < mark < end), end))
        start, stop = max(pairwise(stops), key=lambda gap: gap[1] - gap[0])
        room = (stop - start) * per_inch - 0.1 * k
        fitting = [text for text in self.BAND if ink.width(text, theme.TICK - 0.5) < room]
        self._band_label.show([(start, 1.0, text) for text in fitting[:1]])

        reach = words.whole(low) + (f"\u2013{words.whole(high)}" if high > low else "")
        shown, sigma = words.latest(len(snapshot.lengths)), f"\u03c3 {words.measure(found.sigma)}"
        self.subtitle(shown, f"{reach} characters", sigma)


PANELS = (FlowPanel, AuthorsPanel, SentimentPanel, LengthPanel)
