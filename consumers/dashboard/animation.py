"""The loops that draw: a window that matplotlib animates, or outputs without one. One thread runs them."""

import io
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import matplotlib as mpl
from loguru import logger
from matplotlib.animation import FuncAnimation

from consumers.dashboard.figure import DPI, Dashboard
from consumers.dashboard.header import KEYS
from consumers.dashboard.outputs import Output, write_atomically
from consumers.dashboard.snapshot import Snapshot, ThemeName
from consumers.dashboard.state import State
from consumers.dashboard.theme import DEFAULT_SIZE

LOOK_MS = 200  # how often the window looks whether it is to close


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


def run_headless(state: State, outputs: Sequence[Output], plan: Plan, stop: Event) -> int:
    """Give snapshots to the outputs at absolute times until `stop` or the plan's end; how many.

    The last one shows what is known at the end.
    """
    begun = due = time.monotonic()
    frames = 0
    while True:
        last, snapshot = stop.is_set(), state.snapshot()
        for output in outputs:
            output.put(snapshot)
        frames += 1
        if last or plan.reached(frames, time.monotonic() - begun):
            return frames
        due = max(due + plan.refresh_s, time.monotonic())
        if plan.duration_s is not None:
            due = min(due, begun + plan.duration_s)
        stop.wait(due - time.monotonic())


class Window:
    """A window that shows the dashboard until it is closed, `stop` is set or the plan ends.

    Keys: space pauses drawing, `t` changes the theme, `s` saves an image in `folder`, `q` closes.
    """

    def __init__(self, figure: Any, state: State, plan: Plan, stop: Event, folder: Path) -> None:
        self._state, self._plan, self._stop, self._folder = state, plan, stop, folder
        self._shown, self.frames = state.snapshot(), 0
        self.dashboard = Dashboard(figure, plan.theme, plan.refresh_s)
        self.rebuild()
        canvas = figure.canvas
        canvas.mpl_disconnect(canvas.manager.key_press_handler_id)
        handlers = {"key_press_event": self.press, "resize_event": self.rebuild, "motion_notify_event": self.hover,
                    "draw_event": self.drawn}  # fmt: skip
        for name, handler in handlers.items():
            canvas.mpl_connect(name, partial(self._handle, canvas, handler))
        self.animation = FuncAnimation(
            figure,
            partial(self._handle, canvas, self.draw),
            self.snapshots,
            interval=plan.refresh_s * 1000,
            cache_frame_data=False,
            repeat=False,
        )

    def _handle(self, canvas: Any, handler: Callable[[Any], None], what: Any) -> None:
        """Call the handler unless the window is gone; events may still come, and then the figure has another canvas."""
        if self.dashboard.figure.canvas is canvas:
            handler(what)

    def snapshots(self) -> Generator[Snapshot, None, None]:
        """A snapshot for each frame."""
        begun = time.monotonic()
        while not self._plan.reached(self.frames, time.monotonic() - begun):
            yield self._state.snapshot()
        self._stop.set()

    def draw(self, snapshot: Snapshot) -> None:
        """Show a snapshot."""
        self._shown, self.frames = snapshot, self.frames + 1
        self.dashboard.update(snapshot, KEYS)

    def drawn(self, event: Any) -> None:
        """Note how long the frame took."""
        self.dashboard.frame_done()

    def rebuild(self, event: Any = None) -> None:
        """Make everything anew, in another size or theme, and show what was shown."""
        self.dashboard.build()
        mpl.rcParams.update(self.dashboard.rc)  # the toolkit draws when it likes
        self.dashboard.update(self._shown, KEYS)
        self.dashboard.figure.canvas.draw_idle()

    def press(self, event: Any) -> None:
        """Do what a key says."""
        dashboard = self.dashboard
        match event.key:
            case " ":
                dashboard.paused = not dashboard.paused
                (self.animation.pause if dashboard.paused else self.animation.resume)()
                dashboard.update(self._shown, KEYS)
                dashboard.figure.canvas.draw_idle()
            case "t":
                dashboard.theme = "dark" if dashboard.theme == "light" else "light"
                self.rebuild()
            case "s":
                self.save()
            case "q":
                self._stop.set()

    def hover(self, event: Any) -> None:
        """Write value, time and key of what the mouse is on."""
        if self.dashboard.point_at(event.x, event.y):
            self.dashboard.figure.canvas.draw_idle()

    def save(self) -> None:
        path, buffer = self._folder / time.strftime("dashboard-%Y%m%d-%H%M%S.png"), io.BytesIO()
        self.dashboard.figure.savefig(buffer, format="png", dpi="figure")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, buffer.getvalue())
            logger.info("saved {}", path)
        except OSError as error:
            logger.warning("{} cannot be written: {}", path, error.strerror)


def run_window(state: State, plan: Plan, stop: Event, folder: Path) -> int:
    """Show the window with the backend in use; the number of frames."""
    import matplotlib.pyplot as plt

    figure = plt.figure("Streaming Dashboard", figsize=plan.size, dpi=DPI)
    window = Window(figure, state, plan, stop, folder)
    look = figure.canvas.new_timer(interval=LOOK_MS)
    look.add_callback(lambda: plt.close(figure) if stop.is_set() else None)
    look.start()
    plt.show(block=True)
    return window.frames
