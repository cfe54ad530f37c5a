"""Drawing without a window: the loop, and where its images go."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from loguru import logger
from matplotlib.animation import writers

from consumers.dashboard.figure import Dashboard
from consumers.dashboard.options import Plan
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from utils.app import in_turn
from utils.app.errors import ToolkitError

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}
SLOWEST_FPS = 1 / 655  # of a GIF

Put = Callable[[Snapshot], None]
"""Shows a snapshot; called by the thread that draws."""


def run_headless(state: State, put: Put, plan: Plan, stop: Event) -> int:
    """Put snapshots at absolute times until `stop` or the plan's end; how many.

    The last one shows what is known at the end.
    """
    begun = due = time.monotonic()
    frames = 0
    while True:
        last = stop.is_set()
        put(state.snapshot())
        frames += 1
        if last or plan.is_done(frames, time.monotonic() - begun):
            return frames
        due = max(due + plan.refresh, time.monotonic())
        if plan.duration is not None:
            due = min(due, begun + plan.duration)
        stop.wait(due - time.monotonic())


@contextmanager
def image_file(path: Path, dashboard: Dashboard) -> Iterator[Put]:
    """One PNG that always contains the latest image; a failed write is logged once and tried again next time."""
    logger.info("drawing without a window: the image is {}", path)
    failing = False

    def put(snapshot: Snapshot) -> None:
        nonlocal failing
        try:
            in_turn.replace(path, dashboard.png(snapshot))
            failing = False
        except OSError as error:
            if not failing:
                logger.warning("{} cannot be written: {}; continuing", path, error.strerror)
            failing = True

    yield put


@contextmanager
def recording(path: Path, dashboard: Dashboard, plan: Plan, stop: Event) -> Iterator[Put]:
    """A GIF or MP4 with a frame per refresh. A GIF is kept in memory until it is complete, 4 MB a frame.

    Raises ToolkitError if it cannot be written.
    """
    kind, figure = WRITERS[path.suffix], dashboard.figure
    if not writers.is_available(kind):
        raise ToolkitError(f"--save {path}: needs {kind}, which is not installed; install it or save a .gif")
    writer: Any = writers[kind]
    writer = writer(fps=max(1 / plan.refresh, SLOWEST_FPS))

    @contextmanager
    def complete() -> Iterator[None]:
        try:
            yield
        except (OSError, subprocess.CalledProcessError) as error:
            # Ctrl+C in a terminal ends ffmpeg as well, which then leaves a whole film.
            if not (kind == "ffmpeg" and stop.is_set() and path.exists()):
                reason = getattr(error, "strerror", None) or f"{kind} ended: {error}"
                raise ToolkitError(f"--save {path} cannot be written: {reason}") from error

    def put(snapshot: Snapshot) -> None:
        dashboard.update(snapshot)
        with complete():
            writer.grab_frame(facecolor=figure.get_facecolor())

    logger.info("drawing without a window: saving to {}", path)
    with complete(), writer.saving(figure, str(path), figure.dpi):
        yield put


def opened(plan: Plan, folder: Path, stop: Event) -> AbstractContextManager[Put]:
    """What writes the file that is to be saved, else dashboard.png in this folder, which is made if it is missing.

    Raises ToolkitError if it cannot be written.
    """
    path = plan.save or folder / "dashboard.png"
    if path.suffix not in (".png", *WRITERS):
        raise ToolkitError(f"--save {path}: the name must end in .gif, .mp4 or .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolkitError(f"{path.parent} cannot be made: {error.strerror}; choose another folder") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ToolkitError(f"{path}: no file can be written there; name another one")
    dashboard = Dashboard(plan.theme or "light", size=plan.inches)
    return recording(path, dashboard, plan, stop) if path.suffix in WRITERS else image_file(path, dashboard)
