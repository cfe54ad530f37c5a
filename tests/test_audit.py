"""The audit passes complete sinks and names each damage; these tests damage sinks on purpose."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

import verify_emitters
from tests.helpers import FILES, assigned, make_messages, wait_until
from utils.app.config import DEFAULT_STREAM, PROJECT_DIR, Settings
from utils.checks import audit as audit_module
from utils.checks import journals, readers
from utils.checks.audit import ProducerResult, Report, audit
from utils.checks.journals import audited_sinks, dead_letters, journal_summaries
from utils.delivery.journal import Journal
from utils.records import stream as streams
from utils.records.codec import encoder
from utils.records.record import Batch, Record
from utils.records.stream import Stream, declare
from utils.records.table import Table
from utils.sinks import EMBEDDED, SINKS
from utils.sources.sqlite_source import open_read_only

COUNT, FEW = 2_500, 250


class Reading(Record):
    """A record with a field of each type."""

    device: str
    reading: int
    value: float
    ok: bool
    raw: dict[str, Any]


READINGS = Stream("readings", Reading)


def make_readings(amount: int) -> list[Reading]:
    return [
        Reading(device=f"d{n}", reading=n, value=n / 10, ok=n % 2 == 0, raw={"n": [n, None]}, timestamp=TIME)
        for n in range(amount)
    ]


TIME = "2026-01-02T03:04:05.678Z"


def append(
    settings: Settings,
    count: int = COUNT,
    *,
    name: str = "p",
    stream: Stream = streams.BUZZ,
    subscribed: Sequence[str] = EMBEDDED,
    contains: dict[str, int] | None = None,
    prune: bool = True,
) -> str:
    """Acknowledge records in a new run and emit them to each sink, up to sequence `contains` (all by default)."""
    made: Sequence[Record] = make_messages(count, text="näive") if stream == streams.BUZZ else make_readings(count)
    with closing(Journal(settings.journal_path(name), stream)) as journal:
        journal.subscribe(subscribed)
        batch = Batch.of_records(made, journal.producer_id, journal.last + 1, stream.codec)
        journal.append(batch)
        for sink in subscribed:
            last = (contains or {}).get(sink, batch.last)
            if last >= batch.first:
                with closing(SINKS[sink].emitter(settings, stream, journal.key, "")) as emitter:
                    emitter.last(list(journal.runs()))
                    emitter.emit(batch.between(batch.first, last))
            if prune:
                journal.note_reached(sink, last, "")
        if prune:
            journal.prune()
        return journal.producer_id


def audited(settings: Settings, *chosen: str, stream: str = DEFAULT_STREAM) -> tuple[Report, dict[str, list[str]]]:
    """Return the report and the problems by sink."""
    report = audit(settings, chosen or audited_sinks(settings, stream), stream)
    problems: dict[str, list[str]] = {}
    for result_of in report.results:
        problems.setdefault(result_of.sink, []).extend(result_of.findings)
    return report, {sink: found for sink, found in problems.items() if found}


def result_of(report: Report, sink: str) -> ProducerResult:
    (found,) = (each for each in report.results if each.sink == sink)
    return found


def rewrite(settings: Settings, sink: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the messages of a sink without the project's code."""
    names = ", ".join(Table(streams.BUZZ).columns)
    if sink == "file":
        rows = [json.loads(line) for line in settings.live_path.read_text(encoding="utf-8").splitlines()]
        change(rows)
        settings.live_path.write_bytes(b"".join(encoder.encode(row) + b"\n" for row in rows))
        return
    values = ", ".join(["?"] * len(Table(streams.BUZZ).columns))
    insert = f"INSERT INTO streamed_messages ({names}) VALUES ({values})"
    if sink == "sqlite":
        with closing(sqlite3.connect(settings.sqlite_path)) as connection:
            found = connection.execute(f"SELECT {names} FROM streamed_messages ORDER BY rowid").fetchall()
            rows = [dict(zip(names.split(", "), row, strict=True)) for row in found]
            change(rows)
            connection.execute("DROP INDEX IF EXISTS streamed_messages_identity")
            connection.execute("DELETE FROM streamed_messages")
            connection.executemany(insert, [tuple(row.get(name) for name in names.split(", ")) for row in rows])
            connection.commit()
        return
    with closing(duckdb.connect(str(settings.duckdb_path))) as database:
        found = database.execute(f"SELECT {names} FROM streamed_messages ORDER BY rowid").fetchall()
        rows = [dict(zip(names.split(", "), row, strict=True)) for row in found]
        change(rows)
        database.execute("DELETE FROM streamed_messages")
        appender = database.appender("streamed_messages", columns=names.split(", "))
        for row in rows:
            appender.append_row(*(row.get(name) for name in names.split(", ")))
        appender.flush()


