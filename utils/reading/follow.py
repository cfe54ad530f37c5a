"""The loop of all readers: poll a source, hand chunks to a callback, wait, retry."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing

from loguru import logger

from utils.app.backoff import backoff
from utils.app.errors import Absent, PositionMoved, StoreUnavailable, ToolkitError, Unavailable
from utils.sources.base import Chunk, Source

CHUNK_RECORDS = 10_000
IDLE_FIRST_S, IDLE_CAP_S = 0.01, 0.15
RETRY_FIRST_S, RETRY_CAP_S = 0.05, 0.5
INVALID_SHOWN = 10

OnWait = Callable[[Unavailable | None], None]
"""Callback before a wait; its argument is why the source cannot be read, or None if there is nothing to read."""

ChunkHandler = Callable[[Chunk], int]
"""Callback that handles a chunk completely or raises without effect; returns the number of new records."""


class StateLog:
    """A log of the reason for waiting, written once until the reason changes."""

    def __init__(self) -> None:
        self._logged = ""

    def trouble(self, error: ToolkitError) -> None:
        """Note an error and log it if it is new. Of the various errors of a missing store the first is logged."""
        state = "store" if isinstance(error, StoreUnavailable) else str(error)
        if state != self._logged:
            logger.log("INFO" if isinstance(error, Absent) else "WARNING", "{}; waiting", error)
        self._logged = state

    def healthy(self, what: str) -> None:
        """Note that there is no error, and log it after an error."""
        if self._logged:
            logger.info("waiting ended: {}", what)
        self._logged = ""


def follow(
    open_source: Callable[[], Source],
    handle: ChunkHandler,
    stop: threading.Event,
    *,
    once: bool = False,
    count: int | None = None,
    on_wait: OnWait = lambda error: None,
    chunk_records: int = CHUNK_RECORDS,
) -> int:
    """Hand chunks to `handle` until `stop`, `count` new records or, with `once`, the present end.

    Returns the number of new records. Unavailable is logged once per change and tried again; with `once` it is raised.
    After PositionMoved or Unavailable from `handle` a new source begins at the stored position.
    """
    waits_s = backoff(RETRY_FIRST_S, RETRY_CAP_S)
    states, shown = StateLog(), 0
    idle_s, done, moved = IDLE_FIRST_S, 0, False
    with ExitStack() as opened:
        source: Source | None = None
        while not stop.is_set() and (count is None or done < count):
            chunk = None
            try:
                source = source or opened.enter_context(closing(open_source()))
                chunk = source.poll(chunk_records if count is None else min(chunk_records, count - done))
                new = 0 if chunk is None else handle(chunk)
            except (PositionMoved, Unavailable) as error:
                if isinstance(error, Unavailable):
                    if once:
                        raise
                    states.trouble(error)
                    on_wait(error)
                elif not moved:  # logged once: it recurs, as two copies take turns
                    logger.warning("{}: each record is handled by one of them", error)
                    moved = True
                if chunk is not None or isinstance(error, StoreUnavailable):
                    opened.close()
                    source = None
                stop.wait(next(waits_s))
                continue
            states.healthy(f"{source.detail} is read")
            if chunk is None:
                if once:
                    return done
                on_wait(None)
                stop.wait(idle_s)
                idle_s = min(idle_s * 2, IDLE_CAP_S)
                continue
            if chunk.begins_again:
                what = "was rotated, truncated or rebuilt: it is read from its beginning"
                logger.warning("{} {}", chunk.partition, what)
            for invalid in chunk.invalid[: INVALID_SHOWN - shown]:  # the handler counts them all
                shown += 1
                more = "; further ones are only counted" if shown == INVALID_SHOWN else ""
                logger.warning("invalid record in {}: {}{}", invalid.where, invalid.reason, more)
            done += new
            idle_s = IDLE_FIRST_S
            waits_s = backoff(RETRY_FIRST_S, RETRY_CAP_S)
    return done
