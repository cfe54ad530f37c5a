"""Where pictures go besides a window: one file that is always the latest, or a recording."""

import os
import shutil
import time
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, cast

from loguru import logger
from PIL import Image

from consumers.dashboard.picture import Dashboard
from consumers.dashboard.state import Snapshot
from consumers.dashboard.theme import DPI
from utils.errors import ToolkitError


class Output(Protocol):
    """Where pictures go; `where` says it to the user."""

    where: str

    def put(self, dashboard: Dashboard, snapshot: Snapshot) -> None: ...

    def close(self) -> None: ...


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that a viewer never sees half of it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def save_picture(dashboard: Dashboard, folder: Path) -> None:
    path = folder / time.strftime("dashboard-%Y%m%d-%H%M%S.png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, dashboard.png())
        logger.info("saved {}", path)
    except OSError as error:
        logger.warning("{} cannot be written: {}", path, error.strerror)


class PictureFile:
    """One PNG that always holds the latest picture; a failed write is said once and tried again next time."""

    def __init__(self, path: Path) -> None:
        self._path, self.where = path, f"the picture is {path}"
        self._failing = False

    def put(self, dashboard: Dashboard, snapshot: Snapshot) -> None:
        try:
            write_atomically(self._path, dashboard.png())
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("{} cannot be written: {}; going on", self._path, error.strerror)
            self._failing = True

    def close(self) -> None:
        """Nothing is open."""


class Recording:
    """A GIF or MP4 of all pictures, complete once closed. Frames of a GIF wait in memory, 1 MB each."""

    def __init__(self, path: Path, refresh_s: float) -> None:
        self._path, self._refresh_s, self.where = path, refresh_s, f"saving to {path}"
        self._frames: list[Image.Image] = []
        self._film: Any = None

    def put(self, dashboard: Dashboard, snapshot: Snapshot) -> None:
        if self._path.suffix == ".gif":
            self._frames.append(dashboard.image().quantize(256, method=Image.Quantize.FASTOCTREE))
            return
        if self._film is None:
            from matplotlib.animation import FFMpegWriter

            self._film = FFMpegWriter(fps=cast(int, 1 / self._refresh_s))  # a fraction is right too
            self._film.setup(dashboard.figure, str(self._path), dpi=DPI)
        self._film.grab_frame()

    def close(self) -> None:
        if self._frames:
            first, *rest = self._frames
            buffer = BytesIO()
            first.save(buffer, "GIF", save_all=True, append_images=rest, duration=int(self._refresh_s * 1000), loop=0)
            try:
                write_atomically(self._path, buffer.getvalue())
            except OSError as error:
                raise ToolkitError(f"--save {self._path} cannot be written: {error.strerror}") from error
        if self._film is not None:
            self._film.finish()


def output_to(path: Path, refresh_s: float) -> Output:
    """The writer for a path that ends in .png, .gif or .mp4. Raises ToolkitError if it cannot be written."""
    if not path.parent.is_dir():
        raise ToolkitError(f"--save {path}: there is no folder {path.parent}; create it first")
    if path.suffix == ".png":
        return PictureFile(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ToolkitError(f"--save {path}: the name must end in .gif, .mp4 or .png")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise ToolkitError(f"--save {path}: mp4 needs ffmpeg, which is not installed; install it or save a .gif")
    return Recording(path, refresh_s)
