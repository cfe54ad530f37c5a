"""Live dashboard: a threaded matplotlib animation of a stream in a window, an image, a browser or a recording."""

import os
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from loguru import logger

from consumers.dashboard.snapshot import DEFAULT_BUFFERS, Buffers, ThemeName
from utils import sinks
from utils.app import cli, early, signals
from utils.app.config import BUZZ, DEFAULTS, READING, Begin, Reads, Settings, StreamName, positive, whole
from utils.app.errors import ToolkitError
from utils.reading.expression import Expression
from utils.reading.processing import wait_for_stream
from utils.records.schema import check_roles
from utils.records.stream import Stream

DPI = 100
SIZE = "12.8x7.2"
MAX_BUFFER = 10_000
SWITCH_S = 0.0005  # of Python's threads; by default a flood of records makes a frame twice as slow


@Parameter(name="*")
@dataclass(frozen=True)
class Charts:
    """What of the stream is charted; fields that nobody names are chosen from what is read."""

    by: Annotated[str | None, Parameter(name="--by", help="Text field whose values get a bar and a line each.")] = None
    value: Annotated[str | None, Parameter(name="--value", help="Number field of the trend.")] = None
    histogram: Annotated[str | None, Parameter(name="--histogram", help="Number field of the histogram.")] = None
    zones: Annotated[
        tuple[float, float] | None,
        Parameter(name="--zones", allow_leading_hyphen=True, help="Two limits of the value, the lower first."),
    ] = None
    where: Annotated[
        str | None, Parameter(name="--where", help="Show only records for which this SQL over the fields is true.")
    ] = None

    def roles(self, stream: Stream) -> Stream:
        """The stream with the named roles. Raises ToolkitError that names the fields that can be used."""
        named = {name: getattr(self, name) for name in ("by", "value", "histogram") if getattr(self, name)}
        zones = self.zones or (None if "value" in named else stream.zones)
        chosen = replace(stream, zones=zones, **named)
        try:
            check_roles(chosen, "the dashboard's options")
        except ToolkitError as error:
            fields = ", ".join(f"{field.name} ({field.type})" for field in stream.fields)
            raise ToolkitError(f"{error}; stream {stream.name} has the fields {fields}") from error
        return chosen


AS_READ = Charts()


def inches(text: str) -> tuple[float, float]:
    """Width and height of `12.8x7.2` in inches; numbers of 100 or more are pixels. Raises ToolkitError."""
    try:
        width, height = (float(part) for part in text.lower().split("x"))
    except ValueError:
        width = height = 0.0
    if max(width, height) >= 100:
        width, height = width / DPI, height / DPI
    if not (4 <= width <= 80 and 3 <= height <= 80):
        raise ToolkitError(f"--size {text}: give WIDTHxHEIGHT from 4x3 to 80x80 inches, or in pixels such as 1920x1080")
    return width, height


def buffers(points: int, window: int, rolling: int) -> Buffers:
    """The buffers of these lengths. Raises ToolkitError."""
    if max(points, window) > MAX_BUFFER or rolling > window:
        raise ToolkitError(f"--points and --window are at most {MAX_BUFFER:,}, and --rolling at most --window")
    return Buffers(points, window, rolling)


Length = Annotated[int, Parameter(converter=whole, validator=positive)]


