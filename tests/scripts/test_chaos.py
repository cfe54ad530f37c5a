"""The attack tool: one seed gives one plan, a short attack is survived, and damage is found."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scripts import chaos
from tests.helpers import make_batch, wait_until
from utils.app import cli
from utils.app.config import Settings
from utils.delivery.journal import Journal
from utils.reading.database import SqliteDatabase
from utils.reading.store import ProcessedStore
from utils.records.stream import BUZZ
from utils.sinks import EMBEDDED, SINKS, source

pytestmark = pytest.mark.full


def test_the_same_seed_gives_the_same_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    plan = chaos.plan(7, 60.0, 20, EMBEDDED)
    assert plan == chaos.plan(7, 60.0, 20, EMBEDDED)
    assert plan != chaos.plan(8, 60.0, 20, EMBEDDED)
    actions = [attack.action for attack in plan]
    assert {action: actions.count(action) for action in set(actions)} == {"kill": 20, "freeze": 5, "fill": 5, "lock": 5}
    assert all(0 <= attack.at_s <= 60 for attack in plan)
    assert [attack.at_s for attack in plan] == sorted(attack.at_s for attack in plan)


def test_attacks_that_the_system_does_not_support_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert {attack.action for attack in chaos.plan(7, 60.0, 20, ["kafka"])} == {"kill", "freeze", "fill"}
    monkeypatch.setattr("sys.platform", "darwin")  # macOS cannot limit another process
    assert {attack.action for attack in chaos.plan(7, 60.0, 20, EMBEDDED)} == {"kill", "freeze", "lock"}
    assert chaos.plan(7, 60.0, 0, EMBEDDED) == []


@pytest.mark.proof(
    "an acknowledged record is in every sink, once and in order",
    "scripts/chaos.py: kills, freezes, full disks and locks against producers, consumers and sinks",
    full=6,
    long=300,
)
def test_a_short_attack_is_survived(tmp_path: Path, capsys: pytest.CaptureFixture[str], times: int, long: bool) -> None:
    minutes, kills = "10" if long else "0.1", str(times)
    arguments = ["--seed", "3", "--minutes", minutes, "--kills", kills, "--keep", str(tmp_path / "place")]
    code = cli.run(chaos.main, name="scripts.chaos", arguments=arguments)
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert shown.splitlines()[-1].startswith("ok: ")
    assert f"{kills} x kill" in shown
    assert (tmp_path / "place" / "processed" / "duckdb.sqlite").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            "UPDATE records SET record = replace(record, 'Ann', 'x') WHERE sequence = 7",
            "1 record of the sink missing, 1 more stored",
        ),
        ("DELETE FROM records WHERE sequence = 20", "1 record of the sink missing, 0 more"),
        ("INSERT INTO records SELECT * FROM records WHERE sequence = 3", "0 records of the sink missing, 1 more"),
    ],
)
def test_a_processed_store_is_compared_with_its_sink(settings: Settings, damage: str, words: str) -> None:
    with closing(SINKS["file"].emitter(settings, BUZZ, "ann", "")) as each:
        each.last([])
        each.emit(make_batch(20))
    with (
        closing(ProcessedStore(SqliteDatabase(settings.processed_path("file")), BUZZ)) as store,
        closing(source("file", settings, BUZZ, store.resume)) as reader,
    ):
        chunk = reader.poll(100)
        assert chunk is not None
        store.add(chunk)
    assert chaos.compare_store("file", settings) == ""
    with closing(sqlite3.connect(settings.processed_path("file"))) as connection:
        connection.execute("DROP INDEX records_identity")
        connection.execute(damage)
        connection.commit()
    assert words in chaos.compare_store("file", settings)


def test_a_process_that_ends_by_itself_is_a_problem(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings.data_path.mkdir()
    with closing(Journal(settings.journal_path("ragini"), BUZZ)):  # so its producer cannot start
        attacked = chaos.Attacked(settings, ["file"])
        surprise = "ragini_producer ended by itself with code 2"

        def noticed() -> bool:
            attacked.keep_running()
            return surprise in attacked.surprises

        try:
            wait_until(noticed)
        finally:
            attacked.kill()
