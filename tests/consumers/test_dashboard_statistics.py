"""The dashboard's rolling mean and summary against NumPy."""

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dashboard import state
from consumers.dashboard.options import Buffers

values = st.lists(st.floats(0, 1) | st.sampled_from([1e30, -1e100]), min_size=1, max_size=60)


@given(values, st.integers(1, 20))
def test_the_rolling_mean_begins_with_fewer_values(data: list[float], window: int) -> None:
    table = pd.DataFrame([(at, "a", value, 0, 0) for at, value in enumerate(data)], columns=list(state.COLUMNS))
    (series,) = state.all_series(table, Buffers(window=60, rolling=window), None, lines=False)
    means = [np.mean(data[max(end - window, 0) : end]) for end in range(1, len(data) + 1)]
    np.testing.assert_allclose(np.array(series.rolling), np.array(means), rtol=1e-12)
    assert series.values == tuple(data)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30))
def test_summary_is_that_of_numpy(data: list[int]) -> None:
    found = state.summary(pd.Series(data))
    sigma = np.std(data, ddof=1) if len(data) > 1 else 0.0
    expected = (np.mean(data), *np.percentile(data, (50, 95)), sigma, min(data), max(data), len(data))
    assert found is not None
    assert astuple(found) == pytest.approx(expected)
