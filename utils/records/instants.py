"""Conversion between timestamps as text and microseconds since 1970 UTC. Only this module parses timestamps."""

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
"""Return a match, else None, for a timestamp in the form that `instant_text` gives to whole milliseconds."""


def local_time(epoch_s: float) -> datetime:
    """Convert seconds since 1970 to local time. Raises OverflowError outside of the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(epoch_s)
    except OSError:
        return (EPOCH + timedelta(seconds=epoch_s)).astimezone(_fixed_zone()).replace(tzinfo=None)


def _in_utc(local: datetime) -> datetime:
    """Convert local time to UTC. Raises OverflowError outside of the years 1 to 9999."""
    try:
        return local.astimezone(UTC)
    except (OSError, ValueError, OverflowError):
        return local.replace(tzinfo=_fixed_zone()).astimezone(UTC)


def _fixed_zone() -> timezone:
    """Return the local zone without daylight saving, for times that the platform cannot convert (Windows: pre-1970)."""
    return timezone(timedelta(seconds=-time.timezone))


def present() -> str:
    """Return the present time as `instant_text` with milliseconds."""
    return instant_text(time.time_ns() // 1_000_000 * 1_000)


@lru_cache(maxsize=16_384)  # more than the records of a chunk
def microseconds(text: str) -> int | None:
    """Parse a timestamp into microseconds since 1970 UTC; None if the text is not one. Without a zone it is local."""
    try:
        instant = datetime.fromisoformat(text.replace("z", "Z"))
        found = ((instant if instant.tzinfo else _in_utc(instant)) - EPOCH) // MICROSECOND
    except (ValueError, OverflowError):
        return None
    return found if _FIRST_US <= found <= _LAST_US else None  # in UTC its year may be 0 or 10000


def are_instants(texts: Iterable[str | None]) -> bool:
    """Return whether each of the texts is a timestamp or None."""
    distinct = {text for text in texts if text is not None}
    with suppress(msgspec.ValidationError):  # fast path: RFC 3339 texts of years that are valid in any zone
        if distinct and min(distinct) > "0002" and max(distinct) < "9999":
            msgspec.convert(distinct, _WithZone)
            return True
    return all(microseconds(text) is not None for text in distinct)


def instant_text(instant_us: int) -> str:
    """Format microseconds since 1970 as RFC 3339 text in UTC, with six decimals only if three are not enough.

    Raises ValueError outside of the years 1 to 9999.
    """
    if not _FIRST_US <= instant_us <= _LAST_US:
        raise ValueError(f"a timestamp outside of the years 1 to 9999: {instant_us} microseconds since 1970")
    precision = "microseconds" if instant_us % 1000 else "milliseconds"
    return (EPOCH + instant_us * MICROSECOND).isoformat(timespec=precision)[:-6] + "Z"
