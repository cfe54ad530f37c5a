"""Local times of every year, also on systems without rules for that year."""

import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Self

import pytest

from utils.records import instants
from utils.records.instants import EPOCH, MICROSECOND, local_time, microseconds

YEARS = (2, 1900, 1969, 1970, 2000, 2039, 2999, 3001, 9998)


class Windows(datetime):
    """Local times with the limits of Windows."""

    def astimezone(self, tz: tzinfo | None = None) -> Self:
        if self.tzinfo is None and not 1970 <= self.year <= 3000:
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
    assert local_time(found_us / 1e6) == datetime(year, 2, 11, 12, 30)


@pytest.mark.parametrize("year", YEARS)
def test_a_local_time_survives_without_rules_for_its_year(year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instants, "datetime", Windows)
    microseconds.cache_clear()
    found_us = microseconds(f"{year:04}-02-11T12:30:00")
    microseconds.cache_clear()
    assert found_us is not None
    assert local_time(found_us / 1e6) == datetime(year, 2, 11, 12, 30)
    assert abs(EPOCH + found_us * MICROSECOND - datetime(year, 2, 11, 12, 30, tzinfo=UTC)) < timedelta(days=1)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows cannot set the time zone of a process")
@pytest.mark.parametrize(
    "zone, first, last",
    [("UTC0", "0001-01-01", "9999-12-31T23:59:59"), ("EST5", "0001-01-01", "9999-12-31T18:59:59"),
     ("CST-8", "0001-01-01T08:00:00", "9999-12-31T23:59:59")],
)  # fmt: skip
def test_local_times_reach_the_ends_of_the_utc_calendar(
    zone: str, first: str, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9999-12-31, often written for "never", is an instant in every zone."""
    microseconds.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        found = [microseconds(text) for text in (first, last, "9999-12-31")]
    time.tzset()
    microseconds.cache_clear()
    there = timezone(timedelta(hours=-int(zone[3:])))
    wanted = [datetime.fromisoformat(text).replace(tzinfo=there) for text in (first, last, "9999-12-31")]
    assert found == [(each - EPOCH) // MICROSECOND for each in wanted]
