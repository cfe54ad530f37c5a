"""The follow loop, with a source that plays given answers."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.helpers import make_messages
from utils.app.config import Settings
from utils.app.errors import Absent, PositionMoved, StoreUnavailable, ToolkitError, Unavailable
from utils.reading import follow as loop
from utils.reading import processing
from utils.reading.follow import INVALID_SHOWN, follow
from utils.reading.progress import Progress
from utils.reading.tracker import Counts
from utils.records.instants import instant_text
from utils.records.record import Invalid
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Chunk

Answer = Chunk | ToolkitError | Callable[[], None] | None


class Scripted:
    """A source that plays its answers once, and then sets `stop`."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.stop = threading.Event()
        self.opened = self.closed = 0
        self.name, self.detail = "scripted", "what is written here"
        self.asked: list[int] = []

    def __call__(self) -> "Scripted":
        assert self.opened == self.closed, "an open source keeps its partitions"
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
    monkeypatch.setattr(loop, "IDLE_FIRST_S", 0.0)
    monkeypatch.setattr(loop, "RETRY_FIRST_S", 0.0)


def warnings(logged: list[str]) -> list[str]:
    return [line for line in logged if line.startswith("WARNING")]


def test_once_stops_at_the_present_end() -> None:
    source = Scripted(chunk(2), chunk(1), None, chunk(5))
    assert follow(source, size, source.stop, once=True) == 3
    assert source.closed == 1


def test_once_raises_unavailable() -> None:
    source = Scripted(Unavailable("no file"))
    with pytest.raises(Unavailable, match="no file"):
        follow(source, size, source.stop, once=True)
    assert source.closed == 1


def test_count_is_never_exceeded() -> None:
    source = Scripted(chunk(2), chunk(3), chunk(9))
    assert follow(source, size, source.stop, count=5) == 5
    assert source.asked == [5, 3]


def test_only_new_messages_count() -> None:
    source = Scripted(chunk(2), chunk(2), chunk(1))
    new = iter([2, 0, 1])
    assert follow(source, lambda chunk: next(new), source.stop, count=3) == 3


def test_it_follows_until_it_is_stopped() -> None:
    source = Scripted(chunk(1), None, None, chunk(1), None)
    waits: list[Unavailable | None] = []
    assert follow(source, size, source.stop, on_wait=waits.append) == 2
    assert waits == [None] * 4
    assert source.closed == 1


def test_an_outage_is_logged_once(logged: list[str]) -> None:
    source = Scripted(Unavailable("no disk"), Unavailable("no disk"), chunk(1), Unavailable("no disk"))
    waits: list[Unavailable | None] = []
    assert follow(source, size, source.stop, on_wait=waits.append) == 1
    assert logged == [
        "WARNING no disk; waiting",
        "INFO waiting ended: what is written here is read",
        "WARNING no disk; waiting",
        "INFO waiting ended: what is written here is read",
    ]
    assert [str(error) for error in waits if error] == ["no disk"] * 3
    assert source.opened == 1


def test_a_store_that_is_away_is_logged_once_and_its_source_is_closed(logged: list[str]) -> None:
    source = Scripted(StoreUnavailable("no route"), StoreUnavailable("refused"), chunk(1))
    assert follow(source, size, source.stop) == 1
    assert source.opened == 3
    assert warnings(logged) == ["WARNING no route; waiting"]


def test_a_source_that_does_not_exist_yet_is_no_warning(logged: list[str]) -> None:
    source = Scripted(Absent("no file yet"))
    follow(source, size, source.stop)
    assert logged[0] == "INFO no file yet; waiting"


def test_an_error_that_only_the_user_can_fix_ends_it() -> None:
    source = Scripted(ToolkitError("not a database"))
    with pytest.raises(ToolkitError, match="not a database"):
        follow(source, size, source.stop)
    assert source.closed == 1


def test_after_another_copy_was_faster_it_continues_at_the_stored_position(logged: list[str]) -> None:
    source = Scripted(chunk(1), chunk(1), chunk(1), chunk(1))
    answers: Iterator[int | ToolkitError] = iter([1, PositionMoved("advanced"), 1, PositionMoved("advanced")])

    def handle(chunk: Chunk) -> int:
        answer = next(answers)
        if isinstance(answer, ToolkitError):
            raise answer
        return answer

    assert follow(source, handle, source.stop) == 2
    assert source.opened == 3
    assert source.closed == 3
    assert len(warnings(logged)) == 1


def test_a_store_that_is_unavailable_gets_the_chunk_again(logged: list[str]) -> None:
    source = Scripted(chunk(1), chunk(1))
    answers: Iterator[int | ToolkitError] = iter([Unavailable("locked"), 1])

    def handle(chunk: Chunk) -> int:
        answer = next(answers)
        if isinstance(answer, ToolkitError):
            raise answer
        return answer

    assert follow(source, handle, source.stop) == 1
    assert source.opened == 2
    assert warnings(logged) == ["WARNING locked; waiting"]


def test_invalid_records_are_named_up_to_a_limit(logged: list[str]) -> None:
    source = Scripted(chunk(0, invalid=INVALID_SHOWN - 1), chunk(0, invalid=5))
    follow(source, size, source.stop)
    shown = warnings(logged)
    assert len(shown) == INVALID_SHOWN
    assert shown[0] == "WARNING invalid record in live byte 0: bad"
    assert shown[-1].endswith("further ones are only counted")


def test_a_partition_that_begins_again_is_logged(logged: list[str]) -> None:
    source = Scripted(chunk(0, start="5", end=""), chunk(0, start="end", end=""), chunk(1, start=""))
    follow(source, size, source.stop)
    assert len(warnings(logged)) == 1
    assert "live was rotated, truncated or rebuilt" in warnings(logged)[0]


def test_the_running_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 2.0, 2.5))
    monkeypatch.setattr("utils.reading.progress.time.monotonic", lambda: next(clock))
    progress = Progress("file", BUZZ)
    progress.update([], Counts(records=1_234, lost=5))
    assert [" 617/s, " in progress.measured() for _ in range(2)] == [True, True]  # over a second or more
    monkeypatch.undo()
    line = progress.end()
    assert line.startswith("file: 1,234 records, ")
    assert line.endswith("invalid 0, lost 5, duplicate 0, external 0")
    progress.update(make_messages(1), Counts(records=1_235, again=7))
    assert progress.end().endswith(", seen again 7")  # the lag of a record from before the run would say nothing
    (message,) = make_messages(1)
    message.timestamp = instant_text(round((time.time() + 1) * 1e6))
    progress.update([message], Counts(records=1_236))
    assert ", external 0, lag 0." in progress.end()


def test_a_stream_that_is_not_known_yet_is_waited_for(
    settings: Settings, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[Stream | ToolkitError] = iter([Absent("no schema"), Absent("no schema"), BUZZ])

    def find(*_: object) -> Stream:
        answer = next(answers)
        if isinstance(answer, ToolkitError):
            raise answer
        return answer

    monkeypatch.setattr(processing, "find_stream", find)
    assert processing.wait_for_stream("buzz", settings, "auto", threading.Event(), once=False) is BUZZ
    assert logged == ["INFO no schema; waiting"]


def test_a_stream_that_is_not_known_yet_is_an_error_with_once(settings: Settings) -> None:
    with pytest.raises(Absent, match="does not exist yet"):
        processing.wait_for_stream("ticks", settings, "file", threading.Event(), once=True)
