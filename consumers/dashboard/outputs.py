"""Drawing without a window: the images one after the other, and where they go."""

import math
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from loguru import logger
from matplotlib.animation import writers

from consumers.dashboard.figure import Dashboard
from consumers.dashboard.options import Plan
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from utils.app import shared_files
from utils.app.errors import ToolkitError, Unavailable
from utils.reading.follow import StateLog

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg_file"}  # the latter starts ffmpeg at the end: Ctrl+C ends it as well


class Frames:
    """A snapshot every refresh, and one of what is known at the end: `stop` or that of the plan. `count` have come."""

    def __init__(self, state: State, plan: Plan, stop: Event) -> None:
        self._state, self._plan, self._stop, self.count = state, plan, stop, 0

    def __iter__(self) -> Iterator[Snapshot]:
        begun, refresh_s, end_s = time.monotonic(), self._plan.refresh, self._plan.duration or math.inf
        while True:
            is_last = self._stop.is_set()
            self.count += 1
            yield self._state.snapshot()
            elapsed_s = time.monotonic() - begun
            if is_last or self._plan.is_done(self.count, elapsed_s):
                return
            self._stop.wait(min(refresh_s - elapsed_s % refresh_s, end_s - elapsed_s))


def keep_image(path: Path, dashboard: Dashboard, shown: Iterable[Snapshot]) -> None:
    """One PNG that always contains the latest image; a failed write is logged once and tried again next time.

    Raises Unavailable at the end if the last one failed.
    """
    states, failed = StateLog(), None
    for snapshot in shown:
        try:
            shared_files.replace(path, dashboard.png(snapshot))
            states.healthy(f"{path} is written")
            failed = None
        except OSError as error:
            states.trouble(failed := Unavailable(f"{path} cannot be written: {error.strerror}"))
    if failed:
        raise failed


def keep_film(path: Path, dashboard: Dashboard, plan: Plan, shown: Iterable[Snapshot]) -> None:
    """A GIF or MP4 with a frame per refresh, which is made at the end. Raises ToolkitError if it cannot be written.

    An earlier file is replaced only then. Until then the frames of a GIF are in memory, 4 MB each, and those of an MP4
    in the folder for temporary files.
    """
    kind: Any = writers[WRITERS[path.suffix]]
    writer, figure = kind(fps=1 / plan.refresh), dashboard.figure
    # As a whole path: ffmpeg takes `-a.mp4` for an option and `12:30.mp4` for an address.
    draft = path.absolute().with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        writer.setup(figure, str(draft), figure.dpi)
        try:
            for snapshot in shown:
                dashboard.update(snapshot)
                writer.grab_frame(facecolor=figure.get_facecolor())
        finally:  # also of what was recorded up to an error
            writer.finish()
            shared_files.retried(lambda: draft.replace(path))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "strerror", None) or f"ffmpeg ended: {error}"
        raise ToolkitError(f"--save {path} cannot be written: {reason}") from error
    finally:
        draft.unlink(missing_ok=True)


def opened(plan: Plan, folder: Path) -> Callable[[Iterable[Snapshot]], None]:
    """What shows snapshots: the page, the file that is to be saved, or dashboard.png in this folder.

    Folders are made. Raises ToolkitError if it cannot be written.
    """
    if plan.serve is not None:
        from consumers.dashboard.serve import Page  # whoever has a window needs no web server

        return Page(plan).show
    path = plan.save or folder / "dashboard.png"
    if path.suffix not in (".png", *WRITERS):
        raise ToolkitError(f"--save {path}: the name must end in .gif, .mp4 or .png")
    if path.suffix in WRITERS and not writers.is_available(WRITERS[path.suffix]):
        raise ToolkitError(f"--save {path}: needs ffmpeg, which is not installed; install it or save a .gif")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not all(os.access(each, os.W_OK) for each in (path.parent, path) if each.exists()):
            raise ToolkitError(f"{path}: no file can be written there; name another one")
    except OSError as error:
        raise ToolkitError(f"{path} cannot be made: {error.strerror}; name another one") from error
    dashboard = Dashboard(plan.theme or "light", size=plan.size)
    logger.info("drawing without a window: the image is {}", path)
    return partial(keep_film, path, dashboard, plan) if path.suffix in WRITERS else partial(keep_image, path, dashboard)
