"""Loops that draw: a window, or pictures without one. Only the thread that runs them touches matplotlib."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, cast

import matplotlib as mpl
from matplotlib.figure import Figure

from consumers.dashboard.outputs import Output, save_picture
from consumers.dashboard.picture import Dashboard, set_up_drawing
from consumers.dashboard.state import Snapshot, State
from consumers.dashboard.theme import DEFAULT_SIZE, DPI, ThemeName

KEYS = "keys:  space pause   t theme   s save   q quit"
TICK_MS = 200


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
        self._seen = state.snapshot()
        self._dashboard.move(self._seen)
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
            self._dashboard.update(self._look())

    def _look(self) -> Snapshot:
        """What is known now, or was when drawing was paused."""
        if not self._dashboard.paused:
            self._seen = self._state.snapshot()
        return self._seen

    def _close(self) -> None:
        import matplotlib.pyplot as plt

        plt.close(self._figure)

    def _rebuild(self, *_: Any) -> None:
        if not self._closed:
            self._dashboard.build()
            self._dashboard.move(self._look())

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
