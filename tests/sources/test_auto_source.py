import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers import make_batch, make_messages
from utils import sinks
from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.records.stream import BUZZ
from utils.sources.auto_source import GIVE_UP_S, AutoSource, require_answer
from utils.sources.base import Chunk
from utils.sources.file_source import FileSource

CHUNK = Chunk("part", "", "1", make_messages(1))


class Scripted:
    """A source that plays given answers."""

    def __init__(self, name: str) -> None:
        self.name, self.detail = name, f"{name} detail"
        self.answer: Chunk | ToolkitError | None = None
        self.polls = self.closed = 0

    def poll(self, max_records: int) -> Chunk | None:
        self.polls += 1
        if isinstance(self.answer, ToolkitError):
            raise self.answer
        return self.answer

    def close(self) -> None:
        self.closed += 1


class Stage:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.first, self.second = Scripted("first"), Scripted("second")
        self.opened: list[str] = []
        self.auto = AutoSource(
            {"first": self.open_first, "second": self.open_second}, "start a producer", clock=lambda: self.now_s
        )

    def open_first(self) -> Scripted:
        self.opened.append("first")
        return self.first

    def open_second(self) -> Scripted:
        self.opened.append("second")
        return self.second


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_the_first_that_has_data_is_used(stage: Stage) -> None:
    stage.second.answer = CHUNK
    assert (stage.auto.name, stage.auto.detail) == ("auto", "the first sink that has data")
    assert stage.auto.poll(1) is CHUNK
    assert (stage.auto.name, stage.auto.detail) == ("second", "second detail")
    stage.first.answer = CHUNK
    stage.auto.poll(1)
    assert stage.auto.name == "second"


def test_none_has_data_yet(stage: Stage) -> None:
    assert stage.auto.poll(1) is None
    stage.first.answer = stage.second.answer = CHUNK
    stage.auto.poll(1)
    assert (stage.auto.name, stage.opened) == ("first", ["first", "second"])


def test_records_of_a_sink_that_is_not_chosen_are_not_read_away(stage: Stage) -> None:
    """From the end, each sink is polled once to note its end; what comes there later is read if it is used later."""
    assert stage.auto.poll(1) is None
    stage.first.answer = Chunk("part", "end", "1", [])
    stage.auto.poll(1)
    assert (stage.auto.name, stage.second.polls) == ("first", 1)


def test_an_empty_sink_is_not_chosen(stage: Stage) -> None:
    stage.first.answer = Chunk("part", "end", "", [])
    stage.second.answer = CHUNK
    stage.auto.poll(1)
    assert stage.auto.name == "second"


def test_a_last_line_whose_file_is_gone_is_data(stage: Stage) -> None:
    stage.first.answer = Chunk("part", "", "", make_messages(1))
    assert stage.auto.poll(1) is stage.first.answer


def test_from_the_end_every_candidate_notes_its_position_at_once_and_only_then(stage: Stage) -> None:
    stage.first.answer = Chunk("part", "end", "5", [])
    stage.second.answer = Chunk("other", "end", "9", [])
    assert stage.auto.poll(1) is stage.first.answer
    assert (stage.first.polls, stage.second.polls) == (1, 1)
    stage.first.answer = Unavailable("down")
    for stage.now_s in (0.0, GIVE_UP_S / 2):
        with pytest.raises(Unavailable):
            stage.auto.poll(1)
    stage.now_s, stage.second.answer = GIVE_UP_S, CHUNK
    assert stage.auto.poll(1) is CHUNK
    assert stage.second.polls == 2


def test_from_the_end_all_records_of_a_file_that_comes_later_are_new(tmp_path: Path) -> None:
    live = tmp_path / "live.jsonl"
    auto = AutoSource({"file": lambda: FileSource(live, BUZZ.codec, lambda partition: "end")})
    assert auto.poll(9) is None
    with pytest.raises(Absent):
        auto.poll(9)
    live.write_bytes(make_batch(2).lines)
    with closing(auto):
        chunk = auto.poll(9)
    assert chunk is not None
    assert len(chunk.records) == 2


def test_from_the_start_only_one_candidate_is_asked(stage: Stage) -> None:
    stage.first.answer = stage.second.answer = CHUNK
    stage.auto.poll(1)
    assert (stage.first.polls, stage.second.polls) == (1, 0)


@pytest.mark.parametrize("error", [Unavailable("down"), ToolkitError("not a database")])
def test_a_failing_candidate_is_named_and_asked_again_while_the_others_are_empty(
    stage: Stage, error: ToolkitError
) -> None:
    stage.first.answer = error
    for _ in range(2):
        with pytest.raises(Unavailable, match=str(error)):
            stage.auto.poll(1)
    assert (stage.opened.count("first"), stage.first.polls, stage.first.closed) == (2, 2, 2)
    stage.first.answer = CHUNK
    assert stage.auto.poll(1) is CHUNK