def main(
    *,
    stream: StreamName = BUZZ,
    source: sinks.ChosenSource = sinks.AUTO,
    start: Begin = "start",
    charts: Charts = AS_READ,
    points: Annotated[Length, Parameter(name="--points", help="Points in the flow panel.")] = DEFAULT_BUFFERS.points,
    window: Annotated[
        Length, Parameter(name="--window", help="How many latest values trend and histogram show.")
    ] = DEFAULT_BUFFERS.window,
    rolling: Annotated[Length, Parameter(name="--rolling", help="Values in a rolling mean.")] = DEFAULT_BUFFERS.rolling,
    theme: Annotated[
        ThemeName | None,
        Parameter(name="--theme", help="Colours: light unless given; the served page follows the system unless given."),
    ] = None,
    backend: Annotated[
        str | None,
        Parameter(name="--backend", env_var="MPLBACKEND", help="Matplotlib backend; Agg draws without a window."),
    ] = None,
    size: Annotated[str, Parameter(name="--size", help="WIDTHxHEIGHT in inches, or in pixels.")] = SIZE,
    serve: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name="--serve",
            consume_multiple=(0, 1),
            help="Show the image to browsers at PORT or ADDRESS:PORT; alone, at 127.0.0.1:8765.",
        ),
    ] = None,
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(name="--allow-host", show_default=False, help="Further host name under which browsers may ask."),
    ] = (),
    save: Annotated[
        Path | None, Parameter(name="--save", help="Record to this .gif or .mp4, or keep the image in this .png.")
    ] = None,
    frames: Annotated[
        int | None,
        Parameter(name="--frames", converter=whole, validator=positive, help="Stop after this many frames."),
    ] = None,
    duration: Annotated[
        float | None, Parameter(name="--duration", validator=positive, help="Stop after this many seconds.")
    ] = None,
    refresh: Annotated[float, Parameter(name="--refresh", validator=positive, help="Seconds between frames.")] = 2.0,
    settings: Annotated[Settings, Reads(*READING)] = DEFAULTS,
) -> int:
    """Show a stream live: record flow, bars by a text field, trend and histogram of numbers, health of the source.

    Draws in a window where there is one, else keeps data/dashboard.png up to date. In the window:
    space pauses drawing, t changes the theme, s saves an image, q quits; the mouse shows values.
    """
    if serve is not None and save:
        raise ToolkitError("--serve and --save: give one of them; a second dashboard can do the other")
    sys.setswitchinterval(SWITCH_S)
    stop = signals.stop_on_signals()
    area, lengths = inches(size), buffers(points, window, rolling)
    found = wait_for_stream(stream, settings, source, stop, once=False)
    if found is None:
        return 0
    found = charts.roles(sinks.with_chosen_roles(found, settings, source))
    keep = Expression(found, charts.where).matches if charts.where else None
    os.environ.pop("MPLBACKEND", None)  # it is `backend`, and matplotlib would check it while it is imported

    from consumers.dashboard import outputs
    from consumers.dashboard.reader import Reader
    from consumers.dashboard.state import State
    from consumers.dashboard.theme import reset
    from consumers.dashboard.window import run_window, window_backend

    reset()
    state = State(found, source, buffers=lengths, from_end=start == "end",
                  keep=(lambda records: list(compress(records, keep(records)))) if keep else list)  # fmt: skip
    begin = "end" if start == "end" else ""
    # A source that is taken over later is read from its start: what was seen is known by its ids.
    reader = Reader(sinks.source(source, settings, found, lambda _: "" if state.begun else begin), state, stop)
    plan = outputs.Plan(area, theme or "light", refresh, frames, duration)
    if serve is None and not save and (name := window_backend(backend)):
        logger.info("drawing in a window with {}", name)
        reader.start()
        count = run_window(state, plan, stop, settings.data_path)
    else:
        if serve is not None:
            from consumers.dashboard.serve import DEFAULT_ADDRESS, Page

            output: Any = Page(serve[0] if serve else DEFAULT_ADDRESS, refresh, theme, allow_host, area)
        else:
            output = outputs.opened(save, settings.data_path, plan, stop)
        logger.info("drawing without a window: {}", output.where)
        with closing(output):
            reader.start()
            count = outputs.run_headless(state, output, plan, stop)
    stop.set()
    reader.join(timeout=10.0)
    return _report(reader, state.snapshot(), count)


def _report(reader: Any, snapshot: Any, frames: int) -> int:
    """One line at the end, and the exit code."""
    if reader.failure:
        raise reader.failure
    from consumers.dashboard.formatting import counted

    cli.print_lines(
        f"{counted(snapshot.total, snapshot.roles.record)}, {snapshot.invalid:,} invalid, {snapshot.lost:,} lost,"
        f" {snapshot.duplicate:,} duplicate; {counted(frames, 'frame')}"
    )
    return 0 if reader.alive_to_the_end else early.UNFINISHED


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.ragini_visual_consumer"))
