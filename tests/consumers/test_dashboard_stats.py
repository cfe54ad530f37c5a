"""The dashboard's arithmetic against pandas, and the anomaly rule on merged, real-shaped streams."""

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


def merged(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """4,900 feelings of six authors with habits of their own on a slow swing, then 60 outliers; and which."""
    rng = np.random.default_rng(seed)
    habits = rng.uniform(0.5, 0.64, 6)
    feeling = habits[rng.integers(0, 6, 4900)] + 0.06 * np.sin(np.arange(4900) / 150) + rng.normal(0, 0.04, 4900)
    data = np.clip(np.where(rng.random(4900) < 0.2, 0.5, feeling), 0, 1)
    out = np.zeros(len(data), dtype=bool)
    out[rng.choice(np.arange(100, 4900), 60, replace=False)] = True
    data[out] = np.where(rng.random(60) < 0.5, rng.uniform(0, 0.1, 60), rng.uniform(0.95, 1, 60))
    return data, out


@pytest.mark.parametrize("seed", range(5))
def test_anomaly_rule_finds_outliers_and_little_else(seed: int) -> None:
    data, out = merged(seed)
    flags = stats.anomalies(data, len(data), 0.05)
    assert flags[out].mean() >= 0.95
    assert flags[~out].mean() < 0.005


@pytest.mark.parametrize("seed", range(3))
def test_anomaly_rule_is_the_written_one(seed: int) -> None:
    data, _ = merged(seed)
    series = pd.Series(data[:600])
    before = series.shift(1).rolling(stats.TRAILING, min_periods=stats.TRAILING_LEAST)
    mad = before.apply(lambda window: np.nanmedian(np.abs(window - np.nanmedian(window))), raw=True)
    robust = (series - before.median()).abs() / (1.4826 * mad).clip(lower=0.05)
    plain = (series - before.mean()).abs() / before.std().clip(lower=0.05)
    expected = ((robust > 3.5) & (plain > 3)).to_numpy()
    np.testing.assert_array_equal(stats.anomalies(data[:600], 600, 0.05), expected)


def test_anomaly_without_a_floor_is_relative_to_the_range() -> None:
    rng = np.random.default_rng(4)
    usual = rng.normal(21.0, 0.3, 120)
    assert stats.anomalies([*usual, 85.0], 1).tolist() == [True]
    assert stats.anomalies([*(usual * 1e6), 85e6], 1).tolist() == [True]
    assert stats.anomalies([*usual, 21.4], 1).tolist() == [False]
    quiet = [5.0] * 60 + list(np.linspace(4, 6, 50))  # most are the same, and still 5.05 is nothing
    assert stats.anomalies([*quiet, 5.05], 1).tolist() == [False]


def test_anomaly_needs_twenty_values_before_it() -> None:
    assert not stats.anomalies([0.5] * 19 + [1.0], 30).any()
    assert stats.anomalies([0.5] * 20 + [1.0], 30).tolist() == [False] * 20 + [True]
    assert stats.anomalies([0.5] * 150 + [1.0], 30).tolist() == [False] * 29 + [True]
