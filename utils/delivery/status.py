"""How a worker is: what it reports, and what it logs once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from loguru import logger

from utils.app.backoff import Backoff
from utils.app.errors import ToolkitError


@dataclass
class Status:
    """What a worker reports. The sink stores everything up to `reached`; `mark` is its emitter's."""

    reached: int
    mark: str = ""
    state: Literal["starting", "delivering", "down", "failed", "stopped"] = "starting"
    delivered: int = 0
    dead_letters: int = 0
    reason: str = ""
    failure: ToolkitError | None = None
    starting: bool = True  # then a failure is raised by Delivery.start instead of logged


class Outage:
    """Since when and why a sink is down; each state is logged once."""

    def __init__(self, sink: str, backoff: Backoff, clock: Callable[[], float]) -> None:
        self.sink, self.backoff = sink, backoff
        self.was_reached = self.is_last_try = False
        self._clock = clock
        self._since_s: float | None = None
        self._logged: set[str] = set()
        self._warned: set[int] = set()

    def begin(self, reason: str) -> None:
        """The sink is down, perhaps still, for this reason."""
        if self._since_s is None:
            self._since_s = self._clock()
            logger.warning("{}: unavailable, records are pending in the journal: {}", self.sink, reason)
        elif reason not in self._logged:
            logger.debug("{}: still unavailable: {}", self.sink, reason)
        self._logged.add(reason)

    def unknown(self, error: Exception) -> None:
        """Log the traceback of an error that no emitter should raise, once."""
        if repr(error) not in self._logged:
            logger.opt(exception=error).error("{}: unexpected {!r} (traceback in logs/)", self.sink, error)
        self._logged.add(repr(error))

    def end(self) -> None:
        """The sink takes records."""
        if self._since_s is not None:
            logger.info("{}: delivering again after {:.0f} s", self.sink, self._clock() - self._since_s)
        self._since_s = None
        self._logged.clear()
        self.backoff.reset()

    def warn_once(self, place: int, text: str) -> None:
        """Log something about a place that every new connection finds again."""
        if place not in self._warned:
            logger.warning("{}: {}", self.sink, text)
        self._warned.add(place)
