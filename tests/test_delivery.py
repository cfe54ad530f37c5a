"""Workers with sinks in memory that fail as told: retry, resume, dead letters, rollbacks, losses."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loguru import logger

from tests.helpers import make_messages, wait_until
from utils.app.backoff import Backoff
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.delivery import worker as delivery_module
from utils.delivery.journal import Journal
from utils.delivery.worker import Delivery
from utils.records.record import Batch, decode_record


class Sink:
    """A sink in memory; `plan` is called with each batch (None when connecting) and may raise."""

    def __init__(self, plan: Callable[["Sink", Batch | None], None] | None = None) -> None:
        self.rows: list[tuple[str, int]] = []
        self.texts: list[str] = []
        self.plan = plan or (lambda sink, batch: None)
        self.opened = self.open_now = 0

    def store(self, batch: Batch) -> None:
        self.rows += [(batch.producer_id, sequence) for sequence in range(batch.first, batch.last + 1)]
        self.texts += [message.message for message in batch.messages]

    def connect(self) -> "MemoryEmitter":
        self.plan(self, None)
        self.opened += 1
        self.open_now += 1
        return MemoryEmitter(self)


class MemoryEmitter:
    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def last_sequence(self, producer_id: str) -> int:
        return max((sequence for name, sequence in self.sink.rows if name == producer_id), default=0)

    def emit(self, batch: Batch) -> None:
        self.sink.plan(self.sink, batch)
        self.sink.store(batch)

    def close(self) -> None:
        self.sink.open_now -= 1


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next_s", lambda self: 0.001)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "ann.sqlite")) as opened:
        yield opened


@pytest.fixture
def deliver(journal: Journal, tmp_path: Path) -> Iterator[Callable[..., Delivery]]:
    """Start a delivery to named sinks; all of them are stopped at the end."""
    running: list[Delivery] = []

    def start(**sinks: Sink) -> Delivery:
        connects = {name: sink.connect for name, sink in sinks.items()}
        delivery = Delivery(journal, connects, lambda sink: tmp_path / f"dead-{sink}.jsonl")
        running.append(delivery)
        delivery.start(tuple(sinks), 5)
        return delivery

    yield start
    for delivery in running:
        delivery.drain(0)


Deliver = Callable[..., Delivery]


def append(journal: Journal, delivery: Delivery, amount: int) -> None:
    journal.append(make_messages(amount), delivered=delivery.held_by_all())
    delivery.wake()


def all_of(journal: Journal, amount: int) -> list[tuple[str, int]]:
    return [(journal.producer_id, sequence) for sequence in range(1, amount + 1)]


def fails(times: int, *, store: int = 0, when: str = "emit") -> Callable[[Sink, Batch | None], None]:
    """A plan: the first `times` attempts store the first `store` rows and fail."""
    left = [times]

    def plan(sink: Sink, batch: Batch | None) -> None:
        if (batch is None) == (when == "connect") and left[0]:
            left[0] -= 1
            if batch and store:
                sink.store(batch.between(batch.first, batch.first + store - 1))
            raise Unavailable("the disk is on fire")

    return plan


def test_every_sink_gets_everything_in_order(journal: Journal, deliver: Deliver) -> None:
    one, two = Sink(), Sink()
    delivery = deliver(one=one, two=two)
    for _ in range(20):
        append(journal, delivery, 7)
    delivery.drain(5)
    assert one.rows == two.rows == all_of(journal, 140)
    assert delivery.held_by_all() == 140
    assert one.open_now == two.open_now == 0
    assert {worker.progress.state for worker in delivery.workers.values()} == {"stopped"}


@pytest.mark.parametrize("stored", [0, 1, 4, 10])
def test_a_failed_emit_is_never_simply_repeated(
    journal: Journal, deliver: Deliver, stored: int, said: list[str]
) -> None:
    """Whatever part of the batch had arrived (all of it: an acknowledgement that was lost)."""
    sink = Sink(fails(20 if not stored else 3, store=stored))
    delivery = deliver(one=sink)
    append(journal, delivery, 30)
    delivery.drain(5)
    assert sink.rows == all_of(journal, 30)
    assert [line for line in said if "unavailable" in line and "DEBUG" not in line] == [
        "WARNING one: unavailable, messages wait in the journal: the disk is on fire"
    ]
    assert len([line for line in said if "delivering again" in line]) == 1
    assert sink.open_now == 0


def test_the_state_is_said_once_however_often_it_fails(journal: Journal, deliver: Deliver, said: list[str]) -> None:
    sink = Sink(fails(50, when="connect"))
    delivery = deliver(one=sink)
    append(journal, delivery, 3)
    wait_until(lambda: len(sink.rows) == 3)
    wait_until(lambda: delivery.workers["one"].progress.state == "delivering")
    assert [line.split(":")[1] for line in said] == [
        " unavailable, messages wait in the journal",
        " delivering again after 0 s",
    ]


def test_a_stalled_sink_stops_no_other(journal: Journal, deliver: Deliver) -> None:
    hold = threading.Event()
    slow, fast = Sink(lambda sink, batch: (batch and hold.wait(20), None)[1]), Sink()
    delivery = deliver(slow=slow, fast=fast)
    for _ in range(10):
        append(journal, delivery, 5)
    wait_until(lambda: len(fast.rows) == 50)
    assert slow.rows == []
    assert delivery.held_by_all() == 0
    hold.set()
    delivery.drain(5)
    assert slow.rows == fast.rows


def test_a_late_sink_makes_up_for_what_it_missed(journal: Journal, deliver: Deliver) -> None:
    down = threading.Event()

    def plan(sink: Sink, batch: Batch | None) -> None:
        if not down.is_set():
            raise Unavailable("nobody home")

    late, other = Sink(plan), Sink()
    delivery = deliver(late=late, other=other)
    for _ in range(10):
        append(journal, delivery, 5)
    wait_until(lambda: len(other.rows) == 50)
    assert journal.first_waiting() == 1
    down.set()
    wait_until(lambda: len(late.rows) == 50)
    append(journal, delivery, 1)
    delivery.drain(5)
    assert late.rows == other.rows == all_of(journal, 51)


def test_a_sink_never_reached_gets_one_more_attempt_at_the_end(journal: Journal, deliver: Deliver) -> None:
    attempts = []

    def plan(sink: Sink, batch: Batch | None) -> None:
        attempts.append(1)
        raise Unavailable("nobody home")

    delivery = deliver(one=Sink(plan))
    append(journal, delivery, 1)
    delivery.drain(30)  # returns long before
    assert not delivery.workers["one"].is_alive()
    assert delivery.workers["one"].progress.state == "stopped"


def test_a_sink_that_only_answered_is_waited_for_at_the_end(journal: Journal, deliver: Deliver) -> None:
    """It went away during the very first batch, say."""
    draining = threading.Event()
    fail = fails(10)

    def plan(sink: Sink, batch: Batch | None) -> None:
        if batch:
            assert draining.wait(10)
        fail(sink, batch)

    sink = Sink(plan)
    journal.owe(["one"])
    journal.append(make_messages(5))
    delivery = deliver(one=sink)
    delivery.workers["one"].drain()
    draining.set()
    delivery.drain(5)
    assert sink.rows == all_of(journal, 5)


def test_what_only_the_user_can_mend_ends_the_start(journal: Journal, deliver: Deliver) -> None:
    def plan(sink: Sink, batch: Batch | None) -> None:
        raise ToolkitError("that is no database")

    other = Sink()
    with pytest.raises(ToolkitError, match="that is no database"):
        deliver(one=Sink(plan), other=other)
    wait_until(lambda: not other.open_now)


def test_an_unexpected_error_ends_one_worker_only(
    journal: Journal, deliver: Deliver, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(sink: Sink, batch: Batch | None) -> None:
        if batch:
            raise ZeroDivisionError("a bug")

    uncaught: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: uncaught.append(repr(failure.exc_value)))
    broken, other = Sink(plan), Sink()
    delivery = deliver(broken=broken, other=other)
    append(journal, delivery, 5)
    delivery.drain(5)
    assert other.rows == all_of(journal, 5)
    assert delivery.workers["broken"].progress.state == "failed"
    assert uncaught == ["ZeroDivisionError('a bug')"]
    assert journal.first_waiting() == 1
    assert broken.open_now == 0


def refuses(*sequences: int) -> Callable[[Sink, Batch | None], None]:
    def plan(sink: Sink, batch: Batch | None) -> None:
        for sequence in sequences:
            if batch and batch.first <= sequence <= batch.last:
                raise Rejected(sequence, f"no {sequence} here")

    return plan


def letters(path: Path) -> list[tuple[int, str]]:
    return [(record["sequence"], record["reason"]) for record in map(json.loads, path.read_text().splitlines())]


def test_what_a_sink_refuses_goes_to_the_dead_letter_with_its_reason(
    journal: Journal, deliver: Deliver, tmp_path: Path, said: list[str]
) -> None:
    picky, other = Sink(refuses(1, 7, 8, 20)), Sink()
    delivery = deliver(picky=picky, other=other)
    append(journal, delivery, 10)
    append(journal, delivery, 10)
    delivery.drain(5)
    assert [sequence for _, sequence in picky.rows] == [2, 3, 4, 5, 6, *range(9, 20)]
    assert other.rows == all_of(journal, 20)
    path = tmp_path / "dead-picky.jsonl"
    assert letters(path) == [(number, f"no {number} here") for number in (1, 7, 8, 20)]
    assert decode_record(path.read_bytes().splitlines()[0]).message == "hello 1"
    assert delivery.workers["picky"].progress.dead_letters == 4
    assert delivery.held_by_all() == 20
    assert len([line for line in said if line.startswith("ERROR")]) == 4


def test_the_dead_letter_counts_for_the_cursor(journal: Journal, deliver: Deliver, tmp_path: Path) -> None:
    picky = Sink(refuses(3))
    for run in range(2):
        delivery = deliver(picky=picky)
        if not run:
            append(journal, delivery, 3)
        delivery.drain(5)
    assert letters(tmp_path / "dead-picky.jsonl") == [(3, "no 3 here")]
    assert picky.rows == all_of(journal, 2)


def test_a_sink_that_was_emptied_gets_what_came_before_a_dead_letter(
    journal: Journal, deliver: Deliver, tmp_path: Path
) -> None:
    def down(sink: Sink, batch: Batch | None) -> None:
        raise Unavailable("so that the journal keeps all")

    picky = Sink(refuses(3))
    for _ in range(2):
        delivery = deliver(picky=picky, other=Sink(down))
        append(journal, delivery, 4)
        delivery.drain(5)
        assert [sequence for _, sequence in picky.rows] == [each for each in range(1, journal.last + 1) if each != 3]
        picky.rows.clear()
    assert letters(tmp_path / "dead-picky.jsonl") == [(3, "no 3 here")]


def test_a_dead_letter_that_cannot_be_written_waits(journal: Journal, deliver: Deliver, tmp_path: Path) -> None:
    path = tmp_path / "dead-picky.jsonl"
    path.mkdir()
    picky = Sink(refuses(1))
    delivery = deliver(picky=picky)
    append(journal, delivery, 2)
    wait_until(lambda: delivery.workers["picky"].progress.state == "down")
    assert journal.first_waiting() == 1
    path.rmdir()
    delivery.drain(5)
    assert letters(path) == [(1, "no 1 here")]
    assert [sequence for _, sequence in picky.rows] == [2]


def test_a_journal_that_was_rolled_back_goes_on_under_a_new_id(
    journal: Journal, deliver: Deliver, said: list[str]
) -> None:
    one, two = Sink(), Sink()
    old = journal.producer_id
    one.rows, two.rows = all_of(journal, 100), all_of(journal, 100)
    journal.append(make_messages(60))
    journal.prune(40)
    delivery = deliver(one=one, two=two)
    new = journal.producer_id
    assert new != old
    append(journal, delivery, 5)
    delivery.drain(5)
    assert one.rows[100:] == two.rows[100:] == [(new, sequence) for sequence in range(1, 6)]
    assert 1 <= len([line for line in said if "rolled back" in line]) <= 2  # each sink that knows speaks for itself
    assert len(journal.spans()) == 2


def test_a_rollback_that_shows_late_loses_nothing(
    journal: Journal, deliver: Deliver, tmp_path: Path, said: list[str]
) -> None:
    """The sink that knows better was down while the same sequences were given out again."""
    old = journal.producer_id
    journal.append(make_messages(60))
    journal.prune(60)
    up = threading.Event()
    failures = [3]

    def plan(sink: Sink, batch: Batch | None) -> None:
        if not up.is_set():
            raise Unavailable("nobody home")
        if batch and failures[0]:
            failures[0] -= 1
            raise Unavailable("not yet")

    late, third, other = Sink(plan), Sink(plan), Sink()
    clean = Sink(plan)
    for sink, rows in ((late, 100), (third, 100), (clean, 60), (other, 60)):
        sink.rows = all_of(journal, rows)
    delivery = deliver(late=late, third=third, clean=clean, other=other)
    append(journal, delivery, 70)  # 61-130 of the old id, of which 61-100 were given out before
    wait_until(lambda: len(other.rows) == 130)
    up.set()
    wait_until(lambda: journal.producer_id != old)
    append(journal, delivery, 5)
    delivery.drain(5)
    new = journal.producer_id
    assert late.rows[100:] == [*((old, sequence) for sequence in range(101, 131)), *((new, n) for n in range(1, 6))]
    assert third.rows == late.rows
    assert clean.rows == other.rows
    assert other.rows[130:] == [(new, n) for n in range(1, 6)]
    for name in ("late", "third"):
        buried = letters(tmp_path / f"dead-{name}.jsonl")
        assert [sequence for sequence, _ in buried] == list(range(61, 101))
        assert all("given out twice" in reason for _, reason in buried)
    assert not (tmp_path / "dead-clean.jsonl").exists()
    assert len(journal.spans()) == 2


def test_a_rollback_shows_to_a_sink_that_was_not_in_the_runs_since(
    journal: Journal, deliver: Deliver, tmp_path: Path, said: list[str]
) -> None:
    """What was buried before a crash in the middle of it is not buried again."""
    absent, other = Sink(), Sink()
    old = journal.producer_id
    deliver(absent=absent, other=other).drain(5)
    journal.append(make_messages(50))
    deliver(absent=absent, other=other).drain(5)
    absent.rows = all_of(journal, 100)  # it got these before the journal was rolled back to 50
    for _ in range(2):
        delivery = deliver(other=other)
        append(journal, delivery, 30)
        delivery.drain(5)
    journal.retire(journal.identities[0])  # as far as a run came that was killed
    path = tmp_path / "dead-absent.jsonl"
    path.write_bytes(b"".join(b'{"producer_id":"%b","sequence":%d,"reason":"given out twice"}\n' % (old.encode(), each)
                              for each in range(51, 61)))  # fmt: skip
    delivery = deliver(absent=absent, other=other)
    append(journal, delivery, 5)
    delivery.drain(5)
    new = journal.producer_id
    assert [sequence for sequence, _ in letters(path)] == list(range(51, 101))
    assert absent.rows[100:] == [*((old, each) for each in range(101, 111)), *((new, each) for each in range(1, 6))]
    assert delivery.held_by_all() == journal.last == 115
    assert len([line for line in said if "rolled back, going on" in line]) == 1


def test_a_sink_is_not_asked_for_an_id_of_which_nothing_waits(
    journal: Journal, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking Kafka fences whoever writes under that id: the original, where this journal was copied and adopted."""
    asked: list[str] = []
    answer = MemoryEmitter.last_sequence

    def ask(emitter: MemoryEmitter, producer_id: str) -> int:
        asked.append(producer_id)
        return answer(emitter, producer_id)

    monkeypatch.setattr(MemoryEmitter, "last_sequence", ask)
    sink, old = Sink(), journal.producer_id
    first = deliver(kafka=sink)
    append(journal, first, 3)
    wait_until(lambda: len(sink.rows) == 3)
    first.drain(1)
    journal.begin_identity()
    deliver(kafka=sink).drain(1)
    assert asked == [old, old, journal.producer_id]  # its rows still wait
    journal.prune(3)
    last = deliver(kafka=sink)
    append(journal, last, 2)
    wait_until(lambda: len(sink.rows) == 5)
    assert asked[3:] == [journal.producer_id]
    assert sink.rows == [(old, 1), (old, 2), (old, 3), (journal.producer_id, 1), (journal.producer_id, 2)]


