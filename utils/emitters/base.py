"""What a sink's writer promises."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from loguru import logger

from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.records.record import Batch, Columns, without_ids
from utils.records.stream import BUZZ

STEP = 20_480
"""Longer batches have a multiple of so many records: DuckDB's row groups. One that is not full, it writes again."""


class Emitter(Protocol):
    """Writes batches to one sink. Constructing opens; after any error it is closed and discarded.

    Emitters never retry and never know about each other. They do not promise that a record is stored once: the
    worker makes it so by asking `last` after each construction.
    """

    @property
    def mark(self) -> str:
        """Up to where the sink was certainly written; opaque, "" = unknown. The journal keeps it to bound searches."""

    max_records: int
    """How many records a batch may have."""

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """The newest of these runs (the last in their order) that the sink contains, and its highest sequence.

        First makes durable what a killed process may have left in the page cache. The sink itself is the cursor.
        """
        ...

    def emit(self, batch: Batch) -> None:
        """Store the batch, in order, and return once it is durable.

        Raises Unavailable (can heal; also if somebody else delivered this run since `last`), Rejected (one record,
        never; everything before it is durable then), or another ToolkitError (the user must act). After an error or
        a crash the sink contains at most a prefix of the batch.
        """
        ...

    def close(self) -> None:
        """Release everything; may be called twice; never raises."""
        ...


Connect = Callable[[str], Emitter]
"""Opens an emitter, given the mark that the one before left."""


def delivered_by_another(path: Path, producer_id: str) -> Unavailable:
    """What an emitter raises that finds records in its sink which `last` did not find."""
    return Unavailable(f"{path}: another process delivered {producer_id}: a copy of its journal?")


def store_in_halves(
    store: Callable[[Columns], None], page: Columns, first: int, row_errors: tuple[type[Exception], ...]
) -> None:
    """Store rows from sequence `first` on; around one that the table rejects in ever smaller halves.

    Raises Rejected for that one. `store` takes all rows of a page or, raising one of `row_errors`, none.
    """
    try:
        store(page)
    except row_errors as error:
        half = len(page[0]) // 2
        if not half:
            raise Rejected(first, str(error).partition("\n")[0]) from error
        store_in_halves(store, [column[:half] for column in page], first, row_errors)
        store_in_halves(store, [column[half:] for column in page], first + half, row_errors)


def emit_one(message: Mapping[str, Any], path: Path, open_emitter: Callable[[], Emitter]) -> bool:
    """Store one record without ids, with all its fields; True once it is stored, else False with the reason logged."""
    try:
        line = without_ids(message)
        columns = BUZZ.codec.columns_of([BUZZ.codec.decode_any(line)])
        batch = Batch("", 1, 1, line, BUZZ.codec, columns=columns)
        with closing(open_emitter()) as emitter:
            emitter.emit(batch)
    except (ValueError, ToolkitError) as error:
        logger.error("{}: record not stored: {}", path, error)
        return False
    return True
