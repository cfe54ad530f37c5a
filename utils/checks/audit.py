"""Do the sinks contain what the journals acknowledged: all of it, once, alike and in order?

The rows of each sink are loaded into a temporary DuckDB as (sink, run, sequence, hash of the canonical record, place),
as a reader sees them, types included. Each guarantee is one query. Producers may go on working meanwhile: what they
acknowledge after the audit began is not judged.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.app.log import plain
from utils.checks.accounts import Account, accounts, bare_or_known, dead_letters
from utils.checks.kafka_reader import KafkaReader
from utils.records.stream import Stream
from utils.sinks import ALL, EMBEDDED, source
from utils.sources.base import Source

PAGE_RECORDS = 20_000
MEMORY_LIMIT = "256MB"
REACH_S = 5.0
SHOWN = 10

_SCHEMA = """
CREATE TABLE stored (sink UTINYINT, run INTEGER, sequence BIGINT, hash UBIGINT, place BIGINT);
CREATE TABLE runs (run INTEGER, producer_id VARCHAR, journal VARCHAR, first BIGINT, last BIGINT, judged BIGINT);
CREATE TABLE expected (sink UTINYINT, journal VARCHAR, after BIGINT, until BIGINT);
CREATE TABLE letters (sink UTINYINT, run INTEGER, sequence BIGINT);
"""
# Each query gives rows (sink, producer_id, first, last): what is wrong, as ranges of sequences.
QUERIES = {
    "lost": """
        WITH wanted AS (
            SELECT e.sink, r.run, greatest(r.first, e.after + 1) AS first, least(r.judged, e.until) AS last
            FROM expected e JOIN runs r USING (journal)
            WHERE greatest(r.first, e.after + 1) <= least(r.judged, e.until)),
        marks AS (
            SELECT s.sink, s.run, s.sequence FROM stored s JOIN wanted w USING (sink, run)
                WHERE s.sequence BETWEEN w.first AND w.last
            UNION SELECT l.sink, l.run, l.sequence FROM letters l JOIN wanted w USING (sink, run)
                WHERE l.sequence BETWEEN w.first AND w.last
            UNION ALL SELECT sink, run, unnest([first - 1, last + 1]) FROM wanted),
        steps AS (
            SELECT *, lead(sequence) OVER (PARTITION BY sink, run ORDER BY sequence) AS next FROM marks)
        SELECT sink, run, sequence + 1, next - 1 FROM steps WHERE next > sequence + 1""",
    "duplicate": """
        SELECT sink, run, sequence, sequence FROM stored GROUP BY ALL HAVING count(*) > 1""",
    "different from the other sinks": """
        WITH odd AS (
            SELECT run, sequence, mode(hash) AS usual FROM stored GROUP BY ALL HAVING min(hash) <> max(hash))
        SELECT DISTINCT sink, run, sequence, sequence FROM stored JOIN odd USING (run, sequence) WHERE hash <> usual""",
    "out of order": """
        SELECT sink, run, sequence, sequence FROM (
            SELECT *, lag(sequence) OVER (PARTITION BY sink, run ORDER BY place) AS before FROM stored)
        WHERE sequence < before""",
    "never acknowledged": """
        SELECT s.sink, s.run, min(s.sequence), max(s.sequence) FROM stored s JOIN runs r USING (run)
        WHERE r.journal IS NOT NULL AND s.sequence NOT BETWEEN r.first AND r.last GROUP BY ALL""",
    "of a run that no journal knows, and not alike in all sinks": """
        WITH counted AS (
            SELECT run, sink, count(*) AS count, min(sequence) AS first, max(sequence) AS last
            FROM stored JOIN runs USING (run) WHERE journal IS NULL GROUP BY ALL),
        uneven AS (
            SELECT run FROM counted GROUP BY run HAVING count(*) < $sinks OR min(count) <> max(count))
        SELECT sink, run, first, last FROM counted JOIN uneven USING (run)""",
}


@dataclass
class Finding:
    """Something that is wrong with the records of a producer in a sink; `ranges` are the first of its sequences."""

    sink: str
    producer_id: str
    problem: str
    count: int
    ranges: list[tuple[int, int]]

    def __str__(self) -> str:
        texts = [str(first) if first == last else f"{first}-{last}" for first, last in self.ranges[:SHOWN]]
        more = " ..." if len(self.ranges) > SHOWN else ""
        return f"{self.count:,} {self.problem}: {', '.join(texts)}{more} of {plain(self.producer_id)}"


@dataclass
class Judgement:
    """One producer (`<name>-<journal>`) in one sink, over its runs."""

    stream: str
    producer: str
    sink: str
    subscribed: bool
    runs: int = 0
    count: int = 0
    pending: int = 0
    dead_letters: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass
class Report:
    """The whole audit. `external` records carry no ids, `invalid` ones cannot be read, by sink."""

    seconds: float = 0.0
    judgements: list[Judgement] = field(default_factory=list)
    external: dict[str, int] = field(default_factory=dict)
    invalid: dict[str, int] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        return any(judgement.findings for judgement in self.judgements)

    def lines(self, sinks: int) -> list[str]:
        """What the table of judgements does not show, for people; the verdict last."""
        lines = [
            f"note: {sink} contains {count:,} records without ids" for sink, count in self.external.items() if count
        ]
        lines += [f"note: {sink} contains {count:,} invalid records" for sink, count in self.invalid.items() if count]
        lines += [f"not read: {sink}: {reason}" for sink, reason in self.unread.items()]
        verdict = "BROKEN" if self.broken else "incomplete" if self.unread else "ok"
        count = sum(each.count for each in self.judgements)
        read = sinks - len(self.unread)
        return [
            *lines,
            f"{verdict}: {count:,} records in {read} sink{'s' * (read != 1)} compared in {self.seconds:.1f} s",
        ]


def audited_sinks(settings: Settings) -> tuple[str, ...]:
    """The sinks that any journal subscribes; without journals the embedded ones that exist.

    Raises ToolkitError if there is none.
    """
    subscribed = {sink for account in accounts(settings) for sink in account.subscriptions}
    found = tuple(sink for sink in ALL if sink in subscribed) or tuple(
        sink for sink in EMBEDDED if settings.sink_path(sink).exists()
    )
    if not found:
        raise ToolkitError(f"nothing to audit: no journal and no sink in {settings.data_path} (see --data-dir)")
    return found


def audit(settings: Settings, sinks: Sequence[str], streams: Sequence[str], advance: Callable[[int], None]) -> Report:
    """Compare the sinks with the journals and with each other. Raises ToolkitError for what cannot be opened at all."""
    started_s = time.monotonic()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="audit-", ignore_cleanup_errors=True) as folder:
        config: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "temp_directory": folder, "threads": 2}
        with closing(duckdb.connect(str(Path(folder) / "audit.duckdb"), config=config)) as database:
            database.execute(_SCHEMA)
            for name in streams:
                before = [account for account in accounts(settings) if account.stream == name]
                _Audit(database, settings, bare_or_known(name, settings), sinks).run(before, report, advance)
                for table in ("stored", "runs", "expected", "letters"):
                    database.execute(f"TRUNCATE {table}")
    report.seconds = time.monotonic() - started_s
    return report


class _Audit:
    """The audit of one stream."""

    def __init__(
        self, database: duckdb.DuckDBPyConnection, settings: Settings, stream: Stream, sinks: Sequence[str]
    ) -> None:
        self._database, self._settings, self._stream, self._sinks = database, settings, stream, sinks
        self._runs: dict[str, int] = {}

    def run(self, before: Sequence[Account], report: Report, advance: Callable[[int], None]) -> None:
        letters = {sink: set(dead_letters(self._settings.dead_letter_path(sink))) for sink in self._sinks}
        read = [number for number, sink in enumerate(self._sinks) if self._load(number, sink, report, advance)]
        after = {account.key: account for account in accounts(self._settings) if account.stream == self._stream.name}
        known = {run.producer_id: (each.key, run) for each in (*before, *after.values()) for run in each.runs}
        judged = {run.producer_id: run.last for account in before for run in account.runs}
        for producer_id in known:
            self._runs.setdefault(producer_id, len(self._runs))
        rows = []
        for producer_id, number in self._runs.items():
            key, run = known.get(producer_id, (None, None))
            limits = (run.first, run.last, judged.get(producer_id, 0)) if run else (0, 0, 0)
            rows.append((number, producer_id, key, *limits))
        self._insert("runs", rows)
        self._insert(
            "letters",
            [
                (number, self._runs[producer_id], sequence)
                for number in read
                for producer_id, sequence in letters[self._sinks[number]]
                if producer_id in self._runs
            ],
        )
        for number in read:
            for account in before:
                self._expect(number, account)
        report.judgements += self._judge(read, before)

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            self._database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)

    def _load(self, number: int, sink: str, report: Report, advance: Callable[[int], None]) -> bool:
        """Load the rows of a sink; one that is out of reach for five seconds is given up."""
        deadline_s = time.monotonic() + REACH_S
        while True:
            external = invalid = place = 0
            try:
                for records, wrong in self._pages(sink):
                    invalid += wrong
                    identified = [record for record in records if record.sequence is not None]
                    external += len(records) - len(identified)
                    self._add(number, identified, place)
                    place += len(identified)
                    advance(len(records))
            except Absent:
                break
            except (Unavailable, OSError) as error:
                self._database.execute("DELETE FROM stored WHERE sink = ?", [number])
                if time.monotonic() < deadline_s:
                    time.sleep(0.2)
                    continue
                report.unread[sink] = str(error)
                return False
            break
        report.external[sink] = report.external.get(sink, 0) + external
        report.invalid[sink] = report.invalid.get(sink, 0) + invalid
        return True

    def _pages(self, sink: str) -> Iterator[tuple[list[Any], int]]:
        reader: Source
        if sink == "kafka":  # with another client than the one that wrote
            reader = KafkaReader(self._settings, self._stream)
        else:
            reader = source(sink, self._settings, self._stream, lambda partition: "", finished=True)
        with closing(reader):
            while chunk := reader.poll(PAGE_RECORDS):
                yield chunk.records, len(chunk.invalid)

    def _add(self, number: int, records: Sequence[Any], place: int) -> None:
        if not records:
            return
        codes = self._runs
        runs = [codes.setdefault(record.producer_id, len(codes)) for record in records]
        page = {  # noqa: F841 (DuckDB finds it by its name)
            "run": np.array(runs, dtype=np.int32),
            "sequence": np.array([record.sequence for record in records], dtype=np.int64),
            "line": np.array(self._stream.codec.canonical_lines(records), dtype=object),
            "place": np.arange(place, place + len(records)),
        }
        self._database.execute(f"INSERT INTO stored SELECT {number}, run, sequence, hash(line), place FROM page")

    def _expect(self, number: int, account: Account) -> None:
        """What a sink must contain by now: a worker continues behind its last record and the letters that follow."""
        subscription = account.subscriptions.get(self._sinks[number])
        if subscription is None:
            return
        query = (
            "SELECT coalesce(max(sequence), 0) FROM (SELECT run, sequence FROM {} WHERE sink = ?) "
            "JOIN runs USING (run) WHERE journal = ? AND sequence <= last"
        )
        ((cursor,),) = self._database.execute(query.format("stored"), [number, account.key]).fetchall()
        letters = self._database.execute(
            "SELECT sequence FROM letters JOIN runs USING (run) WHERE sink = ? AND journal = ?", [number, account.key]
        ).fetchall()
        found = {sequence for (sequence,) in letters}
        cursor = max(cursor, subscription.after)
        while cursor + 1 in found:
            cursor += 1
        self._insert("expected", [(number, account.key, subscription.after, max(cursor, account.pruned))])

    def _judge(self, read: Sequence[int], before: Sequence[Account]) -> list[Judgement]:
        """Ask each query, and put its answers with what else is known of each producer in each sink."""
        judgements: dict[tuple[str, str], Judgement] = {}
        counted = self._database.execute(
            "SELECT sink, regexp_replace(producer_id, '-[^-]*$', ''), count(DISTINCT run), count(*) "
            "FROM stored JOIN runs USING (run) GROUP BY ALL ORDER BY 2, 1"
        ).fetchall()
        for account in before:
            for number in read:
                sink = self._sinks[number]
                judgements[account.key, sink] = self._pending(number, account)
        for number, key, runs, count in counted:
            place = key, self._sinks[number]
            judgement = judgements.setdefault(place, Judgement(self._stream.name, key, place[1], False))
            judgement.runs, judgement.count = runs, count
        names = {number: producer_id for producer_id, number in self._runs.items()}
        for problem, query in QUERIES.items():
            found: dict[tuple[int, int], list[tuple[int, int]]] = {}
            parameters = {"sinks": len(read)} if "$sinks" in query else {}
            for number, run, first, last in self._database.execute(f"{query} ORDER BY ALL", parameters).fetchall():
                found.setdefault((number, run), []).append((first, last))
            for (number, run), ranges in found.items():
                sink, producer_id = self._sinks[number], names[run]
                count = sum(last - first + 1 for first, last in ranges)
                place = producer_id.rpartition("-")[0] or producer_id, sink
                judgement = judgements.setdefault(place, Judgement(self._stream.name, place[0], sink, True))
                judgement.findings.append(Finding(sink, producer_id, problem, count, ranges))
        return [judgements[place] for place in sorted(judgements)]

    def _pending(self, number: int, account: Account) -> Judgement:
        sink = self._sinks[number]
        rows = self._database.execute(
            "SELECT until FROM expected WHERE sink = ? AND journal = ?", [number, account.key]
        ).fetchall()
        letters = "SELECT count(*) FROM letters JOIN runs USING (run) WHERE sink = ? AND journal = ?"
        ((dead,),) = self._database.execute(letters, [number, account.key]).fetchall()
        pending = max(0, account.last - rows[0][0]) if rows else 0
        return Judgement(self._stream.name, account.key, sink, bool(rows), pending=pending, dead_letters=dead)