def run_sql(settings: Settings, sink: str, statement: str) -> None:
    if sink == "sqlite":
        with closing(sqlite3.connect(settings.sqlite_path)) as connection:
            connection.execute(statement)
            connection.commit()
    else:
        with closing(duckdb.connect(str(settings.duckdb_path))) as database:
            database.execute(statement)


def swap(rows: list[dict[str, Any]]) -> None:
    rows[120], rows[121] = rows[121], rows[120]


def change_text(rows: list[dict[str, Any]]) -> None:
    rows[120]["message"] += "!"


def change_sentiment(rows: list[dict[str, Any]]) -> None:
    rows[120]["sentiment"] += 2**-52


def cut_tail(rows: list[dict[str, Any]]) -> None:
    del rows[-7:]


def lose_and_double(rows: list[dict[str, Any]]) -> None:
    rows[130] = rows[120]


UNKNOWN = "1 acknowledged by no journal here, and not in all sinks:"
DIFFERENT = "1 different from the other sinks: 121"
# The file takes every damage. The others take only these, which show that their readers see it.
IN_EACH = ("a removed message", "a doubled message", "the smallest change of a number", "a field more")
DAMAGES: dict[str, tuple[Callable[[list[dict[str, Any]]], object], list[str]]] = {
    "a removed message": (lambda rows: rows.pop(120), ["1 lost: 121"]),
    "removed messages": (lambda rows: rows.__delitem__(slice(0, 30, 10)), ["3 lost: between 1 and 21"]),
    "a doubled message": (lambda rows: rows.insert(130, rows[120]), ["1 duplicate: 121"]),
    "a message in place of another": (lose_and_double, ["1 duplicate: 121", "1 lost: 131"]),
    "a changed text": (change_text, [DIFFERENT]),
    "the smallest change of a number": (change_sentiment, [DIFFERENT]),
    "an empty text for none": (lambda rows: rows[120].update(category=""), [DIFFERENT]),
    "a text that is gone": (lambda rows: rows[120].update(keyword_mentioned=None), [DIFFERENT]),
    "a field more": (lambda rows: rows[120].update(extra='{"more":1}'), [DIFFERENT]),
    "swapped messages": (swap, ["1 out of order: 121"]),
    "a missing tail": (cut_tail, ["7 lost: between 244 and 250"]),
    "everything gone": (lambda rows: rows.clear(), ["250 lost: between 1 and 250"]),
    "everything twice": (lambda rows: rows.extend(rows[:]), ["250 duplicate: between 1 and 250"]),
    "a message of an unknown producer": (
        lambda rows: rows.append(rows[0] | {"producer_id": "ghost-1-1"}),
        [f"{UNKNOWN} 1 of ghost-1-1"],
    ),
    "a message that was never acknowledged": (
        lambda rows: rows.append(rows[0] | {"sequence": FEW + 1}),
        [f"{UNKNOWN} 251"],
    ),
}


@pytest.mark.full
@pytest.mark.parametrize(
    ("damage", "sink"), [(damage, sink) for damage in DAMAGES for sink in FILES if sink == "file" or damage in IN_EACH]
)
def test_damage_is_named(settings: Settings, sink: str, damage: str) -> None:
    change, words = DAMAGES[damage]
    producer_id = append(settings, FEW)

    def apply(rows: list[dict[str, Any]]) -> None:
        change(rows)
        for row in rows if sink == "file" else ():
            row.update(json.loads(row.pop("extra", None) or "{}"))  # a file has these fields beside the others

    rewrite(settings, sink, apply)
    report, problems = audited(settings)
    assert report.broken
    assert list(problems) == [sink]
    assert problems[sink] == [each if "ghost" in each else f"{each} of {producer_id}" for each in words]


