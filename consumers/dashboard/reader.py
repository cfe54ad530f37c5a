"""The thread that reads: source to state. It never touches matplotlib."""

import os
import threading

from loguru import logger

from consumers.dashboard.state import AUTO, State
from utils.app.backoff import Backoff
from utils.app.config import PROJECT_DIR
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.reading.follow import InvalidLog
from utils.sources.base import Source

CHUNK_RECORDS = 2_000
IDLE_S = 0.1


class Reader(threading.Thread):
    """Polls the source into the state until `stop`. It sets `stop` itself when it cannot go on.

    `failure` is then what the user must mend; without one and with `alive_to_the_end` False the
    thread died of something unexpected, which is in the log.
    """

    def __init__(self, source: Source, state: State, stop: threading.Event) -> None:
        super().__init__(name="reader", daemon=True)
        self._source, self._state, self._stop_event = source, state, stop
        self._backoff = Backoff(cap_s=2.0)
        self._said = ""
        self._invalid = InvalidLog()
        self.failure: ToolkitError | None = None
        self.alive_to_the_end = False
        self._name_source()

    def run(self) -> None:
        try:
            while not self._stop_event.is_set():
                self._state.give_way()
                self._stop_event.wait(self.step())
            self.alive_to_the_end = True
        except ToolkitError as error:
            self.failure = error
        finally:
            self._stop_event.set()
            self._source.close()

    def step(self) -> float:
        """Poll once; how many seconds to wait before the next time. Raises ToolkitError if the user must act."""
        state = self._state
        try:
            chunk = self._source.poll(CHUNK_RECORDS)
        except Unavailable as error:
            self._name_source()
            waiting = isinstance(error, Absent) and not state.begun
            if waiting:
                state.healthy()
            else:
                state.troubled(short(str(error)))
            self._say("INFO" if waiting else "WARNING", str(error))
            return self._backoff.next_s()
        self._name_source()
        if self._said and state.source != AUTO:
            logger.info("no more waiting: {} is read", state.detail)
            self._said = ""
        if chunk is None:
            state.healthy(caught_up=True)
            return IDLE_S
        state.healthy()
        self._invalid.add(chunk.invalid)
        state.add(chunk)
        self._backoff.reset()
        return 0.0

    def _name_source(self) -> None:
        name = getattr(self._source, "name", "")
        if name:
            self._state.using(name, short(getattr(self._source, "detail", "")))

    def _say(self, level: str, line: str) -> None:
        if line != self._said:
            logger.log(level, "{}; trying again", line)
        self._said = line


def short(text: str) -> str:
    """The text without the project's folder in its paths."""
    return text.replace(f"{PROJECT_DIR}{os.sep}", "")
