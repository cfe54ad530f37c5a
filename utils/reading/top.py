"""A live table of who does what, like top: totals and the present window by `by`, and the latest records."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from utils.app import log
from utils.app.config import BUZZ
from utils.app.errors import ToolkitError
from utils.reading.progress import Progress
from utils.reading.windows import Window, namer
from utils.records.infer import event_time
from utils.records.sentiment import label
from utils.records.stream import Stream

if TYPE_CHECKING:
    from rich.console import Group

EVERY_S = 60.0
MAX_NAMES, OTHERS = 10_000, "(others)"
LATEST = 200
REDRAW_S = 0.25
FRAME_LINES = 6  # title, headings, their line, two empty ones, and that of the cursor
WIDE = 100  # columns of a terminal

Top = Annotated[
    bool, Parameter(name="--top", show_default=False, help="A live table, or one at the end of --once and --count.")
]


def check_top(*, top: bool, ends: bool, json: bool) -> None:
    """Raise ToolkitError if there can be no live table: nobody would see it, or programs would."""
    if top and json:
        raise ToolkitError("--top is for people and --json for programs: choose one")
    if top and not (ends or sys.stdout.isatty()):
        raise ToolkitError("--top redraws a table and needs a terminal: elsewhere add --once or --count")


class TopView:
    """Fills the terminal and is redrawn in place; where stdout is none, it is printed once at the end.

    `totals` are those of what was read before this run. It shows what it is told: it asks no store.
    """

    def __init__(
        self, stream: Stream, progress: Progress, every_s: float | None, totals: Mapping[str, Window] | None = None
    ) -> None:
        from rich.live import Live

        self._stream, self._progress = stream, progress
        self._totals: dict[str, Window] = dict(totals or {})
        self._present: tuple[int, dict[str, Window]] = (0, {})  # start of the newest window, and who is in it
        self._size_us = round((every_s or EVERY_S) * 1e6)
        self._latest: deque[Any] = deque(maxlen=LATEST)
        self._drawn_s = 0.0
        self._live = Live(self._drawn(progress.measured()), auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def show(self, records: list[Any]) -> None:
        """Count records that are new."""
        stream, value = self._stream, self._stream.codec.value
        name_of, event_us = namer(stream, stream.by), event_time(stream)
        self._latest.extend(records[-LATEST:])
        for record in records:
            name, at_us = name_of(record), event_us(record)
            if name not in self._totals and len(self._totals) >= MAX_NAMES:
                name = OTHERS
            measured = value(record, self._stream.value) if self._stream.value else None
            self._totals.setdefault(name, Window()).take(measured)
            if at_us is not None:
                start_us = at_us - at_us % self._size_us
                if start_us > self._present[0]:
                    self._present = start_us, {}
                if start_us == self._present[0]:
                    self._present[1].setdefault(name, Window()).take(measured)
        self.idle()

    def idle(self) -> None:
        """Redraw if it is time."""
        if time.monotonic() - self._drawn_s >= REDRAW_S:
            self._drawn_s = time.monotonic()
            self._live.update(self._drawn(self._progress.measured()), refresh=True)

    def close(self) -> None:
        """Draw the last time."""
        self._live.update(self._drawn(self._progress.end()))
        self._live.stop()
        if not self._live.console.is_terminal:  # there the library leaves the last line open
            self._live.console.print()

    def _drawn(self, title: str) -> "Group":
        from rich import get_console
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        width, height = get_console().size
        measured, present, seconds = self._stream.value, self._present[1], f"{self._size_us / 1e6:g} s"
        shown = sorted(self._totals.items(), key=lambda each: -each[1].records)[: max(3, (height - FRAME_LINES) // 2)]
        total = max(1, sum(window.records for window in self._totals.values()))
        table = Table(box=SIMPLE_HEAD, expand=True, pad_edge=False)
        table.add_column(self._stream.by or "stream", no_wrap=True)
        headings = ["records", "share", f"in {seconds}"]
        headings += [f"mean {measured}", f"in {seconds}"] if measured else []
        for heading in headings + (["least", "most"] if measured and width >= WIDE else []):
            table.add_column(heading, no_wrap=True, justify="right")
        for name, window in shown:
            latest = present.get(name, Window())
            cells = [f"{window.records:,}", f"{window.records / total:.0%}", f"{latest.records:,}"]
            cells += map(self._number, (window.mean, latest.mean, window.low, window.high))
            shown_cells = cells[: len(table.columns) - 1]
            table.add_row(Text(log.plain(name or self._stream.name)[:40]), *map(Text, shown_cells))
        room = max(0, height - FRAME_LINES - len(shown))
        lines = [self._line(record) for record in list(self._latest)[-room:]] if room else []
        cut = partial(Text, no_wrap=True, overflow="ellipsis")
        return Group(cut(title), table, *map(cut, lines))

    def _line(self, record: Any) -> str:
        timestamp = self._stream.codec.value(record, "timestamp") or ""
        return log.plain(f"{timestamp} {self._stream.describe(record)}")

    def _number(self, value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:,.2f}" + (f" {label(value)}" if self._stream.name == BUZZ else "")
