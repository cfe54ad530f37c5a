"""The thread that reads: source to state. It never touches matplotlib."""

import os
import threading

from consumers.dashboard.state import State
from utils.app.config import PROJECT_DIR
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.reading.follow import follow
from utils.sources.base import Chunk, Source

CHUNK_RECORDS = 2_000


class Reader(threading.Thread):
    """Follows the source into the state until `stop`. It sets `stop` itself when it cannot continue.

    `failure` is then what the user must fix; without one and with `alive_to_the_end` False the
    thread died of something unexpected, which is in the log.
    """

    def __init__(self, source: Source, state: State, stop: threading.Event) -> None:
        super().__init__(name="reader", daemon=True)
        self._source, self._state, self._stop_event = source, state, stop
        self.failure: ToolkitError | None = None
        self.alive_to_the_end = False
        self._name_source()

    def run(self) -> None:
        try:
            follow(lambda: self._source, self.handle, self._stop_event, on_wait=self.wait, chunk_records=CHUNK_RECORDS)
            self.alive_to_the_end = True
        except ToolkitError as error:
            self.failure = error
        finally:
            self._source.close()  # also if it was stopped before it began
            self._stop_event.set()

    def handle(self, chunk: Chunk) -> int:
        """Take in a chunk; the number of its records."""
        self._name_source()
        self._state.healthy()
        self._state.add(chunk)
        return len(chunk.records)

    def wait(self, error: Unavailable | None) -> None:
        """Note that all was read, or why it cannot be."""
        self._name_source()
        if error is None:
            self._state.healthy(caught_up=True)
        elif isinstance(error, Absent) and not self._state.begun:
            self._state.healthy()  # it has only to appear
        else:
            self._state.troubled(short(str(error)))

    def _name_source(self) -> None:
        self._state.using(self._source.name, short(self._source.detail))


def short(text: str) -> str:
    """The text without the project's folder in its paths."""
    return text.replace(f"{PROJECT_DIR}{os.sep}", "")
