"""Recordings sent again as new records."""

import gzip
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from producers import replay_producer
from tests.helpers import FILES, make_batch, open_duckdb, run_here, start_python, wait_until
from utils.app.config import Settings
from utils.app.signals import Stop
from utils.delivery.producing import Session
from utils.emitters.duckdb_emitter import DuckdbEmitter
from utils.emitters.file_emitter import FileEmitter
from utils.records.record import Batch
from utils.records.stream import BUZZ
from utils.sinks import SINKS

Run = Callable[..., subprocess.CompletedProcess[str]]
SENSORS = (
    b"""{"device": "a", "celsius": 1e2, "ts": "2026-11-23T19:04:05Z"}
{"device": "b", "celsius": 20.5, "ts": "2026-11-23T19:04:07Z", "note": {"by": "Ann"}}
"""
    * 20
    + b'{"device": "b", "celsius": "n/a", "ts": "2026-11-23T19:04:08Z"}\n'
)


@pytest.fixture
def run(settings: Settings) -> Run:
    return lambda *options: run_here("producers.replay_producer", *options, "--speed", "0", settings=settings)


def stored(path: Path) -> list[dict[str, object]]:
    """Return the records of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(settings: Settings) -> list[object]:
    return [record["message"] for record in stored(settings.live_path)]


def counts(settings: Settings, table: str = "streamed_messages") -> list[int]:
    """Return the number of records in each embedded sink."""
    found = [len(stored(settings.file_path("buzz" if table == "streamed_messages" else table)))]
    with closing(sqlite3.connect(settings.sqlite_path)) as connection:
        found += connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    with open_duckdb(settings.duckdb_path) as database:
        found += database.execute(f"SELECT count(*) FROM {table}").fetchone() or ()
    return found


class TestRecordings:
    @pytest.mark.full
    @pytest.mark.parametrize("suffix", ["jsonl", "array.json", "duckdb", "csv.gz"])
    def test_any_kind_arrives_as_new_records(self, suffix: str, run: Run, settings: Settings, tmp_path: Path) -> None:
        recording = tmp_path / f"old.{suffix}"
        rows = [f"hello {number},Ann,2026-11-23T19:04:05.123Z,0.5,ann-1,{number}\r\n" for number in range(1, 6)]
        table = ("message,author,timestamp,sentiment,producer_id,sequence\r\n" + "".join(rows)).encode("utf-8-sig")
        match suffix:
            case "duckdb":
                DuckdbEmitter(recording, BUZZ).emit(make_batch(5))
            case "array.json":
                recording.write_bytes(b"[" + b",".join(make_batch(5).lines.splitlines()) + b"]")
            case "csv.gz":
                recording.write_bytes(gzip.compress(table))
            case _:
                FileEmitter(recording).emit(make_batch(5))
        done = run(recording)
        assert done.returncode == 0, done.stderr
        assert "replay: read 5, acknowledged 5;" in done.stdout
        assert counts(settings) == [5, 5, 5]
        found = stored(settings.live_path)
        assert texts(settings) == [f"hello {number}" for number in range(1, 6)]
        assert [record["sequence"] for record in found] == [1, 2, 3, 4, 5]
        assert [record["source_sequence"] for record in found] == [1, 2, 3, 4, 5]
        (producer_id,) = {str(record["producer_id"]) for record in found}
        assert producer_id.startswith("replay-")
        assert {record["timestamp"] for record in found} == {"2026-11-23T19:04:05.123Z"}

    @pytest.mark.parametrize("sink", FILES)
    def test_a_sink_as_recording_is_sent_only_to_other_sinks(self, sink: str, run: Run, settings: Settings) -> None:
        with closing(SINKS[sink].emitter(settings, BUZZ, "ann-1", "")) as emitter:
            emitter.emit(make_batch(30))
        path = SINKS[sink].path(settings, BUZZ)
        done = run(path, "--sinks", sink)
        assert done.returncode == 2
        assert f"is the {sink} sink of stream buzz: name other --sinks or --stream" in done.stderr
        other = "sqlite" if sink == "file" else "file"
        assert run(path, "--sinks", other).returncode == 0
        if other == "file":
            assert len(stored(settings.live_path)) == 30

    def test_a_second_replay_is_another_run(self, run: Run, settings: Settings, tmp_path: Path) -> None:
        recording = tmp_path / "dead.jsonl"
        recording.write_bytes(make_batch(3).lines)
        assert run(recording, "--sinks", "file").returncode == 0
        assert run(recording, "--sinks", "file", "--count", 2).returncode == 0
        found = stored(settings.live_path)
        assert [record["sequence"] for record in found] == [1, 2, 3, 4, 5]
        assert len({record["producer_id"] for record in found}) == 2


class TestAnyStream:
    def test_lines_arrive_as_they_came_and_their_fields_are_typed_columns(
        self, run: Run, settings: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / "old.jsonl").write_bytes(SENSORS)
        done = run(tmp_path / "old.jsonl", "--stream", "sensors")
        assert done.returncode == 0, done.stderr
        assert counts(settings, "sensors") == [41, 41, 41]
        lines = settings.file_path("sensors").read_bytes().splitlines()
        for line, sent in zip(lines, SENSORS.splitlines(), strict=True):
            assert line.startswith(sent[:-1])
        assert b'"timestamp":"2026-11-23T19:04:07.000Z"' in lines[1], "its event time"
        with closing(sqlite3.connect(settings.sqlite_path)) as connection:
            query = "SELECT device, sum(celsius), min(note ->> '$.by'), max(extra) FROM sensors GROUP BY 1 ORDER BY 1"
            assert connection.execute(query).fetchall() == [
                ("a", 2000.0, None, None), ("b", 410.0, "Ann", '{"celsius":"n/a"}'),
            ]  # fmt: skip

    def test_a_table_is_sent_to_another_data_folder(self, run: Run, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "old.jsonl").write_bytes(SENSORS)
        run(tmp_path / "old.jsonl", "--stream", "sensors")
        other = Settings(data_dir=tmp_path / "other")
        shutil.copytree(settings.schema_folder, other.schema_folder)
        done = run(settings.duckdb_path, "--stream", "sensors", "--sinks", "file", "--data-dir", other.data_dir)
        assert done.returncode == 0, done.stderr
        found = stored(other.file_path("sensors"))
        assert len(found) == 41
        assert (found[1]["note"], found[-1]["celsius"]) == ({"by": "Ann"}, "n/a")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("old.jsonl", b'{"message":"hello 1"}\n{"message":"hello 2"}\n{"mess'),
        ("old.csv", b'message,author\nhello 1,\n"hello 2",\n,Ann\n'),
    ],
)
def test_damaged_records_are_named_and_all_others_arrive(
    name: str, content: bytes, run: Run, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    done = run(tmp_path / name, "--sinks", "file")
    assert done.returncode == 0
    assert "read 3, acknowledged 2; rejected 1" in done.stdout
    assert f"invalid record in {name} " in done.stderr
    assert texts(settings) == ["hello 1", "hello 2"]


def test_an_interrupted_replay_is_unfinished(settings: Settings, tmp_path: Path) -> None:
    recording = tmp_path / "old.jsonl"
    hour_apart = [b'{"message":"hello","timestamp":"2026-11-23T%02d:00:00Z"}\n' % hour for hour in range(3)]
    recording.write_bytes(b"".join(hour_apart))
    command: list[str | Path] = ["producers.replay_producer", recording, "--sinks", "file", "--count", "2"]
    with start_python(*command, settings=settings) as process:
        wait_until(lambda: settings.live_path.exists() and len(stored(settings.live_path)) == 1)
        process.interrupt()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 3, out + err
    assert len(stored(settings.live_path)) == 1


def test_gaps_are_those_of_the_recording(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = ["19:04:05Z", "19:04:07.500Z", "unknown", "19:04:07Z", "19:05:07Z"]
    lines = [json.dumps({"message": time, "timestamp": f"2026-11-23T{time}"}) for time in times]
    (tmp_path / "old.jsonl").write_text("\n".join([*lines[:2], "bad", *lines[2:]]) + "\n")
    now_s = 0.0
    groups = list[tuple[float, int]]()

    def wait(stop: Stop, timeout: float | None = None) -> bool:
        nonlocal now_s
        now_s += timeout or 0.0
        return False

    def append(session: Session, batch: Batch, positions: Mapping[str, str]) -> bool:
        groups.append((now_s, batch.count))
        return True

    monkeypatch.setattr(Stop, "wait", wait)
    monkeypatch.setattr(Session, "append", append)
    monkeypatch.setattr(replay_producer, "time", SimpleNamespace(monotonic=lambda: now_s))
    run_here("producers.replay_producer", tmp_path / "old.jsonl", "--speed", "10", "--sinks", "file", settings=settings)
    assert [(at_s, count) for at_s, count in groups if count] == [(0.0, 1), (0.25, 3), (pytest.approx(6.25), 1)]
