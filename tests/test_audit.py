"""The audit must pass what is whole and name whatever is not: sinks are broken on purpose here."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import duckdb
import msgspec
import pytest

import verify_emitters
from tests.helpers import wait_until
from utils.app.config import PROJECT_DIR, Settings
from utils.sinks import EMBEDDED
from utils.checks import audit as audit_module
from utils.checks import holdings
from utils.checks.audit import Judgement, Report, accounts, audit, audited_sinks
from utils.checks.holdings import Held, Holding, Some, take_out
from utils.delivery.journal import Journal
from utils.records import table
from utils.records.record import Batch, Message, decode_lines, encode_lines
from utils.sinks import emitter

COUNT = 2_500


@pytest.fixture(autouse=True)
def no_pause_between_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.sources.duckdb_source.POLL_S", 0.0)


def message(number: int = 0, producer_id: str | None = None, sequence: int | None = None) -> Message:
    return Message(f"näive text {number}", "a", "2026-01-02T03:04:05.678Z", "c", 0.25, "k", 12, producer_id, sequence)


def stream(
    settings: Settings,
    count: int = COUNT,
    *,
    name: str = "p",
    owed: tuple[str, ...] = EMBEDDED,
    held: dict[str, int] | None = None,
    prune: bool = True,
) -> str:
    """Acknowledge `count` messages and give each sink the first `held` of them (all by default); the producer_id."""
    journal = Journal(settings.journal_path(name))
    journal.owe(owed)
    batch = journal.append([message(number) for number in range(count)])
    for sink in owed:
        last = (held or {}).get(sink, batch.last)
        if last >= batch.first:
            write = emitter(sink, settings)()
            write.emit(batch.between(batch.first, last))
            write.close()
    if prune:
        journal.prune(journal.last)
    journal.close()
    return journal.producer_id


def audited(settings: Settings, *chosen: str) -> tuple[Report, dict[str, list[str]]]:
    """The report, and the problems by sink."""
    report = audit(settings, chosen or audited_sinks(settings), lambda more: None)
    problems: dict[str, list[str]] = {}
    for judgement in report.judgements:
        problems.setdefault(judgement.sink, []).extend(judgement.problems())
    return report, {sink: found for sink, found in problems.items() if found}


def judgement(report: Report, sink: str) -> Judgement:
    (found,) = (each for each in report.judgements if each.sink == sink)
    return found


def rewrite(settings: Settings, sink: str, change: Callable[[list[Message]], None]) -> None:
    """Change the messages of a sink behind everybody's back."""
    names = ", ".join(table.COLUMNS)
    if sink == "file":
        messages = decode_lines(settings.live_path.read_bytes())
        change(messages)
        settings.live_path.write_bytes(encode_lines(messages))
        return
    if sink == "sqlite":
        with closing(sqlite3.connect(settings.sqlite_path)) as connection:
            rows = connection.execute(f"SELECT {names} FROM {table.TABLE} ORDER BY rowid").fetchall()
            change(messages := [Message(*row) for row in rows])
            connection.execute(f"DROP INDEX IF EXISTS {table.TABLE}_identity")
            connection.execute(f"DELETE FROM {table.TABLE}")
            connection.executemany(table.insert(), list(map(msgspec.structs.astuple, messages)))
            connection.commit()
        return
    with closing(duckdb.connect(str(settings.duckdb_path))) as database:
        found = database.execute(f"SELECT {names} FROM {table.TABLE} ORDER BY rowid").fetchall()
        change(messages := [Message(*row) for row in found])
        database.execute(f"DELETE FROM {table.TABLE}")
        appender = database.appender(table.TABLE, columns=list(table.COLUMNS))
        for each in messages:
            appender.append_row(*msgspec.structs.astuple(each))
        appender.flush()


def swap(messages: list[Message]) -> None:
    messages[1_200], messages[1_201] = messages[1_201], messages[1_200]


def change_text(messages: list[Message]) -> None:
    messages[1_200].message += "!"


