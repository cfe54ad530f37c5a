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

    `failure` is why it did not end as it should, until it does. `looked` is set once it has read what was there, or
    found that it has to wait.
    """

    def __init__(self, source: Source, state: State, stop: threading.Event) -> None:
        super().__init__(name="reader", daemon=True)
        self._source, self._state, self._stop_event = source, state, stop
        self.failure: ToolkitError | None = Unavailable("reading does not end as it should, see the log")
        self.looked = threading.Event()
        self._name_source()

    def run(self) -> None:
        try:
            follow(lambda: self._source, self._take, self._stop_event, on_wait=self._wait, chunk_records=CHUNK_RECORDS)
            self.failure = None
        except ToolkitError as error:
            self.failure = error
        finally:
            self._source.close()  # also if it was stopped before it began
            self._stop_event.set()
            self.looked.set()

    def _take(self, chunk: Chunk) -> int:
        self._name_source()
        self._state.add(chunk)
        return len(chunk.records)

    def _wait(self, error: Unavailable | None) -> None:
        self._name_source("" if error is None or isinstance(error, Absent) else str(error))
        if error is None:
            self._state.go_live()
        self.looked.set()

    def _name_source(self, trouble: str = "") -> None:
        detail, trouble = (text.replace(f"{PROJECT_DIR}{os.sep}", "") for text in (self._source.detail, trouble))
        self._state.using(self._source.name, detail, trouble)
