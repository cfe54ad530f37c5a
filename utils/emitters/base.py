"""The emitter protocol, and functions that several emitters share."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from loguru import logger

from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.records.record import Batch, Columns, without_ids
from utils.records.stream import BUZZ

ROW_GROUP_RECORDS = 20_480
"""Rows of a DuckDB row group. Larger batches are cut to a multiple of it: DuckDB rewrites a group that is not full."""


class Emitter(Protocol):
    """The emitter protocol: writes batches to one sink. The constructor opens it; after an error it must be discarded.

    Emitters never retry and never know about each other. Storing each record once is the task of the worker, which
    calls `last` after each construction and then sends what follows.
    """

    @property
    def mark(self) -> str:
        """Opaque place up to which the sink was certainly written, "" = unknown. The journal keeps it for `last`."""

    max_records: int
    """The maximum number of records in a batch."""

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """Return the newest of these runs that the sink contains, and its highest sequence; None if it contains none.

        The newest run comes last in `producer_ids`. First makes durable what a killed process left in the page cache.
        """
        ...

    def emit(self, batch: Batch) -> None:
        """Store the batch in order, and return once it is durable.

        Raises Unavailable if a retry may help, or if another process delivered this run since `last`. Raises Rejected
        if the sink never takes one record (those before it are durable then), another ToolkitError if the user must
        act. After an error or a crash the sink contains at most a prefix of the batch.
        """
        ...

    def close(self) -> None:
        """Release everything; may be called twice; never raises."""
        ...


Connect = Callable[[str], Emitter]
"""Function that opens an emitter, given the last mark of the emitter before it."""


def delivered_by_another(path: Path, producer_id: str) -> Unavailable:
    """Return the error for a sink with records of this run that `last` has not found."""
    return Unavailable(f"{path}: another process delivered {producer_id}: a copy of its journal?")


def store_in_halves(
    store: Callable[[Columns], None], page: Columns, first: int, row_errors: tuple[type[Exception], ...]
) -> None:
    """Store the rows of a page, whose first has sequence `first`. Split it in halves around a row that is rejected.

    Raises Rejected for that row. `store` stores all rows of a page, or none and raises one of `row_errors`.
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
    """Store one record without ids. Return True once it is stored, otherwise log the reason and return False."""
    try:
        line = without_ids(message)
        columns = BUZZ.codec.columns_of([BUZZ.codec.decode_incomplete(line)])
        batch = Batch("", 1, 1, line, BUZZ.codec, columns=columns)
        with closing(open_emitter()) as emitter:
            emitter.emit(batch)
    except (ValueError, ToolkitError) as error:
        logger.error("{}: record not stored: {}", path, error)
        return False
    return True
