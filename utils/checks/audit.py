"""Audit: whether each sink contains every acknowledged record once, equal to the other sinks, and in order.

The records of each sink, as its source reads them, are loaded into a temporary DuckDB database as rows (sink, run,
sequence, hash of the canonical record) in their order. One query checks each guarantee. Producers may run meanwhile:
the audit does not judge records that are acknowledged after it began.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from utils.app.cli import counted
from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.checks.journals import JournalSummary, dead_letters, journal_summaries, stream_names, stream_of
from utils.checks.readers import pages
from utils.records.stream import Stream

MEMORY_LIMIT = "256MB"
REACH_S = 5.0
SHOWN = 10
COLUMNS = ("stream", "producer", "runs", "sinks", "records", "pending", "dead letters", "result")
NEXT_STEP = "next: a sink with the result ok still has these records; README.md, Troubleshooting, says what to do"

# stored: the records of the sinks, in their order. names: their runs and those of the journals. assigned: the runs of
# the journals, before (`earlier`) and after the sinks were read, for each subscribed sink and once without a sink.
TABLES = """
CREATE TABLE stored (sink UTINYINT, run INTEGER, sequence BIGINT, hash BIGINT);
CREATE TABLE names (run INTEGER, producer_id VARCHAR, producer VARCHAR, stream VARCHAR);
CREATE TABLE assigned (
    earlier BOOLEAN, run INTEGER, first BIGINT, last BIGINT, pruned BIGINT, sink UTINYINT, after BIGINT);
CREATE TABLE letters (sink UTINYINT, run INTEGER, sequence BIGINT);
CREATE TABLE findings (problem VARCHAR, sink UTINYINT, run INTEGER, first BIGINT, last BIGINT);
"""
VIEWS = """
-- Sequences acknowledged by now: none (first > last) if no journal has the run. known: a journal here has the producer.
CREATE TABLE runs AS
    SELECT names.*, (producer, stream) IN (SELECT producer, stream FROM names JOIN assigned USING (run)) AS known,
        coalesce(min(first), 1) AS first, coalesce(max(last), 0) AS last
    FROM names LEFT JOIN assigned USING (run) GROUP BY ALL;
-- Sequences acknowledged for a sink before the audit began.
CREATE TABLE expected AS
    SELECT sink, run, min(greatest(first, least(after, last) + 1)) AS first, max(last) AS last, max(pruned) AS pruned
    FROM assigned WHERE earlier AND sink IS NOT NULL GROUP BY sink, run;
CREATE VIEW contents AS
    SELECT stored.*, stored.rowid AS place, producer_id, producer, stream, known, first <= last AS in_journal,
        sequence BETWEEN first AND last AS acknowledged FROM stored JOIN runs USING (run);
-- Expected sequences that the sink or its dead letters have, and as borders the one before and the one after them all.
CREATE VIEW delivered AS
    SELECT sink, run, sequence FROM (SELECT sink, run, sequence FROM stored UNION ALL FROM letters)
    JOIN expected USING (sink, run) WHERE sequence BETWEEN first AND last
    UNION ALL SELECT sink, run, unnest([first - 1, last + 1]) FROM expected;
-- The sequence after which workers continue a producer: the last one in the sink, or the last that left the journal.
CREATE VIEW progress AS
    SELECT sink, producer, stream, max(sequence) AS reached FROM (
        SELECT sink, producer, stream, sequence FROM contents WHERE acknowledged
        UNION ALL SELECT sink, producer, stream, pruned FROM expected JOIN runs USING (run)) GROUP BY ALL;
-- Gaps between neighbours in `delivered`: what is missing up to `reached` is lost, what is missing later is pending.
CREATE TABLE missing AS
    SELECT sink, run, producer, stream, sequence + 1 AS first, next - 1 AS last, reached
    FROM (SELECT *, lead(sequence) OVER (PARTITION BY sink, run ORDER BY sequence) AS next FROM delivered)
    JOIN runs USING (run) JOIN progress USING (sink, producer, stream) WHERE next > sequence + 1;