def test_a_sink_behind_the_journal_is_told_once_with_the_range(
    journal: Journal, deliver: Deliver, said: list[str]
) -> None:
    journal.owe(["one", "two"])
    for sink in ("one", "two"):
        journal.offer(sink)
    journal.append(make_messages(50))
    journal.prune(50)
    journal.append(make_messages(10))
    one, two = Sink(fails(5)), Sink()
    one.rows = all_of(journal, 20)
    two.rows = all_of(journal, 50)
    delivery = deliver(one=one, two=two)
    wait_until(lambda: delivery.held_by_all() == 60)
    assert one.rows == [*all_of(journal, 20), *all_of(journal, 60)[50:]]
    assert two.rows == all_of(journal, 60)
    told = [line for line in said if "lacks" in line]
    assert len(told) == 1
    assert told[0].startswith(
        f"WARNING one: lacks sequences 21-50 of {journal.producer_id}, which the journal no longer"
    )


def test_a_sink_that_begins_later_owes_nothing_from_before(journal: Journal, deliver: Deliver, said: list[str]) -> None:
    one = Sink()
    delivery = deliver(one=one)
    append(journal, delivery, 10)
    delivery.drain(5)
    two = Sink()
    delivery = deliver(one=one, two=two)
    append(journal, delivery, 5)
    delivery.drain(5)
    assert one.rows == all_of(journal, 15)
    assert two.rows == all_of(journal, 15)[10:]
    assert said == []


