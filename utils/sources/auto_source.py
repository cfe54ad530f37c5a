"""The automatic source: reads the first sink that has data, and another one if that fails for long."""

import socket
import time
from collections.abc import Callable, Mapping

from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.sources.base import Chunk, Source

ANSWER_S = 1.0
KAFKA_PORT = 9092  # the clients' default
GIVE_UP_S = 10.0


class AutoSource:
    """Source that reads the first candidate which has data, until it fails for 10 s.

    Candidates are opened when they are tried. One that cannot be opened or read is tried again with the next poll.
    `name` and `detail` are those of the source in use. After a change, records come again that were read from the
    source before; consumers recognize them by (producer_id, sequence).
    """

    def __init__(
        self,
        candidates: Mapping[str, Callable[[], Source]],
        wanted: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wanted` describes the data, for the error if no candidate has any."""
        self._candidates, self._wanted, self._clock = candidates, wanted, clock
        self._open: dict[str, Source] = {}
        self._used = ""
        self._give_up_s: float | None = None  # when to leave the source in use; None while it does not fail

    @property
    def name(self) -> str:
        """The name of the source in use, `auto` before one is found."""
        return self._used or "auto"

    @property
    def detail(self) -> str:
        return self._open[self._used].detail if self._used else "the first sink that has data"

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next records of the source in use. See Source."""
        if not self._used:
            return self._find(max_records)
        try:
            chunk = self._open[self._used].poll(max_records)
        except ToolkitError as error:
            if self._give_up_s is None:
                self._give_up_s = self._clock() + GIVE_UP_S
            if self._clock() < self._give_up_s:
                raise Unavailable(f"{self._used} does not answer: {error}") from error
            self._used = ""
            return self._find(max_records)
        self._give_up_s = None
        return chunk

    def close(self) -> None:
        for source in self._open.values():
            source.close()
        self._open.clear()
        self._used = ""

    def _find(self, max_records: int) -> Chunk | None:
        """Use the first candidate that has data, and return its chunk; None if no candidate has data yet."""
        found: Chunk | None = None
        errors: list[ToolkitError] = []
        for name, connect in self._candidates.items():
            # With "end" every source must note its present end now, because it may be used later.
            if found is not None and (found.start != "end" or name in self._open):
                continue
            try:
                self._open[name] = self._open.get(name) or connect()
                chunk = self._open[name].poll(max_records)
            except ToolkitError as error:
                errors.append(error)
                if name in self._open and not isinstance(error, Absent):
                    self._open.pop(name).close()
                continue
            if found is None and chunk is not None and (chunk.end or chunk.records or chunk.invalid):
                self._used, self._give_up_s, found = name, None, chunk
        if found is None:
            # Report a sink that cannot be read even if others are only empty, because it may have data.
            if failed := [error for error in errors if not isinstance(error, Absent)]:
                raise Unavailable(f"no source has data: {'; '.join(map(str, failed))}")
            if len(errors) == len(self._candidates):
                raise Absent(f"no source has data: {self._wanted}")
        return found


def require_answer(brokers: str) -> None:
    """Raise Absent unless one of the brokers, `host:port,...`, accepts a connection within a second."""
    deadline_s = time.monotonic() + ANSWER_S
    for broker in brokers.split(","):
        host, _, port = broker.strip().partition("]" if "[" in broker else ":")  # host:port or [IPv6]:port
        try:
            place = host.lstrip("["), int(port.lstrip(":") or KAFKA_PORT)
            socket.create_connection(place, max(0.01, deadline_s - time.monotonic())).close()
        except (OSError, ValueError):
            continue
        return
    raise Absent(f"no Kafka broker answers at {brokers}")
