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

    Without `by` records are counted per producer, without `value` the pauses between them are charted, without
    `histogram` the lengths of a text, and without any text the pauses again.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream, self._field, self._event_us = stream, stream.codec.value, event_time(stream)
        self._name = lru_cache(NAMES_KEPT)(lambda text: plain(text) or "(no name)")
        types = {field.name: field.type for field in stream.fields}
        texts = sorted((name for name in types if types[name] == "text"), key=lambda name: name == stream.by)
        lengths = bool(texts) and not stream.histogram
        self.measured = texts[0] if lengths else stream.histogram
        is_buzz = stream.name == BUZZ.name
        self.has_lines = stream.by is not None and not is_buzz
        self.floor = floor_of(stream, stream.value)
        self.roles = Roles(
            by=plain((stream.by or "producer").replace("_", " ")),
            value=plain((stream.value or "pause_s").replace("_", " ")),
            histogram=plain((self.measured or "pause_s").replace("_", " ") + " length" * lengths),
            records="messages" if is_buzz else "records",
            zones=stream.zones,
            scale=(0.0, 1.0) if is_buzz and stream.value == BUZZ.value else None,
            whole=lengths or types.get(self.measured or "") == "integer",
            unit="characters" if lengths or (is_buzz and self.measured == BUZZ.histogram) else "",
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

    def number(self, record: Any, name: str | None, pause_s: float) -> float | None:
        """The number of a field, the length of a text, without a name the pause; None if it cannot be drawn."""
        found = self._field(record, name) if name else pause_s
        found = len(found) if isinstance(found, str) else found
        return float(found) if isinstance(found, int | float) and abs(found) <= MAX_VALUE else None