def test_a_sink_not_in_this_run_is_still_owed(journal: Journal, deliver: Deliver) -> None:
    one, two = Sink(), Sink()
    delivery = deliver(one=one, two=two)
    append(journal, delivery, 10)
    delivery.drain(5)
    journal.prune(delivery.held_by_all())
    delivery = deliver(one=one)
    append(journal, delivery, 10)
    delivery.drain(5)
    journal.prune(delivery.held_by_all())
    assert journal.first_waiting() == 11
    delivery = deliver(one=one, two=two)
    delivery.drain(5)
    journal.prune(delivery.held_by_all())
    assert one.rows == two.rows == all_of(journal, 20)
    assert journal.first_waiting() == 21


def test_rows_that_go_while_a_sink_is_asked_again_are_told(
    journal: Journal, deliver: Deliver, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink is emptied; an append that knew its old cursor prunes between asking and reading."""
    sink = Sink()
    delivery = deliver(one=sink)
    append(journal, delivery, 10)
    wait_until(lambda: delivery.held_by_all() == 10)
    monkeypatch.setattr(journal, "_remembered", lambda after: [])
    first_waiting = journal.first_waiting

    def then_pruned() -> int:
        first = first_waiting()
        journal.prune(10)
        return first

    def replaced(sink: Sink, batch: Batch | None) -> None:
        if batch:
            sink.rows.clear()
            sink.plan = lambda sink, batch: None
            monkeypatch.setattr(journal, "first_waiting", then_pruned)
            raise Unavailable("replaced")

    sink.plan = replaced
    journal.append(make_messages(5))
    delivery.wake()
    wait_until(lambda: len(sink.rows) == 5)
    assert [line for line in said if "lacks sequences 1-10" in line]


Failures = list[tuple[str, int]]


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from(["connect", "emit", "none"]), st.integers(0, 40)), max_size=12),
    st.integers(1, 25),
)
def test_whatever_fails_each_message_is_stored_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, appends: list[int], failures: Failures, max_batch: int
) -> None:
    left = list(failures)

    def plan(sink: Sink, batch: Batch | None) -> None:
        if left:
            when, stored = left[0]
            if when == "none" or (when == "connect") == (batch is None):
                left.pop(0)
                if when == "none":
                    return
                if batch and stored:
                    sink.store(batch.between(batch.first, min(batch.last, batch.first + stored - 1)))
                raise Unavailable("as planned")

    folder = tmp_path_factory.mktemp("delivery")
    logger.remove()
    with pytest.MonkeyPatch.context() as patch, closing(Journal(folder / "ann.sqlite")) as journal:
        patch.setattr(Backoff, "next_s", lambda self: 0.0)
        patch.setattr(delivery_module, "MAX_BATCH", max_batch)
        sink = Sink(plan)
        delivery = Delivery(journal, {"one": sink.connect}, lambda name: folder / name)
        delivery.start([], 0)
        for amount in appends:
            append(journal, delivery, amount)
        wait_until(lambda: delivery.held_by_all() == sum(appends))
        delivery.drain(5)
        assert sink.rows == all_of(journal, sum(appends))
        assert sink.open_now == 0
