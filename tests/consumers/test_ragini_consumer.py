"""The text view: its records, its forms, and its quiet end."""

import itertools
import json
import subprocess
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from consumers import ragini_consumer
from tests.helpers import make_batch, make_messages, run_here, start_python, wait_until
from utils.app.config import Settings
from utils.app.errors import Unavailable
from utils.records.record import encode_records
from utils.records.stream import BUZZ, Stream
from utils.sinks import EMBEDDED, SINKS
from utils.sources.auto_source import GIVE_UP_S, AutoSource
from utils.sources.base import Chunk, Resume, Source
from utils.sources.file_source import FileSource
from utils.sources.sqlite_source import SqliteSource

NAME = "consumers.ragini_consumer"
View = Callable[..., subprocess.CompletedProcess[str]]


def emit(settings: Settings, amount: int, first: int = 1, sink: str = "file") -> None:
    batch = make_batch(amount, first=first)
    with closing(SINKS[sink].emitter(settings, BUZZ, batch.producer_id, "")) as emitter:
        emitter.emit(batch)


@pytest.fixture
def view(settings: Settings) -> View:
    return lambda *options: run_here(NAME, *options, "--kafka-broker", "localhost:1", settings=settings)


@pytest.mark.parametrize("sink", EMBEDDED)
def test_json_lines_are_the_messages(settings: Settings, view: View, sink: str) -> None:
    emit(settings, 5, sink=sink)
    done = view("--source", sink, "--once", "--json")
    assert done.returncode == 0
    assert done.stdout.encode() == make_batch(5).lines
    assert done.stderr.startswith(f"{sink}: 5 records")


def test_auto_takes_a_sink_with_data(settings: Settings, view: View) -> None:
    emit(settings, 3, sink="duckdb")
    assert view("--once", "--json").stdout.count("\n") == 3


