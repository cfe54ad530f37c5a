"""Re-streaming recordings as new messages."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from loguru import logger

from producers import replay_producer
from producers.replay_producer import Replay
from tests.helpers import assert_complete, held, make_batch, make_messages, producer_ids
from utils.app import cli
from utils.app.config import EMBEDDED_SINKS, Settings, SinkName
from utils.app.errors import ToolkitError
from utils.emitters.duckdb_emitter import DuckdbEmitter
from utils.emitters.file_emitter import FileEmitter
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.records.record import Invalid, encode_lines
from utils.sinks import emitter

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(tmp_path)
    Path(".env").touch()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def replay(*options: object) -> subprocess.CompletedProcess[str]:
        name = "producers.replay_producer"
        code = cli.run(replay_producer.main, name=name, arguments=[*map(str, options), "--speed", "0"])
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess([], code, out, err)

    yield replay
    for number, handler in before.items():
        signal.signal(number, handler)
    logger.remove()


def texts(settings: Settings) -> list[str]:
    return [json.loads(line)["message"] for line in settings.live_path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("sink", EMBEDDED_SINKS)
def test_a_sink_as_recording_is_replayed_once(sink: SinkName, run: Run, settings: Settings) -> None:
    """It grows by what is replayed from it; that is where the replay ends, also the second time."""
    with closing(emitter(sink, settings)()) as opened:
        opened.emit(make_batch(30))
    for total in (60, 120):
        done = run(settings.sink_path(sink), "--sinks", sink)
        assert done.returncode == 0, done.stderr
        assert sum(map(len, held(sink, settings).values())) == total


def test_what_comes_before_a_broken_row_is_sent(run: Run, settings: Settings, tmp_path: Path) -> None:
    recording = tmp_path / "broken.csv"
    recording.write_text("message\n" + "fine\n" * 100 + "x" * (1 << 21) + "\n", encoding="utf-8")
    done = run(recording, "--sinks", "file")
    assert done.returncode == 2
    assert texts(settings) == ["fine"] * 100


@pytest.mark.parametrize("suffix", ["jsonl", "json", "array.json", "sqlite", "duckdb", "csv"])
def test_every_kind_of_recording_arrives_as_new_messages(
    suffix: str, run: Run, settings: Settings, tmp_path: Path
) -> None:
    recording = tmp_path / f"old.{suffix}"
    match suffix:
        case "sqlite":
            SqliteEmitter(recording).emit(make_batch(5))
        case "duckdb":
            DuckdbEmitter(recording).emit(make_batch(5))
        case "array.json":
            recording.write_bytes(b"[" + b",".join(make_batch(5).lines.splitlines()) + b"]")
        case "csv":
            rows = [f"hello {number},Ann,2026-11-23T19:04:05.123Z,0.5,ann-1,{number}\r\n" for number in range(1, 6)]
            text = "message,author,timestamp,sentiment,producer_id,sequence\r\n" + "".join(rows)
            recording.write_text(text, encoding="utf-8-sig", newline="")
        case _:
            FileEmitter(recording).emit(make_batch(5))
    done = run(recording)
    assert done.returncode == 0, done.stderr
    assert f"{recording}: 5 messages read, 0 invalid" in done.stdout
    (producer_id,) = producer_ids(settings, "replay")
    assert producer_id.startswith("replay-")
    assert_complete(settings, {producer_id: 5}, EMBEDDED_SINKS)
    assert texts(settings) == [f"hello {number}" for number in range(1, 6)]


def test_a_second_replay_goes_on_counting(run: Run, settings: Settings, tmp_path: Path) -> None:
    recording = tmp_path / "dead.jsonl"
    recording.write_bytes(encode_lines(make_messages(3)))
    run(recording, "--sinks", "file")
    run(recording, "--sinks", "file", "--count", 2)
    (producer_id,) = producer_ids(settings, "replay")
    assert_complete(settings, {producer_id: 5}, ["file"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("old.jsonl", b'{"message":"hello 1"}\nbad\n{"message":"hello 2"}'),
        ("old.csv", b'message,message_length\nhello 1,\n"hello 2",\nhello,many\n'),
    ],
)
def test_invalid_records_are_counted_and_named(
    name: str, content: bytes, run: Run, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    done = run(tmp_path / name, "--sinks", "file")
    assert done.returncode == 0
    assert "2 messages read, 1 invalid" in done.stdout
    assert f"invalid record in {name}" in done.stderr
    assert texts(settings) == ["hello 1", "hello 2"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.jsonl", None, "there is no recording"),
        ("old.txt", b"", "is not a .jsonl, .json, .csv"),
        ("old.sqlite", b"no database at all " * 100, "is not a SQLite database"),
        ("old.csv", b"a,b\n1,2\n", "names no column message"),
        ("old.csv", b"message\n\xff\n", "is not a UTF-8 CSV file"),
        ("old.json", b'[{"message":"a"},', "is not a whole one"),
    ],
)
def test_what_is_no_recording(name: str, content: bytes | None, reason: str, run: Run, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run(tmp_path / name, "--sinks", "file", "--log-level", "ERROR")
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_recording_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.jsonl").write_bytes(b'{"message":"hello"}\n')

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)  # permissions do not bind the superuser
    with pytest.raises(ToolkitError, match=r"old\.jsonl cannot be read: Permission denied"):
        replay_producer.records(tmp_path / "old.jsonl")


def test_gaps_are_those_of_the_recording() -> None:
    times = [
        "2026-11-23T19:04:05Z",
        "2026-11-23T19:04:07.500Z",
        "unknown",
        "2026-11-23T19:04:07Z",
        "2026-11-23T19:05:07Z",
    ]
    messages = make_messages(len(times))
    for message, time in zip(messages, times, strict=True):
        message.timestamp = time
    replay = Replay(iter([*messages[:2], Invalid("line 3", "bad"), *messages[2:]]), lambda _: None)
    assert [gap for gap, _ in replay.paced()] == [0.0, 2.5, 0.0, 0.0, 60.0]
    assert (replay.valid, replay.invalid) == (5, 1)
