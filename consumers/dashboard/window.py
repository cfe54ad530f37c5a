"""The window that matplotlib animates. One thread runs it."""

import io
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

from consumers.dashboard.figure import DPI, Dashboard
from consumers.dashboard.outputs import Plan, write_atomically
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
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
    except (ImportError, RuntimeError, ValueError) as error:
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
        figure = plt.figure(TITLE, figsize=plan.size, dpi=DPI)
        self.dashboard = Dashboard(plan.theme, figure=figure)
        self.shown, self.paused, self.frames = state.snapshot(), False, 0
        self._stop, self._folder = stop, folder
        self.rebuild()
        canvas: Any = figure.canvas
        canvas.manager.set_window_title(f"{TITLE}  ({KEYS})")
        canvas.mpl_disconnect(canvas.manager.key_press_handler_id)
        canvas.mpl_connect("key_press_event", self.press)
        canvas.mpl_connect("resize_event", self.rebuild)
        canvas.mpl_connect("motion_notify_event", self.hover)
        canvas.mpl_connect("close_event", lambda event: stop.set())
        self.animation = FuncAnimation(
            figure,
            self.draw,
            lambda: self.snapshots(state, plan),
            interval=plan.refresh_s * 1000,
            cache_frame_data=False,
            repeat=False,
        )

    def snapshots(self, state: State, plan: Plan) -> Generator[Snapshot, None, None]:
        """A snapshot for each frame."""
        begun = time.monotonic()
        while not plan.is_done(self.frames, time.monotonic() - begun):
            yield state.snapshot()
        self._stop.set()

    def draw(self, snapshot: Snapshot) -> None:
        """Show a snapshot."""
        self.shown, self.frames = snapshot, self.frames + 1
        if self.is_open:
            self.dashboard.update(snapshot)

    @property
    def is_open(self) -> bool:
        """Whether there is something to draw on: events still come while the window closes."""
        figure: Any = self.dashboard.figure
        return plt.fignum_exists(figure.number)

    def again(self) -> None:
        """Show once more what is shown, with what has changed about it."""
        if self.is_open:
            self.dashboard.update(self.shown, paused=self.paused)
            self.dashboard.figure.canvas.draw_idle()

    def rebuild(self, event: Any = None) -> None:
        """Make everything anew, in another size or theme."""
        if self.is_open:
            self.dashboard.build()
            mpl.rcParams.update(self.dashboard.rc)  # the toolkit draws when it likes
            self.again()

    def press(self, event: Any) -> None:
        """Do what a key says."""
        match event.key:
            case " ":
                self.paused = not self.paused
                (self.animation.pause if self.paused else self.animation.resume)()
                self.again()
            case "t":
                self.dashboard.theme = "dark" if self.dashboard.theme == "light" else "light"
                self.rebuild()
            case "s":
                self.save()
            case "q":
                self._stop.set()

    def hover(self, event: Any) -> None:
        """Write value, time and key of what the mouse is on."""
        if self.is_open and self.dashboard.point_at(event.x, event.y):
            self.dashboard.figure.canvas.draw_idle()

    def save(self) -> None:
        """Save an image, named by the time."""
        path, buffer = self._folder / time.strftime("dashboard-%Y%m%d-%H%M%S.png"), io.BytesIO()
        self.dashboard.figure.savefig(buffer, format="png", dpi=self.dashboard.figure.dpi)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, buffer.getvalue())
            logger.info("saved {}", path)
        except OSError as error:
            logger.warning("{} cannot be written: {}", path, error.strerror)


def run_window(state: State, plan: Plan, stop: Event, folder: Path) -> int:
    """Show the window with the backend in use; the number of frames."""
    window = Window(state, plan, stop, folder)
    figure: Any = window.dashboard.figure
    look = figure.canvas.new_timer(interval=LOOK_MS)
    look.add_callback(lambda: plt.close(figure) if stop.is_set() else None)
    look.start()
    plt.show(block=True)
    return window.frames
