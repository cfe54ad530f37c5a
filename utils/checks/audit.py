"""Do the sinks contain what the journals acknowledged: all of it, once, alike and in order?

The records of each sink are loaded into a temporary DuckDB as (sink, run, sequence, hash of the canonical record,
place), as a reader sees them, types included. Each guarantee is one query. Producers may continue meanwhile: what they
acknowledge after the audit began is not judged.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from utils.app.config import Settings
from utils.app.errors import Absent, Unavailable
from utils.checks.accounts import Account, accounts, dead_letters, stream_of
from utils.checks.pages import pages
from utils.checks.report import SHOWN, Finding, Judgement, Report
from utils.records.stream import Stream

MEMORY_LIMIT = "256MB"
REACH_S = 5.0

# A run that no journal knows has no sequences from `first` to `last`. `known` tells that a journal here has its
# producer, `<name>-<journal>`. `letters` are dead letters; `expected` is what a sink must contain by now.
_SCHEMA = """
CREATE TABLE stored (sink UTINYINT, run INTEGER, sequence BIGINT, hash UBIGINT, place BIGINT);
CREATE TABLE runs (run INTEGER, producer_id VARCHAR, producer VARCHAR, known BOOLEAN, first BIGINT, last BIGINT);
CREATE TABLE letters (sink UTINYINT, run INTEGER, sequence BIGINT);
CREATE TABLE expected (sink UTINYINT, run INTEGER, first BIGINT, last BIGINT);
CREATE TABLE findings (problem VARCHAR, sink UTINYINT, run INTEGER, first BIGINT, last BIGINT);
CREATE VIEW acknowledged AS
    SELECT sink, run, sequence, place, producer FROM stored JOIN runs USING (run) WHERE sequence BETWEEN first AND last;
CREATE VIEW unknown AS
    SELECT sink, run, sequence, place, producer_id, producer, known, first <= last AS beyond
    FROM stored JOIN runs USING (run) WHERE sequence NOT BETWEEN first AND last;
