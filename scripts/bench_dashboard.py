"""Measure the dashboard: a frame beside clear-and-replot of the same data, idling, the state, and a day of frames.

python scripts/bench_dashboard.py                       frame cost, idle cost, state throughput (about a minute)
python scripts/bench_dashboard.py --soak                43,200 frames with 10 million messages
python scripts/bench_dashboard.py --soak --frames 2000  a shorter day
"""

import argparse
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from consumers.dashboard import outputs, picture, render, stats
from consumers.dashboard.state import Snapshot, State
from consumers.dashboard.theme import DEFAULT_SIZE, DPI, THEMES
from utils.app.config import PROJECT_DIR
from utils.records.codec import instant_text
from utils.records.record import Message
from utils.sources.base import Chunk

IDLE_S = 60.0
LIGHT = THEMES["light"]


class Stream:
    """Messages on a clock of its own, so that a day passes as fast as the machine can draw it."""

    def __init__(self, seed: int = 1) -> None:
        self.now = datetime(2026, 1, 5, 8).timestamp()
        self.state = State("file", "data/project_live.json", clock=lambda: self.now)
        self.state.healthy(caught_up=True)
        self._rng = random.Random(seed)
        self._sequence = 0

    def messages(self, count: int) -> list[Message]:
        rng, names = self._rng, ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus"]
        stamp = instant_text(round(self.now * 1000) * 1000)
        made = []
        for _ in range(count):
            self._sequence += 1
            made.append(
                Message(
                    timestamp=stamp,
                    producer_id="ann-1",
                    sequence=self._sequence,
                    message="x",
                    author=rng.choice(names),
                    category="c",
                    sentiment=rng.random(),
                    keyword_mentioned="k",
                    message_length=rng.randint(10, 80),
                )
            )
        return made

    def step(self, seconds: float, count: int) -> Snapshot:
        self.now += seconds
        messages = self.messages(count)
        for place in range(0, count, 2000):
            self.state.add(Chunk("f", "1", "1", messages[place : place + 2000]))
        return self.state.snapshot()


def replot(figure: Figure, snapshot: Snapshot) -> None:
    """One frame in the predecessor's way: clear all axes, plot the same data again, let a layout engine work."""
    figure.clear()
    flow, authors, sentiment, length = figure.subplots(2, 2).flat
    times = [datetime.fromtimestamp(at) for at, _ in snapshot.flow]
    flow.step(times, [total for _, total in snapshot.flow], where="post", color=LIGHT.accent)
    flow.set_title("Message Flow Over Time")
    flow.tick_params(axis="x", rotation=45)
    flow.grid(True, alpha=0.3)
    names, counts = [name for name, _ in snapshot.authors], [count for _, count in snapshot.authors]
    for bar, count in zip(authors.bar(names, counts, color=LIGHT.accent), counts, strict=True):
        authors.text(bar.get_x() + bar.get_width() / 2, count, str(count), ha="center", va="bottom")
    authors.set_title("Messages by Author")
    values = snapshot.sentiments[-30:]
    sentiment.axhspan(0, 0.3, color=LIGHT.negative_zone)
    sentiment.axhspan(0.7, 1, color=LIGHT.positive_zone)
    sentiment.plot(values, "o-", color=LIGHT.raw)
    sentiment.plot(stats.rolling_mean(values), color=LIGHT.accent, label="rolling")
    sentiment.axhline(sum(values) / len(values), ls="--", color=LIGHT.ink, label="average")
    sentiment.set_title("Sentiment Trends")
    sentiment.grid(True, alpha=0.3)
    sentiment.legend()
    summary = stats.summary(snapshot.lengths)
    length.hist(snapshot.lengths, bins=15, color=LIGHT.accent, edgecolor="white")
    length.axvline(summary.mean, color=LIGHT.ink, label=f"mean {summary.mean:.1f}")
    length.axvline(summary.median, color=LIGHT.muted, label=f"median {summary.median:.1f}")
    length.axvline(summary.p95, color=LIGHT.p95, label=f"p95 {summary.p95:.1f}")
    length.set_title("Message Length Analysis")
    length.grid(True, alpha=0.3)
    length.legend()
    figure.suptitle(f"Streaming Dashboard: {snapshot.total} messages")
    figure.tight_layout()
    figure.canvas.draw()


