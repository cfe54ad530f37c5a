"""The dashboard's arithmetic against pandas."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dashboard import stats
from consumers.dashboard.panels import bins

values = st.lists(st.floats(0, 1), min_size=1, max_size=60)
lengths = st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 300), min_size=1, max_size=30)


@given(values, st.integers(1, 20))
def test_rolling_mean_is_pandas(data: list[float], window: int) -> None:
    expected = pd.Series(data).rolling(window).mean().to_numpy()
    np.testing.assert_allclose(stats.rolling_mean(data, window), expected, atol=1e-12)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30))
def test_summary_is_pandas(data: list[int]) -> None:
    series, found = pd.Series(data), stats.summary(data)
    expected = (series.mean(), series.median(), series.quantile(0.95), series.std() if len(data) > 1 else 0.0)
    assert (found.mean, found.median, found.p95, found.sigma) == pytest.approx(expected)


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