@pytest.mark.parametrize("sink", FILES)
def test_without_damage_nothing_is_named(settings: Settings, sink: str) -> None:
    append(settings)
    rewrite(settings, sink, lambda rows: None)
    report, problems = audited(settings)
    assert (problems, report.broken, report.notes) == ({}, False, [])
    assert [(each.runs, each.count, each.pending) for each in report.results] == [(1, COUNT, 0)] * len(EMBEDDED)


@pytest.mark.full
@pytest.mark.parametrize(
    ("sink", "change", "words"),
    [
        ("sqlite", "message = CAST(message AS BLOB)", "different"),
        ("sqlite", "message = NULL", "1 lost: 7"),  # readers do not count a row without a text as a message
        ("sqlite", "sentiment = 'high'", "different"),
        ("sqlite", "timestamp = '2026-11-23T19:04:05.124Z'", "different"),
        ("sqlite", "message_length = 2.5", "different"),
        ("sqlite", "extra = '{\"length\":1}'", "different"),
        ("sqlite", "extra = 'no JSON'", "different"),
        ("duckdb", "timestamp = timestamp + INTERVAL 500 MICROSECOND", "different"),
        ("duckdb", "timestamp = NULL", "different"),
        ("duckdb", "message_length = message_length + 1", "different"),
    ],
)
def test_values_are_compared_as_readers_decode_them(settings: Settings, sink: str, change: str, words: str) -> None:
    append(settings, 20)
    run_sql(settings, sink, f"UPDATE streamed_messages SET {change} WHERE sequence = 7")
    problems = audited(settings)[1]
    assert list(problems) == [sink]
    assert words in problems[sink][0]


def test_a_change_that_no_reader_sees_is_no_damage(settings: Settings) -> None:
    """SQLite converts such a text, and an empty `extra` has no field."""
    append(settings, 20)
    run_sql(settings, "sqlite", "UPDATE streamed_messages SET sentiment = '0.50', extra = '{}' WHERE sequence = 7")
    assert audited(settings)[1] == {}


@pytest.mark.proof("damage is found and named", "one byte of a line is changed", full=30, long="each byte")
def test_a_changed_byte_of_a_line_is_found_if_a_reader_sees_it(settings: Settings, times: int) -> None:
    append(settings, 3)
    whole = settings.live_path.read_bytes()
    codec = streams.BUZZ.codec
    (wanted,) = codec.canonical(codec.columns_of([codec.decode(whole.splitlines()[1])]))
    start, end = whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1)
    places = [(place, mask) for place in range(start, end + 1) for mask in (0x01, 0x20)]
    for place, mask in random.Random(1).sample(places, times or len(places)):
        changed = whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
        line = changed[start : end + 1].removesuffix(b"\n")
        try:
            alike = place < end and codec.canonical(codec.columns_of([codec.decode(line)])) == [wanted]
        except ValueError:
            alike = False
        settings.live_path.write_bytes(changed)
        assert audited(settings, "file", "sqlite")[0].broken != alike, line


@pytest.mark.full
def test_a_stream_with_all_types_is_compared(settings: Settings) -> None:
    declare(READINGS, settings.schema_folder)
    append(settings, 50, stream=READINGS)
    assert audited(settings, stream="readings")[1] == {}
    for sink, change in (("sqlite", "ok = NOT ok"), ("duckdb", "raw = '{\"n\":[3]}'")):
        run_sql(settings, sink, f"UPDATE readings SET {change} WHERE sequence = 9")
        assert list(audited(settings, stream="readings")[1]) == [sink]
        run_sql(settings, sink, "DELETE FROM readings WHERE sequence > 40")
        assert "10 lost: between 41 and 50" in audited(settings, stream="readings")[1][sink][1]
        shutil.rmtree(settings.data_path)
        declare(READINGS, settings.schema_folder)
        append(settings, 50, stream=READINGS)


