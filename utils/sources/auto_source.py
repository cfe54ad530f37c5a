"""Reads the best sink that has data: the first of its candidates, and the next when that one fails for long."""

import socket
import time
from collections.abc import Callable, Mapping

from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.sources.base import Chunk, Source

ANSWER_S = 1.0
KAFKA_PORT = 9092  # the clients' default
GIVE_UP_S = 10.0
ASK_AGAIN_S = 2.0


class AutoSource:
    """Uses the first candidate, in their order, that has data, until it fails for 10 s.

    Candidates are opened when they are tried; what cannot be opened or read is tried again every 2 s.
    `name` and `detail` are those of the source in use. After a change records come that were already read from
    another sink: whoever counts knows them by (producer_id, sequence).
    """

    def __init__(
        self, candidates: Mapping[str, Callable[[], Source]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._candidates = candidates
        self._clock = clock
        self._open: dict[str, Source] = {}
        self._ask_at_s = dict.fromkeys(candidates, 0.0)
        self._reasons: dict[str, ToolkitError] = {}
        self._used = ""
        self._failing_since_s: float | None = None

    @property
    def name(self) -> str:
        """The source in use, `auto` before one is found."""
        return self._used or "auto"

    @property
    def detail(self) -> str:
        return self._open[self._used].detail if self._used else "looking for data"

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of the source in use. See Source."""
        if not self._used:
            return self._find(max_records)
        try:
            chunk = self._open[self._used].poll(max_records)
        except ToolkitError as error:
            now_s = self._clock()
            self._failing_since_s = now_s if self._failing_since_s is None else self._failing_since_s
            if now_s - self._failing_since_s < GIVE_UP_S:
                raise Unavailable(f"{self._used} does not answer: {error}") from error
            self._put_off(self._used, error)
            self._used = ""
            return self._find(max_records)
        self._failing_since_s = None
        return chunk

    def close(self) -> None:
        for source in self._open.values():
            source.close()
        self._open.clear()
        self._used = ""

    def _find(self, max_records: int) -> Chunk | None:
        found: Chunk | None = None
        for name, connect in self._candidates.items():
            # A source that is to be read from its end notes its position now, in case that it is used later.
            passed_over = found is not None and (found.start != "end" or name in self._open)
            if passed_over or self._clock() < self._ask_at_s[name]:
                continue
            try:
                if name not in self._open:
                    self._open[name] = connect()
                chunk = self._open[name].poll(max_records)
            except ToolkitError as error:
                self._put_off(name, error)
                continue
            self._reasons.pop(name, None)
            if found is None and chunk is not None and (chunk.end or chunk.records or chunk.invalid):
                self._used, self._failing_since_s, found = name, None, chunk
        if found is not None:
            return found
        # That one sink is empty does not hide that another, which may not be, cannot be read.
        if failed := [str(error) for error in self._reasons.values() if not isinstance(error, Absent)]:
            raise Unavailable(f"no source has data: {'; '.join(failed)}")
        if len(self._reasons) == len(self._candidates):
            raise Absent(f"no source has data: {'; '.join(map(str, self._reasons.values()))}")
        return None

    def _put_off(self, name: str, error: ToolkitError) -> None:
        self._reasons[name] = error
        self._ask_at_s[name] = self._clock() + ASK_AGAIN_S
        if name in self._open:
            self._open.pop(name).close()


def require_answer(brokers: str) -> None:
    """Raise Absent unless one of the `host:port,...` accepts a connection within a second."""
    deadline_s = time.monotonic() + ANSWER_S
    for broker in brokers.split(","):
        host, _, port = broker.strip().partition("]" if "[" in broker else ":")
        try:
            place = host.lstrip("["), int(port.lstrip(":") or KAFKA_PORT)
            socket.create_connection(place, max(0.01, deadline_s - time.monotonic())).close()
        except (OSError, ValueError):
            continue
        return
    raise Absent(f"no Kafka broker answers at {brokers}")
