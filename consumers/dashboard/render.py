"""Loops that draw: a window, or pictures without one. Only the thread that runs them touches matplotlib."""

import os
import shutil
import struct
import time
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any, Protocol, cast

import matplotlib as mpl
import numpy as np
from loguru import logger
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from consumers.dashboard import panels, top
from consumers.dashboard.ink import Ink
from consumers.dashboard.state import Snapshot, State
from consumers.dashboard.theme import DEFAULT_SIZE, DPI, FONTS, FOREIGN_FONTS, THEMES, ThemeName, layout
from utils.errors import ToolkitError

KEYS = "keys:  space pause   t theme   s save   q quit"
FULL_FRAME_S = 20.0
TICK_MS = 200


def set_up_drawing() -> None:
    """Settings of matplotlib that every picture needs: fonts, no math in texts, no toolbar, no glyph warnings."""
    installed = set(font_manager.get_font_names())
    mpl.rcParams["font.family"] = [name for name in FONTS + FOREIGN_FONTS if name in installed] or ["DejaVu Sans"]
    mpl.rcParams["text.parse_math"] = False
    mpl.rcParams["toolbar"] = "None"
    warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from", category=UserWarning)
    warnings.filterwarnings("ignore", message="Matplotlib currently does not support")


class Dashboard:
    """One picture on one figure. `update` draws what changed: everything, or only the clocks at the top."""

    def __init__(self, figure: Figure, theme_name: ThemeName, refresh_s: float, help_line: str = "") -> None:
        self.figure, self.theme_name = figure, theme_name
        self._refresh_s, self._help_line = refresh_s, help_line
        self.frame_s: float | None = None
        self.paused = False
        self.full_frames = 0
        self.build()

    def build(self) -> None:
        """Make all artists for the figure's present size and theme."""
        width, height = self.figure.get_size_inches()
        colours, place = THEMES[self.theme_name], layout(width, height)
        self.figure.clear()
        self.figure.set_facecolor(colours.page)
        ink = Ink(self.figure, colours, place.k)
        self.header = top.Header(ink, place.header, self._help_line)
        self.strip = top.HealthStrip(ink, place.strip)
        self.panels = [panel(ink, card) for panel, card in zip(panels.PANELS, place.cards, strict=True)]
        self._groups = [self.header.group, *self.strip.groups]
        self._drawn: tuple[object, ...] | None = None
        self._drawn_at = 0.0

    def move(self, snapshot: Snapshot) -> None:
        """Move all artists to this snapshot without drawing."""
        self._move_top(snapshot)
        for panel in self.panels:
            panel.update(snapshot)
        self._drawn, self._drawn_at = self._key(snapshot), snapshot.now

    def _move_top(self, snapshot: Snapshot) -> None:
        self.header.update(snapshot, self.paused)
        self.strip.update(snapshot, self._refresh_s, self.frame_s)

    def _key(self, snapshot: Snapshot) -> tuple[object, ...]:
        return snapshot.version, snapshot.status

    def update(self, snapshot: Snapshot) -> None:
        """Draw this snapshot: all of it if data or status changed, and every 20 s for the time axis."""
        canvas: Any = self.figure.canvas
        if self._key(snapshot) != self._drawn or abs(snapshot.now - self._drawn_at) >= FULL_FRAME_S:
            begun = time.perf_counter()
            self.move(snapshot)
            canvas.draw()
            for group in self._groups:
                group.drawn()
            self.frame_s = time.perf_counter() - begun
            self.full_frames += 1
            return
        self._move_top(snapshot)
        drawn = self._redraw_top(canvas)
        if drawn and hasattr(canvas, "blit"):
            canvas.blit(Bbox.union(drawn))

    def _redraw_top(self, canvas: Any) -> list[Bbox]:
        return [extent for group in self._groups if (extent := group.redraw(canvas.get_renderer())) is not None]

    def png(self) -> bytes:
        """The picture as last drawn, as a PNG file; unfiltered rows take half the time of the usual encoder."""
        canvas: Any = self.figure.canvas
        pixels = np.asarray(canvas.buffer_rgba())
        height, width, _ = pixels.shape
        rows = np.zeros((height, 1 + 4 * width), dtype=np.uint8)
        rows[:, 1:] = pixels.reshape(height, -1)
        parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(rows.data, 2))
        chunks = (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in (*parts, (b"IEND", b""))
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    def image(self) -> Image.Image:
        """The picture as last drawn."""
        canvas: Any = self.figure.canvas
        width, height = canvas.get_width_height(physical=True)
        return Image.frombuffer("RGBA", (width, height), canvas.buffer_rgba(), "raw", "RGBA", 0, 1).convert("RGB")


def headless(size: tuple[float, float], theme_name: ThemeName, refresh_s: float) -> Dashboard:
    """A dashboard without a window."""
    set_up_drawing()
    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)
    return Dashboard(figure, theme_name, refresh_s)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that a viewer never sees half of it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Plan:
    """What to draw and how often, size in inches; it ends after so many frames or seconds, whatever is first."""

    size: tuple[float, float] = DEFAULT_SIZE
    theme: ThemeName = "light"
    refresh_s: float = 2.0
    frames: int | None = None
    duration_s: float | None = None

    def reached(self, frames: int, elapsed_s: float) -> bool:
        return (self.frames is not None and frames >= self.frames) or (
            self.duration_s is not None and elapsed_s >= self.duration_s
        )