"""
# Each query finds the records that break one guarantee, as sink, run, first and last sequence.
QUERIES = {
    "lost": "SELECT sink, run, first, least(last, reached) FROM missing WHERE first <= reached",
    "duplicate": "SELECT sink, run, sequence, sequence FROM stored GROUP BY ALL HAVING count(*) > 1",
    "different from the other sinks": """
        WITH differing AS (
            SELECT run, sequence FROM stored GROUP BY ALL HAVING min(hash) <> max(hash)),
        unusual AS (
            SELECT run, sequence, hash FROM stored JOIN differing USING (run, sequence) GROUP BY run, sequence, hash
            QUALIFY row_number() OVER (PARTITION BY run, sequence ORDER BY count(*) DESC, min(sink)) > 1)
        SELECT DISTINCT sink, run, sequence, sequence FROM stored JOIN unusual USING (run, sequence, hash)""",
    "out of order": """
        WITH steps AS (
            SELECT *, CASE WHEN acknowledged THEN -1 ELSE run END AS runs_in_order,
                lag(sequence) OVER (PARTITION BY sink, producer, runs_in_order ORDER BY place) AS before FROM contents)
        SELECT sink, run, sequence, sequence FROM steps
        ANTI JOIN (SELECT sink, run, first AS sequence FROM findings WHERE problem = 'duplicate')
            USING (sink, run, sequence)
        WHERE sequence < before""",
    "acknowledged by no journal here, and not in all sinks": """
        WITH partly AS (
            SELECT run, sequence FROM contents WHERE NOT acknowledged AND (in_journal OR NOT known)
            GROUP BY ALL HAVING count(DISTINCT sink) < getvariable('sinks'))
        SELECT DISTINCT sink, run, sequence, sequence FROM stored JOIN partly USING (run, sequence)""",
}
# One row for each producer in each sink. A finding has the number of sequences of a run, the first and the last.
JUDGEMENTS = """
    WITH named AS (
        SELECT sink, run, problem, min(first) AS start, format('{:,} {}: {}', sum(last - first + 1)::BIGINT, problem,
            if(start = max(last), start::VARCHAR, format('between {} and {}', start, max(last)))) AS finding
        FROM findings GROUP BY sink, run, problem)
    SELECT stream, producer, sink, count(subscribed) > 0, count(records), coalesce(sum(records), 0)::BIGINT,
        coalesce(sum(pending), 0)::BIGINT, count(letter),
        coalesce(list(finding || ' of ' || producer_id ORDER BY start, problem) FILTER (finding IS NOT NULL), [])
    FROM (
        SELECT sink, run, count(*) AS records FROM stored GROUP BY ALL
        UNION ALL BY NAME SELECT sink, run, true AS subscribed FROM expected
        UNION ALL BY NAME
            SELECT sink, run, last - greatest(first, reached + 1) + 1 AS pending FROM missing WHERE last > reached
        UNION ALL BY NAME SELECT sink, run, true AS letter FROM letters
        UNION ALL BY NAME FROM named)
    JOIN runs USING (run) GROUP BY stream, producer, sink ORDER BY stream, producer, sink"""
UNKNOWN = """
    SELECT producer_id, count(DISTINCT sequence), min(sequence), max(sequence)
    FROM contents WHERE NOT acknowledged GROUP BY producer_id ORDER BY ALL"""
WHY_UNKNOWN = "no journal here acknowledged them: a copy or a backup of a journal, or another program, made them"


@dataclass
class ProducerResult:
    """Result for one producer (`<name>-<journal>`) in one sink, over all its runs."""

    stream: str
    producer: str
    sink: str
    subscribed: bool
    runs: int
    count: int
    pending: int
    dead_letters: int
    findings: list[str]


@dataclass
class Report:
    """Result of an audit. By sink: number of records without ids, of invalid lines, and why it could not be read."""

    seconds: float = 0.0
    results: list[ProducerResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    external: dict[str, int] = field(default_factory=dict)
    invalid: dict[str, int] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        return any(result.findings for result in self.results)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the rows of the table. Sinks with equal results for a producer share a row."""
        alike: dict[tuple[str, ...], list[str]] = {}
        for each in self.results:
            fine = "ok" if each.subscribed else "ok, not subscribed"
            result = "; ".join(each.findings[:SHOWN]) + "; ..." * (len(each.findings) > SHOWN) or fine
            counts = (f"{number:,}" for number in (each.runs, each.count, each.pending, each.dead_letters))
            alike.setdefault((each.stream, each.producer, *counts, result), []).append(each.sink)
        for (stream, producer, runs, *numbers), sinks in alike.items():
            yield (stream, producer, runs, ", ".join(sinks), *numbers)

    def lines(self, sinks: int) -> list[str]:
        """Return the lines below the table, the verdict last. `sinks` is the number of sinks that were to be read."""
        lines = [f"note: {note}" for note in self.notes]
        for counts, noun, more in ((self.external, "record", " without ids"), (self.invalid, "invalid record", "")):
            lines += [f"note: {sink} contains {counted(count, noun)}{more}" for sink, count in counts.items() if count]
        lines += [f"not read: {sink}: {reason}" for sink, reason in self.unread.items()]
        lines += [NEXT_STEP] if self.broken else []
        verdict = "BROKEN" if self.broken else "incomplete" if self.unread else "ok"
        count, read = sum(each.count for each in self.results), sinks - len(self.unread)
        compared = f"{counted(count, 'record')} in {counted(read, 'sink')}"
        return [*lines, f"{verdict}: {compared} compared in {self.seconds:.1f} s"]