class Fails(FileSource):
    """A source that reads once what others wrote meanwhile, and then always fails."""

    def __init__(self, settings: Settings, resume: Resume) -> None:
        super().__init__(settings.live_path, BUZZ.codec, resume)
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
def test_from_the_end_the_next_source_shows_only_what_came_meanwhile(
    settings: Settings, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sink in ("file", "sqlite"):
        emit(settings, 3, sink=sink)
    clock = itertools.count(0.0, GIVE_UP_S / 2)

    def opened(_: str, settings: Settings, stream: Stream, resume: Resume, *, finished: bool) -> AutoSource:
        candidates: dict[str, Callable[[], Source]] = {
            "file": lambda: Fails(settings, resume),
            "sqlite": lambda: SqliteSource(settings.sqlite_path, stream, resume),
        }
        return AutoSource(candidates, clock=lambda: next(clock))

    monkeypatch.setattr(ragini_consumer, "source", opened)
    done = view("--from", "end", "--count", "3", "--json")
    assert [json.loads(line)["sequence"] for line in done.stdout.splitlines()] == [4, 5, 6]
    assert "lost 0, duplicate 0, external 0, seen again 2" in done.stderr


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
    assert view("--count", "14").stdout.count("\n") == 14


def test_repeated_messages_are_shown_once_and_counted(settings: Settings, view: View) -> None:
    settings.live_path.parent.mkdir()
    settings.live_path.write_bytes(make_batch(3).lines + make_batch(2).lines + make_batch(1, first=9).lines + b"bad\n")
    done = view("--once")
    assert done.stdout.count("\n") == 4
    assert "invalid record in project_live.json" in done.stderr
    assert "invalid 1, lost 5, duplicate 2" in done.stderr


def test_text_cannot_steer_the_terminal(settings: Settings, view: View) -> None:
    messages = make_messages(1)
    messages[0].message, messages[0].author = "two\nlines \x1b[2J\u2028\u202e", "A\x9bnn"
    settings.live_path.parent.mkdir()
    settings.live_path.write_bytes(encode_records(messages))
    (line,) = view("--once").stdout.split("\n")[:-1]
    assert line.endswith("A nn [tech] 0.50 neutral: two lines  [2J  ")


def test_top_is_printed_once_when_piped(settings: Settings, view: View) -> None:
    emit(settings, 30)
    out = view("--once", "--top").stdout
    assert out.count("author") == 1
    assert "Ann" in out
    assert "100%" in out
    assert "\x1b" not in out
    assert out.endswith("\n")
    assert "30 records" in out and " 0/s" not in out  # the mean of the run: its last second is not over


class Terminal:
    """A stdout that claims to be a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text = ""
        monkeypatch.setattr("sys.stdout", self)
        self.buffer, self.encoding = self, "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, data: bytes) -> None:
        self.text += data.decode()

    def flush(self) -> None: ...


def with_sentiments(*sentiments: float) -> list[Any]:
    return [BUZZ.codec.decode(b'{"message":"x","sentiment":%f}' % each) for each in sentiments]


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    ragini_consumer.Lines(BUZZ, as_json=False, everything=True).show(with_sentiments(0.1, 0.5, 0.9))
    red, plain, green = terminal.text.splitlines()
    assert (red[:5], red[-4:]) == ("\x1b[31m", "\x1b[0m")
    assert "\x1b" not in plain
    assert (green[:5], green[-4:]) == ("\x1b[32m", "\x1b[0m")


def test_json_on_a_terminal_cannot_steer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    ragini_consumer.Lines(BUZZ, as_json=True, everything=True).show(
        [BUZZ.codec.decode(b'{"message":"\xc2\x9b2J\xe2\x80\xae"}')]
    )
    assert not set("\x9b\u202e") & set(terminal.text)
    assert terminal.text.endswith("\n")


TICKS = b"""{"symbol":"A","price":10.5,"note":null,"odd":{"a":1}}
{"symbol":"B","price":-1}
{"symbol":"A","price":12.5,"timestamp":"2026-11-23T19:04:07Z"}
"""


@pytest.fixture
def ticks(settings: Settings) -> None:
    settings.data_path.mkdir()
    settings.file_path("ticks").write_bytes(TICKS * 5)


@pytest.mark.usefixtures("ticks")
class TestOtherStreams:
    def test_lines_begin_with_the_group_and_name_the_other_fields(self, view: View) -> None:
        shown = view("--stream", "ticks", "--source", "file", "--once").stdout.splitlines()[:3]
        assert shown == [' A price=10.5 odd={"a":1}', " B price=-1", "2026-11-23T19:04:07Z A price=12.5"]

    def test_json(self, view: View) -> None:
        lines = view("--stream", "ticks", "--once", "--json").stdout.splitlines()[:2]
        assert list(map(json.loads, lines)) == [
            {"symbol": "A", "price": 10.5, "odd": {"a": 1}},
            {"symbol": "B", "price": -1},
        ]

    def test_top_is_grouped_by_the_role(self, view: View) -> None:
        out = view("--stream", "ticks", "--once", "--top").stdout
        rows = [row.split() for row in out.splitlines() if "%" in row]
        assert [row[:3] + row[4:5] for row in rows] == [["A", "10", "67%", "11.50"], ["B", "5", "33%", "-1.00"]]
        assert "mean price" in out


def test_a_stream_without_any_role(settings: Settings, view: View) -> None:
    settings.data_path.mkdir()
    settings.file_path("notes").write_bytes(b'{"timestamp":5,"a":[]}\n{"b":{}}\n')
    assert view("--stream", "notes", "--once").stdout.count("\n") == 2
    top = view("--stream", "notes", "--count", "2", "--top").stdout
    assert ["notes", "2", "100%", "0"] in [line.split() for line in top.splitlines()]
    assert "mean" not in top


def test_records_missing_at_the_beginning_are_lost(settings: Settings, view: View) -> None:
    emit(settings, 2, first=4)
    assert "lost 3, duplicate 0" in view("--source", "file", "--once").stderr


def test_invalid_records_alone_are_counted(settings: Settings, view: View) -> None:
    settings.live_path.parent.mkdir()
    settings.live_path.write_bytes(b"bad\n")
    assert "invalid 1," in view("--source", "file", "--once").stderr


@pytest.mark.full
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


@pytest.mark.full
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
def test_top_without_a_terminal_or_with_json_is_one_line(options: list[str], words: str, view: View) -> None:
    done = view("--source", "file", *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
