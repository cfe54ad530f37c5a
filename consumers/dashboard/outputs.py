"""Where pictures go besides a window: one file that is always the latest, or a recording."""

import os
import shutil
import subprocess
import time
from io import BytesIO
from pathlib import Path
from typing import Protocol

from loguru import logger
from PIL import Image

from consumers.dashboard import backends
from consumers.dashboard.picture import Dashboard
from consumers.dashboard.state import Snapshot
from utils.app.errors import ToolkitError

LONGEST_GIF_MS = 655_350  # what the format can say


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
        self._path, self.where = path, f"the image is {path}"
        self._failing = False

    def put(self, dashboard: Dashboard, snapshot: Snapshot) -> None:
        try:
            write_atomically(self._path, dashboard.png())
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("{} cannot be written: {}; continuing", self._path, error.strerror)
            self._failing = True

    def close(self) -> None:
        """Nothing is open."""


class Animation:
    """A GIF of all pictures, written when it is closed; they wait in memory, 1 MB each."""

    def __init__(self, path: Path, refresh_s: float) -> None:
        self._path, self._refresh_s, self.where = path, refresh_s, f"saving to {path}"
        self._frames: list[Image.Image] = []

    def put(self, dashboard: Dashboard, snapshot: Snapshot) -> None:
        self._frames.append(dashboard.image().quantize(256, method=Image.Quantize.FASTOCTREE))

    def close(self) -> None:
        if not self._frames:
            return
        first, *rest = self._frames
        buffer, shown_ms = BytesIO(), min(int(self._refresh_s * 1000), LONGEST_GIF_MS)
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=shown_ms, loop=0)
        try:
            write_atomically(self._path, buffer.getvalue())
        except OSError as error:
            raise ToolkitError(f"--save {self._path} cannot be written: {error.strerror}") from error


class Film:
    """An MP4 of all pictures, which ffmpeg makes; whole once it is closed."""

    def __init__(self, path: Path, refresh_s: float) -> None:
        self._path, self._refresh_s, self.where = path, refresh_s, f"saving to {path}"
        self._ffmpeg: subprocess.Popen[bytes] | None = None

    def put(self, dashboard: Dashboard, snapshot: Snapshot) -> None:
        image = dashboard.image()
        self._ffmpeg = self._ffmpeg or self._start(image.size)
        assert self._ffmpeg.stdin is not None
        try:
            self._ffmpeg.stdin.write(image.tobytes())
        except OSError:  # it ended: closing tells why
            self.close()

    def _start(self, size: tuple[int, int]) -> "subprocess.Popen[bytes]":
        pixels = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}")
        pace = ("-framerate", str(1 / self._refresh_s))
        even = ("-vf", "crop=trunc(iw/2)*2:trunc(ih/2)*2")  # the codec takes no others
        made = ("-vcodec", "h264", "-pix_fmt", "yuv420p", "-y", str(self._path.absolute()))
        command = ("ffmpeg", "-loglevel", "error", *pixels, *pace, "-i", "pipe:", *even, *made)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, **backends.OUT_OF_REACH)

    def close(self) -> None:
        """End the file. Raises ToolkitError with ffmpeg's reason if it is not whole."""
        ffmpeg, self._ffmpeg = self._ffmpeg, None
        if ffmpeg is None:
            return
        _, told = ffmpeg.communicate()
        if ffmpeg.returncode:
            reason = told.decode(errors="replace").splitlines()[-1:] or [f"it ended with code {ffmpeg.returncode}"]
            raise ToolkitError(f"--save {self._path} cannot be written; ffmpeg says: {reason[0]}")


def output_to(path: Path, refresh_s: float) -> Output:
    """The writer for a path that ends in .png, .gif or .mp4. Raises ToolkitError if it cannot be written."""
    if not path.parent.is_dir():
        raise ToolkitError(f"--save {path}: there is no folder {path.parent}; create it first")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ToolkitError(f"--save {path}: no file can be written there; name another one")
    match path.suffix:
        case ".png":
            return PictureFile(path)
        case ".gif":
            return Animation(path, refresh_s)
        case ".mp4" if shutil.which("ffmpeg"):
            return Film(path, refresh_s)
        case ".mp4":
            raise ToolkitError(f"--save {path}: mp4 needs ffmpeg, which is not installed; install it or save a .gif")
    raise ToolkitError(f"--save {path}: the name must end in .gif, .mp4 or .png")
