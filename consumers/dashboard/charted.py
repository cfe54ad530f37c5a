"""Which fields of a stream are charted, and how a record gives them."""

from functools import lru_cache
from typing import Any

from consumers.dashboard.formatting import plain
from consumers.dashboard.snapshot import Roles
from utils.reading.anomaly import floor_of
from utils.records.infer import event_time
from utils.records.stream import BUZZ, Stream

MAX_VALUE = 1e100  # beyond it is no measurement
NAME_CHARS, NAMES_KEPT = 100, 10_000


class Charted:
    """The roles of a stream's fields. A role without a field has a form of its own.

    Without `by` records are counted per producer, without `value` the pauses between them are charted, without a
    number for the histogram the lengths of texts, and without any text the pauses again.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream, self._field, self._event_us = stream, stream.codec.value, event_time(stream)
        self._name = lru_cache(NAMES_KEPT)(lambda text: plain(text) or "(no name)")
        types = {field.name: field.type for field in stream.fields}
        texts = sorted((name for name in types if types[name] == "text"), key=lambda name: name == stream.by)
        self._text = texts[0] if texts and not stream.histogram else None
        is_buzz = stream.name == BUZZ.name
        self.has_lines = stream.by is not None and not is_buzz
        self.floor = floor_of(stream, stream.value)
        histogram = f"{self._text} length" if self._text else stream.histogram or "pause_s"
        self.roles = Roles(
            by=plain((stream.by or "producer").replace("_", " ")),
            value=plain((stream.value or "pause_s").replace("_", " ")),
            histogram=plain(histogram.replace("_", " ")),
            records="messages" if is_buzz else "records",
            zones=stream.zones,
            scale=(0.0, 1.0) if is_buzz and stream.value == BUZZ.value else None,
            whole=self._text is not None or types.get(histogram) == "integer",
            unit="characters" if self._text or (is_buzz and histogram == BUZZ.histogram) else "",
        )

    def key(self, record: Any) -> str:
        """What the record counts for, as it is shown."""
        by, run = self.stream.by, record.producer_id
        found = self._field(record, by) if by else run and run.rsplit("-", 2)[0]
        return self._name(found[:NAME_CHARS]) if isinstance(found, str) else "(none)"

    def event_s(self, record: Any) -> float | None:
        """The event time in seconds since 1970."""
        found = self._event_us(record)
        return None if found is None else found / 1e6

    def value(self, record: Any, pause_s: float) -> float | None:
        """The value, None where it has none that can be drawn."""
        found = self._field(record, self.stream.value) if self.stream.value else pause_s
        return _number(found, *self.roles.scale or (-MAX_VALUE, MAX_VALUE))

    def measure(self, record: Any, pause_s: float) -> float | None:
        """The number for the histogram, None where there is none."""
        name = self._text or self.stream.histogram
        found = self._field(record, name) if name else pause_s
        return _number(len(found) if self._text and isinstance(found, str) else found, -MAX_VALUE, MAX_VALUE)


def _number(found: Any, low: float, high: float) -> float | None:
    return float(found) if isinstance(found, int | float) and low <= found <= high else None  # a NaN is nowhere
