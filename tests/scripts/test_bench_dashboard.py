"""A day of the dashboard: memory and frame time stay; and a frame costs less than half of plotting anew."""

import gc

import pytest

from consumers.dashboard.figure import Dashboard
from scripts import bench_dashboard

pytestmark = pytest.mark.full


def test_frames_leave_nothing_behind() -> None:
    """A line that is plotted anew each time would be 60 objects more; what grows are matplotlib's bounded caches."""
    stream, drawing = bench_dashboard.Stream(), Dashboard("light", size=(4, 3))

    def objects_after(frames: int) -> int:
        for _ in range(frames):
            bench_dashboard.redraw(drawing, stream.step(2.0, 500))
        gc.collect()
        return len(gc.get_objects())

    early = objects_after(4)
    assert objects_after(8) - early < 100 * 8


@pytest.mark.slow
def test_longer_day_keeps_memory_and_frame_time() -> None:
    memory, slower = bench_dashboard.soak(frames=3_000, messages=1_000_000)
    assert memory < 0.05
    assert slower < 0.1


@pytest.mark.slow
def test_frame_costs_less_than_clear_and_replot_and_svg_less_than_png() -> None:
    ours, theirs = bench_dashboard.compare_frames((12.8, 7.2), frames=16)
    assert ours < 0.55 * theirs  # 0.48 on a quiet machine
    svg, png = bench_dashboard.compare_formats(frames=16)
    assert svg < 0.8 * png
