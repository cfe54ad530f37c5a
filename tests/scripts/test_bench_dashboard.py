"""A day of the dashboard: memory and frame time stay constant, and a frame costs less than half of a new plot."""

import gc
import time
from collections import deque
from collections.abc import Callable
from statistics import median

import psutil
import pytest

from consumers.dashboard.figure import Dashboard
from scripts import bench_dashboard

FRAMES, MESSAGES = 43_200, 10_000_000

pytestmark = pytest.mark.full


def test_frames_leave_nothing_behind() -> None:
    """A line plotted anew for each frame would add 60 objects; only matplotlib's bounded caches grow."""
    stream, drawing = bench_dashboard.Stream(), Dashboard("light", size=(4, 3))

    def objects_after(frames: int) -> int:
        for _ in range(frames):
            bench_dashboard.redraw(drawing, stream.step(2.0, 500))
        gc.collect()
        return len(gc.get_objects())

    early = objects_after(4)
    assert objects_after(8) - early < 100 * 8


def count_up() -> None:
    """Do a fixed amount of work, which a busy machine slows as much as a frame."""
    for _ in range(500_000):
        pass


def seconds_of(work: Callable[[], object]) -> float:
    begun_s = time.process_time()
    work()
    return time.process_time() - begun_s


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_day_of_frames_keeps_memory_and_frame_time(measured: Callable[[str], None]) -> None:
    """Memory and frame time stay over 43,200 frames with 10,000,000 messages on a simulated clock (half an hour)."""
    process, stream, drawing = psutil.Process(), bench_dashboard.Stream(), Dashboard("light")
    sent, taken = 0, deque[float](maxlen=500)  # a longer list would itself grow
    for frame in range(1, FRAMES + 1):
        count = round(frame * MESSAGES / FRAMES) - sent
        sent += count
        snapshot = stream.step(2.0, count)
        redrawn_s = seconds_of(lambda: bench_dashboard.redraw(drawing, snapshot))  # noqa: B023 (is called at once)
        taken.append(redrawn_s / seconds_of(count_up))
        if frame == 500:
            small = process.memory_info().rss
        if frame == 1_000:
            fast = median(taken)
    larger, slower = process.memory_info().rss / small - 1, median(taken) / fast - 1
    measured(f"{FRAMES:,} frames, {sent:,} messages: memory {larger:+.1%}, frame time {slower:+.1%}")
    assert larger < 0.05
    assert slower < 0.1


@pytest.mark.slow
def test_frame_costs_less_than_clear_and_replot_and_svg_less_than_png() -> None:
    ours, theirs = bench_dashboard.compare_frames((12.8, 7.2), frames=16)
    assert ours < 0.5 * theirs  # 0.39 on a quiet machine
    svg, png = bench_dashboard.compare_formats(frames=16)
    assert svg < 0.8 * png
