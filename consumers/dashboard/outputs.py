"""Where images go besides a window: one file that is always the latest, or a recording."""

import os
import subprocess
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from loguru import logger
from matplotlib.animation import AbstractMovieWriter, writers

from consumers.dashboard.figure import DPI, Drawing
from consumers.dashboard.snapshot import Snapshot
from utils.app.errors import ToolkitError

WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}
SLOWEST_FPS = 1 / 655  # of a GIF


class Output(Protocol):
    """Where images go; `where` is a line for the user. It is called by the thread that draws."""

    where: str

    def put(self, snapshot: Snapshot) -> None: ...

    def close(self) -> None: ...


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that a viewer never sees half of it. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


class ImageFile:
    """One PNG that always contains the latest image; a failed write is logged once and tried again next time."""

    def __init__(self, path: Path, drawing: Drawing) -> None:
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

    def __init__(self, path: Path, drawing: Drawing, stop: Event) -> None:
        kind = WRITERS[path.suffix]
        if not writers.is_available(kind):
            raise ToolkitError(f"--save {path}: needs {kind}, which is not installed; install it or save a .gif")
        self._path, self._drawing, self._stop, self.where = path, drawing, stop, f"saving to {path}"
        self._draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        writer: Any = writers[kind]
        self._writer: AbstractMovieWriter = writer(fps=max(1 / drawing.dashboard.refresh_s, SLOWEST_FPS))
        self._writer.setup(drawing.dashboard.figure, str(self._draft), dpi=DPI)

    def put(self, snapshot: Snapshot) -> None:
        self._drawing.dashboard.update(snapshot)
        try:
            self._writer.grab_frame(facecolor=self._drawing.dashboard.figure.get_facecolor())
        except OSError as error:
            if not self._stop.is_set():  # Ctrl+C in a terminal ends ffmpeg as well
                raise ToolkitError(f"--save {self._path} cannot be written: {error}") from error

    def close(self) -> None:
        """End the file. Raises ToolkitError if it is not whole."""
        try:
            self._writer.finish()
            self._draft.replace(self._path)
        except subprocess.CalledProcessError as error:
            if not (self._stop.is_set() and self._draft.exists()):
                raise ToolkitError(
                    f"--save {self._path} cannot be written: ffmpeg ended with {error.returncode}"
                ) from error
            self._draft.replace(self._path)
        except OSError as error:
            raise ToolkitError(f"--save {self._path} cannot be written: {error.strerror}") from error


def saved_to(path: Path, drawing: Drawing, stop: Event) -> Output:
    """The output for a path that ends in .png, .gif or .mp4. Raises ToolkitError if it cannot be written."""
    if not path.parent.is_dir():
        raise ToolkitError(f"--save {path}: there is no folder {path.parent}; create it first")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ToolkitError(f"--save {path}: no file can be written there; name another one")
    if path.suffix in WRITERS:
        return Recording(path, drawing, stop)
    if path.suffix != ".png":
        raise ToolkitError(f"--save {path}: the name must end in .gif, .mp4 or .png")
    return ImageFile(path, drawing)