def change_sentiment(messages: list[Message]) -> None:
    messages[1_200].sentiment += 2**-52


def cut_tail(messages: list[Message]) -> None:
    del messages[-7:]


DAMAGES: dict[str, tuple[Callable[[list[Message]], None], str]] = {
    "a removed message": (lambda messages: messages.__delitem__(1_200), "lost 1: 1201"),
    "removed messages": (lambda messages: messages.__delitem__(slice(0, 30, 10)), "lost 3: 1, 11, 21"),
    "a doubled message": (lambda messages: messages.insert(1_300, messages[1_200]), "1 duplicate: 1201"),
    "a changed text": (change_text, "1 different from the other sinks: 1201"),
    "the smallest change of a number": (change_sentiment, "1 different from the other sinks: 1201"),
    "swapped messages": (swap, "1 out of order: 1201"),
    "a missing tail": (cut_tail, "lost 7: 2494-2500"),
    "everything gone": (lambda messages: messages.clear(), "lost 2,500: 1-2500"),
    "a message of an unknown producer": (
        lambda messages: messages.append(message(1, "ghost-00000000", 1)),
        "holds a producer that no journal knows and not",
    ),
    "a message that was never given out": (
        lambda messages: messages.append(message(1, messages[0].producer_id, COUNT + 1)),
        "holds up to 2501 but the journal gave out 2500",
    ),
}


@pytest.mark.parametrize("sink", EMBEDDED)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(settings: Settings, sink: str, damage: str) -> None:
    change, words = DAMAGES[damage]
    stream(settings)
    rewrite(settings, sink, change)
    report, problems = audited(settings)
    assert report.broken
    assert list(problems) == [sink]
    assert len(problems[sink]) == 1
    assert problems[sink][0].startswith(words)


@pytest.mark.parametrize("sink", EMBEDDED)
def test_without_damage_nothing_is_named(settings: Settings, sink: str) -> None:
    stream(settings)
    rewrite(settings, sink, lambda messages: None)
    report, problems = audited(settings)
    assert not problems
    assert not report.broken
    assert [(each.first, each.last, each.count) for each in report.judgements] == [(1, COUNT, COUNT)] * 3


def test_each_changed_byte_of_a_line_is_found(settings: Settings) -> None:
    stream(settings, 3)
    whole = settings.live_path.read_bytes()
    start, end = whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1)
    for place in range(start, end + 1):
        for mask in (0x01, 0x20):
            settings.live_path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            assert audited(settings, "file", "sqlite")[0].broken, whole[start:end][: place - start + 1]


def test_damage_beyond_what_is_compared_by_row_still_counts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.checks.audit.MAX_SUSPECTS", 1)
    stream(settings)

    def change(messages: list[Message]) -> None:
        for place in (1_500, 2_400):
            messages[place].message = "changed"

    rewrite(settings, "file", change)
    report, problems = audited(settings)
    assert report.broken
    assert problems == {"file": ["1 different from the other sinks: 1501"]}
    assert report.notes == ["1 more blocks of 1,000 messages differ between the sinks"]


