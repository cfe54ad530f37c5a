"""The command line of alerts: exit codes, one-line errors, and a real log from its file to a command."""

import json
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import run_here, start_python, wait_until
from utils.app.config import PROJECT_DIR, Settings
from utils.reading.alerts import Rule

NAME = "consumers.alert_consumer"
PATTERN = re.search(r"--pattern '([^']+)'", (PROJECT_DIR / "docs" / "logs.md").read_text(encoding="utf-8"))


def produce(settings: Settings, amount: int, *sinks: str) -> None:
    options = ("--count", str(amount), "--interval", "0", "--seed", "5", "--sinks", *sinks)
    done = run_here("producers.sensor_producer", *options, settings=settings)
    assert done.returncode == 0, done.stderr


def alerts(settings: Settings) -> list[dict[str, Any]]:
    path = settings.data_path / "alerts.jsonl"
    return list(map(json.loads, path.read_bytes().splitlines())) if path.exists() else []


@pytest.mark.full
def test_a_second_run_reads_only_new_records(settings: Settings) -> None:
    """`auto` stays with the sink it took, although it has not read another one."""
    produce(settings, 1_000, "file", "sqlite")
    options = ("--stream", "sensors", "--when", "temperature_c > 24", "--once", "--json", "--kafka-broker", "nobody:1")
    first = run_here(NAME, *options, settings=settings)
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert report["alerts"] == report["delivered"] == len(alerts(settings)) > 3
    assert {each["by"] for each in alerts(settings)} == {"device"}
    again = json.loads(run_here(NAME, *options, settings=settings).stdout)
    assert (again["alerts"], set(again["run"].values())) == (report["alerts"], {0})
    produce(settings, 1_000, "file", "sqlite")
    more = json.loads(run_here(NAME, *options, settings=settings).stdout)
    assert (more["run"]["records"], more["run"]["duplicate"]) == (1_000, 0)
    assert more["alerts"] == len({each["id"] for each in alerts(settings)}) == len(alerts(settings))


@pytest.mark.full
def test_undelivered_alerts_are_exit_code_3(settings: Settings) -> None:
    produce(settings, 300, "file")
    options = ("--stream", "sensors", "--source", "file", "--when", "temperature_c > 0", "--once")
    done = run_here(NAME, *options, "--drain", "0.5", "--then", "http://127.0.0.1:9/token", settings=settings)
    assert done.returncode == 3
    assert "not yet delivered: run it again" in done.stdout
    assert "token" not in done.stderr
    done = run_here(NAME, *options, "--drain", "60", "--then", f'"{sys.executable}" -c "pass"', settings=settings)
    assert done.returncode == 0, done.stderr


@pytest.mark.full
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give one of --when, --anomaly and --silent"),
        (("--when", "nosuch > 1"), "no such column: nosuch; use the fields device, temperature_c"),
        (("--when", "1", "--by", "nosuch"), "stream sensors has no fitting field 'nosuch'"),
        (("--silent", "5"), "--silent has to wait"),
        (("--when", "1", "--for", "0"), "Must be > 0"),
        (("--when", "1", "--then", "sh -c 'open"), "No closing quotation"),
        (("--when", "1", "--then", "ftp://example.org/x"), "neither a command nor an address"),
    ],
)
def test_bad_input_is_one_line(options: tuple[str, ...], words: str, settings: Settings) -> None:
    produce(settings, 5, "file")
    done = run_here(NAME, "--stream", "sensors", "--source", "file", "--once", *options, settings=settings)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr
    assert not (settings.data_path / "processed").exists()


@pytest.mark.full
def test_silence_until_it_is_stopped(settings: Settings) -> None:
    produce(settings, 5, "file")
    options = ("--stream", "sensors", "--source", "file", "--silent", "0.3")
    with start_python(NAME, *options, settings=settings) as process:
        wait_until(lambda: alerts(settings), timeout_s=60)
        process.terminate()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, "alert silent for 0.3 s: nothing since 20" in err) == (0, True)
    (alert,) = alerts(settings)
    assert (alert["alert"], alert["name"], alert["record"]) == ("silent for 0.3 s", "", None)
    assert "in the store: 1 alert\n" in out
    key = Rule(silent_s=0.3).key
    with closing(sqlite3.connect(settings.processed_path(f"alerts-{key}", "sensors"))) as connection:
        assert connection.execute("SELECT COUNT(*) FROM alerts").fetchall() == [(1,)]


@pytest.mark.full
def test_a_log_that_grows_is_followed_and_an_alert_reaches_a_command(settings: Settings, tmp_path: Path) -> None:
    """The pattern and the condition of docs/logs.md lead from a growing log to a command."""
    assert PATTERN
    lines = (PROJECT_DIR / "docs" / "samples" / "shop.log").read_bytes().splitlines(keepends=True)
    log, received = tmp_path / "shop.log", tmp_path / "received.jsonl"
    log.write_bytes(b"".join(lines[:20]))
    code = f"import sys; open({str(received)!r}, 'ab').write(sys.stdin.buffer.read())"
    watch = ("--stream", "shop", "--source", "file", "--when", "status_code = 503", "--by", "path")
    feed = ("producers.feed_producer", str(log), "--pattern", PATTERN[1], "--sinks", "file")
    with (
        start_python(*feed, settings=settings) as feeder,
        start_python(NAME, *watch, "--then", f'"{sys.executable}" -c "{code}"', settings=settings) as watcher,
    ):
        with log.open("ab") as stream:
            stream.write(b"".join(lines[20:]))
            stream.write(b"2026-11-23 19:59:59.000 ERROR GET /last 503 1.0ms\n")
        wait_until(lambda: received.exists() and b"/last" in received.read_bytes(), timeout_s=60)
        for process in (watcher, feeder):
            process.terminate()
            process.communicate(timeout=60)
    found = [json.loads(line) for line in received.read_bytes().splitlines()]
    failed = [line.split() for line in lines if b" 503 " in line]
    assert {each["name"] for each in found} == {words[4].decode() for words in failed} | {"/last"}
    assert {each["record"]["status_code"] for each in found} == {503}
