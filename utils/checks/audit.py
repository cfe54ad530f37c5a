"""Do the sinks hold what the journals acknowledged: all of it, once, alike and in order?

The sinks are read once; only if some block of messages differs between them a second time, row by row.
Producers may go on meanwhile: the journals are read first, and what they give out later is not judged.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.app.config import ALL_SINKS, EMBEDDED_SINKS, Settings
from utils.app.errors import ToolkitError
from utils.checks.holdings import BLOCK, Held, Holding, Range, Some, file_pages, hold, pages, take_out
from utils.clients import sqlite

MAX_SUSPECTS = 100

DeadLetters = dict[str, set[int]]
"""producer_id -> the sequences in a dead letter file."""


@dataclass(frozen=True)
class Account:
    """What a journal says of one producer_id: sequences up to `last` are acknowledged, those from
    `waiting_from` on are still in the journal, each sink of `owed` gets everything from a sequence on."""

    last: int
    waiting_from: int
    owed: dict[str, int]


def accounts(settings: Settings) -> dict[str, Account]:
    """Every producer_id that a journal knows. Reads beside a running producer; raises ToolkitError."""
    found = {}
    for path in sorted(settings.journal_path("x").parent.glob("*.sqlite")):
        with sqlite.errors(path), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchall():
                continue  # its producer is just creating it
            ((last,),) = connection.execute("SELECT last FROM state").fetchall()
            waiting = connection.execute("SELECT last - count + 1 FROM batches ORDER BY last LIMIT 1").fetchall()
            first_waiting = waiting[0][0] if waiting else last + 1
            owed = connection.execute("SELECT sink, after FROM owed").fetchall()
            identities = connection.execute("SELECT producer_id, base FROM identities ORDER BY base").fetchall()
        ends = [base for _, base in identities[1:]] + [last]
        for (producer_id, base), end in zip(identities, ends, strict=True):
            owed_from = {sink: max(1, after - base + 1) for sink, after in owed}
            found[producer_id] = Account(end - base, max(1, first_waiting - base), owed_from)
    return found


@dataclass
class Judgement:
    """One producer in one sink. `missing` was acknowledged and is neither there, nor waiting, nor a dead letter."""

    producer_id: str
    sink: str
    owed: bool
    first: int = 0
    last: int = 0
    count: int = 0
    waiting: int = 0
    dead_letters: int = 0
    missing: list[Range] = field(default_factory=list)
    duplicates: Some = field(default_factory=Some)
    disordered: Some = field(default_factory=Some)
    different: Some = field(default_factory=Some)
    unexplained: str = ""

    def problems(self) -> list[str]:
        """What is wrong, each for people."""
        lost = sum(last - first + 1 for first, last in self.missing)
        found = [f"lost {lost:,}: {shown(self.missing)}"] if self.missing else []
        for words, some in (
            ("duplicate", self.duplicates),
            ("different from the other sinks", self.different),
            ("out of order", self.disordered),
        ):
            if some.count:
                found.append(f"{some.count:,} {words}: {shown([(each, each) for each in some.named])}")
        return [*found, self.unexplained] if self.unexplained else found


def shown(ranges: Sequence[Range]) -> str:
    """The first ten ranges as text."""
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:10]]
    return ", ".join(parts) + (" ..." if len(ranges) > 10 else "")


@dataclass
class Report:
    """The whole audit; `broken` if anything is lost, double, different, out of order or unexplained."""

    seconds: float
    sinks: dict[str, dict[str, int | str]]
    judgements: list[Judgement]
    notes: list[str]
    broken: bool
    unread: bool

    def lines(self) -> list[str]:
        """What the table of judgements does not say, for people; the verdict last."""
        lines = [f"note: {note}" for note in self.notes]
        for sink, found in self.sinks.items():
            lines += [
                f"note: {sink} holds {found[kind]:,} {kind} records" for kind in ("foreign", "invalid") if found[kind]
            ]
        verdict = "BROKEN" if self.broken else "incomplete" if self.unread else "ok"
        count = sum(each.count for each in self.judgements)
        read = sum(not found["unread"] for found in self.sinks.values())
        sinks = "1 sink" if read == 1 else f"{read} sinks"
        return [*lines, f"{verdict}: {count:,} messages in {sinks} compared in {self.seconds:.1f} s"]


def audited_sinks(settings: Settings) -> tuple[str, ...]:
    """The sinks that any journal owes; without journals the embedded ones that exist. Raises ToolkitError if none."""
    owed = {sink for account in accounts(settings).values() for sink in account.owed}
    found = tuple(str(sink) for sink in ALL_SINKS if sink in owed) or tuple(
        sink for sink in EMBEDDED_SINKS if settings.sink_path(sink).exists()
    )
    if not found:
        raise ToolkitError(f"nothing to audit: no journal and no sink in {settings.data_path} (see --data-dir)")
    return found


def audit(settings: Settings, chosen: Sequence[str], advance: Callable[[int], None]) -> Report:
    """Compare the sinks with the journals and with each other. Raises ToolkitError for what cannot be opened at all."""
    started_s = time.monotonic()
    before = accounts(settings)
    buried = {sink: _dead_letters(settings.dead_letter_path(sink)) for sink in chosen}
    limits = {producer_id: account.last for producer_id, account in before.items()}
    holdings = [hold(sink, settings, limits, advance) for sink in chosen]
    after = accounts(settings)
    # What was buried while the sinks were read is not lost, but tells nothing of how far they were then.
    dead = {sink: (buried[sink], _dead_letters(settings.dead_letter_path(sink))) for sink in chosen}
    read = [holding for holding in holdings if not holding.unread]
    notes: list[str] = []
    judgements = {}
    names = dict.fromkeys([*before, *(name for holding in read for name in holding.producers)])
    for producer_id in names:
        if producer_id not in before and producer_id in after:
            continue  # began during the audit
        account, later = before.get(producer_id), after.get(producer_id)
        for judgement in _judge(producer_id, account, read, dead, notes, given_out=later.last if later else None):
            judgements[producer_id, judgement.sink] = judgement
    unresolved = _compare(read, settings, limits, judgements)
    if unresolved:
        notes.append(f"{unresolved:,} more blocks of {BLOCK:,} messages differ between the sinks")
    for holding in holdings:
        if holding.unread:
            notes.append(f"{holding.sink} was not judged: {holding.unread}")
        holding.foreign += sum(held.unnumbered for held in holding.producers.values())
    return Report(
        time.monotonic() - started_s,
        {each.sink: {"foreign": each.foreign, "invalid": each.invalid, "unread": each.unread} for each in holdings},
        list(judgements.values()),
        notes,
        broken=unresolved > 0 or any(judgement.problems() for judgement in judgements.values()),
        unread=len(read) < len(holdings),
    )


def _dead_letters(path: Path) -> DeadLetters:
    found: DeadLetters = {}
    for rows in file_pages(path, Holding("")):
        for row in rows:
            found.setdefault(row[-2], set()).add(row[-1])
    return found


def _judge(
    producer_id: str,
    account: Account | None,
    holdings: list[Holding],
    dead: dict[str, tuple[DeadLetters, DeadLetters]],
    notes: list[str],
    *,
    given_out: int | None,
) -> Iterator[Judgement]:
    """One producer in each sink, by what its journal promised, or without one by what the sinks hold together."""
    empty = Held(0)
    by_sink = {holding.sink: holding.producers.get(producer_id, empty) for holding in holdings}
    present = [held for held in by_sink.values() if held.count]
    lacking = [sink for sink, held in by_sink.items() if not held.count]
    excess = {sink for sink, held in by_sink.items() if given_out is not None and held.latest > given_out}
    alike = len({(held.later, held.latest) for held in by_sink.values()}) == 1
    if account is None and present:
        notes.append(f"no journal knows {producer_id}: its messages are only compared between the sinks")
    if excess and alike:
        notes.append(f"all sinks hold more of {producer_id} than its journal gave out: was it restored from a backup?")
    for sink, held in by_sink.items():
        judgement = Judgement(producer_id, sink, account is not None and sink in account.owed)
        judgement.first, judgement.last, judgement.count = held.first, held.last, held.count + held.later
        judgement.duplicates, judgement.disordered = held.duplicates, held.disordered
        before, buried = (letters.get(producer_id, set()) for letters in dead[sink])
        judgement.dead_letters = len(buried)
        if sink in excess and not alike:
            judgement.unexplained = f"holds up to {held.latest} but the journal gave out {given_out}"
        if account is None and lacking:
            if held.count:
                judgement.unexplained = f"holds a producer that no journal knows and not {', '.join(lacking)}"
        else:
            if account is None:
                expected = min(each.first for each in present), max(each.last for each in present)
            else:
                expected = account.owed.get(sink, account.last + 1), account.last
            absent = list(_clipped([*held.gaps, (held.next, expected[1])], *expected))
            for sequence in buried:
                take_out(absent, sequence)
            # A worker goes on behind the last message that its sink (and then its dead letter) holds, and only there.
            cursor = held.last
            while cursor + 1 in before:
                cursor += 1
            waiting_from = max(account.waiting_from, cursor + 1) if account else expected[1] + 1
            judgement.missing = list(_clipped(absent, 1, waiting_from - 1))
            judgement.waiting = sum(last - first + 1 for first, last in _clipped(absent, waiting_from, expected[1]))
        yield judgement


def _clipped(ranges: Iterable[Range], first: int, last: int) -> Iterator[Range]:
    for start, end in ranges:
        if max(start, first) <= min(end, last):
            yield max(start, first), min(end, last)


def _compare(
    holdings: list[Holding],
    settings: Settings,
    limits: dict[str, int],
    judgements: dict[tuple[str, str], Judgement],
) -> int:
    """Find the messages that are not the same in all sinks that hold them; the number of blocks not looked into."""
    digests: dict[tuple[str, int], set[Any]] = {}
    for holding in holdings:
        for producer_id, held in holding.producers.items():
            for block, digest in held.blocks.items():
                digests.setdefault((producer_id, block), set()).add(digest)
    suspects = sorted(
        key for key, found in digests.items() if len(found) > 1 and (key[0], holdings[0].sink) in judgements
    )
    for start in range(0, len(suspects), MAX_SUSPECTS):
        if start and any(judgement.problems() for judgement in judgements.values()):
            return len(suspects) - start
        # A block may differ because a sink lacks what it never got: a dead letter, what came before it was owed.
        _compare_rows(set(suspects[start : start + MAX_SUSPECTS]), holdings, settings, limits, judgements)
    return 0


def _compare_rows(
    wanted: set[tuple[str, int]],
    holdings: list[Holding],
    settings: Settings,
    limits: dict[str, int],
    judgements: dict[tuple[str, str], Judgement],
) -> None:
    hashes: dict[tuple[str, int], dict[str, int]] = {}
    for holding in holdings:
        for rows in pages(Holding(holding.sink), settings):
            for row in rows:
                producer_id, sequence = row[-2:]
                if type(sequence) is not int or (producer_id, sequence // BLOCK) not in wanted:
                    continue
                if sequence <= limits.get(producer_id, sequence):
                    hashes.setdefault((producer_id, sequence), {}).setdefault(holding.sink, hash(row))
    for (producer_id, sequence), by_sink in sorted(hashes.items()):
        ((usual, _),) = Counter(by_sink.values()).most_common(1)
        for sink, found in by_sink.items():
            if found != usual:
                judgements[producer_id, sink].different.add(sequence)
