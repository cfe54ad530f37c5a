"""The table of a processed store that contains the records."""

from collections.abc import Iterable
from typing import Any

from utils.records.codec import Field
from utils.records.stream import Stream
from utils.records.table import Table, quoted

Row = tuple[Any, ...]


class StoreTable(Table):
    """The stream's columns, then event time in microseconds, whether it was late, and the place of what has no ids."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.has_id, self.name = False, "records"
        taken = {name.lower() for name in self.columns}
        added = [("_" * (name in taken) + name) for name in ("event_us", "late", "place")]
        self.event_us, self.late, self.place = added
        self.fields += tuple(map(Field, added, ("integer", "boolean", "text")))
        self.columns = tuple(field.name for field in self.fields)
        self.row = ", ".join(map(quoted, self.columns))
        self.identity = ", ".join(map(quoted, self._identity()))

    def _identity(self) -> tuple[str, str, str]:
        """The columns that say which record a row is: ids, or the place of what has none."""
        return "producer_id", "sequence", self.place

    def indexes(self) -> list[str]:
        """The statements that keep a record from being stored twice."""
        place = quoted(self.place)
        unique = f"CREATE UNIQUE INDEX IF NOT EXISTS records_place ON records ({place}) WHERE {place} IS NOT NULL"
        return [self.identity_index(), unique]

    def numbers_of(self, stored: Iterable[Row], rows: Iterable[Row]) -> list[int]:
        """Which of the rows these identities were stored from; of equal rows it is the first."""
        columns, left = list(map(self.columns.index, self._identity())), set(stored)
        numbers = []
        for number, row in enumerate(rows):
            identity = tuple(row[column] for column in columns)
            if identity in left:
                left.discard(identity)
                numbers.append(number)
        return numbers
