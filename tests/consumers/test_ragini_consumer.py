"""The text view: what it shows, in which form, and that it stops quietly."""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from consumers import ragini_consumer
from tests.helpers import make_batch, make_messages, run_python, start_python, wait_until
from utils.app import cli
from utils.app.config import Settings
from utils.sinks import EMBEDDED
from utils.app.errors import Unavailable
from utils.records.record import Message, encode_lines
from utils.sinks import emitter
from utils.sources.auto_source import GIVE_UP_S, AutoSource
from utils.sources.base import Chunk, Resume, Source
from utils.sources.file_source import FileSource
from utils.sources.sqlite_source import SqliteSource

NAME = "consumers.ragini_consumer"
View = Callable[..., subprocess.CompletedProcess[str]]


def emit(settings: Settings, amount: int, first: int = 1, sink: str = "file") -> None:
    opened = emitter(sink, settings)()
    opened.emit(make_batch(amount, first=first))
    opened.close()


@pytest.fixture
def view(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[View]:
    """Runs the command line in this process."""
    monkeypatch.chdir(tmp_path)
    Path(".env").touch()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        code = cli.run(ragini_consumer.main, name=NAME, arguments=[*options, "--kafka-broker", "localhost:1"])
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return subprocess.CompletedProcess([], code, out.decode(), err.decode())

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)
    logger.remove()


@pytest.mark.parametrize("sink", EMBEDDED)
def test_json_lines_are_the_messages(settings: Settings, view: View, sink: str) -> None:
    emit(settings, 5, sink=sink)
    done = view("--source", sink, "--once", "--json")
    assert done.returncode == 0
    assert done.stdout.encode() == encode_lines(make_batch(5).messages)
    assert done.stderr.startswith(f"{sink}: 5 messages")


def test_auto_takes_what_has_data(settings: Settings, view: View) -> None:
    emit(settings, 3, sink="duckdb")
    assert view("--once", "--json").stdout.count("\n") == 3


class Fails(FileSource):
    """Reads what others wrote meanwhile, once, then fails for ever."""

    def __init__(self, settings: Settings, resume: Resume) -> None:
        super().__init__([settings.live_path], resume)
        self.settings, self.polls = settings, 0

    def poll(self, max_records: int) -> Chunk | None:
        self.polls += 1
        if self.polls == 2:
            for sink in ("file", "sqlite"):
                emit(self.settings, 2, first=4, sink=sink)
        if self.polls == 3:
            emit(self.settings, 1, first=6, sink="sqlite")
        if self.polls > 2:
            raise Unavailable("down")
        return super().poll(max_records)


@pytest.mark.timeout(60)
def test_from_the_end_a_source_that_is_taken_over_brings_what_came_meanwhile_and_no_more(
    settings: Settings, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sink in ("file", "sqlite"):
        emit(settings, 3, sink=sink)
    clock = itertools.count(0.0, GIVE_UP_S / 2)

    def opened(_: str, settings: Settings, resume: Resume, *, finished: bool) -> AutoSource:
        candidates: dict[str, Callable[[], Source]] = {
            "file": lambda: Fails(settings, resume),
            "sqlite": lambda: SqliteSource(settings.sqlite_path, resume),
        }
        return AutoSource(candidates, clock=lambda: next(clock))

    monkeypatch.setattr(ragini_consumer, "source", opened)
    done = view("--from", "end", "--count", "3", "--json")
    assert [json.loads(line)["sequence"] for line in done.stdout.splitlines()] == [4, 5, 6]
    assert "lost 0, duplicate 0, foreign 0, seen again 2" in done.stderr


def test_nothing_has_data(view: View) -> None:
    done = view("--once")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no source has data" in done.stderr


def test_once_shows_all_in_plain_lines_when_piped(settings: Settings, view: View) -> None:
    emit(settings, 30)
    lines = view("--once").stdout.splitlines()
    assert len(lines) == 30
    assert lines[0] == "2026-11-23T19:04:05.123Z Ann [tech] 0.50 neutral: hello 1"


def test_count_stops(settings: Settings, view: View) -> None:
    emit(settings, 30)
    assert view("--count", "4").stdout.count("\n") == 4


def test_repeated_messages_are_shown_once_and_counted(settings: Settings, view: View) -> None:
    settings.live_path.parent.mkdir()
    settings.live_path.write_bytes(make_batch(3).lines + make_batch(2).lines + make_batch(1, first=9).lines + b"bad\n")
    done = view("--once")
    assert done.stdout.count("\n") == 4
    assert "invalid record in project_live.json" in done.stderr
    assert "invalid 1, lost 5, duplicate 2" in done.stderr


def test_text_cannot_steer_the_terminal(settings: Settings, view: View) -> None:
    messages = make_messages(1)
    messages[0].message, messages[0].author = "two\nlines \x1b[2J\u2028", "A\x9bnn"
    settings.live_path.parent.mkdir()
    settings.live_path.write_bytes(encode_lines(messages))
    (line,) = view("--once").stdout.split("\n")[:-1]
    assert line.endswith("A nn [tech] 0.50 neutral: two lines  [2J ")


def test_top_is_printed_once_when_piped(settings: Settings, view: View) -> None:
    emit(settings, 30)
    out = view("--once", "--top").stdout
    assert out.count("author") == 1
    assert "Ann" in out
    assert "100%" in out
    assert "\x1b" not in out
    assert out.endswith("\n")
    assert "30 messages" in out and " 0/s" not in out  # the mean of the run: its last second is not over yet


class Terminal:
    """A stdout that says it is a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text = ""
        monkeypatch.setattr("sys.stdout", self)
        self.buffer, self.encoding = self, "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, data: bytes) -> None:
        self.text += data.decode()

    def flush(self) -> None: ...


def moods(*sentiments: float) -> list[Message]:
    messages = make_messages(len(sentiments))
    for message, sentiment in zip(messages, sentiments, strict=True):
        message.sentiment = sentiment
    return messages


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    ragini_consumer.LineView(everything=True).show(moods(0.1, 0.5, 0.9))
    red, plain, green = terminal.text.splitlines()
    assert (red[:5], red[-4:]) == ("\x1b[31m", "\x1b[0m")
    assert "\x1b" not in plain
    assert (green[:5], green[-4:]) == ("\x1b[32m", "\x1b[0m")


def test_following_shows_the_last_ones_then_every_new_one(settings: Settings) -> None:
    emit(settings, 50)
    with start_python(NAME, "--source", "file", settings=settings) as process:
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(10)]
        assert [line.split()[-1] for line in shown] == [str(number) for number in range(41, 51)]
        emit(settings, 1, first=51)
        assert process.stdout.readline().endswith("hello 51\n")
        process.terminate()
        process.communicate(timeout=30)


def test_it_stops_quietly_when_the_pipe_closes(settings: Settings) -> None:
    emit(settings, 50)
    process = start_python(NAME, "--source", "file", "--json", settings=settings)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["sequence"] == 1
    process.stdout.close()
    written = iter(range(51, 10_000))

    def ended() -> bool:
        emit(settings, 1, first=next(written))
        return process.poll() is not None

    wait_until(ended, 30)
    assert process.returncode == 0
    assert process.stderr.read() == ""
    process.stderr.close()
    if process.stdin is not None:
        process.stdin.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--top"], "--top redraws a table and needs a terminal"), (["--top", "--json"], "choose one")],
)
def test_a_live_table_where_it_cannot_be(options: list[str], words: str, settings: Settings) -> None:
    done = run_python("consumers.ragini_consumer", "--source", "file", *options, settings=settings)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
