"""Timestamps as text and as microseconds since 1970: the one place that parses and checks them; local times."""

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_FIRST_US = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_WithZone = list[Annotated[datetime, Meta(tz=True)]]

is_usual = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):\d\d:\d\d\.\d{3}Z", re.ASCII).fullmatch
"""Whether a timestamp has the form of `instant_text` with milliseconds."""


def local_time(epoch_s: float) -> datetime:
    """The local time of seconds since 1970. Raises OverflowError outside of the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(epoch_s)
    except OSError:
        return (EPOCH + timedelta(seconds=epoch_s)).astimezone(_standard()).replace(tzinfo=None)


def _in_utc(local: datetime) -> datetime:
    """The instant of a local time. Raises OverflowError outside of the years 1 to 9999."""
    try:
        return local.astimezone(UTC)
    except (OSError, ValueError, OverflowError):
        return local.replace(tzinfo=_standard()).astimezone(UTC)


def _standard() -> timezone:
    """The zone without its rules, which are missing at the ends of the calendar, on Windows already before 1970."""
    return timezone(timedelta(seconds=-time.timezone))


def present() -> str:
    """The text of the present time, in milliseconds."""
    return instant_text(time.time_ns() // 1_000_000 * 1_000)


@lru_cache(maxsize=16_384)  # more than the records of a chunk
def microseconds(text: str) -> int | None:
    """Microseconds since 1970 UTC of a timestamp; local time where it has no zone; None if it is none."""
    try:
        instant = datetime.fromisoformat(text.replace("z", "Z"))
        found = ((instant if instant.tzinfo else _in_utc(instant)) - EPOCH) // MICROSECOND
    except (ValueError, OverflowError):
        return None
    return found if _FIRST_US <= found <= _LAST_US else None  # its day in UTC may be outside of the calendar


def are_instants(texts: Iterable[str | None]) -> bool:
    """Whether each of the texts is a timestamp, or None."""
    several = {text for text in texts if text is not None}
    with suppress(msgspec.ValidationError):  # most are RFC 3339 of a year that has its first and last day in UTC too
        if several and min(several) > "0002" and max(several) < "9999":
            msgspec.convert(several, _WithZone)
            return True
    return all(microseconds(text) is not None for text in several)


def instant_text(instant_us: int) -> str:
    """RFC 3339 UTC text of microseconds since 1970, with milliseconds, or with microseconds where it has some.

    Raises ValueError outside of the years 1 to 9999.
    """
    if not _FIRST_US <= instant_us <= _LAST_US:
        raise ValueError(f"an instant outside of the years 1 to 9999: {instant_us} microseconds since 1970")
    precision = "microseconds" if instant_us % 1000 else "milliseconds"
    return (EPOCH + instant_us * MICROSECOND).isoformat(timespec=precision)[:-6] + "Z"