"""
# Each query finds what breaks one guarantee: sink, run, first and last sequence.
QUERIES = {
    "lost": """
        WITH seen AS (
            SELECT sink, run, sequence FROM stored UNION ALL SELECT sink, run, sequence FROM letters),
        marks AS (
            SELECT sink, run, sequence FROM seen JOIN expected USING (sink, run) WHERE sequence BETWEEN first AND last
            UNION ALL SELECT sink, run, unnest([first - 1, last + 1]) FROM expected),
        steps AS (
            SELECT *, lead(sequence) OVER (PARTITION BY sink, run ORDER BY sequence) AS next FROM marks)
        SELECT sink, run, sequence + 1, next - 1 FROM steps WHERE next > sequence + 1""",
    "duplicate": """
        SELECT sink, run, sequence, sequence FROM stored GROUP BY ALL HAVING count(*) > 1""",
    "different from the other sinks": """
        WITH differing AS (
            SELECT run, sequence FROM stored GROUP BY ALL HAVING min(hash) <> max(hash)),
        unusual AS (
            SELECT run, sequence, hash FROM stored JOIN differing USING (run, sequence) GROUP BY run, sequence, hash
            QUALIFY row_number() OVER (PARTITION BY run, sequence ORDER BY count(*) DESC, min(sink)) > 1)
        SELECT DISTINCT sink, run, sequence, sequence FROM stored JOIN unusual USING (run, sequence, hash)""",
    "out of order": """
        WITH steps AS (
            SELECT *, lag(sequence) OVER (PARTITION BY sink, producer ORDER BY place) AS before FROM acknowledged
            UNION ALL BY NAME
            SELECT *, lag(sequence) OVER (PARTITION BY sink, run ORDER BY place) AS before FROM unknown)
        SELECT sink, run, sequence, sequence FROM steps
        ANTI JOIN (SELECT sink, run, first AS sequence FROM findings WHERE problem = 'duplicate')
            USING (sink, run, sequence)
        WHERE sequence < before""",
    "acknowledged by no journal here, and not in all sinks": """
        WITH partly AS (
            SELECT run, sequence FROM unknown WHERE beyond OR NOT known
            GROUP BY ALL HAVING count(DISTINCT sink) < getvariable('sinks'))
        SELECT DISTINCT sink, run, sequence, sequence FROM stored JOIN partly USING (run, sequence)""",
}
# Neighbours as one range, the first ranges of each problem, and how many sequences there are in all.
_RANGES = f"""
    WITH islands AS (
        SELECT *, first - row_number() OVER (PARTITION BY problem, sink, run ORDER BY first) AS island FROM findings),
    ranges AS (
        SELECT problem, sink, run, min(first) AS first, max(last) AS last FROM islands
        GROUP BY problem, sink, run, island)
    SELECT problem, sink, run, producer_id, producer, ranges.first, ranges.last,
        (sum(ranges.last - ranges.first + 1) OVER whole)::BIGINT
    FROM ranges JOIN runs USING (run)
    WINDOW whole AS (PARTITION BY problem, sink, run)
    QUALIFY row_number() OVER (whole ORDER BY ranges.first) <= {SHOWN}
    ORDER BY sink, ranges.first, problem"""


def audit(settings: Settings, sinks: Sequence[str], streams: Sequence[str], advance: Callable[[int], None]) -> Report:
    """Compare the sinks with the journals and with each other. Raises ToolkitError for what cannot be opened at all."""
    started_s = time.monotonic()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="audit-", ignore_cleanup_errors=True) as folder, _without_collector():
        for number, name in enumerate(streams):
            path = str(Path(folder) / f"{number}.duckdb")
            config: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "temp_directory": folder, "threads": 2}
            with closing(duckdb.connect(path, config=config)) as database:
                database.execute(_SCHEMA)
                database.execute("BEGIN")  # else each page would be synced
                _Audit(database, settings, stream_of(name, settings, sinks), sinks).run(report, advance)
    report.seconds = time.monotonic() - started_s
    return report


@contextmanager
def _without_collector() -> Iterator[None]:
    """Records and rows form no cycles; to look for some in each page takes a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Audit:
    """The audit of one stream."""

    def __init__(
        self, database: duckdb.DuckDBPyConnection, settings: Settings, stream: Stream, sinks: Sequence[str]
    ) -> None:
        self._database, self._settings, self._stream, self._sinks = database, settings, stream, sinks
        self._runs: dict[str, int] = {}  # producer_id -> its number in all tables

    def run(self, report: Report, advance: Callable[[int], None]) -> None:
        """Load everything, ask each query, and add what they find to the report."""
        before = self._accounts()
        read = [number for number, sink in enumerate(self._sinks) if self._load(number, sink, report, advance)]
        self._database.execute(f"SET VARIABLE sinks = {len(read)}")
        # Only now: what was dead-lettered while the sinks were read explains why they do not contain it.
        letters = {number: set(dead_letters(self._settings.dead_letter_path(self._sinks[number]))) for number in read}
        self._enter_runs([*before, *self._accounts()])
        judgements: dict[tuple[str, int], Judgement] = {}
        for account in before:
            for number in read:
                if self._sinks[number] in account.subscriptions:
                    judgements[account.key, number] = self._expect(account, number, letters[number])
        for problem, query in QUERIES.items():
            self._database.execute(f"INSERT INTO findings SELECT '{problem}', * FROM ({query})")
        self._judge(judgements)
        report.judgements += [judgements[each] for each in sorted(judgements)]
        report.notes += self._notes()

    def _accounts(self) -> list[Account]:
        return [account for account in accounts(self._settings) if account.stream == self._stream.name]

    def _load(self, number: int, sink: str, report: Report, advance: Callable[[int], None]) -> bool:
        """Load the records of a sink; one that is out of reach for five seconds is given up."""
        deadline_s = time.monotonic() + REACH_S
        while True:
            external = invalid = place = 0
            try:
                for records, wrong in pages(sink, self._settings, self._stream):
                    invalid += wrong
                    identified = [record for record in records if record.sequence is not None]
                    external += len(records) - len(identified)
                    self._add(number, identified, place)
                    place += len(identified)
                    advance(len(records))
            except Absent:
                pass
            except (Unavailable, OSError) as error:
                self._database.execute("DELETE FROM stored WHERE sink = ?", [number])
                if time.monotonic() < deadline_s:
                    time.sleep(0.2)
                    continue
                report.unread[sink] = str(error)
                return False
            report.external[sink] = report.external.get(sink, 0) + external
            report.invalid[sink] = report.invalid.get(sink, 0) + invalid
            return True

    def _add(self, number: int, records: Sequence[Any], place: int) -> None:
        if not records:
            return
        codes = self._runs
        names = [record.producer_id for record in records]
        for name in set(names):
            codes.setdefault(name, len(codes))
        page = {  # noqa: F841 (DuckDB finds it by its name)
            "run": np.array([codes[name] for name in names], dtype=np.int32),
            "sequence": np.array([record.sequence for record in records], dtype=np.int64),
            "line": np.array(self._stream.codec.canonical(self._stream.codec.rows(records)), dtype=object),
            "place": np.arange(place, place + len(records)),
        }
        self._database.execute(f"INSERT INTO stored SELECT {number}, run, sequence, hash(line), place FROM page")

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert many rows in one statement."""
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            self._database.execute(f"INSERT INTO {table} SELECT {', '.join(['unnest(?)'] * len(columns))}", columns)

    def _enter_runs(self, found: Sequence[Account]) -> None:
        """The runs that a journal has, as far as they are acknowledged by now, and those that only sinks have."""
        limits: dict[str, tuple[int, int]] = {}
        for account in found:
            for run in account.runs:
                self._runs.setdefault(run.producer_id, len(self._runs))
                limits[run.producer_id] = run.first, max(run.last, limits.get(run.producer_id, (0, 0))[1])
        keys = {account.key for account in found}
        rows = []
        for producer_id, number in self._runs.items():
            producer = producer_id.rpartition("-")[0] or producer_id
            rows.append((number, producer_id, producer, producer in keys, *limits.get(producer_id, (1, 0))))
        self._insert("runs", rows)

    def _expect(self, account: Account, number: int, letters: set[tuple[str, int]]) -> Judgement:
        """Enter what a sink must contain by now: a worker continues behind its last record and the letters there."""
        subscription = account.subscriptions[self._sinks[number]]
        runs = {self._runs[run.producer_id]: run for run in account.runs}
        query = "SELECT run, max(sequence) FROM acknowledged WHERE sink = ? GROUP BY run"
        found = self._database.execute(query, [number]).fetchall()
        until = max([subscription.after, account.pruned, *(last for run, last in found if run in runs)])
        ids = {run.producer_id: code for code, run in runs.items()}
        own = [(number, ids[producer_id], sequence) for producer_id, sequence in letters if producer_id in ids]
        stepped = {sequence for _, _, sequence in own}
        while until + 1 in stepped:
            until += 1
        self._insert("letters", own)
        ranges = [
            (number, code, max(run.first, subscription.after + 1), min(run.last, until)) for code, run in runs.items()
        ]
        self._insert("expected", [each for each in ranges if each[2] <= each[3]])
        pending = max(0, account.last - until)
        name, sink = self._stream.name, self._sinks[number]
        return Judgement(name, account.key, sink, True, pending=pending, dead_letters=len(own))

    def _judge(self, judgements: dict[tuple[str, int], Judgement]) -> None:
        """Put what the queries found with what else is known of each producer in each sink."""

        def judgement(producer: str, number: int) -> Judgement:
            made = Judgement(self._stream.name, producer, self._sinks[number])
            return judgements.setdefault((producer, number), made)

        counted = self._database.execute(
            "SELECT sink, producer, count(DISTINCT run), count(*) FROM stored JOIN runs USING (run) GROUP BY ALL"
        ).fetchall()
        for number, producer, runs, count in counted:
            each = judgement(producer, number)
            each.runs, each.count = runs, count
        findings: dict[tuple[int, int, str], Finding] = {}
        for problem, number, run, producer_id, producer, first, last, count in self._database.execute(
            _RANGES
        ).fetchall():
            if (number, run, problem) not in findings:
                findings[number, run, problem] = Finding(producer_id, problem, count, [])
                judgement(producer, number).findings.append(findings[number, run, problem])
            findings[number, run, problem].ranges.append((first, last))

    def _notes(self) -> Iterator[str]:
        """What no journal here has acknowledged, explained."""
        query = (
            "SELECT producer_id, producer, known, beyond, count(DISTINCT sequence), min(sequence), max(sequence) "
            "FROM unknown GROUP BY ALL ORDER BY ALL"
        )
        found = self._database.execute(query).fetchall()
        for producer_id, producer, known, beyond, count, first, last in found[:SHOWN]:
            if beyond:
                why = f"journal {producer} does not know them: it was restored from a backup, or somebody made them"
            elif known:
                why = f"journal {producer} does not know this run: a copy or a backup of it was used"
            else:
                why = "no journal here knows it: its records are only compared between the sinks"
            yield f"{count:,} records of {producer_id} ({first}-{last}): {why}"
        if len(found) > SHOWN:
            yield f"and of {len(found) - SHOWN:,} more runs that no journal here knows"
