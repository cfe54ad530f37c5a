"""One message through each emitter and back, somewhere temporary: does this machine do what the toolkit needs?"""

import secrets
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loguru import logger

from utils import sinks
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.records.record import Batch, Message, timestamp_text
from utils.sources.auto_source import require_answer

READ_BACK_S = 15.0


@dataclass(frozen=True)
class Result:
    """How one sink did; `seconds` for write and read together."""

    sink: str
    result: Literal["ok", "failed", "not running"]
    seconds: float
    reason: str = ""


def check(sink: str, settings: Settings) -> Result:
    """Write one message with the sink's emitter and read it back with its source, then remove both."""
    if sink == "kafka":
        try:
            require_answer(settings.kafka_broker)
        except Unavailable as error:
            return Result(sink, "not running", 0.0, str(error))
    token = secrets.token_hex(4)
    with tempfile.TemporaryDirectory(prefix="verify_emitters-", ignore_cleanup_errors=True) as folder:
        place = settings.elsewhere(Path(folder), f"verify_emitters-{token}")
        started_s = time.monotonic()
        try:
            _round_trip(sink, place, f"check-{token}")
        except ToolkitError as error:
            return Result(sink, "failed", time.monotonic() - started_s, " ".join(str(error).split()))
        finally:
            if sink == "kafka":
                _delete_topic(place)
        return Result(sink, "ok", time.monotonic() - started_s)


def _round_trip(sink: str, settings: Settings, producer_id: str) -> None:
    sent = Message(
        message="Zażółć gęślą jaźń \U0001f980",
        author="verify_emitters",
        timestamp=timestamp_text(time.time()),
        category="check",
        sentiment=0.5,
        keyword_mentioned="check",
        message_length=19,
        producer_id=producer_id,
        sequence=1,
    )
    with closing(sinks.emitter(sink, settings)()) as emitter:
        emitter.emit(Batch.of([sent]))
        if emitter.last_sequence(producer_id) != 1:
            raise ToolkitError("the sink does not know the message that it has just stored")
    deadline_s = time.monotonic() + READ_BACK_S
    with closing(sinks.source(sink, settings, lambda partition: "", finished=True)) as source:
        while time.monotonic() < deadline_s:
            chunk = source.poll(10)
            if chunk is None or not (chunk.records or chunk.invalid):
                time.sleep(0.02)
            elif chunk.records == [sent]:
                return
            else:
                raise ToolkitError(f"read back something else: {chunk.records or chunk.invalid}")
    raise ToolkitError(f"the message could not be read back within {READ_BACK_S:.0f} s")


def _delete_topic(settings: Settings) -> None:
    from utils.clients.kafka_admin import delete_topic

    try:
        delete_topic(settings)
    except Unavailable as error:
        logger.debug("{}", error)
