"""What an audit found, for people and programs."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from utils.app.log import plain

COLUMNS = ("stream", "producer", "runs", "sinks", "records", "pending", "dead letters", "result")
SHOWN = 10


@dataclass
class Finding:
    """What is wrong with the records of one run in a sink; `ranges` are the first of their sequences."""

    producer_id: str
    problem: str
    count: int
    ranges: list[tuple[int, int]]

    def __str__(self) -> str:
        texts = [str(first) if first == last else f"{first}-{last}" for first, last in self.ranges]
        more = ", ..." if sum(last - first + 1 for first, last in self.ranges) < self.count else ""
        return f"{self.count:,} {self.problem}: {', '.join(texts)}{more} of {plain(self.producer_id)}"


@dataclass
class Judgement:
    """One producer (`<name>-<journal>`) in one sink, over its runs."""

    stream: str
    producer: str
    sink: str
    subscribed: bool = False
    runs: int = 0
    count: int = 0
    pending: int = 0
    dead_letters: int = 0
    findings: list[Finding] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """What the table shows of it, but for the sink."""
        found = [str(each) for each in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            found.append(f"and {len(self.findings) - SHOWN:,} more")
        result = "; ".join(found) or ("ok" if self.subscribed else "ok, not subscribed")
        numbers = (f"{number:,}" for number in (self.runs, self.count, self.pending, self.dead_letters))
        return (self.stream, self.producer, *numbers, result)


@dataclass
class Report:
    """The whole audit. `external` records carry no ids, `invalid` ones cannot be read; `unread` sinks have a reason."""

    seconds: float = 0.0
    judgements: list[Judgement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    external: dict[str, int] = field(default_factory=dict)
    invalid: dict[str, int] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        return any(judgement.findings for judgement in self.judgements)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The rows of the table, one for the sinks of a producer that are alike."""
        alike: dict[tuple[str, ...], list[str]] = {}
        for each in self.judgements:
            alike.setdefault(each.cells(), []).append(each.sink)
        for (stream, producer, runs, *numbers), sinks in alike.items():
            yield (stream, producer, runs, ", ".join(sinks), *numbers)

    def lines(self, sinks: int) -> list[str]:
        """What comes below the table, the verdict last; `sinks` is how many were to be read."""
        lines = [f"note: {note}" for note in self.notes]
        for counts, words in ((self.external, "records without ids"), (self.invalid, "invalid records")):
            lines += [f"note: {sink} contains {count:,} {words}" for sink, count in counts.items() if count]
        lines += [f"not read: {sink}: {reason}" for sink, reason in self.unread.items()]
        verdict = "BROKEN" if self.broken else "incomplete" if self.unread else "ok"
        count = sum(each.count for each in self.judgements)
        read = sinks - len(self.unread)
        ending = f"in {read} sink{'s' * (read != 1)} compared in {self.seconds:.1f} s"
        return [*lines, f"{verdict}: {count:,} records {ending}"]