def test_all_fail(stage: Stage) -> None:
    stage.first.answer, stage.second.answer = Unavailable("one"), Unavailable("two")
    with pytest.raises(Unavailable, match="no source has data: one; two"):
        stage.auto.poll(1)


def test_absent_candidates_are_not_named(stage: Stage) -> None:
    stage.first.answer, stage.second.answer = Absent("one"), Absent("two")
    with pytest.raises(Absent, match=r"^no source has data: start a producer$"):
        stage.auto.poll(1)
    stage.second.answer = Unavailable("two")
    with pytest.raises(Unavailable, match="no source has data: two") as raised:
        stage.auto.poll(1)
    assert not isinstance(raised.value, Absent)


def test_it_moves_on_after_ten_seconds_of_failure(stage: Stage) -> None:
    stage.first.answer = stage.second.answer = CHUNK
    stage.auto.poll(1)
    stage.first.answer = Unavailable("down")
    with pytest.raises(Unavailable, match="first does not answer"):
        stage.auto.poll(1)
    stage.now_s = GIVE_UP_S - 1
    with pytest.raises(Unavailable):
        stage.auto.poll(1)
    stage.now_s = GIVE_UP_S
    assert stage.auto.poll(1) is CHUNK
    assert stage.auto.name == "second"


def test_a_short_failure_changes_nothing(stage: Stage) -> None:
    stage.first.answer = stage.second.answer = CHUNK
    stage.auto.poll(1)
    for now_s in (0.0, 8.0, 16.0):
        stage.now_s = now_s
        stage.first.answer = Unavailable("down")
        with pytest.raises(Unavailable):
            stage.auto.poll(1)
        stage.first.answer = CHUNK
        stage.auto.poll(1)
    assert stage.auto.name == "first"


def test_closing_closes_all(stage: Stage) -> None:
    stage.auto.poll(1)
    stage.auto.close()
    stage.auto.close()
    assert (stage.first.closed, stage.second.closed) == (1, 1)
    assert stage.auto.name == "auto"
    stage.first.answer = CHUNK
    assert stage.auto.poll(1) is CHUNK


def test_the_registered_auto_source_takes_the_first_sink_with_data(settings: Settings) -> None:
    with socket.socket() as unused:
        unused.bind(("localhost", 0))  # the port is taken, but nothing answers
        port = unused.getsockname()[1]
        nobody = Settings(data_dir=settings.data_dir, kafka_broker=f"localhost:{port}")
        with closing(SqliteEmitter(settings.sqlite_path, BUZZ)) as emitter:
            emitter.emit(make_batch(2))
        with closing(sinks.source("auto", nobody, BUZZ, lambda partition: "")) as source:
            chunk = source.poll(10)
            assert (source.name, source.detail) == ("sqlite", str(settings.sqlite_path))
    assert chunk is not None
    assert (chunk.partition, len(chunk.records)) == ("buzz.sqlite", 2)


def test_every_registered_sink_is_a_candidate_those_of_this_machine_last() -> None:
    assert set(sinks.BY_PREFERENCE) == set(sinks.SINKS)
    assert sinks.BY_PREFERENCE[-len(sinks.EMBEDDED) :] == sinks.EMBEDDED


def test_a_broker_that_listens_answers() -> None:
    with socket.create_server(("localhost", 0)) as server:
        require_answer(f"nonsense,localhost:{server.getsockname()[1]}")
    with pytest.raises(Unavailable, match="no Kafka broker answers"):
        require_answer("localhost:1,nonsense")


@pytest.mark.parametrize(
    ("broker", "place"),
    [
        ("there", ("there", 9092)),
        ("there:1", ("there", 1)),
        ("[::1]:2", ("::1", 2)),
        ("[::1]", ("::1", 9092)),
        (" there:1 ", ("there", 1)),
    ],
)
def test_a_broker_may_come_without_its_port(
    broker: str, place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both Kafka clients also take an address without a port."""
    asked: list[tuple[str, int]] = []
    opened = socket.socket()

    def connect(address: tuple[str, int], timeout_s: float) -> socket.socket:
        asked.append(address)
        return opened

    monkeypatch.setattr("socket.create_connection", connect)
    require_answer(broker)
    assert (asked, opened.fileno()) == ([place], -1)


def test_all_brokers_share_one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts_s: list[float] = []

    def connect(address: tuple[str, int], timeout_s: float) -> socket.socket:
        timeouts_s.append(timeout_s)
        raise TimeoutError

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("time.monotonic", lambda: 0.25 * len(timeouts_s))
    with pytest.raises(Absent):
        require_answer("a,b,c")
    assert timeouts_s == [1.0, 0.75, 0.5]
