"""A live table like that of top: totals and the present window for each value of `by`, and the latest records."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from utils.app import log
from utils.app.errors import ToolkitError
from utils.reading.progress import Progress
from utils.reading.windows import Window
from utils.records.infer import event_time_getter, text_getter
from utils.records.stream import Stream

EVERY_S = 60.0
MAX_NAMES, OTHERS = 10_000, "(others)"
LATEST = 200
REDRAW_S = 0.25
FRAME_LINES = 5  # headings, the rule below them, two empty lines and the line of the cursor
WIDE = 100  # columns of a terminal that has room for least and most

Top = Annotated[
    bool,
    Parameter(
        name="--top", show_default=False, help="Show a live table, or with --once or --count a table at the end."
    ),
]


def check_top(*, top: bool, ends: bool, json: bool) -> None:
    """Raise ToolkitError if the table would have no terminal, or JSON is asked for."""
    if top and json:
        raise ToolkitError("--top is for people and --json for programs: choose one")
    if top and not (ends or sys.stdout.isatty()):
        raise ToolkitError("--top redraws a table and needs a terminal: elsewhere add --once or --count")


class TopView:
    """A table that fills the terminal and is redrawn in place; without a terminal it is printed once, at the end.

    `totals` are the totals per name before this run; later records come by `show`.
    """

    def __init__(
        self, stream: Stream, progress: Progress, every_s: float | None, totals: Mapping[str, Window] | None = None
    ) -> None:
        from rich.live import Live

        self._stream, self._progress = stream, progress
        self._totals: dict[str, Window] = dict(totals or {})
        self._present: tuple[int, dict[str, Window]] = (0, {})  # start of the newest window, and its statistics by name
        self._size_us = round((every_s or EVERY_S) * 1e6)
        self._latest: deque[Any] = deque(maxlen=LATEST)
        self._drawn_s = 0.0
        self._live = Live(self._drawn(progress.measured()), auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def show(self, records: list[Any]) -> None:
        """Count new records, and redraw if it is time."""
        value, field = self._stream.codec.value, self._stream.value
        name_of, event_us = text_getter(self._stream, self._stream.by), event_time_getter(self._stream)
        self._latest.extend(records[-LATEST:])
        for record in records:
            name, at_us, measured = name_of(record), event_us(record), value(record, field) if field else None
            name = name if name in self._totals or len(self._totals) < MAX_NAMES else OTHERS
            self._totals.setdefault(name, Window()).take(measured)
            start_us = self._present[0] - 1 if at_us is None else at_us - at_us % self._size_us
            if start_us > self._present[0]:
                self._present = start_us, {}
            if start_us == self._present[0]:
                self._present[1].setdefault(name, Window()).take(measured)
        self.idle()

    def idle(self) -> None:
        """Redraw if the last time was REDRAW_S ago."""
        if time.monotonic() - self._drawn_s >= REDRAW_S:
            self._drawn_s = time.monotonic()
            self._live.update(self._drawn(self._progress.measured()), refresh=True)

    def close(self) -> None:
        """Draw a last time and release the terminal."""
        self._live.update(self._drawn(self._progress.end()))
        self._live.stop()
        if not self._live.console.is_terminal:  # where rich does not end the last line
            self._live.console.print()

    def _drawn(self, title: str) -> Any:
        from rich import box, get_console
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        console, field, window_name = get_console(), self._stream.value, f"in {self._size_us / 1e6:g} s"
        heading = Text(title).wrap(console, console.width)
        room = console.height - FRAME_LINES - len(heading)
        columns = ["records", "share", window_name]
        if field:
            columns += [f"mean {field}", window_name, "least", "most"][: 4 if console.width >= WIDE else 2]
        table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
        for column in (self._stream.by or "stream", *columns):
            table.add_column(Text(log.plain(column)), no_wrap=True, justify="right" if table.columns else "left")
        total = max(1, sum(window.records for window in self._totals.values()))
        for name, window in sorted(self._totals.items(), key=lambda each: -each[1].records)[: max(3, room // 2)]:
            latest = self._present[1].get(name, Window())
            cells = [f"{window.records:,}", f"{window.records / total:.0%}", f"{latest.records:,}"]
            numbers = (window.mean, latest.mean, window.low, window.high)
            cells += ["" if number is None else f"{number:,.2f}" for number in numbers]
            table.add_row(Text(log.plain(name or self._stream.name)[:40]), *cells[: len(columns)])
        time_of, describe, lines = self._stream.codec.value, self._stream.describe, []
        for record in deque(self._latest, maxlen=max(0, room - table.row_count)):
            line = log.plain(f"{time_of(record, 'timestamp') or ''} {describe(record)}")
            lines.append(Text(line, no_wrap=True, overflow="ellipsis"))
        return Group(*heading, table, *lines)