@pytest.mark.full
def test_gained_fields_are_compared_with_their_values_in_extra(settings: Settings) -> None:
    older = Stream("readings", fields=tuple(field for field in READINGS.fields if field.name not in ("value", "raw")))
    declare(older, settings.schema_folder)
    with closing(Journal(settings.journal_path("p"), older)) as journal:
        journal.subscribe(EMBEDDED)
        batch = Batch.of_records(make_readings(20), journal.producer_id, 1, older.codec)
        journal.append(batch)
        for sink in EMBEDDED:
            with closing(SINKS[sink].emitter(settings, older, journal.key, "")) as emitter:
                emitter.last([])
                emitter.emit(batch)
    assert audited(settings, stream="readings")[1] == {}
    declare(READINGS, settings.schema_folder)
    append(settings, 20, stream=READINGS, prune=False)
    report, problems = audited(settings, stream="readings")
    assert problems == {}
    assert result_of(report, "duckdb").count == 40
    run_sql(settings, "sqlite", "UPDATE readings SET extra = json_set(extra, '$.value', 99) WHERE sequence = 9")
    assert list(audited(settings, stream="readings")[1]) == ["sqlite"]


@pytest.mark.full
@pytest.mark.parametrize("change, count", [("copied", 3), ("moved", 3), ("moved", 20)])
def test_rows_in_the_table_of_another_stream_are_named(settings: Settings, change: str, count: int) -> None:
    others = Stream("others", Reading)
    for name, stream in (("p", READINGS), ("q", others)):
        declare(stream, settings.schema_folder)
        append(settings, 20, name=name, stream=stream)
    rows = f"FROM readings WHERE sequence <= {count}"
    run_sql(settings, "sqlite", f"INSERT INTO others SELECT * {rows}")
    if change == "moved":
        run_sql(settings, "sqlite", f"DELETE {rows}")
    report = audit(settings, audited_sinks(settings), None)
    found = {(each.stream, each.sink): " ".join(each.findings) for each in report.results if each.findings}
    assert found.pop(("others", "sqlite")).startswith(f"{count} acknowledged by no journal here")
    lost = f"{count} lost: between 1 and {count} of p-"
    assert change == "copied" or found.pop(("readings", "sqlite")).startswith(lost)
    assert not found


@pytest.mark.full
def test_a_stream_without_its_schema_file_is_compared(settings: Settings) -> None:
    append(settings, 20, stream=READINGS)
    report, problems = audited(settings, stream="readings")
    assert (problems, result_of(report, "file").count) == ({}, 20)
    run_sql(settings, "duckdb", "UPDATE readings SET value = value + 1 WHERE sequence = 9")
    assert list(audited(settings, stream="readings")[1]) == ["duckdb"]
    for path in (settings.file_path("readings"), settings.sqlite_path, settings.duckdb_path):
        path.unlink()
    assert sorted(audited(settings, stream="readings")[1]) == sorted(EMBEDDED), "a journal knows the stream"


def test_a_sink_that_is_behind_has_pending_records_and_loses_nothing(settings: Settings) -> None:
    append(settings, contains={"sqlite": 900, "duckdb": 0}, prune=False)
    report, problems = audited(settings)
    assert not problems
    assert [result_of(report, sink).pending for sink in FILES] == [0, 1_600, 2_500]


def test_a_missing_tail_is_lost_only_where_the_journal_was_pruned(settings: Settings) -> None:
    buzz = streams.BUZZ
    with closing(Journal(settings.journal_path("p"), buzz)) as journal:
        journal.subscribe(["file"])
        for count in (6, 4):
            journal.append(Batch.of_records(make_messages(count), journal.producer_id, journal.last + 1, buzz.codec))
            journal.note_reached("file", 6, "")  # the cursor of the file's worker
            journal.prune()
        producer_id = journal.producer_id
    report, problems = audited(settings, "file")
    assert problems == {"file": [f"6 lost: between 1 and 6 of {producer_id}"]}
    assert result_of(report, "file").pending == 4


