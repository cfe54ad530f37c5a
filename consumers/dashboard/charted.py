"""Which fields of a stream are charted, and how a record gives them."""

from typing import Any

from consumers.dashboard.snapshot import Roles
from utils.reading.anomaly import floor_of
from utils.records.infer import event_time
from utils.records.stream import BUZZ, Stream

MAX_VALUE = 1e100  # beyond it is no measurement


class Charted:
    """The roles of a stream's fields. A role without a field has a form of its own.

    Without `by` records are counted per producer, without `value` the pauses between them are charted, without a
    number for the histogram the lengths of texts, and without any text the pauses again.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._value, self.event_us = stream.codec.value, event_time(stream)
        texts = [field.name for field in stream.fields if field.type == "text"]
        self._text = next((name for name in texts if name != stream.by), next(iter(texts), None))
        is_buzz = stream.name == BUZZ.name
        self.is_sentiment = is_buzz and stream.value == BUZZ.value
        self.floor = floor_of(stream, stream.value)
        self.has_lines = stream.by is not None and not is_buzz
        types = {field.name: field.type for field in stream.fields}
        lengths = stream.histogram is None and self._text is not None
        histogram = f"{self._text} length" if lengths else stream.histogram or "pause_s"
        self.roles = Roles(
            by=_words(stream.by or "producer"),
            value=_words(stream.value or "pause_s"),
            histogram=_words(histogram),
            records="messages" if is_buzz else "records",
            zones=stream.zones,
            scale=(0.0, 1.0) if self.is_sentiment else None,
            whole=lengths or types.get(histogram) == "integer",
            unit="characters" if lengths or (is_buzz and histogram == BUZZ.histogram) else "",
        )

    def key(self, record: Any) -> str:
        """What the record counts for."""
        if self.stream.by is not None:
            found = self._value(record, self.stream.by)
            return found if isinstance(found, str) else "(none)"
        return record.producer_id.rsplit("-", 2)[0] if record.producer_id else "(none)"

    def value(self, record: Any, pause_s: float) -> float | None:
        """The value, None where it has none that can be drawn."""
        return self._number(record, self.stream.value, pause_s)

    def measure(self, record: Any, pause_s: float) -> float | None:
        """The number for the histogram, None where there is none."""
        if self.stream.histogram is None and self._text is not None:
            text = self._value(record, self._text)
            return float(len(text)) if isinstance(text, str) else None
        return self._number(record, self.stream.histogram, pause_s)

    def _number(self, record: Any, name: str | None, pause_s: float) -> float | None:
        found = pause_s if name is None else self._value(record, name)
        low, high = self.roles.scale if name == self.stream.value and self.roles.scale else (-MAX_VALUE, MAX_VALUE)
        if isinstance(found, int | float) and low <= found <= high:  # a NaN is nowhere
            return float(found)
        return None


def _words(name: str) -> str:
    return name.replace("_", " ")