def test_blocks_that_differ_by_dead_letters_are_all_looked_into(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.checks.audit.MAX_SUSPECTS", 1)
    stream(settings)

    def refuse(messages: list[Message]) -> None:
        letters = encode_lines([messages.pop(place) for place in (2_400, 1_400, 400)])
        settings.dead_letter_path("file").parent.mkdir()
        settings.dead_letter_path("file").write_bytes(letters)

    rewrite(settings, "file", refuse)
    report, problems = audited(settings)
    assert not report.broken and not problems and not report.notes
    rewrite(settings, "sqlite", lambda messages: setattr(messages[-1], "message", "changed"))
    report, problems = audited(settings)
    assert problems == {"sqlite": ["1 different from the other sinks: 2500"]}
    assert not report.notes


def test_a_sink_that_is_behind_waits_and_loses_nothing(settings: Settings) -> None:
    stream(settings, held={"sqlite": 900, "duckdb": 0}, prune=False)
    report, problems = audited(settings)
    assert not problems
    assert [judgement(report, sink).waiting for sink in EMBEDDED] == [0, 1_600, 2_500]


def test_a_hole_is_lost_even_while_the_journal_holds_it(settings: Settings) -> None:
    """A worker goes on behind the last message of its sink: it never comes back to a hole."""
    stream(settings, prune=False)
    rewrite(settings, "file", lambda messages: messages.__delitem__(10))
    assert audited(settings)[1] == {"file": ["lost 1: 11"]}


def test_a_sink_is_judged_from_when_it_was_owed(settings: Settings) -> None:
    stream(settings, 1_500, owed=("file",))
    stream(settings, 1_000)
    report, problems = audited(settings)
    assert not problems
    assert (judgement(report, "sqlite").first, judgement(report, "sqlite").count) == (1_501, 1_000)
    rewrite(settings, "sqlite", lambda messages: messages.__delitem__(0))
    assert audited(settings)[1] == {"sqlite": ["lost 1: 1501"]}


def test_dead_letters_are_not_lost(settings: Settings) -> None:
    stream(settings)
    rewrite(settings, "duckdb", lambda messages: messages.__delitem__(slice(99, 101)))
    path = settings.dead_letter_path("duckdb")
    path.parent.mkdir()
    refused = msgspec.structs.asdict(message(99, next(iter(accounts(settings))), 100)) | {"reason": "too blue"}
    path.write_bytes(msgspec.json.encode(refused) + b"\n")
    report, problems = audited(settings)
    assert problems == {"duckdb": ["lost 1: 101"]}
    assert judgement(report, "duckdb").dead_letters == 1


def test_what_is_buried_during_an_audit_is_not_lost(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stream(settings, 4, owed=("file",), held={"file": 2}, prune=False)
    producer_id = next(iter(accounts(settings)))

    def hold(*arguments: Any) -> Holding:
        letter = settings.dead_letter_path("file")
        letter.parent.mkdir()
        letter.write_bytes(encode_lines([message(2, producer_id, 3)]))
        with settings.live_path.open("ab") as file:
            file.write(encode_lines([message(3, producer_id, 4)]))
        return holdings.hold(*arguments)

    monkeypatch.setattr(audit_module, "hold", hold)
    assert not audited(settings)[1]


def test_foreign_and_unreadable_records_are_counted_apart(settings: Settings) -> None:
    stream(settings, 10)
    with settings.live_path.open("ab") as stream_:
        stream_.write(b'{"message": "by hand"}\nnot JSON\n{"message": 3}\n{"message": "torn')
    rewrite(settings, "sqlite", lambda messages: messages.append(message()))
    report, problems = audited(settings)
    assert not problems
    assert report.sinks["file"] == {"foreign": 1, "invalid": 2, "unread": ""}
    assert report.sinks["sqlite"]["foreign"] == 1


def test_a_line_without_its_newline_counts(settings: Settings) -> None:
    stream(settings, 10)
    settings.live_path.write_bytes(settings.live_path.read_bytes()[:-1])
    assert not audited(settings)[1]


def test_producers_without_a_journal_are_compared_between_the_sinks(settings: Settings) -> None:
    producer_id = stream(settings)
    settings.journal_path("p").unlink()
    report, problems = audited(settings)
    assert not problems
    assert report.notes == [f"no journal knows {producer_id}: its messages are only compared between the sinks"]
    rewrite(settings, "file", lambda messages: messages.__delitem__(slice(20, 30)))
    rewrite(settings, "duckdb", cut_tail)
    assert audited(settings)[1] == {"file": ["lost 10: 21-30"], "duckdb": ["lost 7: 2494-2500"]}


def test_several_producers_and_identities_share_the_sinks(settings: Settings) -> None:
    stream(settings, 700, name="a")
    stream(settings, 900, name="b", prune=False)
    journal = Journal(settings.journal_path("b"))
    journal.begin_identity()
    journal.close()
    stream(settings, 400, name="b", prune=False)
    stream(settings, 300, name="a")
    report, problems = audited(settings)
    assert not problems
    assert [each.last for each in report.judgements if each.sink == "file"] == [1_000, 900, 400]


def test_a_journal_restored_from_a_backup_is_a_note_while_the_sinks_agree(settings: Settings) -> None:
    stream(settings, 100)
    with closing(sqlite3.connect(settings.journal_path("p"))) as connection:
        connection.execute("UPDATE state SET last = 90")
        connection.commit()
    report, problems = audited(settings)
    assert not problems
    assert "restored from a backup" in report.notes[0]


def test_a_sink_out_of_reach_is_not_judged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.checks.holdings.REACH_S", 0.0)
    stream(settings, 10)
    hold = "import duckdb, sys; kept = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(settings.duckdb_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        report, problems = audited(settings)
        assert verify_emitters.run(["audit", "--data-dir", str(settings.data_dir), "--json"]) == 3
        assert not problems
        assert (report.broken, report.unread) == (False, True)
        assert " in 2 sinks compared" in report.lines()[-1]
        assert "duckdb was not judged" in report.notes[0]
        holder.communicate()


def test_nothing_is_lost_beside_a_live_producer(settings: Settings) -> None:
    command = [sys.executable, "-m", "producers.ragini_producer", "--interval", "0.0002", "--log-level", "ERROR"]
    with subprocess.Popen(
        [*command, "--data-dir", str(settings.data_dir)], cwd=PROJECT_DIR, stdout=subprocess.DEVNULL
    ) as producer:
        try:
            wait_until(lambda: any(account.last > 1_000 for account in accounts(settings).values()), 30)
            (earlier,) = accounts(settings).values()
            for _ in range(3):
                report, problems = audited(settings)
                assert (problems, report.unread) == ({}, False)
            (account,) = accounts(settings).values()
            assert account.last > earlier.last, "the producer was not held up"
        finally:
            os.kill(producer.pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    report, problems = audited(settings)
    assert not problems


def test_memory_does_not_grow_with_the_messages() -> None:
    held = Held(None)
    row = msgspec.structs.astuple(message(0, "p"))[:-1]
    for first in range(1, 300_001, 20_000):
        held.add([(*row, sequence) for sequence in range(first, first + 20_000)])
    assert (held.count, held.last, len(held.blocks), held.gaps) == (300_000, 300_000, 301, [])
    some = Some()
    for sequence in range(5_000):
        some.add(sequence)
    assert (some.count, len(some.named)) == (5_000, 1_000)


def test_take_out_splits_ranges() -> None:
    ranges = [(1, 5), (7, 7), (9, 12)]
    taken = [sequence for sequence in (0, 3, 6, 7, 8, 9, 12, 13, 3) if take_out(ranges, sequence)]
    assert taken == [3, 7, 9, 12]
    assert ranges == [(1, 2), (4, 5), (10, 11)]


def test_the_command_says_it_to_people_and_to_programs(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", "--data-dir", str(settings.data_dir)]
    assert verify_emitters.run(arguments) == 2
    assert "nothing to audit" in capsys.readouterr().err
    stream(settings)
    assert verify_emitters.run(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("ok: 7,500 messages in 3 sinks")
    settings.sqlite_path.unlink()
    assert verify_emitters.run(arguments) == 1
    shown = capsys.readouterr().out
    assert "lost 2,500: 1-2500" in shown
    assert shown.splitlines()[-1].startswith("BROKEN: ")
    assert verify_emitters.run([*arguments, "--sinks", "file", "duckdb", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["sinks"]) == ["file", "duckdb"]
    assert [each["count"] for each in report["judgements"]] == [COUNT, COUNT]
    assert verify_emitters.run([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["judgements"][1]["missing"] == [[1, COUNT]]


def test_a_batch_as_the_emitter_writes_it_is_canonical() -> None:
    """The audit of the file compares bytes: what emitters write must be what the encoder makes."""
    batch = Batch.of([message(1, "p", 1), message(2, "p", 2)])
    assert encode_lines(decode_lines(batch.lines)) == batch.lines