class Output(Protocol):
    """Where pictures go; `where` says it to the user."""

    where: str

    def put(self, dashboard: Dashboard, snapshot: Snapshot) -> None: ...

    def close(self) -> None: ...


def run_headless(state: State, dashboard: Dashboard, outputs: Sequence[Output], plan: Plan, stop: Event) -> int:
    """Draw and hand out pictures at absolute times until `stop` or the plan's end; the number of pictures.

    The last picture shows what is known at the end.
    """
    begun = due = time.monotonic()
    frames = 0
    while True:
        last = stop.is_set()
        with state.drawing():
            snapshot = state.snapshot()
            dashboard.update(snapshot)
            for output in outputs:
                output.put(dashboard, snapshot)
        frames += 1
        if last or plan.reached(frames, time.monotonic() - begun):
            return frames
        due = max(due + plan.refresh_s, time.monotonic())
        if plan.duration_s is not None:
            due = min(due, begun + plan.duration_s)
        stop.wait(due - time.monotonic())


def run_window(state: State, plan: Plan, stop: Event, backend: str, pictures: Path) -> int:
    """Show the dashboard in a window until it is closed, `stop` or the plan ends; the number of frames.

    Keys: space pauses drawing, `t` changes the theme, `s` saves a picture in `pictures`, `q` closes.
    """
    mpl.use(backend)
    import matplotlib.pyplot as plt

    set_up_drawing()
    figure = plt.figure("Streaming Dashboard", figsize=plan.size, dpi=DPI)
    window = _Window(figure, state, plan, stop, pictures)
    timer = figure.canvas.new_timer(interval=TICK_MS)
    timer.add_callback(window.tick)
    timer.start()
    try:
        plt.show(block=True)
    finally:
        timer.stop()
    return window.frames


class _Window:
    """What happens in a window: its clock, its keys, its size."""

    def __init__(self, figure: Figure, state: State, plan: Plan, stop: Event, pictures: Path) -> None:
        self._figure, self._state, self._plan, self._stop, self._pictures = figure, state, plan, stop, pictures
        self._canvas = cast(Any, figure.canvas)
        self._canvas.mpl_disconnect(self._canvas.manager.key_press_handler_id)
        self._canvas.mpl_connect("resize_event", self._rebuild)
        self._canvas.mpl_connect("key_press_event", self._pressed)
        self._dashboard = Dashboard(figure, plan.theme, plan.refresh_s, KEYS)
        self._dashboard.move(state.snapshot())
        self._begun = self._due = time.monotonic()
        self.frames = 0

    @property
    def _closed(self) -> bool:
        """Events may still come after the window has gone; then the figure has another canvas."""
        return self._figure.canvas is not self._canvas

    def tick(self) -> None:
        if self._closed:
            return
        now = time.monotonic()
        if self._stop.is_set() or self._plan.reached(self.frames, now - self._begun):
            self._close()
        elif now >= self._due and not self._dashboard.paused:
            self._refresh()

    def _refresh(self) -> None:
        self._due = max(self._due + self._plan.refresh_s, time.monotonic())
        self.frames += 1
        with self._state.drawing():
            self._dashboard.update(self._state.snapshot())

    def _close(self) -> None:
        import matplotlib.pyplot as plt

        plt.close(self._figure)

    def _rebuild(self, *_: Any) -> None:
        if not self._closed:
            self._dashboard.build()
            self._dashboard.move(self._state.snapshot())

    def _pressed(self, event: Any) -> None:
        dashboard = self._dashboard
        match "" if self._closed else event.key:
            case " ":
                dashboard.paused = not dashboard.paused
                self._refresh()
            case "t":
                dashboard.theme_name = "dark" if dashboard.theme_name == "light" else "light"
                self._rebuild()
                self._canvas.draw_idle()
            case "s":
                save_picture(dashboard, self._pictures)
            case "q":
                self._close()


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
