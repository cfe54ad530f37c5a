"""The consumer loop, with a source that answers what it is told to."""

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.helpers import make_messages
from utils.app.errors import PositionMoved, ToolkitError, Unavailable
from utils.reading import follow as consuming
from utils.reading.follow import INVALID_SHOWN, Progress, consume
from utils.reading.tracker import COUNTS
from utils.records.record import Invalid
from utils.sources.base import Chunk

Answer = Chunk | ToolkitError | Callable[[], None] | None


class Scripted:
    """Plays its answers once; whoever asks for more than there are ends the run through `stop`."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.stop = threading.Event()
        self.opened = self.closed = 0
        self.asked: list[int] = []

    def __call__(self) -> "Scripted":
        self.opened += 1
        return self

    def poll(self, max_records: int) -> Chunk | None:
        self.asked.append(max_records)
        answer = next(self.answers, self.stop.set)
        if isinstance(answer, ToolkitError):
            raise answer
        if answer is None or isinstance(answer, Chunk):
            return answer
        answer()
        return None

    def close(self) -> None:
        self.closed += 1


def chunk(amount: int, start: str = "1", end: str = "2", invalid: int = 0) -> Chunk:
    return Chunk("live", start, end, make_messages(amount), [Invalid(f"live byte {n}", "bad") for n in range(invalid)])


def size(chunk: Chunk) -> int:
    return len(chunk.records)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "IDLE_FIRST_S", 0.0)
    monkeypatch.setattr(consuming, "RETRY_FIRST_S", 0.0)


def warnings(said: list[str]) -> list[str]:
    return [line for line in said if line.startswith("WARNING")]


def test_once_stops_at_the_present_end() -> None:
    source = Scripted(chunk(2), chunk(1), None, chunk(5))
    assert consume(source, size, source.stop, once=True) == 3
    assert source.closed == 1


def test_once_raises_what_is_unavailable() -> None:
    source = Scripted(Unavailable("no file"))
    with pytest.raises(Unavailable, match="no file"):
        consume(source, size, source.stop, once=True)
    assert source.closed == 1


def test_count_is_never_exceeded() -> None:
    source = Scripted(chunk(2), chunk(3), chunk(9))
    assert consume(source, size, source.stop, count=5) == 5
    assert source.asked == [5, 3]


def test_only_new_messages_count() -> None:
    source = Scripted(chunk(2), chunk(2), chunk(1))
    new = iter([2, 0, 1])
    assert consume(source, lambda chunk: next(new), source.stop, count=3) == 3


def test_it_follows_until_it_is_stopped() -> None:
    source = Scripted(chunk(1), None, None, chunk(1), None)
    idle: list[bool] = []
    assert consume(source, size, source.stop, idle=lambda: idle.append(True)) == 2
    assert len(idle) == 4
    assert source.closed == 1


def test_what_is_unavailable_is_said_once_until_it_heals(said: list[str]) -> None:
    source = Scripted(Unavailable("no file"), Unavailable("no file"), chunk(1), Unavailable("no file"))
    assert consume(source, size, source.stop) == 1
    assert warnings(said) == ["WARNING no file; waiting"] * 2
    assert source.opened == 1


def test_what_only_the_user_can_mend_ends_it() -> None:
    source = Scripted(ToolkitError("not a database"))
    with pytest.raises(ToolkitError, match="not a database"):
        consume(source, size, source.stop)
    assert source.closed == 1


def test_the_loser_against_another_copy_starts_again_from_the_stored_position(said: list[str]) -> None:
    source = Scripted(chunk(1), chunk(1), chunk(1), chunk(1))
    answers: Iterator[int | ToolkitError] = iter([1, PositionMoved("advanced"), 1, PositionMoved("advanced")])

    def handle(chunk: Chunk) -> int:
        answer = next(answers)
        if isinstance(answer, ToolkitError):
            raise answer
        return answer

    assert consume(source, handle, source.stop) == 2
    assert source.opened == 3
    assert source.closed == 3
    assert len(warnings(said)) == 1


def test_a_store_that_is_unavailable_gets_the_chunk_again(said: list[str]) -> None:
    source = Scripted(chunk(1), chunk(1))
    answers: Iterator[int | ToolkitError] = iter([Unavailable("locked"), 1])

    def handle(chunk: Chunk) -> int:
        answer = next(answers)
        if isinstance(answer, ToolkitError):
            raise answer
        return answer

    assert consume(source, handle, source.stop) == 1
    assert source.opened == 2
    assert warnings(said) == ["WARNING locked; waiting"]


def test_invalid_records_are_named_up_to_a_limit(said: list[str]) -> None:
    source = Scripted(chunk(0, invalid=INVALID_SHOWN - 1), chunk(0, invalid=5))
    consume(source, size, source.stop)
    shown = warnings(said)
    assert len(shown) == INVALID_SHOWN
    assert shown[0] == "WARNING invalid record in live byte 0: bad"
    assert shown[-1].endswith("further ones are only counted")


def test_a_part_that_begins_again_is_said(said: list[str]) -> None:
    source = Scripted(chunk(0, start="5", end=""), chunk(0, start="end", end=""), chunk(1, start=""))
    consume(source, size, source.stop)
    assert len(warnings(said)) == 1
    assert "live was rotated, truncated or rebuilt" in warnings(said)[0]


def test_the_summary_shows_names_as_they_are_but_for_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    consuming._say_summary("line", {}, {"author": [("[/x] [red]A\x1b[2Jnn", 1, 0.5, 3.0, None)]})
    assert "[/x] [red]A [2Jnn" in capsys.readouterr().out


def test_the_running_line(capsys: pytest.CaptureFixture[str]) -> None:
    counts = dict.fromkeys(COUNTS, 0) | {"messages": 1_234, "lost": 5}
    progress = Progress("file", counts)
    line = progress.end()
    assert line.startswith("file: 1,234 messages, ")
    assert line.endswith("invalid 0, lost 5, duplicate 0, foreign 0")
    (message,) = make_messages(1)
    progress.saw(message)
    assert ", lag " in progress.end()