def test_a_record_missing_in_the_middle_is_lost_even_if_the_journal_has_it(settings: Settings) -> None:
    """A gap stays although the journal has the record: a worker continues behind the sink's last message."""
    append(settings, prune=False)
    rewrite(settings, "file", lambda rows: rows.__delitem__(10))
    assert [text[:10] for text in audited(settings)[1]["file"]] == ["1 lost: 11"]


@pytest.mark.full
def test_a_sink_is_judged_from_when_it_was_subscribed(settings: Settings) -> None:
    append(settings, 1_500, subscribed=("file",))
    producer_id = append(settings, 1_000)
    report, problems = audited(settings)
    assert not problems
    assert (result_of(report, "sqlite").count, result_of(report, "file").count) == (1_000, 2_500)
    rewrite(settings, "sqlite", lambda rows: rows.__delitem__(0))
    assert audited(settings)[1] == {"sqlite": [f"1 lost: 1501 of {producer_id}"]}


@pytest.mark.full
def test_losses_between_and_in_runs_are_found(settings: Settings) -> None:
    for _ in range(4):
        append(settings, 10)
    ids = list(assigned(settings, "p"))
    report, problems = audited(settings)
    assert (problems, result_of(report, "duckdb").runs, result_of(report, "duckdb").count) == ({}, 4, 40)
    rewrite(settings, "file", lambda rows: rows.__delitem__(slice(8, 23)))
    rewrite(settings, "duckdb", lambda rows: rows.__setitem__(slice(0, 20), rows[10:20] + rows[:10]))
    assert audited(settings)[1] == {
        "file": [
            f"2 lost: between 9 and 10 of {ids[0]}",
            f"10 lost: between 11 and 20 of {ids[1]}",
            f"3 lost: between 21 and 23 of {ids[2]}",
        ],
        "duckdb": [f"1 out of order: 1 of {ids[0]}"],
    }


def write_letter(settings: Settings, sink: str, producer_id: str, sequence: int) -> None:
    path = settings.dead_letter_path(sink)
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as letters:
        letters.write(msgspec.json.encode({"reason": "no", "producer_id": producer_id, "sequence": sequence}) + b"\n")


def test_dead_letters_are_not_lost(settings: Settings) -> None:
    producer_id = append(settings)
    rewrite(settings, "duckdb", lambda rows: rows.__delitem__(slice(99, 101)))
    write_letter(settings, "duckdb", producer_id, 100)
    settings.dead_letter_path("duckdb").open("ab").write(b'{"partial')
    report, problems = audited(settings)
    assert problems == {"duckdb": [f"1 lost: 101 of {producer_id}"]}
    assert (result_of(report, "duckdb").dead_letters, result_of(report, "duckdb").pending) == (1, 0)


def test_a_record_dead_lettered_during_the_audit_is_not_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer_id = append(settings, 4, subscribed=("file",), contains={"file": 2}, prune=False)
    (last,) = make_messages(1)
    last.producer_id, last.sequence = producer_id, 4
    whole = readers.pages

    def pages(*arguments: Any) -> Iterator[readers.Page]:
        write_letter(settings, "file", producer_id, 3)
        with settings.live_path.open("ab") as file:
            file.write(encoder.encode(last) + b"\n")
        return whole(*arguments)

    monkeypatch.setattr(audit_module, "pages", pages)
    report, problems = audited(settings)
    assert (problems, result_of(report, "file").pending) == ({}, 0)


def test_letters_at_the_end_are_neither_lost_nor_pending(settings: Settings) -> None:
    producer_id = append(settings, 4, contains={"file": 2}, prune=False)
    write_letter(settings, "file", producer_id, 3)
    report, problems = audited(settings)
    assert (problems, result_of(report, "file").pending) == ({}, 1)
    assert set(dead_letters(settings.dead_letter_path("file"))) == {(producer_id, 3)}


