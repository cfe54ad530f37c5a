"""The rule of anomalies: on merged, realistic streams, against its definition, and at its edges."""

import numpy as np
import pandas as pd
import pytest

from utils.reading.anomaly import TRAILING, TRAILING_LEAST, anomalies, floor_of
from utils.records.stream import BUZZ, Stream


def merged(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 4,900 sentiments of six authors on a slow swing, 60 of them outliers, and a flag for each."""
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
    flags = np.array(anomalies(data.tolist(), len(data), 0.05))
    assert flags[out].mean() >= 0.95
    assert flags[~out].mean() < 0.005


@pytest.mark.parametrize("seed", range(3))
def test_anomaly_rule_is_the_written_one(seed: int) -> None:
    data, _ = merged(seed)
    series = pd.Series(data[:600])
    before = series.shift(1).rolling(TRAILING, min_periods=TRAILING_LEAST)
    mad = before.apply(lambda window: np.nanmedian(np.abs(window - np.nanmedian(window))), raw=True)
    robust = (series - before.median()).abs() / (1.4826 * mad).clip(lower=0.05)
    plain = (series - before.mean()).abs() / before.std().clip(lower=0.05)
    expected = ((robust > 3.5) & (plain > 3)).tolist()
    assert anomalies(data[:600].tolist(), 600, 0.05) == expected


def test_anomaly_without_a_floor_is_relative_to_the_range() -> None:
    rng = np.random.default_rng(4)
    usual = rng.normal(21.0, 0.3, 120)
    assert anomalies([*usual, 85.0], 1) == [True]
    assert anomalies([*(usual * 1e6), 85e6], 1) == [True]
    assert anomalies([*usual, 21.4], 1) == [False]
    quiet = [5.0] * 60 + list(np.linspace(4, 6, 50))  # most are equal, and 5.05 is still no outlier
    assert anomalies([*quiet, 5.05], 1) == [False]


def test_anomaly_needs_twenty_values_before_it() -> None:
    assert not any(anomalies([0.5] * 19 + [1.0], 30))
    assert anomalies([0.5] * 20 + [1.0], 30) == [False] * 20 + [True]
    assert anomalies([0.5] * 150 + [1.0], 30) == [False] * 29 + [True]


@pytest.mark.parametrize("number", [1e308, 1e200, -1e308, 2**63])
def test_no_number_is_too_large(number: float) -> None:
    assert anomalies([*np.linspace(20, 21, 60).tolist(), number], 1) == [True]
    assert anomalies([number, -number] * 60, 30) == [False] * 30


def test_only_a_sentiment_has_a_floor_of_its_own() -> None:
    assert (floor_of(BUZZ, "sentiment"), floor_of(BUZZ, "message_length")) == (0.05, None)
    assert floor_of(Stream("sensors", value="sentiment"), "sentiment") is None