def milliseconds(draw: Callable[[Snapshot], None], stream: Stream, frames: int) -> float:
    """Median processor time of a frame with new data each time."""
    taken = []
    for _ in range(frames):
        snapshot = stream.step(2.0, 3)
        begun = time.process_time()  # other work on the machine is not our cost
        draw(snapshot)
        taken.append((time.process_time() - begun) * 1000)
    return median(taken[frames // 8 :])


def compare_frames(size: tuple[float, float], frames: int = 40) -> tuple[float, float]:
    """Milliseconds of a frame drawn in place, and cleared and plotted again."""
    stream = Stream()
    stream.step(2.0, 500)
    ours = milliseconds(picture.headless(size, "light", 2.0).update, stream, frames)
    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)
    return ours, milliseconds(partial(replot, figure), stream, frames)


def bench_frames() -> None:
    print("size          in place   clear and replot   ratio   (goal 0.45, 100 ms)")
    for size in (DEFAULT_SIZE, (8.0, 6.0), (15.0, 10.0), (19.2, 10.8)):
        ours, theirs = compare_frames(size)
        print(f"{size[0]:4.1f} x {size[1]:4.1f}  {ours:6.1f} ms   {theirs:13.1f} ms   {ours / theirs:5.2f}")


def bench_idle() -> None:
    """The share of a core that the whole headless program takes while nothing comes."""
    stream = Stream()
    stream.step(2.0, 500)
    state = State("file", "data/project_live.json")
    state.healthy(caught_up=True)
    state.add(Chunk("f", "", "1", stream.messages(500)))
    dashboard = picture.headless(DEFAULT_SIZE, "light", 2.0)
    dashboard.update(state.snapshot())
    stop = threading.Event()
    threading.Timer(IDLE_S, stop.set).start()
    path = PROJECT_DIR / "data" / "bench_dashboard.png"
    before, begun, frames = time.process_time(), time.monotonic(), dashboard.full_frames
    render.run_headless(state, dashboard, [outputs.PictureFile(path)], render.Plan(), stop)
    share = (time.process_time() - before) / (time.monotonic() - begun)
    path.unlink()
    print(f"idle: {share:.2%} of a core, {dashboard.full_frames - frames} whole frames in {IDLE_S:.0f} s   (goal 2%)")


def bench_state() -> None:
    stream = Stream()
    messages = stream.messages(400_000)
    chunks = [Chunk("f", "1", "1", messages[place : place + 2000]) for place in range(0, len(messages), 2000)]
    begun = time.perf_counter()
    for chunk in chunks:
        stream.state.add(chunk)
    print(f"state: {len(messages) / (time.perf_counter() - begun):,.0f} messages/s   (goal 300,000)")


def soak(frames: int, messages: int) -> tuple[float, float]:
    """A day of frames, 2 s apart on the stream's clock; the growth of memory and of frame time."""
    process, stream = psutil.Process(), Stream()
    dashboard = picture.headless(DEFAULT_SIZE, "light", 2.0)
    per_frame, sent, early = messages / frames, 0, min(500, max(1, frames // 4))
    taken: deque[float] = deque(maxlen=early)  # all of them would be a part of the growth
    small, fast = 0, 0.0
    for frame in range(1, frames + 1):
        count = round(frame * per_frame) - sent
        sent += count
        snapshot = stream.step(2.0, count)
        begun = time.process_time()  # other work on the machine is not our cost
        dashboard.update(snapshot)
        taken.append(time.process_time() - begun)
        if frame == early:
            small = process.memory_info().rss
        if frame == 2 * early:
            fast = median(taken)
        if frame % max(frames // 20, 50) == 0:
            rss = process.memory_info().rss / 2**20
            print(f"  frame {frame:,}, {snapshot.total:,} messages: {rss:.0f} MiB, {median(taken) * 1000:.1f} ms")
    memory, slower = process.memory_info().rss / small - 1, median(taken) / fast - 1
    print(f"soak: {frames:,} frames, {sent:,} messages: memory {memory:+.1%} (goal 5%), frame {slower:+.1%} (goal 10%)")
    return memory, slower


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak", action="store_true", help="only the day of frames")
    parser.add_argument("--frames", type=int, default=43_200)
    parser.add_argument("--messages", type=int, default=10_000_000)
    options = parser.parse_args()
    if options.soak:
        memory, slower = soak(options.frames, options.messages)
        return 0 if memory < 0.05 and slower < 0.10 else 1
    bench_frames()
    bench_state()
    bench_idle()
    return 0


if __name__ == "__main__":
    sys.exit(main())
