"""Check of a sink on this machine: write one record with its emitter to a temporary place, and read it back."""

import secrets
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.checks.readers import pages
from utils.clients.kafka_admin import Admin
from utils.records.instants import instant_text
from utils.records.record import Batch, Record
from utils.records.stream import Stream
from utils.sinks import SINKS
from utils.sources.auto_source import require_answer

PATIENCE_S = 15.0


class Checked(Record):
    """A record with a field of each JSON type."""

    text: str
    integer: int
    number: float
    boolean: bool
    json: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Result of the check of one sink. `seconds` is the time of writing and reading together."""

    sink: str
    result: Literal["ok", "failed", "not running"]
    seconds: float
    reason: str = ""


def check(sink: str, settings: Settings) -> Result:
    """Write one record with the sink's emitter, read it back, and delete the temporary file or topic."""
    embedded = SINKS[sink].embedded
    stream = Stream(f"check-{secrets.token_hex(4)}", Checked)
    sent = Checked(
        text="Zażółć gęślą jaźń \U0001f980",
        integer=2**62,
        number=-0.1,
        boolean=True,
        json={"nested": [1, None]},
        timestamp=instant_text(time.time_ns() // 1000),
    )
    batch = Batch.of_records([sent], f"{stream.name}-0", 1, stream.codec)
    started_s = time.monotonic()
    try:
        if not embedded:
            require_answer(settings.kafka_broker)
    except Unavailable as error:
        return Result(sink, "not running", 0.0, str(error))
    with tempfile.TemporaryDirectory(prefix="verify_emitters-", ignore_cleanup_errors=True) as folder:
        place = settings.in_folder(Path(folder), stream.name)
        try:
            while True:
                try:
                    _round_trip(sink, place, stream, batch)
                    break
                except Unavailable:  # a broker may need some time after it has created the topic
                    if embedded or time.monotonic() > started_s + PATIENCE_S:
                        raise
                time.sleep(0.1)
        except ToolkitError as error:
            return Result(sink, "failed", time.monotonic() - started_s, " ".join(str(error).split()))
        finally:
            if not embedded:
                with suppress(Unavailable):
                    Admin(place).delete_topic(place.topic)
    return Result(sink, "ok", time.monotonic() - started_s)


def _round_trip(sink: str, settings: Settings, stream: Stream, batch: Batch) -> None:
    """Store the record, unless an earlier attempt has, and read it back. Raises ToolkitError if they differ."""
    with closing(SINKS[sink].emitter(settings, stream, stream.name, "")) as emitter:
        if emitter.last([batch.producer_id]) is None:
            emitter.emit(batch)
        if emitter.last([batch.producer_id]) != (batch.producer_id, 1):
            raise ToolkitError("the sink does not contain the record that was just written to it")
    found = [page for page in pages(sink, settings, stream) if any(page)]
    if not found:
        raise Unavailable("the record cannot be read back")
    ((records, _),) = found
    if stream.codec.canonical(stream.codec.columns_of(records)) != stream.codec.canonical(batch.columns):
        raise ToolkitError(f"the record is different when read back: {found[0]}")