def audit(
    settings: Settings, sinks: Sequence[str], stream: str | None = None, advance: Callable[[int], None] = lambda _: None
) -> Report:
    """Compare the sinks with the journals and with each other, for `stream` or all streams of the data folder.

    The callback `advance` gets the number of records read since its last call. Raises ToolkitError if a file cannot be
    opened, or if neither a journal nor a sink has `stream`.
    """
    started_s, report, before = time.monotonic(), Report(), journal_summaries(settings)
    known = stream_names(settings, before)
    streams = [stream_of(name, settings, sinks) for name in ([stream] if stream else known)]
    if stream and stream not in known and not streams[0].fields:  # a misspelt name must not give "ok"
        raise ToolkitError(
            f"nothing to audit: no journal and no sink that answers has stream {stream}; known are {', '.join(known)}"
        )
    with tempfile.TemporaryDirectory(prefix="audit-", ignore_cleanup_errors=True) as folder:
        config: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "temp_directory": folder, "threads": 2}
        with closing(duckdb.connect(str(Path(folder) / "audit.duckdb"), config=config)) as database:
            database.execute(f"{TABLES} BEGIN")  # without a transaction each page would be synced to disk
            gc.disable()  # records and rows form no reference cycles; searching for some takes a quarter of the time
            try:
                _Audit(database, settings, streams, sinks).run(before, report, advance)
            finally:
                gc.enable()
    report.seconds = time.monotonic() - started_s
    return report


