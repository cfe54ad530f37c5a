"""Measurements of `scripts.bench dashboard`: a frame beside clear-and-replot, SVG beside PNG."""

import random
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from statistics import mean, median

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from consumers.dashboard.figure import Dashboard
from consumers.dashboard.options import DPI
from consumers.dashboard.panel import palette_of
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from producers.ragini_producer import messages
from utils.records.instants import instant_text
from utils.records.stream import BUZZ
from utils.sources.base import Chunk

LIGHT = palette_of("light")


class Stream:
    """Messages with a simulated clock, so that a day passes as fast as the machine can draw it."""

    def __init__(self, seed: int = 1) -> None:
        self.now = datetime(2026, 1, 5, 8).timestamp()
        self.state = State(BUZZ, "file", clock=lambda: self.now)
        self.state.go_live()
        self._made = messages("steady", random.Random(seed))
        self._sequence = 0

    def step(self, seconds: float, count: int) -> Snapshot:
        """Let time pass, add messages, and return the snapshot."""
        self.now += seconds
        stamp, made = instant_text(round(self.now * 1000) * 1000), [next(self._made)[1] for _ in range(count)]
        for message in made:
            self._sequence += 1
            message.timestamp, message.producer_id, message.sequence = stamp, "ann-1", self._sequence
        for place in range(0, count, 2000):
            self.state.add(Chunk("f", "1", "1", made[place : place + 2000]))
        return self.state.snapshot()


def replot(figure: Figure, snapshot: Snapshot) -> None:
    """Draw a frame as the predecessor does: clear all axes, plot the same data again, run a layout engine."""
    figure.clear()
    flow, groups, trend, histogram = figure.subplots(2, 2).flat
    (series,) = snapshot.series
    times, totals = zip(*snapshot.flow, strict=True)
    flow.step([datetime.fromtimestamp(at) for at in times], totals, where="post", color="#0072B2")
    flow.tick_params(axis="x", rotation=45)
    names, counts = zip(*snapshot.groups, strict=True)
    for bar, count in zip(groups.bar(names, counts, color="#0072B2"), counts, strict=True):
        groups.text(bar.get_x() + bar.get_width() / 2, count, str(count), ha="center", va="bottom")
    trend.axhspan(0, 0.3, color=LIGHT.negative[1])
    trend.axhspan(0.7, 1, color=LIGHT.positive[1])
    trend.plot(series.values, "o-", color=LIGHT.raw)
    trend.plot(series.rolling, color="#0072B2", label="rolling")
    trend.axhline(mean(series.values), ls="--", color=LIGHT.text, label="average")
    assert snapshot.measures is not None
    histogram.hist(snapshot.measured, bins=15, color="#0072B2", edgecolor="white")
    for name, color in (("mean", LIGHT.text), ("median", LIGHT.muted), ("p95", LIGHT.p95)):
        value = getattr(snapshot.measures, name)
        histogram.axvline(value, color=color, label=f"{name} {value:.1f}")
    titles = ("Message Flow Over Time", "Messages by Author", "Sentiment Trends", "Message Length Analysis")
    for axes, title in zip((flow, groups, trend, histogram), titles, strict=True):
        axes.set_title(title)
        axes.grid(True, alpha=0.3)
    trend.legend()
    histogram.legend()
    figure.suptitle(f"Streaming Dashboard: {snapshot.total} messages")
    figure.tight_layout()
    figure.canvas.draw()


def redraw(drawing: Dashboard, snapshot: Snapshot) -> None:
    """Draw a frame as the window does, in the style of the dashboard, which `replot` must not have."""
    with mpl.rc_context():
        drawing.update(snapshot)
        drawing.figure.canvas.draw()


def milliseconds(stream: Stream, frames: int, *draws: Callable[[Snapshot], object]) -> list[float]:
    """Return for each way to draw the median processor time of a frame. They take turns, with new data each time."""
    taken: list[list[float]] = [[] for _ in draws]
    stream.step(2.0, 500)
    for _ in range(frames):
        snapshot = stream.step(2.0, 3)
        for draw, times in zip(draws, taken, strict=True):
            begun = time.process_time()  # without the time of other processes
            draw(snapshot)
            times.append((time.process_time() - begun) * 1000)
    return [median(times[frames // 8 :]) for times in taken]


def compare_frames(size: tuple[float, float], frames: int = 40) -> list[float]:
    """Return the milliseconds of a frame that the dashboard draws, and that is cleared and plotted again."""
    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)
    with mpl.rc_context():  # `replot` must not have its style
        drawing = Dashboard("light", size=size)
    return milliseconds(Stream(), frames, partial(redraw, drawing), partial(replot, figure))


def compare_formats(frames: int = 40) -> list[float]:
    """Return the milliseconds of a frame as SVG and as PNG."""
    drawing = Dashboard("light")
    return milliseconds(Stream(), frames, drawing.svg, drawing.image)