def test_a_sink_that_was_dropped_is_compared_and_named(settings: Settings) -> None:
    producer_id = append(settings, 4, subscribed=("file", "sqlite"))
    with closing(Journal(settings.journal_path("p"), streams.BUZZ)) as journal:
        journal.subscribe([], drop=["sqlite"])
    for sequence in (2, 3):
        write_letter(settings, "duckdb", producer_id, sequence)  # and no record was ever stored there
    report, problems = audited(settings, *EMBEDDED)
    found = {each.sink: (each.subscribed, each.count, each.dead_letters) for each in report.results}
    assert (problems, found) == ({}, {"file": (True, 4, 0), "sqlite": (False, 4, 0), "duckdb": (False, 0, 2)})
    assert [row[-1] for row in report.rows()] == ["ok", "ok, not subscribed", "ok, not subscribed"]


def test_external_and_unreadable_records_are_counted_apart(settings: Settings) -> None:
    append(settings, 10)
    with settings.live_path.open("ab") as lines:
        lines.write(b'{"message": "by hand"}\nnot JSON\n{"message": 3}\n{"message": "partial')
    rewrite(settings, "sqlite", lambda rows: rows.append(rows[0] | {"producer_id": None, "sequence": None}))
    report, problems = audited(settings)
    assert not problems
    assert report.external == dict.fromkeys(EMBEDDED, 0) | {"file": 1, "sqlite": 1}
    assert report.invalid == dict.fromkeys(EMBEDDED, 0) | {"file": 3}
    assert [line for line in report.lines(3) if " contains " in line] == [
        "note: file contains 1 record without ids",
        "note: sqlite contains 1 record without ids",
        "note: file contains 3 invalid records",
    ]


def test_a_line_without_its_newline_counts(settings: Settings) -> None:
    append(settings, 10)
    settings.live_path.write_bytes(settings.live_path.read_bytes()[:-1])
    assert not audited(settings)[1]


@pytest.mark.full
def test_producers_without_a_journal_are_compared_between_the_sinks(settings: Settings) -> None:
    producer_id = append(settings)
    settings.journal_path("p").unlink()
    report, problems = audited(settings, *EMBEDDED)
    assert not problems
    assert report.notes[0].startswith(f"2,500 records of {producer_id} (1-2500): no journal here acknowledged them")
    rewrite(settings, "file", lambda rows: rows.__delitem__(slice(20, 30)))
    rewrite(settings, "duckdb", lambda rows: rows[40].update(message="other"))
    report, problems = audited(settings, *EMBEDDED)
    found = f"10 acknowledged by no journal here, and not in all sinks: between 21 and 30 of {producer_id}"
    assert problems == {"sqlite": [found], "duckdb": [found, f"1 different from the other sinks: 41 of {producer_id}"]}


@pytest.mark.full
def test_several_producers_share_the_sinks(settings: Settings) -> None:
    append(settings, 700, name="a")
    append(settings, 900, name="b", prune=False)
    append(settings, 400, name="b", prune=False)
    append(settings, 300, name="a")
    report, problems = audited(settings)
    assert not problems
    assert [(each.runs, each.count) for each in report.results if each.sink == "file"] == [(2, 1_000), (2, 1_300)]


@pytest.mark.full
def test_a_journal_that_was_restored_is_explained_and_no_damage(settings: Settings, tmp_path: Path) -> None:
    older = append(settings, 90)
    shutil.copy(settings.journal_path("p"), tmp_path / "backup")
    newer = append(settings, 10)
    shutil.copy(tmp_path / "backup", settings.journal_path("p"))
    append(settings, 20)
    report, problems = audited(settings)
    assert not problems
    (note,) = report.notes
    assert note.startswith(f"10 records of {newer} (91-100): no journal here acknowledged them")
    rewrite(settings, "sqlite", lambda rows: rows.__delitem__(slice(80, 84)))
    assert audited(settings)[1] == {"sqlite": [f"4 lost: between 81 and 84 of {older}"]}


