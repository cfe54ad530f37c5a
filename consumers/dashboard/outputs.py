"""Drawing without a window: the loop, and where its images go."""

import math
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from loguru import logger
from matplotlib.animation import writers

from consumers.dashboard.figure import Dashboard
from consumers.dashboard.options import Plan
from consumers.dashboard.snapshot import Put, Snapshot
from consumers.dashboard.state import State
from utils.app import shared_files
from utils.app.errors import ToolkitError, Unavailable
from utils.reading.follow import StateLog

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg_file"}  # the latter starts ffmpeg at the end: Ctrl+C ends it as well


def run_headless(state: State, put: Put, plan: Plan, stop: Event) -> int:
    """Put a snapshot every refresh, and one of what is known at the end: `stop` or that of the plan. How many."""
    begun, frames = time.monotonic(), 0
    while True:
        is_last = stop.is_set()
        put(state.snapshot())
        frames += 1
        elapsed_s = time.monotonic() - begun
        if is_last or plan.is_done(frames, elapsed_s):
            return frames
        stop.wait(min(plan.refresh - elapsed_s % plan.refresh, (plan.duration or math.inf) - elapsed_s))


@contextmanager
def image_file(path: Path, dashboard: Dashboard) -> Iterator[Put]:
    """One PNG that always contains the latest image; a failed write is logged once and tried again next time."""
    logger.info("drawing without a window: the image is {}", path)
    states = StateLog()

    def put(snapshot: Snapshot) -> None:
        try:
            shared_files.replace(path, dashboard.png(snapshot))
            states.healthy(f"{path} is written")
        except OSError as error:
            states.trouble(Unavailable(f"{path} cannot be written: {error.strerror}"))

    yield put


@contextmanager
def recording(path: Path, dashboard: Dashboard, plan: Plan) -> Iterator[Put]:
    """A GIF or MP4 with a frame per refresh, which is made at the end. Raises ToolkitError if it cannot be written.

    An earlier file is replaced only then. Until then the frames of a GIF are in memory, 4 MB each, and those of an MP4
    in the folder for temporary files.
    """
    kind, figure = WRITERS[path.suffix], dashboard.figure
    if not writers.is_available(kind):
        raise ToolkitError(f"--save {path}: needs ffmpeg, which is not installed; install it or save a .gif")
    writer: Any = writers[kind]
    writer = writer(fps=1 / plan.refresh)

    def put(snapshot: Snapshot) -> None:
        dashboard.update(snapshot)
        writer.grab_frame(facecolor=figure.get_facecolor())

    logger.info("drawing without a window: saving to {}", path)
    # As a whole path: ffmpeg takes `-a.mp4` for an option and `12:30.mp4` for an address.
    draft = path.absolute().with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        writer.setup(figure, str(draft), figure.dpi)
        try:
            yield put
        finally:  # also of what was recorded up to an error
            writer.finish()
            shared_files.retried(lambda: draft.replace(path))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "strerror", None) or f"ffmpeg ended: {error}"
        raise ToolkitError(f"--save {path} cannot be written: {reason}") from error
    finally:
        draft.unlink(missing_ok=True)


def opened(plan: Plan, folder: Path) -> AbstractContextManager[Put]:
    """The page, what writes the file that is to be saved, or else dashboard.png in this folder, which is made.

    Raises ToolkitError if it cannot be written.
    """
    if plan.serve is not None:
        from consumers.dashboard.serve import Page  # whoever has a window needs no web server

        return Page(plan)
    path = plan.save or folder / "dashboard.png"
    if path.suffix not in (".png", *WRITERS):
        raise ToolkitError(f"--save {path}: the name must end in .gif, .mp4 or .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not all(os.access(each, os.W_OK) for each in (path.parent, path) if each.exists()):
            raise ToolkitError(f"{path}: no file can be written there; name another one")
    except OSError as error:
        raise ToolkitError(f"{path} cannot be made: {error.strerror}; name another one") from error
    dashboard = Dashboard(plan.theme or "light", size=plan.size)
    return recording(path, dashboard, plan) if path.suffix in WRITERS else image_file(path, dashboard)
