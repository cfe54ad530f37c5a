"""Outputs of the dashboard: a window that matplotlib animates, an image or recording in a file, a page."""

import math
import subprocess
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import matplotlib.pyplot as plt
from loguru import logger
from matplotlib.animation import FuncAnimation, writers
from matplotlib.backends.registry import backend_registry

from consumers.dashboard.figure import Dashboard
from consumers.dashboard.options import DPI, DashboardOptions
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from utils.app import shared_files
from utils.app.errors import ToolkitError, Unavailable
from utils.reading.follow import StateLog

LOOK_MS = 200  # interval at which the window checks whether it is to close
TITLE = "Streaming Dashboard"
KEYS = "space: pause, t: theme, s: save, q: quit"
WRITERS = {".gif": "pillow", ".mp4": "ffmpeg_file"}  # this one runs ffmpeg at the end: Ctrl+C would end it too


def frames(
    state: State, options: DashboardOptions, stop: Event, wait: Callable[[float], object]
) -> Generator[Snapshot, None, None]:
    """Yield a snapshot per refresh, with `wait` in between, and a last one after `stop`. Their end sets `stop`."""
    begun, refresh_s, end_s = time.monotonic(), options.refresh, options.duration or math.inf
    for drawn in count(1):
        is_last = stop.is_set()
        yield state.snapshot()
        elapsed_s = time.monotonic() - begun
        if is_last or drawn == options.frames or elapsed_s >= end_s:
            stop.set()
            return
        wait(min(refresh_s - elapsed_s % refresh_s, end_s - elapsed_s))


def keep_image(path: Path, dashboard: Dashboard, shown: Iterable[Snapshot]) -> None:
    """Keep one PNG up to date. A failed write is logged once and tried again with the next snapshot.

    Raises Unavailable at the end if the last write failed.
    """
    states, failed = StateLog(), None
    for snapshot in shown:
        failed = None
        try:
            shared_files.replace(path, dashboard.image(snapshot))
            states.healthy(f"{path} is written")
        except OSError as error:
            states.trouble(failed := Unavailable(f"{path} cannot be written: {error.strerror}"))
    if failed:
        raise failed


def keep_film(path: Path, dashboard: Dashboard, options: DashboardOptions, shown: Iterable[Snapshot]) -> None:
    """Record a GIF or MP4 with a frame per snapshot. Raises ToolkitError if it cannot be written.

    The file is made at the end. Frames of a GIF are in memory, 4 MB each, and of an MP4 in temporary files.
    """
    kind: Any = writers[WRITERS[path.suffix]]
    writer, figure = kind(fps=1 / options.refresh), dashboard.figure
    try:
        path.open("wb").close()  # raises before the first frame if it cannot be written
        # Absolute, because ffmpeg takes `-a.mp4` for an option and `12:30.mp4` for an address.
        with writer.saving(figure, str(path.absolute()), figure.dpi):
            for snapshot in shown:
                dashboard.update(snapshot)
                writer.grab_frame(facecolor=figure.get_facecolor())
    except (OSError, subprocess.CalledProcessError) as error:
        raise ToolkitError(f"--save {path} cannot be written: {error}") from error


def open_output(options: DashboardOptions, folder: Path, first: Snapshot) -> Callable[[Iterable[Snapshot]], None]:
    """Return the function that shows snapshots: on a page, in the file of --save, or in dashboard.png of this folder.

    Creates missing folders. Raises ToolkitError if the address or file cannot be used.
    """
    if options.serve is not None:
        from consumers.dashboard.serve import Page  # imports a web server, which the other outputs do not need

        return Page(options, first).show
    path = options.save or folder / "dashboard.png"
    if path.suffix not in (".png", *WRITERS):
        raise ToolkitError(f"--save {path}: the name must end in .gif, .mp4 or .png")
    if path.suffix in WRITERS and not writers.is_available(WRITERS[path.suffix]):
        raise ToolkitError(f"--save {path}: needs ffmpeg, which is not installed; install it or save a .gif")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolkitError(f"{path} cannot be made: {error.strerror}; name another one") from error
    dashboard = Dashboard(options.theme or "light", size=options.size)
    logger.info("drawing without a window: the image is {}", path)
    if path.suffix in WRITERS:
        return partial(keep_film, path, dashboard, options)
    return partial(keep_image, path, dashboard)


def window_backend(asked: str | None) -> str:
    """Return the matplotlib backend `asked`, by default matplotlib's choice; "" if it has no window.

    Raises ToolkitError if the backend cannot draw here.
    """
    try:
        if asked:
            plt.switch_backend(asked)
        name = plt.get_backend()
        _, toolkit = backend_registry.resolve_backend(name)  # type: ignore[no-untyped-call]
        return name if toolkit else ""
    except (AttributeError, ImportError, RuntimeError, ValueError) as error:  # AttributeError: it is no backend
        reason = " ".join(str(error).split())
        raise ToolkitError(
            f"backend {asked} (from --backend or MPLBACKEND) cannot draw here: {reason};"
            " leave it out to have one chosen, or give Agg to draw without a window"
        ) from error


def show_window(state: State, options: DashboardOptions, stop: Event, folder: Path) -> None:
    """Show the dashboard in a window until it is closed, or until `stop` or the options end it.

    Keys: space pauses drawing, `t` changes the theme, `s` saves an image in `folder`, `q` closes.
    """
    figure: Any = plt.figure(TITLE, figsize=options.size, dpi=DPI)
    dashboard, canvas, shown = Dashboard(options.theme or "light", figure=figure), figure.canvas, state.snapshot()

    def show(snapshot: Snapshot) -> None:
        nonlocal shown
        shown = snapshot
        if plt.fignum_exists(figure.number):  # events still come while the window closes
            dashboard.update(snapshot)
            canvas.draw_idle()

    def rebuild(*_: Any) -> None:
        if plt.fignum_exists(figure.number):
            dashboard.build()
            show(shown)

    def press(event: Any) -> None:
        match event.key:
            case " ":
                dashboard.paused = not dashboard.paused
                (animation.pause if dashboard.paused else animation.resume)()
                show(shown)
            case "t":
                dashboard.theme = "dark" if dashboard.theme == "light" else "light"
                rebuild()
            case "s":
                path = folder / time.strftime("dashboard-%Y%m%d-%H%M%S.png")
                with suppress(Unavailable):  # it has been logged
                    keep_image(path, dashboard, [shown])
                    logger.info("saved {}", path)
            case "q":
                stop.set()

    def hover(event: Any) -> None:
        if plt.fignum_exists(figure.number) and dashboard.point_at(event.x, event.y):
            canvas.draw_idle()

    rebuild()
    canvas.manager.set_window_title(f"{TITLE}  ({KEYS})")
    canvas.mpl_disconnect(canvas.manager.key_press_handler_id)
    for name, act in (("key_press_event", press), ("resize_event", rebuild), ("motion_notify_event", hover)):
        canvas.mpl_connect(name, act)
    snapshots = partial(frames, state, options, stop, lambda wait_s: None)  # the animation itself waits
    look: Any = {"interval": options.refresh * 1000, "cache_frame_data": False, "repeat": False}
    animation = FuncAnimation(figure, show, snapshots, **look)
    closing = canvas.new_timer(interval=LOOK_MS)
    closing.add_callback(lambda: plt.close(figure) if stop.is_set() else None)
    closing.start()
    plt.show(block=True)
