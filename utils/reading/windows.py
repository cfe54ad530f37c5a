"""Tumbling windows over event time, per value of the stream's `by`: in memory, and as tables of a processed store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec.structs import astuple

from utils.app.cli import counted
from utils.reading.database import Row, make_tables, one_of, upsert
from utils.reading.store import ProcessedStore, Stored
from utils.records.instants import instant_text

MAX_WINDOW_S = 1_000_000_000
NEVER_US = -(2**62)
FIRST_US = -62_135_596_800_000_000  # the year 1, where instants begin: a window may begin before it
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS windows (size_us BIGINT, start_us BIGINT, name TEXT, partition TEXT, "
    "records BIGINT NOT NULL, numbers BIGINT NOT NULL, total DOUBLE PRECISION NOT NULL, low DOUBLE PRECISION, "
    "high DOUBLE PRECISION, late BIGINT NOT NULL, PRIMARY KEY (size_us, start_us, name, partition))"
)
_COLUMNS = "records, numbers, total, low, high, late"
_SAVE = upsert("windows", "size_us, partition, start_us, name", _COLUMNS)
_OF_PARTITION = f"SELECT start_us, name, {_COLUMNS} FROM windows WHERE size_us = ? AND partition = ? AND start_us"
_BY_NAME = """SELECT 0, name, CAST(SUM(records) AS BIGINT), CAST(SUM(numbers) AS BIGINT), SUM(total), MIN(low),
    MAX(high), CAST(SUM(late) AS BIGINT) FROM windows WHERE size_us = ? GROUP BY name"""
_OPEN = f"""SELECT start_us, name, {_COLUMNS} FROM windows JOIN partitions USING (partition)
    WHERE size_us = ? AND start_us + ? > newest_us ORDER BY 1, 2, partition"""

# Microseconds are fine enough for the shortest window, and the starts of the longest fit 64 bits.
window_s = Number(gte=0.001, lte=MAX_WINDOW_S)


_Every = Parameter(
    name="--every", validator=window_s, help="Print and store statistics of windows of this many seconds."
)
_Lateness = Parameter(
    name="--lateness", validator=Number(gte=0, lte=MAX_WINDOW_S), help="Seconds that a window waits for late records."
)


@Parameter(name="*")
@dataclass(frozen=True)
class Tumbling:
    """Options of windows: each begins at a multiple of `every_s` and closes `lateness_s` after its end."""

    every_s: Annotated[float | None, _Every] = None
    lateness_s: Annotated[float, _Lateness] = 0.0


NO_WINDOWS = Tumbling()


class Window(msgspec.Struct):
    """Statistics of a window: of its `records`, `numbers` have a value and `late` came after it closed."""

    records: int = 0
    numbers: int = 0
    total: float = 0.0
    low: float | None = None
    high: float | None = None
    late: int = 0

    def take(self, value: float | None, *, late: bool = False) -> None:
        """Count one record."""
        self.records += 1
        self.late += late
        if value is not None:
            self.numbers += 1
            self.total += value
            self.low = value if self.low is None else min(self.low, value)
            self.high = value if self.high is None else max(self.high, value)

    @property
    def mean(self) -> float | None:
        return self.total / self.numbers if self.numbers else None


Named = tuple[int, str, Window]
"""Start in microseconds since 1970, the value of `by`, and the window."""


class Windows:
    """The windows of a store, updated with its new records.

    A record is late if its window had closed before it came; it is counted in that window nevertheless. A record
    without event time is in no window. Sums are added in the order of the records, so restarts do not change them.
    """

    def __init__(self, store: ProcessedStore, tumbling: Tumbling) -> None:
        self._database, self._stream = store.database, store.stream
        self._size_us = round((tumbling.every_s or 0) * 1e6)
        self._closing_us = self._size_us + round(tumbling.lateness_s * 1e6)  # after the start of a window
        self.closed: list[Named] = []  # the windows that the last chunk closed
        with self._database.transaction():
            make_tables(self._database, _SCHEMA)

    def add(self, stored: Stored) -> None:
        """Count new records, in the transaction that stored them. See ProcessedStore.add."""
        size_us, scope = self._size_us, (self._size_us, stored.partition)
        starts = {at_us - at_us % size_us for _, at_us, *_ in stored.new if at_us is not None}
        rows = self._database.execute(f"{_OF_PARTITION} IN {one_of(starts)}", *scope, *starts).fetchall()
        found = {(start_us, each): window for start_us, each, window in _named(rows)}
        for _, at_us, newest_us, name, value, _ in stored.new:
            if at_us is None:
                continue
            start_us = at_us - at_us % size_us
            late = newest_us is not None and start_us + self._closing_us <= newest_us
            found.setdefault((start_us, name), Window()).take(value, late=late)
        self._database.execute_many(_SAVE, [(*scope, *key, *astuple(window)) for key, window in sorted(found.items())])
        # A window closes when the newest event time passes its start by `_closing_us`: these did during the chunk.
        bounds = [(NEVER_US if us is None else us) - self._closing_us for us in (stored.before_us, stored.newest_us)]
        query = f"{_OF_PARTITION} > ? AND start_us <= ? ORDER BY 1, 2"
        self.closed = _named(self._database.execute(query, *scope, *bounds).fetchall())

    def open(self) -> list[Named]:
        """Return the windows that have not closed yet."""
        return _named(self._database.query(_OPEN, self._size_us, self._closing_us))

    def by_name(self) -> dict[str, Window]:
        """Return the statistics of all windows together, by name."""
        return {name: window for _, name, window in _named(self._database.query(_BY_NAME, self._size_us))}

    def line(self, start_us: int, name: str, window: Window) -> str:
        """Format a window as one line of text."""
        text = counted(window.records, "record")
        if window.numbers:
            text += f", {self._stream.value} mean {window.mean:,.2f}, {window.low:,.2f} to {window.high:,.2f}"
        return " ".join(filter(None, (instant_text(max(start_us, FIRST_US)), name, text)))


def _named(rows: Sequence[Row]) -> list[Named]:
    return [(start_us, name, Window(*statistics)) for start_us, name, *statistics in rows]
