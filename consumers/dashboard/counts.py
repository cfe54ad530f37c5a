"""Totals in bounded memory: which messages are new, which are lost, and how many each author wrote."""

from collections import Counter
from collections.abc import Iterable

from utils.records.record import Message

MAX_AUTHORS = 10_000
MAX_DISTINCT = 200_000
MAX_PRODUCERS = 10_000
NAME_CHARS = 100


class Sequences:
    """Finds losses and repeats with one high-water sequence per producer; memory is bounded.

    A producer's first sequence may be any: older rows may be archived, or reading began at the end.
    """

    def __init__(self) -> None:
        self._high: dict[str, int] = {}
        self.lost = 0
        self.duplicate = 0

    def fresh(self, messages: Iterable[Message], part: dict[str, int]) -> tuple[list[Message], list[Message]]:
        """The messages not seen before: those with ids and those without.

        `part` holds the high-water sequences of the place that is read: at or below them a message is
        a duplicate; above them but known, it is only read again from another place.
        """
        high = self._high
        identified, anonymous = [], []
        for message in messages:
            producer, sequence = message.producer_id, message.sequence
            if producer is None or sequence is None:
                anonymous.append(message)
                continue
            known = high.get(producer)
            if known is None or sequence > known:
                if known is None:
                    _make_room(high)
                elif sequence != known + 1:
                    self.lost += sequence - known - 1
                high[producer] = sequence
                identified.append(message)
            elif sequence <= part.get(producer, 0):
                self.duplicate += 1
                continue
            if producer not in part:
                _make_room(part)
            part[producer] = sequence
        return identified, anonymous


def _make_room(high: dict[str, int]) -> None:
    if len(high) >= MAX_PRODUCERS:
        del high[next(iter(high))]


class Counts:
    """Messages in all and per author; beyond 10,000 authors a new one is counted only in the total."""

    def __init__(self) -> None:
        self.total = 0
        self.authors: dict[str, int] = {}
        self._others: set[int] = set()

    def add(self, messages: list[Message]) -> None:
        self.total += len(messages)
        authors = self.authors
        for full_name, count in Counter([message.author for message in messages]).items():
            name = full_name[:NAME_CHARS]
            if name in authors:
                authors[name] += count
            elif len(authors) < MAX_AUTHORS:
                authors[name] = count
            elif len(self._others) < MAX_DISTINCT:
                self._others.add(hash(name))

    @property
    def distinct(self) -> tuple[int, bool]:
        """How many authors, and whether there may be more."""
        return len(self.authors) + len(self._others), len(self._others) >= MAX_DISTINCT
