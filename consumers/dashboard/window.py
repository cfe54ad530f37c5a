"""The window that matplotlib animates. One thread runs it."""

import time
from collections.abc import Generator
from pathlib import Path
from threading import Event
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from loguru import logger
from matplotlib.animation import FuncAnimation
from matplotlib.backends.registry import backend_registry

from consumers.dashboard.figure import Dashboard
from consumers.dashboard.options import DPI, Plan
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from utils.app import shared_files
from utils.app.errors import ToolkitError

LOOK_MS = 200  # how often the window looks whether it is to close
TITLE = "Streaming Dashboard"
KEYS = "space: pause, t: theme, s: save, q: quit"


def window_backend(asked: str | None) -> str:
    """The backend of matplotlib that was asked for, else its own choice; "" if that has no window.

    Raises ToolkitError if the one that was asked for cannot draw here.
    """
    try:
        if asked:
            plt.switch_backend(asked)
        name = plt.get_backend()
        _, toolkit = backend_registry.resolve_backend(name)  # type: ignore[no-untyped-call]
        return name if toolkit else ""
    except (AttributeError, ImportError, RuntimeError, ValueError) as error:  # the first: a module that is no backend
        reason = " ".join(str(error).split())
        raise ToolkitError(
            f"backend {asked} (from --backend or MPLBACKEND) cannot draw here: {reason};"
            " leave it out to have one chosen, or give Agg to draw without a window"
        ) from error


class Window:
    """A window that shows the dashboard until it is closed, `stop` is set or the plan ends.

    Keys: space pauses drawing, `t` changes the theme, `s` saves an image in `folder`, `q` closes.
    """

    def __init__(self, state: State, plan: Plan, stop: Event, folder: Path) -> None:
        figure: Any = plt.figure(TITLE, figsize=plan.size, dpi=DPI)
        self.dashboard, self.shown = Dashboard(plan.theme or "light", figure=figure), state.snapshot()
        self.paused, self.frames = False, 0
        self._stop, self._folder = stop, folder
        canvas = figure.canvas
        canvas.manager.set_window_title(f"{TITLE}  ({KEYS})")
        canvas.mpl_disconnect(canvas.manager.key_press_handler_id)
        canvas.mpl_connect("key_press_event", lambda event: self.press(event.key))
        canvas.mpl_connect("resize_event", lambda event: self.rebuild())
        canvas.mpl_connect("motion_notify_event", lambda event: self.hover(event.x, event.y))
        self.rebuild()

        def snapshots() -> Generator[Snapshot, None, None]:
            begun = time.monotonic()
            while not plan.is_done(self.frames, time.monotonic() - begun):
                self.frames += 1
                yield state.snapshot()
            stop.set()

        interval_ms = plan.refresh * 1000
        self.animation = FuncAnimation(
            figure, self.show, snapshots, interval=interval_ms, cache_frame_data=False, repeat=False
        )

    def run(self) -> int:
        """Show the window until it closes; the number of frames."""
        figure = self.dashboard.figure
        look = figure.canvas.new_timer(interval=LOOK_MS)
        look.add_callback(lambda: plt.close(figure) if self._stop.is_set() else None)
        look.start()
        plt.show(block=True)
        return self.frames

    @property
    def is_open(self) -> bool:
        """Whether there is something to draw on: events still come while the window closes."""
        return plt.fignum_exists(self.dashboard.figure.number)

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot."""
        self.shown = snapshot
        if self.is_open:
            self.dashboard.update(snapshot, paused=self.paused)
            self.dashboard.figure.canvas.draw_idle()

    def rebuild(self) -> None:
        """Make everything anew, in another size or theme."""
        if self.is_open:
            self.dashboard.build()
            mpl.rcParams.update(self.dashboard.rc)  # the toolkit draws when it likes
            self.show(self.shown)

    def press(self, key: str) -> None:
        """Do what a key says."""
        match key:
            case " ":
                self.paused = not self.paused
                (self.animation.pause if self.paused else self.animation.resume)()
                self.show(self.shown)
            case "t":
                self.dashboard.theme = "dark" if self.dashboard.theme == "light" else "light"
                self.rebuild()
            case "s":
                self.save()
            case "q":
                self._stop.set()

    def hover(self, x: float, y: float) -> None:
        """Write value, time and key of what the mouse is on."""
        if self.is_open and self.dashboard.point_at(x, y):
            self.dashboard.figure.canvas.draw_idle()

    def save(self) -> None:
        """Save an image, named by the time."""
        path = self._folder / time.strftime("dashboard-%Y%m%d-%H%M%S.png")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            shared_files.replace(path, self.dashboard.png(self.shown, paused=self.paused))
            logger.info("saved {}", path)
        except OSError as error:
            logger.warning("{} cannot be written: {}", path, error.strerror)
