"""What a sink holds, read once in its own order and summed up per producer.

Rows are counted and their hashes added up in blocks of sequences, so that the memory does not grow with
the messages (about 250 bytes per thousand) but with the damage.
"""

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from utils import sinks
from utils.app.config import Settings
from utils.app.errors import Absent, Unavailable
from utils.records.record import decode_lines, decode_record, encoder
from utils.sources.base import Source
from utils.sources.table_source import FIRST, TableSource

BLOCK = 1_000
MAX_NAMED = 1_000
PAGE_ROWS = 20_000
READ_BYTES = 2 << 20
REACH_S = 5.0
_HASH_BITS = (1 << 64) - 1

Row = tuple[Any, ...]
"""Values in the order of Message's fields: the last two are producer_id and sequence."""
Range = tuple[int, int]
"""First and last sequence, both included."""


@dataclass
class Holding:
    """What one sink holds; `foreign` records carry no ids, `invalid` ones cannot be read."""

    sink: str
    foreign: int = 0
    invalid: int = 0
    unread: str = ""
    producers: "dict[str, Held]" = field(default_factory=dict)


def pages(holding: Holding, settings: Settings) -> Iterator[Sequence[Row]]:
    """The rows of a sink in its own order, up to its present end; nothing if it does not exist."""
    sink = holding.sink
    if sink == "file":
        return file_pages(settings.live_path, holding)
    source = sinks.source(sink, settings, lambda partition: "", finished=True)
    return _table_pages(source) if isinstance(source, TableSource) else _source_pages(source, holding)


def file_pages(path: Path, holding: Holding) -> Iterator[list[Row]]:
    """The rows of a JSON lines file; one that is not byte for byte what an emitter writes differs from all others."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        left = os.fstat(stream.fileno()).st_size
        rest = b""
        while left > 0 and (block := stream.read(min(READ_BYTES, left))):
            left -= len(block)
            lines, newline, rest = (rest + block).rpartition(b"\n")
            yield _file_rows(lines + newline, holding)
        torn = Holding("file")  # cut or completed by the next emitter, so it is no damage
        yield _file_rows(rest, torn)


def _file_rows(lines: bytes, holding: Holding) -> list[Row]:
    try:
        messages = decode_lines(lines)
        if encoder.encode_lines(messages) == lines:
            return list(map(msgspec.structs.astuple, messages))
    except ValueError:
        pass  # at least one line is not ours
    rows: list[Row] = []
    for line in filter(bytes.strip, lines.split(b"\n")):
        try:
            message = decode_record(line)
        except ValueError:
            holding.invalid += 1
            continue
        row = msgspec.structs.astuple(message)
        rows.append(row if encoder.encode(message) == line else (line, *row[1:]))
    return rows


def _table_pages(source: TableSource) -> Iterator[list[Row]]:
    try:
        last = source.fetch_last()
        first = FIRST
        while last and first <= last[0][0] and (rows := source.fetch(first, PAGE_ROWS)):
            yield [row[1:] for row in rows]
            first = rows[-1][0] + 1
    except Absent:
        return
    finally:
        source.close()


def _source_pages(source: Source, holding: Holding) -> Iterator[list[Row]]:
    with closing(source):
        while chunk := source.poll(PAGE_ROWS):
            holding.invalid += len(chunk.invalid)
            yield list(map(msgspec.structs.astuple, chunk.records))


@dataclass
class Some:
    """How many sequences, and the first thousand of them."""

    count: int = 0
    named: list[int] = field(default_factory=list)

    def add(self, sequence: int) -> None:
        self.count += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(sequence)


class Held:
    """What one sink holds of one producer, up to sequence `limit`, counted while its rows stream past."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.first = self.count = self.later = self.latest = self.unnumbered = 0
        self.next = 1
        self.gaps: list[Range] = []
        self.duplicates = Some()
        self.disordered = Some()
        self.blocks: dict[int, tuple[int, int]] = {}

    @property
    def last(self) -> int:
        return max(self.next - 1, self.latest)

    def add(self, rows: Sequence[Row]) -> None:
        """Take rows of this producer, in the sink's order."""
        sequences = [row[-1] for row in rows]
        after = self.next + len(rows)
        if sequences[0] == self.next and sequences == list(range(self.next, after)) and self._judged(after - 1):
            self._sum(self.next, rows)
            self.next = after
        else:
            for sequence, row in zip(sequences, rows, strict=True):
                self._add_one(sequence, row)

    def _judged(self, sequence: int) -> bool:
        return self.limit is None or sequence <= self.limit

    def _add_one(self, sequence: Any, row: Row) -> None:
        if type(sequence) is not int or sequence < 1:
            self.unnumbered += 1
            return
        if not self._judged(sequence):
            self.later += 1
            self.latest = max(self.latest, sequence)
            return
        if sequence >= self.next:
            if sequence > self.next:
                self.gaps.append((self.next, sequence - 1))
            self.next = sequence + 1
        elif take_out(self.gaps, sequence):
            self.disordered.add(sequence)
        else:
            self.duplicates.add(sequence)
            return
        self._sum(sequence, [row])

    def _sum(self, first: int, rows: Sequence[Row]) -> None:
        self.first = min(self.first, first) if self.count else first
        self.count += len(rows)
        done = 0
        while done < len(rows):
            block, offset = divmod(first + done, BLOCK)
            part = rows[done : done + BLOCK - offset]
            count, total = self.blocks.get(block, (0, 0))
            self.blocks[block] = count + len(part), (total + sum(map(hash, part))) & _HASH_BITS
            done += len(part)


def take_out(ranges: list[Range], sequence: int) -> bool:
    """Remove one sequence from sorted ranges; whether it was in them."""
    at = bisect_right(ranges, sequence, key=itemgetter(0)) - 1
    if at < 0 or ranges[at][1] < sequence:
        return False
    first, last = ranges[at]
    ranges[at : at + 1] = [part for part in ((first, sequence - 1), (sequence + 1, last)) if part[0] <= part[1]]
    return True


def hold(sink: str, settings: Settings, limits: Mapping[str, int], advance: Callable[[int], None]) -> Holding:
    """Sum up a sink; `limits` are the last sequences that count. One out of reach for five seconds is given up."""
    deadline_s = time.monotonic() + REACH_S
    while True:
        holding = Holding(sink)
        try:
            for rows in pages(holding, settings):
                for producer_id, group in groupby(rows, key=itemgetter(-2)):
                    run = list(group)
                    if type(producer_id) is not str:
                        holding.foreign += len(run)
                        continue
                    held = holding.producers.get(producer_id)
                    if held is None:
                        held = holding.producers[producer_id] = Held(limits.get(producer_id))
                    held.add(run)
                advance(len(rows))
        except (Unavailable, OSError) as error:
            if time.monotonic() < deadline_s:
                time.sleep(0.2)
                continue
            holding.unread = str(error)
        return holding