def test_a_journal_that_was_restored_in_the_middle_of_a_run(settings: Settings) -> None:
    producer_id = append(settings, 100)
    with closing(sqlite3.connect(settings.journal_path("p"))) as connection:
        connection.execute("UPDATE runs SET last = 90")
        connection.commit()
    report, problems = audited(settings)
    assert not problems
    (note,) = report.notes
    assert note.startswith(f"10 records of {producer_id} (91-100)")
    assert "a copy or a backup of a journal" in note


@pytest.mark.full
def test_a_copied_folder_whose_copies_share_the_sinks(settings: Settings, tmp_path: Path) -> None:
    append(settings, 50)
    copy = Settings(data_dir=tmp_path / "copy", live_file=settings.live_path, sqlite_file=settings.sqlite_path,
                    duckdb_file=settings.duckdb_path)  # fmt: skip
    shutil.copytree(settings.data_path / "journal", copy.data_path / "journal")
    append(settings, 10)
    other = append(copy, 20, contains={"sqlite": 60}, prune=False)
    for each in (settings, copy):
        report, problems = audited(each)
        assert not problems
        assert "a copy or a backup of a journal" in report.notes[0]
    assert result_of(audited(copy)[0], "sqlite").pending == 10
    rewrite(settings, "file", lambda rows: rows.append(rows[-1]))
    assert list(audited(settings)[1]) == ["file"]
    assert audited(settings)[1]["file"] == [f"1 duplicate: 70 of {other}"]


@pytest.mark.full
def test_a_backup_beside_its_journal_hides_nothing(settings: Settings) -> None:
    append(settings, 50)
    shutil.copy(settings.journal_path("p"), settings.journal_path("p-backup"))
    producer_id = append(settings, 50)
    assert audited(settings)[1] == {}
    rewrite(settings, "file", lambda rows: rows.__delitem__(slice(49, 53)))
    assert "3 lost: between 51 and 53" in audited(settings)[1]["file"][1]
    assert producer_id in audited(settings)[1]["file"][1]


