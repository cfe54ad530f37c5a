"""Drawing without a window: the loop, and where its images go."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from loguru import logger
from matplotlib.animation import AbstractMovieWriter, writers

from consumers.dashboard.figure import Dashboard
from consumers.dashboard.snapshot import Snapshot, ThemeName
from consumers.dashboard.state import State
from consumers.dashboard.theme import DEFAULT_SIZE
from utils.app import in_turn
from utils.app.errors import ToolkitError

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}
SLOWEST_FPS = 1 / 655  # of a GIF


@dataclass(frozen=True)
class Plan:
    """What to draw and how often, size in inches; it ends after so many frames or seconds, whatever is first."""

    size: tuple[float, float] = DEFAULT_SIZE
    theme: ThemeName = "light"
    refresh_s: float = 2.0
    frames: int | None = None
    duration_s: float | None = None

    def is_done(self, frames: int, elapsed_s: float) -> bool:
        return (self.frames is not None and frames >= self.frames) or (
            self.duration_s is not None and elapsed_s >= self.duration_s
        )


class Output(Protocol):
    """Where images go; `where` is a line for the user. It is called by the thread that draws."""

    where: str

    def put(self, snapshot: Snapshot) -> None: ...

    def close(self) -> None: ...


def run_headless(state: State, output: Output, plan: Plan, stop: Event) -> int:
    """Give snapshots to the output at absolute times until `stop` or the plan's end; how many.

    The last one shows what is known at the end.
    """
    begun = due = time.monotonic()
    frames = 0
    while True:
        last = stop.is_set()
        output.put(state.snapshot())
        frames += 1
        if last or plan.is_done(frames, time.monotonic() - begun):
            return frames
        due = max(due + plan.refresh_s, time.monotonic())
        if plan.duration_s is not None:
            due = min(due, begun + plan.duration_s)
        stop.wait(due - time.monotonic())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that a viewer never sees half of it. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        in_turn.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


class ImageFile:
    """One PNG that always contains the latest image; a failed write is logged once and tried again next time."""

    def __init__(self, path: Path, drawing: Dashboard) -> None:
        self._path, self._drawing, self.where = path, drawing, f"the image is {path}"
        self._failing = False

    def put(self, snapshot: Snapshot) -> None:
        try:
            write_atomically(self._path, self._drawing.png(snapshot))
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("{} cannot be written: {}; continuing", self._path, error.strerror)
            self._failing = True

    def close(self) -> None:
        """Nothing is open."""


class Recording:
    """A GIF or MP4 with a frame per refresh. A GIF is kept in memory until it is closed, 4 MB a frame."""

    def __init__(self, path: Path, drawing: Dashboard, plan: Plan, stop: Event) -> None:
        kind = WRITERS[path.suffix]
        if not writers.is_available(kind):
            raise ToolkitError(f"--save {path}: needs {kind}, which is not installed; install it or save a .gif")
        self._path, self._dashboard, self._stop, self.where = path, drawing, stop, f"saving to {path}"
        writer: Any = writers[kind]
        self._writer: AbstractMovieWriter = writer(fps=max(1 / plan.refresh_s, SLOWEST_FPS))
        self._writer.setup(self._dashboard.figure, str(path), dpi=self._dashboard.figure.dpi)

    def put(self, snapshot: Snapshot) -> None:
        self._dashboard.update(snapshot)
        try:
            self._writer.grab_frame(facecolor=self._dashboard.figure.get_facecolor())
        except OSError as error:
            self._failed(str(error), error)

    def close(self) -> None:
        """End the file. Raises ToolkitError if it is not whole."""
        try:
            self._writer.finish()
        except subprocess.CalledProcessError as error:
            self._failed(f"ffmpeg ended with {error.returncode}", error)
        except OSError as error:
            raise ToolkitError(f"--save {self._path} cannot be written: {error.strerror}") from error

    def _failed(self, reason: str, error: Exception) -> None:
        # Ctrl+C in a terminal ends ffmpeg as well, which then leaves a whole film.
        if not (self._stop.is_set() and self._path.exists()):
            raise ToolkitError(f"--save {self._path} cannot be written: {reason}") from error


def opened(path: Path | None, folder: Path, plan: Plan, stop: Event) -> Output:
    """The output for --save, a path that ends in .png, .gif or .mp4, else for dashboard.png in the data folder.

    Raises ToolkitError if it cannot be written.
    """
    drawing = Dashboard(plan.theme, size=plan.size)
    if path is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ToolkitError(f"{folder} cannot be made: {error.strerror}; choose another --data-dir") from error
        return ImageFile(folder / "dashboard.png", drawing)
    if not path.parent.is_dir():
        raise ToolkitError(f"--save {path}: there is no folder {path.parent}; create it first")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ToolkitError(f"--save {path}: no file can be written there; name another one")
    if path.suffix in WRITERS:
        return Recording(path, drawing, plan, stop)
    if path.suffix != ".png":
        raise ToolkitError(f"--save {path}: the name must end in .gif, .mp4 or .png")
    return ImageFile(path, drawing)
