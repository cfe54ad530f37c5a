"""Tumbling windows over event time, per value of the stream's `by`: in memory, and as part of a processed store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from msgspec.structs import asdict, astuple

from utils.reading.database import Database
from utils.records.codec import instant_text
from utils.records.infer import event_time
from utils.records.stream import Stream
from utils.sources.base import Chunk

MIN_WINDOW_S, MAX_WINDOW_S = 0.001, 1e9
NEVER_US = -(2**62)
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS windows (size_us BIGINT, start_us BIGINT, name TEXT, partition TEXT, "
    "records BIGINT NOT NULL, numbers BIGINT NOT NULL, total DOUBLE PRECISION NOT NULL, low DOUBLE PRECISION, "
    "high DOUBLE PRECISION, late BIGINT NOT NULL, PRIMARY KEY (size_us, start_us, name, partition))",
    "CREATE TABLE IF NOT EXISTS window_marks (size_us BIGINT, partition TEXT, newest_us BIGINT NOT NULL, "
    "PRIMARY KEY (size_us, partition))",
)
_COLUMNS = "records, numbers, total, low, high, late"
_SAVE = f"""INSERT INTO windows (size_us, partition, start_us, name, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (size_us, start_us, name, partition) DO UPDATE SET records = excluded.records,
    numbers = excluded.numbers, total = excluded.total, low = excluded.low, high = excluded.high,
    late = excluded.late"""
_MARK = "SELECT newest_us FROM window_marks WHERE size_us = ? AND partition = ?"
_SAVE_MARK = """INSERT INTO window_marks VALUES (?, ?, ?) ON CONFLICT (size_us, partition) DO UPDATE SET
    newest_us = excluded.newest_us"""
_OF_PARTITION = f"SELECT start_us, name, {_COLUMNS} FROM windows WHERE size_us = ? AND partition = ? AND start_us"
_SUMS = ", ".join(
    f"CAST({each} AS {kind})"
    for each, kind in (
        ("SUM(records)", "BIGINT"), ("SUM(numbers)", "BIGINT"), ("SUM(total)", "DOUBLE PRECISION"),
        ("MIN(low)", "DOUBLE PRECISION"), ("MAX(high)", "DOUBLE PRECISION"), ("SUM(late)", "BIGINT"),
    )
)  # fmt: skip
_BY_START = f"SELECT start_us, name, {_SUMS} FROM windows WHERE size_us = ? GROUP BY start_us, name ORDER BY 1 DESC, 2"
_BY_NAME = f"SELECT 0, name, {_SUMS} FROM windows WHERE size_us = ? GROUP BY name"

_OPEN = f"""SELECT start_us, name, {_COLUMNS} FROM windows JOIN window_marks USING (size_us, partition)
    WHERE size_us = ? AND start_us + ? > newest_us ORDER BY 1, 2, partition"""


def window_s(_: Any, value: float | None) -> None:
    """Raise ValueError for a window that its microseconds cannot tell, or that has no start in a database."""
    if value is not None and not MIN_WINDOW_S <= value <= MAX_WINDOW_S:
        raise ValueError(f"Must be {MIN_WINDOW_S} to {MAX_WINDOW_S:.0f}.")


def _lateness_s(_: Any, value: float) -> None:
    if not 0 <= value <= MAX_WINDOW_S:
        raise ValueError(f"Must be 0 to {MAX_WINDOW_S:.0f}.")


@Parameter(name="*")
@dataclass(frozen=True)
class Tumbling:
    """How windows are cut: each begins at a multiple of `every_s`, and closes `lateness_s` after its end."""

    every_s: Annotated[
        float | None, Parameter(name="--every", validator=window_s, help="Print and store windows of so many seconds.")
    ] = None
    lateness_s: Annotated[
        float,
        Parameter(name="--lateness", validator=_lateness_s, help="Seconds that a window waits for late records."),
    ] = 0.0


NO_WINDOWS = Tumbling()


class Window(msgspec.Struct):
    """Statistics of a window: of its `records`, `numbers` have the stream's value, and `late` came after it closed."""

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
    """What a store contains beside its records, if windows are asked for. See Part.

    A late record counts in its window like any other; it is late if that window had closed before it came. A record
    without event time is in no window. Sums are added in the order of the records, so that restarts change nothing.
    `new` are the records of the last chunk that the store did not contain, `closed` the windows that they closed.
    """

    def __init__(self, tumbling: Tumbling) -> None:
        self.size_us = round((tumbling.every_s or 0) * 1e6)
        self._closing_us = self.size_us + round(tumbling.lateness_s * 1e6)  # from the start of a window on
        self.new: Sequence[Any] = ()
        self.closed: list[Named] = []
        self._stream: Stream

    def prepare(self, database: Database, stream: Stream) -> None:
        for statement in _SCHEMA:
            database.execute(statement)
        self._stream = stream

    def add(self, database: Database, chunk: Chunk, new: Sequence[Any]) -> None:
        at = self.size_us, chunk.partition
        event_us, name, value = event_time(self._stream), namer(self._stream, self._stream.by), self._stream.codec.value
        timed = [(at_us, record) for record in new if (at_us := event_us(record)) is not None]
        found = self._stored(database, at, {at_us - at_us % self.size_us for at_us, _ in timed})
        ((before_us,),) = database.execute(_MARK, *at).fetchall() or ((None,),)
        newest_us: int | None = before_us
        for at_us, record in timed:
            start_us = at_us - at_us % self.size_us
            late = newest_us is not None and start_us + self._closing_us <= newest_us
            measured = value(record, self._stream.value) if self._stream.value else None
            found.setdefault((start_us, name(record)), Window()).take(measured, late=late)
            newest_us = at_us if newest_us is None else max(newest_us, at_us)
        database.execute_many(_SAVE, [(*at, *key, *astuple(window)) for key, window in sorted(found.items())])
        self.new, self.closed = new, []
        if newest_us is not None and newest_us != before_us:
            database.execute(_SAVE_MARK, *at, newest_us)
            bounds = NEVER_US if before_us is None else before_us - self._closing_us, newest_us - self._closing_us
            query = f"{_OF_PARTITION} > ? AND start_us <= ? ORDER BY 1, 2"
            self.closed = _named(database.execute(query, *at, *bounds).fetchall())

    def _stored(self, database: Database, at: tuple[int, str], starts: set[int]) -> dict[tuple[int, str], Window]:
        query = f"{_OF_PARTITION} IN ({', '.join('?' * len(starts))})"
        rows = database.execute(query, *at, *starts).fetchall()
        return {(start_us, name): window for start_us, name, window in _named(rows)}

    def open(self, database: Database) -> list[Named]:
        """The windows that have not closed yet."""
        return _named(database.execute(_OPEN, self.size_us, self._closing_us).fetchall())

    def report(self, database: Database, limit: int) -> list[dict[str, Any]]:
        """The latest windows over all partitions for programs, the newest first."""
        rows = database.execute(f"{_BY_START} LIMIT {int(limit)}", self.size_us).fetchall()
        return [
            {"start": start_text(start_us), "name": name, "mean": window.mean, **asdict(window)}
            for start_us, name, window in _named(rows)
        ]

    def by_name(self, database: Database) -> dict[str, Window]:
        """What all windows together contain for each name."""
        return {name: window for _, name, window in _named(database.execute(_BY_NAME, self.size_us).fetchall())}

    def line(self, start_us: int, name: str, window: Window) -> str:
        """A window in one line for people."""
        late = f", late {window.late:,}" if window.late else ""
        measured = f", {self._stream.value} {spread(window)}" if window.numbers else ""
        records = "1 record" if window.records == 1 else f"{window.records:,} records"
        return " ".join(filter(None, (start_text(start_us), name, f"{records}{measured}{late}")))


def start_text(start_us: int) -> str:
    """The start of a window as text; it may lie before the year 1."""
    try:
        return instant_text(start_us)
    except ValueError:
        return str(start_us)


def spread(window: Window) -> str:
    """Mean and range of a window's values."""
    return f"mean {window.mean:,.2f}, {window.low:,.2f} to {window.high:,.2f}"


def namer(stream: Stream, by: str | None) -> Callable[[Any], str]:
    """What gives the value of a record's field `by` as text, "" where there is none."""
    value = stream.codec.value

    def name(record: Any) -> str:
        found = value(record, by) if by else None
        return "" if found is None else str(found).replace("\0", "\ufffd")

    return name


def _named(rows: Sequence[tuple[Any, ...]]) -> list[Named]:
    return [(start_us, name, Window(*statistics)) for start_us, name, *statistics in rows]