@pytest.mark.full
def test_a_sink_out_of_reach_is_not_judged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.checks.audit.REACH_S", 0.0)
    append(settings, 10)
    lock = "import duckdb, sys; kept = duckdb.connect(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", lock, str(settings.duckdb_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as locker:
        assert locker.stdout is not None
        locker.stdout.readline()
        report, problems = audited(settings)
        assert verify_emitters.run(["audit", "--data-dir", str(settings.data_dir), "--json"]) == 3
        assert not problems
        assert list(report.unread) == ["duckdb"]
        read = len(EMBEDDED) - 1
        assert report.lines(read + 1)[-1].startswith(f"incomplete: {10 * read} records in {read} sinks compared")
        locker.communicate()


def test_a_topic_whose_broker_is_down_is_not_judged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.checks.audit.REACH_S", 0.0)
    down = replace(settings, kafka_broker="localhost:1")
    with closing(Journal(settings.journal_path("p"), streams.BUZZ)) as journal:
        journal.subscribe([*EMBEDDED, "kafka"])
    append(settings, 10, prune=False)
    with closing(Journal(settings.journal_path("p"), streams.BUZZ)) as journal:
        for sink in (*EMBEDDED, "kafka"):
            journal.note_reached(sink, journal.last, "")
        journal.prune()
    report, problems = audited(down)
    assert not problems
    assert report.unread == {"kafka": "no Kafka broker answers at localhost:1"}
    read = len(EMBEDDED)
    assert report.lines(read + 1)[-1].startswith(f"incomplete: {10 * read} records in {read} sinks compared")
    append(settings, 10, name="q", stream=READINGS)
    assert audited(down, stream=READINGS.name)[0].unread == {}, "no journal of this stream has Kafka"


@pytest.mark.full
def test_a_sink_that_is_replaced_while_it_is_read_is_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.checks.readers.PAGE_RECORDS", 40)
    append(settings, 100)
    reads = []

    def replace(records: int) -> None:
        reads.append(records)
        if len(reads) == 1:
            copy = settings.live_path.with_name("copy")
            shutil.copy(settings.live_path, copy)
            copy.replace(settings.live_path)

    report = audit(settings, ["file"], DEFAULT_STREAM, replace)
    assert not report.broken
    assert [each.count for each in report.results] == [100]
    assert sum(reads) > 100


def test_a_journal_is_read_as_it_is_at_one_moment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    append(settings, 10, subscribed=["file"], prune=False)
    before = journal_summaries(settings)

    def appended_meanwhile(path: Path) -> tuple[sqlite3.Connection, bool]:
        monkeypatch.undo()
        connection, is_live = open_read_only(path)
        connection.set_trace_callback(
            lambda sql: append(settings, 10, subscribed=["file"]) if "FROM batches" in sql else None
        )
        return connection, is_live

    monkeypatch.setattr(journals, "open_read_only", appended_meanwhile)
    assert journal_summaries(settings) == before
    assert journal_summaries(settings)[0].last == 20


@pytest.mark.full
def test_nothing_is_lost_beside_a_live_producer(settings: Settings) -> None:
    command = [sys.executable, "-m", "producers.ragini_producer", "--interval", "0.002", "--log-level", "ERROR"]
    with subprocess.Popen(
        [*command, "--data-dir", str(settings.data_dir)], cwd=PROJECT_DIR, stdout=subprocess.DEVNULL
    ) as producer:
        try:
            wait_until(lambda: any(journal.last > 100 for journal in journal_summaries(settings)), 30)
            (earlier,) = journal_summaries(settings)
            for _ in range(2):
                report, problems = audited(settings)
                assert (problems, report.unread, report.notes) == ({}, {}, [])
            (journal,) = journal_summaries(settings)
            assert journal.last > earlier.last, "the audit held up the producer"
        finally:
            os.kill(producer.pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    assert not audited(settings)[1]


@pytest.mark.full
def test_the_command_is_for_people_and_for_programs(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", "--data-dir", str(settings.data_dir)]
    assert verify_emitters.run(arguments) == 2
    assert "nothing to audit" in capsys.readouterr().err
    append(settings)
    append(settings, 100, name="q", stream=READINGS)
    assert verify_emitters.run(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith("ok: 7,800 records in 3 sinks compared")
    assert sum("file, sqlite, duckdb" in line for line in shown) == 2, "one line for each producer whose sinks agree"
    settings.sqlite_path.unlink()
    assert verify_emitters.run(arguments) == 1
    shown = capsys.readouterr().out.splitlines()
    assert any("2,500 lost: between 1 and 2500" in line for line in shown)
    assert shown[-1].startswith("BROKEN: ")
    assert verify_emitters.run([*arguments, "--sinks", "file", "duckdb", "--stream", DEFAULT_STREAM, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["count"] for each in report["results"]] == [COUNT, COUNT]
    assert verify_emitters.run([*arguments, "--json"]) == 1
    found = [each["findings"] for each in json.loads(capsys.readouterr().out)["results"]]
    lost = ["2,500 lost: between 1 and 2500", "100 lost: between 1 and 100"]
    assert [each[0].partition(" of ")[0] for each in found if each] == lost


def test_a_misspelt_stream_is_no_verdict(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    append(settings, 10, stream=READINGS)
    arguments = ["audit", "--data-dir", str(settings.data_dir), "--stream"]
    assert verify_emitters.run([*arguments, "reading"]) == 2
    assert "no sink that answers has stream reading; known are buzz, readings" in capsys.readouterr().err
    assert verify_emitters.run([*arguments, DEFAULT_STREAM]) == 0, "a stream that is known may be empty"
    settings.file_path("weather").write_text('{"city":"Pune","rain_mm":3}\n')
    assert verify_emitters.run([*arguments, "weather"]) == 0, "records of other programs need no journal"


def test_external_names_cannot_forge_a_verdict(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    append(settings, 10)
    ghost = {"producer_id": "x\nok: 10 records in 3 sinks compared in 0.1 s\x1b[2J"}
    rewrite(settings, "file", lambda rows: rows.append(rows[0] | ghost))
    assert verify_emitters.run(["audit", "--data-dir", str(settings.data_dir)]) == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert not any(line.startswith("ok: ") for line in shown.splitlines())