class _Audit:
    """An audit in its database, where a sink is its index in `sinks` and a run its number in `_runs`."""

    def __init__(
        self, database: duckdb.DuckDBPyConnection, settings: Settings, streams: Sequence[Stream], sinks: Sequence[str]
    ) -> None:
        self._database, self._settings, self._streams, self._sinks = database, settings, streams, sinks
        self._runs: dict[tuple[str, str], int] = {}  # (stream, producer_id) -> number

    def run(self, before: Sequence[JournalSummary], report: Report, advance: Callable[[int], None]) -> None:
        """Load sinks, journals and dead letters, run the queries, and fill the report."""
        read = [number for number in range(len(self._sinks)) if self._load_sink(number, report, advance)]
        # After the sinks: runs that began meanwhile and records that were dead-lettered meanwhile must be known too.
        self._load_journals(before, read)
        self._database.execute(f"SET VARIABLE sinks = {len(read)}; {VIEWS}")
        for problem, query in QUERIES.items():
            self._database.execute(f"INSERT INTO findings SELECT '{problem}', * FROM ({query})")
        for stream, producer, number, *found in self._database.execute(JUDGEMENTS).fetchall():
            report.results.append(ProducerResult(stream, producer, self._sinks[number], *found))
        for producer_id, count, first, last in self._database.execute(UNKNOWN).fetchall():
            report.notes.append(f"{counted(count, 'record')} of {producer_id} ({first}-{last}): {WHY_UNKNOWN}")

    def _load_sink(self, number: int, report: Report, advance: Callable[[int], None]) -> bool:
        """Load the records of a sink and return True; False if it cannot be read within REACH_S."""
        sink, deadline_s = self._sinks[number], time.monotonic() + REACH_S
        while True:
            report.external[sink] = report.invalid[sink] = 0
            try:
                for stream in self._streams:
                    with suppress(Absent):
                        self._load_stream(number, stream, report, advance)
                return True
            except (Unavailable, OSError) as error:
                self._database.execute("DELETE FROM stored WHERE sink = ?", [number])
                if time.monotonic() > deadline_s:
                    report.unread[sink] = str(error)
                    return False
            time.sleep(0.2)

    def _load_stream(self, number: int, stream: Stream, report: Report, advance: Callable[[int], None]) -> None:
        sink = self._sinks[number]
        for found, invalid in pages(sink, self._settings, stream):
            advance(len(found))
            report.invalid[sink] += len(invalid)
            columns = stream.codec.columns_of(found)
            if external := columns[-1].count(None):
                report.external[sink] += external
                columns = stream.codec.columns_of([each for each in found if each.sequence is not None])
            *_, ids, sequences = columns
            numbers = {each: self._runs.setdefault((stream.name, each), len(self._runs)) for each in set(ids)}
            page = {  # noqa: F841 (the query below reads this local variable as a table)
                "run": np.fromiter(map(numbers.__getitem__, ids), np.int32),
                "sequence": np.array(sequences, np.int64),
                "hash": np.fromiter(map(hash, stream.codec.canonical(columns)), np.int64),
            }
            self._database.execute(f"INSERT INTO stored SELECT {number}, run, sequence, hash FROM page")

    def _load_journals(self, before: Sequence[JournalSummary], read: Sequence[int]) -> None:
        """Load what the journals contained before the sinks were read and what they contain now; also dead letters."""
        streams, numbers = {stream.name for stream in self._streams}, {self._sinks[number]: number for number in read}
        rows: list[tuple[Any, ...]] = []
        for earlier, found in ((True, before), (False, journal_summaries(self._settings))):
            for journal in (each for each in found if each.stream in streams):
                sinks = [(numbers[sink], after) for sink, (_, after) in journal.subscribed.items() if sink in numbers]
                for producer_id, limits in journal.runs.items():
                    run = self._runs.setdefault((journal.stream, producer_id), len(self._runs))
                    rows += [(earlier, run, *limits, journal.pruned, *each) for each in (*sinks, (None, 0))]
        self._insert("assigned", rows)
        names = [(run, name, name.rsplit("-", 1)[0], stream) for (stream, name), run in self._runs.items()]
        self._insert("names", names)
        for sink, number in numbers.items():
            ids = set(dead_letters(self._settings.dead_letter_path(sink)))
            letters = [(number, self._runs.get((stream, name)), each) for stream in streams for name, each in ids]
            self._insert("letters", letters)

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            self._database.execute(f"INSERT INTO {table} SELECT {', '.join(['unnest(?)'] * len(columns))}", columns)
