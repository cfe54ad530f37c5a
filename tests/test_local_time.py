"""Local times of every year, also where the system knows no rules for it."""

from datetime import datetime, tzinfo
from typing import Self

import pytest

from utils.app import local_time
from utils.records.codec import microseconds

YEARS = (2, 1900, 1969, 1970, 2000, 2039, 2999, 3001, 9998)


class Windows(datetime):
    """Local times as Windows knows them."""

    def astimezone(self, tz: tzinfo | None = None) -> Self:
        if not 1970 <= self.year <= 3000:
            raise OSError(22, "Invalid argument")
        return super().astimezone(tz)

    @classmethod
    def fromtimestamp(cls, timestamp: float, tz: tzinfo | None = None) -> Self:
        if not 0 <= timestamp <= 32_536_850_399:
            raise OSError(22, "Invalid argument")
        return super().fromtimestamp(timestamp, tz)


@pytest.mark.parametrize("year", YEARS)
def test_a_local_time_survives_the_way_to_an_instant_and_back(year: int) -> None:
    found_us = microseconds(f"{year:04}-02-11T12:30:00")
    assert found_us is not None
    assert local_time.of(found_us / 1e6) == datetime(year, 2, 11, 12, 30)


@pytest.mark.parametrize("year", YEARS)
def test_it_does_so_without_rules_for_the_year(year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_time, "datetime", Windows)
    instant = local_time.in_utc(Windows(year, 2, 11, 12, 30))
    assert local_time.of((instant - local_time._EPOCH).total_seconds()) == datetime(year, 2, 11, 12, 30)
    assert abs((instant.replace(tzinfo=None) - datetime(year, 2, 11, 12, 30)).total_seconds()) < 86_400
