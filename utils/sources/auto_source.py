"""Reads the best sink that has data: the first of its candidates, and the next when that one fails for long."""

import socket
import time
from collections.abc import Callable, Mapping

from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.sources.base import Chunk, Source

ANSWER_S = 1.0
KAFKA_PORT = 9092  # the clients' default
GIVE_UP_S = 10.0


class AutoSource:
    """Uses the first candidate, in their order, that has data, until it fails for 10 s.

    Candidates are opened when they are tried; what cannot be opened or read is tried again with the next poll. `name`
    and `detail` are those of the source in use. After a change records come that were already read from another sink:
    whoever counts knows them by (producer_id, sequence).
    """

    def __init__(
        self, candidates: Mapping[str, Callable[[], Source]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._candidates, self._clock = candidates, clock
        self._open: dict[str, Source] = {}
        self._used = ""
        self._give_up_s: float | None = None  # when to leave the one in use, which fails

    @property
    def name(self) -> str:
        """The source in use, `auto` before one is found."""
        return self._used or "auto"

    @property
    def detail(self) -> str:
        return self._open[self._used].detail if self._used else "what has data"

    def poll(self, max_records: int) -> Chunk | None:
        """The next records of the source in use. See Source."""
        if not self._used:
            return self._find(max_records)
        try:
            chunk = self._open[self._used].poll(max_records)
        except ToolkitError as error:
            self._give_up_s = self._clock() + GIVE_UP_S if self._give_up_s is None else self._give_up_s
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
        found: Chunk | None = None
        errors: list[ToolkitError] = []
        for name, connect in self._candidates.items():
            # A source that is to be read from its end notes its position now, in case that it is used later.
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
            # That one sink is empty does not hide that another, which may not be, cannot be read.
            failed = [error for error in errors if not isinstance(error, Absent)]
            if failed or len(errors) == len(self._candidates):
                kind = Unavailable if failed else Absent
                raise kind(f"no source has data: {'; '.join(map(str, failed or errors))}")
        return found


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
