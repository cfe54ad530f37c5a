"""Totals in bounded memory: how many messages each author wrote."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

MAX_AUTHORS = 10_000
MAX_DISTINCT = 200_000
NAME_CHARS = 100


class Counts:
    """Messages in all and per author; beyond 10,000 authors a new one is counted only in the total."""

    def __init__(self) -> None:
        self.total = 0
        self.authors: dict[str, int] = {}
        self._others: set[int] = set()

    def add(self, messages: Sequence[Any]) -> None:
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
