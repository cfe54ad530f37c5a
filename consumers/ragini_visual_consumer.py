"""Live dashboard: a threaded matplotlib animation of the stream in a window, an image, a browser or a recording."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from loguru import logger

from consumers.dashboard.theme import DEFAULT_SIZE, DPI, ThemeName
from utils import sinks
from utils.app import cli, early, signals
from utils.app.config import DEFAULTS, READING, Begin, Reads, Settings, positive, whole
from utils.app.errors import ToolkitError
from utils.records.stream import BUZZ

SIZE = "x".join(map(str, DEFAULT_SIZE))


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


def main(
    *,
    source: sinks.ChosenSource = sinks.AUTO,
    start: Begin = "start",
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
    """Show the stream live: message flow, authors, sentiment and lengths, with the health of the source.

    Draws in a window where there is one, else keeps data/dashboard.png up to date. In the window:
    space pauses drawing, t changes the theme, s saves an image, q quits.
    """
    from consumers.dashboard import backends
    from consumers.dashboard.reader import Reader
    from consumers.dashboard.state import State

    stop = signals.stop_on_signals()
    area = inches(size)
    choice = backends.choose(backend)
    if choice.backend and (serve is not None or save):
        choice = backends.Choice(None, "--serve and --save draw without a window")
    os.environ["MPLBACKEND"] = choice.backend or "agg"  # what matplotlib reads while it is imported

    state = State(source, from_end=start == "end")
    begin = "end" if start == "end" else ""
    # A source that is taken over later is read from its start: what was seen is known by its ids.
    reader = Reader(sinks.source(source, settings, BUZZ, lambda _: "" if state.begun else begin), state, stop)

    from consumers.dashboard import picture, render

    plan = render.Plan(area, theme or "light", refresh, frames, duration)
    if choice.backend:
        logger.info("drawing in a window with {}: {}", choice.backend, choice.reason)
        reader.start()
        count = render.run_window(state, plan, stop, choice.backend, settings.data_path)
    else:
        places = _outputs(serve, save, refresh, theme, settings)
        for line in (f"drawing without a window: {choice.reason}", *(place.where for place in places)):
            logger.info("{}", line)
        reader.start()
        dashboard = picture.headless(plan.size, plan.theme, plan.refresh_s)
        try:
            count = render.run_headless(state, dashboard, places, plan, stop)
        finally:
            for place in places:
                place.close()
    stop.set()
    reader.join(timeout=10.0)
    return _report(reader, state.snapshot(), count)


def _outputs(
    serve: tuple[str, ...] | None, save: Path | None, refresh_s: float, theme: ThemeName | None, settings: Settings
) -> list[Any]:
    """Where pictures go without a window: --save, else data/dashboard.png, and the page if it is asked for."""
    from consumers.dashboard import outputs

    places: list[Any] = []
    if save:
        places.append(outputs.output_to(save, refresh_s))
    else:
        path = settings.data_path / "dashboard.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ToolkitError(f"{path.parent} cannot be made: {error.strerror}; choose another --data-dir") from error
        places.append(outputs.PictureFile(path))
    if serve is not None:
        from consumers.dashboard.serve import DEFAULT_ADDRESS, Served

        places.append(Served(serve[0] if serve else DEFAULT_ADDRESS, refresh_s, theme))
    return places


def _report(reader: Any, snapshot: Any, frames: int) -> int:
    """One line at the end, and the exit code."""
    if reader.failure:
        raise reader.failure
    from consumers.dashboard.words import counted

    cli.print_lines(
        f"{counted(snapshot.total, 'message')}, {snapshot.invalid:,} invalid, {snapshot.lost:,} lost,"
        f" {snapshot.duplicate:,} duplicate; {counted(frames, 'frame')}"
    )
    return 0 if reader.alive_to_the_end else early.UNFINISHED


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.ragini_visual_consumer"))
