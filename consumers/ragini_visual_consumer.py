"""Live dashboard: a threaded matplotlib animation of a stream in a window, an image, a browser or a recording."""

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from loguru import logger

from consumers.dashboard.options import STYLE, DashboardOptions
from utils import sinks
from utils.app import cli, config, signals
from utils.app.config import DEFAULT_STREAM, DEFAULTS, READING, Reads, Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.app.options import Begin, StreamName
from utils.reading.expression import Expression
from utils.reading.follow import follow
from utils.reading.processing import wait_for_stream
from utils.sources.base import Chunk, Source

if TYPE_CHECKING:
    from consumers.dashboard.state import State

SWITCH_S = 0.0005  # for sys.setswitchinterval; with the default a flood of records makes frames twice as slow
FIRST_LOOK_S, END_S = 2.0, 10.0
CHUNK_RECORDS = 2_000
DEFAULT_OPTIONS = DashboardOptions()


class Reader(threading.Thread):
    """A thread that reads the source into the state until `stop` is set. It sets `stop` when it cannot continue.

    `failure` is None once reading has ended normally, else the error. `looked` is set once the records that were there
    at the start are read, or reading has to wait. The thread never uses matplotlib.
    """

    def __init__(self, source: Source, state: "State", stop: threading.Event) -> None:
        super().__init__(name="reader", daemon=True)
        self._source, self._state, self._stop_event = source, state, stop
        self.failure: ToolkitError | None = Unavailable("the thread that reads has not ended normally; see the log")
        self.looked = threading.Event()

    def run(self) -> None:
        try:
            follow(lambda: self._source, self._take, self._stop_event, on_wait=self._wait, chunk_records=CHUNK_RECORDS)
            self.failure = None
        except ToolkitError as error:
            self.failure = error
        finally:
            self._source.close()  # also if `stop` was set before `follow` opened it
            self._stop_event.set()
            self.looked.set()

    def end(self) -> None:
        """Stop reading. Raises the error that ended it, if any."""
        self._stop_event.set()
        self.join(timeout=END_S)
        if self.failure:
            raise self.failure

    def _take(self, chunk: Chunk) -> int:
        self._state.using(self._source.name, self._source.detail)
        self._state.add(chunk)
        return len(chunk.records)

    def _wait(self, error: Unavailable | None) -> None:
        trouble = "" if error is None or isinstance(error, Absent) else str(error)
        self._state.using(self._source.name, self._source.detail, trouble)
        if error is None:
            self._state.go_live()
        self.looked.set()


def main(
    *,
    stream: StreamName = DEFAULT_STREAM,
    source: sinks.ChosenSource = sinks.AUTO,
    start: Begin = "start",
    options: DashboardOptions = DEFAULT_OPTIONS,
    settings: Annotated[Settings, Reads(*READING)] = DEFAULTS,
) -> int:
    """Show a stream live: record flow, bars by a text field, trend and histogram of numbers, health of the source.

    Draws in a window, or without a display keeps the image data/dashboard.png up to date. In the window:
    space pauses drawing, t changes the theme, s saves an image, q quits; the mouse shows values.
    """
    sys.setswitchinterval(SWITCH_S)
    stop = signals.stop_on_signals()
    found = wait_for_stream(stream, settings, source, stop, once=False)
    found = options.roles(sinks.with_chosen_roles(found, settings, source))
    where = Expression(found, options.where) if options.where else None
    config.isolate_matplotlib(STYLE)  # the value of MPLBACKEND is in `options.backend`

    from consumers.dashboard.state import State

    state = State(found, source, buffers=options.buffers, where=where, from_end=start == "end")
    resume = "end" if start == "end" else ""
    reader = Reader(sinks.source(source, settings, found, lambda partition: resume), state, stop)
    draw(state, options, reader, stop, settings.data_path)
    reader.end()
    known = state.snapshot()
    cli.print_lines(
        f"{cli.counted(known.total, known.roles.record)}, {known.invalid:,} invalid, {known.lost:,} lost,"
        f" {known.duplicate:,} duplicate"
    )
    return 0


def draw(state: "State", options: DashboardOptions, reader: Reader, stop: threading.Event, folder: Path) -> None:
    """Start the reader and draw until `stop`: in a window, else on a page or in a file, by default in `folder`."""
    from consumers.dashboard import animation

    if options.serve is None and not options.save and (name := animation.window_backend(options.backend)):
        logger.info("drawing in a window with {}", name)
        reader.start()
        animation.show_window(state, options, stop, folder)
        return
    show = animation.open_output(options, folder, state.snapshot())
    reader.start()
    reader.looked.wait(FIRST_LOOK_S)  # so that the first image shows the records that were there
    show(animation.frames(state, options, stop, stop.wait))


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.ragini_visual_consumer"))
