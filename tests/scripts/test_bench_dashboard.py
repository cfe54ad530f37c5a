"""A short day of the dashboard: memory and frame time stay; and a frame costs less than half of plotting anew."""

import pytest

from scripts import bench_dashboard

pytestmark = pytest.mark.full


def test_short_day_keeps_memory() -> None:
    memory, _ = bench_dashboard.soak(frames=40, messages=20_000)
    assert memory < 0.05


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
