"""The dashboard's arithmetic against NumPy."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dashboard import stats
from consumers.dashboard.options import Buffers
from consumers.dashboard.scales import bins
from consumers.dashboard.stats import Point

values = st.lists(st.floats(0, 1) | st.sampled_from([1e30, -1e100]), min_size=1, max_size=60)
lengths = st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 300), min_size=1, max_size=30)


@given(values, st.integers(1, 20))
def test_rolling_mean_is_that_of_each_window_and_at_first_of_fewer(data: list[float], window: int) -> None:
    points = [Point(float(at), value, "a") for at, value in enumerate(data)]
    (series,) = stats.all_series(points, Buffers(window=60, rolling=window), None, lines=False)
    means = [np.mean(data[max(end - window, 0) : end]) for end in range(1, len(data) + 1)]
    np.testing.assert_allclose(np.array(series.rolling), np.array(means), rtol=1e-12)
    assert series.values == tuple(data)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30))
def test_summary_is_that_of_numpy(data: list[int]) -> None:
    found = stats.summary(data)
    sigma = np.std(data, ddof=1) if len(data) > 1 else 0.0
    expected = (np.mean(data), *np.percentile(data, (50, 95)), sigma, min(data), max(data), len(data))
    assert found is not None
    assert astuple(found) == pytest.approx(expected)


def held(data: list[float], *, whole: bool) -> np.ndarray:
    """The edges of the bins; at most 16 hold every value."""
    edges: np.ndarray = bins(min(data), max(data), 16, whole=whole)
    counts, _ = np.histogram(np.clip(data, edges[0], edges[-1]), edges)
    assert len(counts) <= 16
    assert counts.sum() == len(data)
    return edges


@given(lengths)
def test_bins_of_whole_numbers_hold_every_value(data: list[int]) -> None:
    edges = held(list(map(float, data)), whole=True)
    if max(data) < 2**50:
        assert (edges % 1 == 0.5).all()
        assert edges[0] <= min(data)
        assert max(data) <= edges[-1] * (1 + 1e-9)


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=60))
def test_bins_of_decimal_numbers_hold_every_value(data: list[float]) -> None:
    held(data, whole=False)
