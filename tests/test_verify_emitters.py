"""`verify_emitters check`: its exit codes and help; other commands have test files of their own."""

import json
import socket
from pathlib import Path

import pytest

import verify_emitters
from utils.app.config import DEFAULTS
from utils.app.errors import Unavailable
from utils.checks import check
from utils.emitters.file_emitter import FileEmitter
from utils.records.record import Batch
from utils.sinks import EMBEDDED


@pytest.fixture
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("KAFKA_BROKER_ADDRESS", address)
    return address


def run(*arguments: str) -> int:
    return verify_emitters.run(list(arguments))


@pytest.mark.parametrize("sink", EMBEDDED)
def test_each_embedded_sink_takes_a_record_and_gives_it_back(sink: str) -> None:
    assert check.check(sink, DEFAULTS).result == "ok"


def test_check_is_the_default_command(nobody_listens: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    shown = capsys.readouterr().out
    assert shown.count(" ok ") == len(EMBEDDED)
    assert "not running" in shown
    assert nobody_listens in shown


def test_a_missing_broker_fails_only_when_asked_for(nobody_listens: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--json", "--sinks", "file") == 0
    assert run("check", "--json", "--sinks", "kafka") == 1
    (result,) = json.loads(capsys.readouterr().out.partition("]")[2])
    assert (result["sink"], result["result"]) == ("kafka", "not running")


def test_a_sink_that_loses_or_changes_records_fails(monkeypatch: pytest.MonkeyPatch, nobody_listens: str) -> None:
    whole = FileEmitter.emit

    def garbled(emitter: FileEmitter, batch: Batch) -> None:
        lines = batch.lines.replace(b"-0.1", b"-0.2")
        whole(emitter, Batch(batch.producer_id, batch.last, batch.count, lines, batch.codec))

    def full(emitter: FileEmitter, batch: Batch) -> None:
        raise Unavailable("no space\nleft")

    for emit, words in ((garbled, "is different when read back"), (full, "no space left")):
        monkeypatch.setattr(FileEmitter, "emit", emit)
        result = check.check("file", DEFAULTS)
        assert result.result == "failed"
        assert words in result.reason
    monkeypatch.setattr(FileEmitter, "emit", lambda emitter, batch: None)
    assert check.check("file", DEFAULTS).reason == "the sink does not contain the record that was just written to it"
    assert run("check") == 1


def test_check_leaves_the_data_folder_alone(tmp_path: Path, nobody_listens: str) -> None:
    folder = tmp_path / "data"
    assert run("--data-dir", str(folder)) == 0
    assert not folder.exists()


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(f" {command} " in shown for command in ("check", "audit", "doctor"))
