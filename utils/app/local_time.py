"""Local times. Python knows none at the ends of its calendar, Windows none before 1970 and after the year 3000.

There the rules of a year near by count.
"""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = 1972, 2996  # leap years, which have every day


def in_utc(local: datetime) -> datetime:
    """The instant of a local time. Raises OverflowError outside of the years 1 to 9999."""
    try:
        return local.astimezone(UTC)
    except (OSError, ValueError, OverflowError):
        return local.replace(tzinfo=UTC) - _offset(local)


def of(epoch_s: float) -> datetime:
    """The local time of seconds since 1970. Raises OverflowError outside of the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(epoch_s)
    except OSError:
        instant = _EPOCH + timedelta(seconds=epoch_s)
        return instant.replace(tzinfo=None) + _offset(instant)


def _offset(instant: datetime) -> timedelta:
    near = instant.replace(year=_FIRST if instant.year < _FIRST else _LAST)
    return near.astimezone().utcoffset() or timedelta()
