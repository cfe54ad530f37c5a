"""Text view of any source: shows the last messages and follows, like tail -f; or a live table of who says what."""

import sys
import time
from collections import Counter, deque
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Protocol

from cyclopts import Parameter
from loguru import logger

from utils.app import cli, signals
from utils.app.config import DEFAULTS, Begin, ChosenSource, Count, Json, Once, Settings
from utils.app.errors import ToolkitError
from utils.reading.follow import Progress, consume, plain
from utils.reading.tracker import Tally
from utils.records.record import Message, encoder
from utils.records.sentiment import label
from utils.sinks import source
from utils.sources.base import Chunk

if TYPE_CHECKING:
    from rich.table import Table

LAST_SHOWN = 10
CAUGHT_UP_BELOW = 1_000  # records in a chunk
TOP_ROWS = 10
TOP_NAMES = 10_000
REDRAW_S = 0.25
_COLOURS = {"negative": "\x1b[31m", "neutral": "", "positive": "\x1b[32m"}


class View(Protocol):
    """Shows messages on stdout; `idle` is called when there are none for now."""

    def show(self, messages: list[Message]) -> None: ...
    def idle(self) -> None: ...
    def close(self) -> None: ...


def main(
    *,
    source_name: ChosenSource = "auto",
    start: Begin = "start",
    once: Once = False,
    count: Count = None,
    json: Json = False,
    top: Annotated[
        bool,
        Parameter(name="--top", show_default=False, help="A live table, or one at the end of --once and --count."),
    ] = False,
    settings: Settings = DEFAULTS,
) -> int:
    """Show messages of any source and follow: the last ten, then each new one.

    With --once, --count or --json all of them are shown. Repeated messages are shown once.
    """
    if top and json:
        raise ToolkitError("--top is for people and --json for programs: choose one")
    if top and not (once or count or sys.stdout.isatty()):
        raise ToolkitError("--top redraws a table and needs a terminal: elsewhere add --once or --count")
    stop = signals.stop_on_signals()
    tally = Tally()
    counts = tally.counts()
    positions: dict[str, str] = {}  # where a source goes on that was left and is taken again
    used = ""
    progress = Progress(source_name, counts)
    view: View = LineView(everything=once or count is not None)
    if json or top:
        view = JsonView() if json else TopView(progress)

    def resume(part: str) -> str:
        return positions.get(part, "" if start == "start" else "end")

    reading = source(source_name, settings, resume, finished=once)

    def handle(chunk: Chunk) -> int:
        nonlocal used
        if getattr(reading, "name", "") != used:
            used = progress.name = getattr(reading, "name", "")
            tally.expect_again()  # another sink brings once more what was seen in the one before
        positions[chunk.partition] = chunk.end
        new = tally.admit(chunk)
        if (counts["lost"], counts["duplicate"]) != (tally.lost, tally.duplicate):
            logger.warning("lost {:,}, duplicate {:,} so far", tally.lost, tally.duplicate)
        counts.update(tally.counts())
        if new:
            progress.saw(new[-1])
            view.show(new)
        return len(new)

    with closing(view):
        consume(lambda: reading, handle, stop, once=once, count=count, idle=view.idle)
    cli.print_lines(progress.end(), to=sys.stderr)
    return 0


class JsonView:
    """JSON lines for other programs."""

    def show(self, messages: list[Message]) -> None:
        sys.stdout.buffer.write(encoder.encode_lines(messages))
        sys.stdout.buffer.flush()

    def idle(self) -> None:
        """Nothing waits to be shown."""

    def close(self) -> None:
        """Nothing is open."""


class LineView:
    """One line per message; of what was there before, only the last ones unless `everything` is wanted."""

    def __init__(self, *, everything: bool) -> None:
        self._colours = _COLOURS if sys.stdout.isatty() else dict.fromkeys(_COLOURS, "")
        self._last: deque[Message] | None = None if everything else deque(maxlen=LAST_SHOWN)

    def show(self, messages: list[Message]) -> None:
        if self._last is None:
            self._print(messages)
            return
        self._last.extend(messages)
        if len(messages) < CAUGHT_UP_BELOW:
            self.idle()

    def idle(self) -> None:
        """The present end is reached: from now on every message is shown."""
        if self._last is not None:
            last, self._last = list(self._last), None
            self._print(last)

    def close(self) -> None:
        self.idle()

    def _print(self, messages: list[Message]) -> None:
        if messages:
            text = "\n".join(map(self._line, messages)) + "\n"
            sys.stdout.buffer.write(text.encode(sys.stdout.encoding, "replace"))
            sys.stdout.buffer.flush()

    def _line(self, message: Message) -> str:
        mood = label(message.sentiment)
        line = f"{message.timestamp} {message.author} [{message.category}] {message.sentiment:.2f} {mood}"
        colour, line = self._colours[mood], f"{plain(line)}: {plain(message.message)}"
        return f"{colour}{line}\x1b[0m" if colour else line


class TopView:
    """A table of authors and categories, redrawn in place; where stdout is no terminal, printed once at the end."""

    def __init__(self, progress: Progress) -> None:
        from rich.live import Live

        self._progress = progress
        self._counts: dict[str, Counter[str]] = {"author": Counter(), "category": Counter()}
        self._moods: dict[str, Counter[str]] = {"author": Counter(), "category": Counter()}
        self._drawn_s = 0.0
        self._live = Live(self._table(progress.measured()), auto_refresh=False)
        self._live.start()

    def show(self, messages: list[Message]) -> None:
        for kind, counts in self._counts.items():
            moods = self._moods[kind]
            for message in messages:
                name = getattr(message, kind)
                if name not in counts and len(counts) >= TOP_NAMES:
                    name = "(others)"
                counts[name] += 1
                moods[name] += message.sentiment  # type: ignore[assignment]  # a Counter adds floats as well
        self.idle()

    def idle(self) -> None:
        """Redraw if it is time."""
        if time.monotonic() - self._drawn_s >= REDRAW_S:
            self._drawn_s = time.monotonic()
            self._live.update(self._table(self._progress.measured()), refresh=True)

    def close(self) -> None:
        self._live.update(self._table(self._progress.mean()))
        self._live.stop()
        if not self._live.console.is_terminal:  # there the library leaves the last line open
            self._live.console.print()

    def _table(self, title: str) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left")
        for heading in ("", "", "messages", "share", "mood"):
            table.add_column(heading, no_wrap=True)
        for kind, counts in self._counts.items():
            total = max(1, counts.total())
            for name, count in counts.most_common(TOP_ROWS):
                mood = self._moods[kind][name] / count
                shown = Text(f"{mood:.2f} {label(mood)}", {"negative": "red", "positive": "green"}.get(label(mood), ""))
                table.add_row(kind, Text(plain(name)[:40]), f"{count:,}", f"{count / total:.0%}", shown)
            table.add_section()
        return table


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.ragini_consumer"))
