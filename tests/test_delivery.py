"""Workers with sinks in memory that fail as planned: retry, resume, dead letters, copies, backups, losses."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loguru import logger

from tests.helpers import make_messages, open_files_stay, wait_until
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.delivery import journal as journal_module
from utils.delivery import worker
from utils.delivery.journal import Journal
from utils.delivery.worker import MAX_REJECTED, Delivery
from utils.emitters.base import Connect, Emitter
from utils.emitters.file_emitter import FileEmitter
from utils.records.record import Batch
from utils.records.stream import BUZZ

Row = tuple[str, int]
Plan = Callable[["Sink", Batch | None], None]


class Sink:
    """A sink in memory; `plan` is called with each batch (None when connecting) and may raise."""

    def __init__(self, plan: Plan | None = None, *, max_records: int = 20_000) -> None:
        self.rows: list[Row] = []
        self.asked: list[list[str]] = []
        self.marks: list[str] = []
        self.plan = plan or (lambda sink, batch: None)
        self.max_records = max_records
        self.silent = 0  # number of calls of `last` that fail
        self.open_now = 0
        self.lock = threading.Lock()

    def store(self, batch: Batch) -> None:
        self.rows += [(batch.producer_id, sequence) for sequence in range(batch.first, batch.last + 1)]

    def connect(self, mark: str) -> Emitter:
        self.plan(self, None)
        self.marks.append(mark)
        self.open_now += 1
        return MemoryEmitter(self, mark)

    @property
    def sequences(self) -> list[int]:
        return [sequence for _, sequence in self.rows]


class MemoryEmitter:
    """An emitter that keeps the contract: errors and rejections leave a prefix; deliveries of others are noticed."""

    def __init__(self, sink: Sink, mark: str) -> None:
        self.sink, self.mark, self.max_records = sink, mark, sink.max_records
        self._seen = len(sink.rows)

    def last(self, producer_ids: Sequence[str]) -> Row | None:
        self.sink.asked.append(list(producer_ids))
        if len(self.sink.asked) <= self.sink.silent:
            raise Unavailable("no leader yet")
        self._seen = len(self.sink.rows)
        for producer_id in reversed(producer_ids):
            if found := [sequence for run, sequence in self.sink.rows if run == producer_id]:
                return producer_id, max(found)
        return None

    def emit(self, batch: Batch) -> None:
        with self.sink.lock:  # as in every sink, nobody else stores between the check and the write
            self._emit(batch)

    def _emit(self, batch: Batch) -> None:
        if any(run == batch.producer_id for run, _ in self.sink.rows[self._seen :]):
            raise Unavailable("another process delivered this run")
        try:
            self.sink.plan(self.sink, batch)
        except Rejected as error:
            if error.sequence > batch.first:
                self.sink.store(batch.between(batch.first, error.sequence - 1))
            raise
        self.sink.store(batch)
        self._seen = len(self.sink.rows)
        self.mark = f"at {len(self.sink.rows)}"

    def close(self) -> None:
        self.sink.open_now -= 1


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "backoff", lambda: repeat(0.001))


class Machine:
    """A data folder: the journal of one producer over several runs, and the dead letters of its sinks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ann.sqlite"
        self.delivery: Delivery | None = None
        self.begin()

    def begin(self) -> None:
        """Begin a run."""
        self.journal = Journal(self.path, BUZZ)

    def letter_path(self, sink: str) -> Path:
        return self.folder / f"dead-{sink}.jsonl"

    def letters(self, sink: str) -> list[tuple[int, str]]:
        lines = self.letter_path(sink).read_text(encoding="utf-8").splitlines()
        return [(record["sequence"], record["reason"]) for record in map(json.loads, lines)]

    def deliver(self, **sinks: Sink) -> Delivery:
        connects: dict[str, Connect] = {name: sink.connect for name, sink in sinks.items()}
        self.delivery = Delivery(self.journal, connects, self.letter_path)
        self.delivery.start(tuple(sinks), 5)
        return self.delivery

    def append(self, amount: int, delivery: Delivery | None = None) -> list[Row]:
        """Acknowledge records; return their ids."""
        delivery = delivery or self.delivery
        journal = self.journal
        batch = Batch.of_records(make_messages(amount), journal.producer_id, journal.last + 1, BUZZ.codec)
        journal.append(batch)
        if delivery:
            delivery.wake()
        return [(batch.producer_id, sequence) for sequence in range(batch.first, batch.last + 1)]

    def end(self, drain_s: float = 30) -> None:
        """End the run as a producer does."""
        if self.delivery:
            self.delivery.drain(drain_s)
            self.journal.prune()
        self.delivery = None
        self.journal.close()

    def stop(self) -> None:
        """End the run without delivering anything more."""
        if self.delivery:
            self.delivery.drain(0)
        self.delivery = None
        self.journal.close()

    def run(self, amount: int, **sinks: Sink) -> list[Row]:
        """Make a whole run; return the ids of its records."""
        self.deliver(**sinks)
        made = self.append(amount)
        self.end()
        self.begin()
        return made


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with TemporaryMachine(tmp_path / "data") as made:
        yield made


class TemporaryMachine(Machine):
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def fails(times: int, *, store: int = 0, when: str = "emit") -> Plan:
    """Return a plan in which the first `times` attempts store `store` rows and then fail."""
    left = [times]

    def plan(sink: Sink, batch: Batch | None) -> None:
        if (batch is None) == (when == "connect") and left[0]:
            left[0] -= 1
            if batch and store:
                sink.store(batch.between(batch.first, batch.first + store - 1))
            raise Unavailable("the disk is on fire")

    return plan


def low_watermark(delivery: Delivery) -> int:
    """Return the place up to which every subscribed sink stores everything."""
    return delivery.journal.last - max(delivery.journal.pending().values())


def is_down(sink: Sink, batch: Batch | None) -> None:
    raise Unavailable("nobody home")


def lines_with(logged: list[str], word: str, level: str = "") -> list[str]:
    return [line for line in logged if word in line and line.startswith(level) and not line.startswith("DEBUG")]


def test_every_sink_gets_everything_in_order(machine: Machine) -> None:
    one, two = Sink(), Sink()
    delivery = machine.deliver(one=one, two=two)
    made = [row for _ in range(20) for row in machine.append(7)]
    delivery.drain(5)
    assert one.rows == two.rows == made
    assert low_watermark(delivery) == 140
    assert one.open_now == two.open_now == 0
    assert not any(worker.is_alive() for worker in delivery.workers.values())


def test_a_batch_is_as_large_as_the_emitter_takes(machine: Machine) -> None:
    sizes: list[int] = []
    sink = Sink(lambda sink, batch: sizes.append(batch.count) if batch else None, max_records=8)
    machine.journal.subscribe(["one"])
    machine.append(30)
    machine.deliver(one=sink).drain(5)
    assert sizes == [8, 8, 8, 6]


@pytest.mark.parametrize("stored", [0, 1, 4, 10])
def test_after_a_failed_emit_the_sink_is_asked_again(machine: Machine, stored: int, logged: list[str]) -> None:
    """After a failure the worker asks the sink before it sends again: the batch may have arrived whole or in part."""
    sink = Sink(fails(20 if not stored else 3, store=stored))
    delivery = machine.deliver(one=sink)
    made = machine.append(30)
    delivery.drain(5)
    assert sink.rows == made
    assert lines_with(logged, "unavailable") == [
        "WARNING one: unavailable, records are pending in the journal: the disk is on fire"
    ]
    assert len(lines_with(logged, "delivering again")) == 1
    assert sink.open_now == 0


def test_a_sink_that_stores_is_up_though_more_is_pending(machine: Machine, logged: list[str]) -> None:
    def every_second(sink: Sink, batch: Batch | None) -> None:
        if batch and len(sink.asked) <= batch.first:
            raise Unavailable("the disk is on fire")

    sink = Sink(every_second, max_records=1)
    delivery = machine.deliver(one=sink)
    machine.append(3)
    delivery.drain(5)
    assert len(sink.rows) == len(lines_with(logged, "unavailable")) == 3
    assert delivery.workers["one"].status.reason == ""


def test_a_stalled_sink_stops_no_other(machine: Machine) -> None:
    hold = threading.Event()
    slow, fast = Sink(lambda sink, batch: (batch and hold.wait(20), None)[1]), Sink()
    delivery = machine.deliver(slow=slow, fast=fast)
    for _ in range(10):
        machine.append(5)
    wait_until(lambda: len(fast.rows) == 50)
    assert slow.rows == []
    assert low_watermark(delivery) == 0
    hold.set()
    delivery.drain(5)
    assert slow.rows == fast.rows


def test_an_unknown_error_is_logged_once_and_retried(machine: Machine, logged: list[str]) -> None:
    left = [30]

    def plan(sink: Sink, batch: Batch | None) -> None:
        if batch and left[0]:
            left[0] -= 1
            raise ZeroDivisionError("a bug")

    odd, other = Sink(plan), Sink()
    delivery = machine.deliver(odd=odd, other=other)
    made = machine.append(5)
    delivery.drain(5)
    assert odd.rows == other.rows == made
    assert len(lines_with(logged, "unexpected ZeroDivisionError('a bug')", "ERROR")) == 1
    assert odd.open_now == 0


def test_a_sink_that_was_never_reached_is_tried_once_more_at_the_end(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "backoff", lambda: repeat(60.0))
    delivery = machine.deliver(one=Sink(is_down))
    machine.append(1)
    delivery.drain(30)  # returns long before
    assert not delivery.workers["one"].is_alive()
    assert machine.journal.pending() == {"one": 1}


def test_a_drain_waits_for_a_sink_that_connected_and_then_failed(machine: Machine) -> None:
    """A sink that answered but failed at its first batch is tried again until the drain ends."""
    draining = threading.Event()
    fail = fails(10)

    def plan(sink: Sink, batch: Batch | None) -> None:
        if batch:
            assert draining.wait(10)
        fail(sink, batch)

    sink = Sink(plan)
    machine.journal.subscribe(["one"])
    made = machine.append(5)
    delivery = machine.deliver(one=sink)
    delivery.until = "drained"
    draining.set()
    delivery.drain(5)
    assert sink.rows == made


def test_a_drain_waits_for_a_sink_that_connects_but_cannot_answer_yet(machine: Machine) -> None:
    """A sink whose `last` fails is tried again until the drain ends, such as a broker that has just started."""
    sink = Sink()
    sink.silent = 3
    machine.journal.subscribe(["one"])
    made = machine.append(5)
    delivery = Delivery(machine.journal, {"one": sink.connect}, machine.letter_path)
    delivery.until = "drained"
    delivery.start((), 0)
    delivery.drain(5)
    assert len(sink.asked) == 4
    assert sink.rows == made


def test_a_drain_ends_within_its_bound(machine: Machine) -> None:
    hold = threading.Event()
    sink = Sink(lambda sink, batch: (batch and hold.wait(20), None)[1], max_records=1)
    delivery = machine.deliver(one=sink)
    machine.append(5)
    delivery.drain(0.05)
    assert delivery.workers["one"].is_alive()  # still inside the library's call
    hold.set()
    delivery.workers["one"].join(5)
    assert len(sink.rows) == 1  # it stops after the present batch


# Errors that only the user can fix


def test_an_error_that_only_the_user_can_fix_ends_the_start(machine: Machine, logged: list[str]) -> None:
    def plan(sink: Sink, batch: Batch | None) -> None:
        raise ToolkitError("that is no database")

    other = Sink()
    with pytest.raises(ToolkitError, match="that is no database"):
        machine.deliver(one=Sink(plan), other=other)
    wait_until(lambda: not other.open_now)
    assert logged == []  # the caller prints it


@pytest.mark.parametrize("looked", [True, False])
def test_an_error_that_only_the_user_can_fix_ends_one_worker(machine: Machine, looked: bool, logged: list[str]) -> None:
    """One worker ends and the others continue, also for a sink such as Kafka that the start does not wait for."""
    started = threading.Event()

    def plan(sink: Sink, batch: Batch | None) -> None:
        if batch or not looked:
            assert started.wait(10)
            raise ToolkitError("that is no database")

    spoilt, other = Sink(plan), Sink()
    delivery = Delivery(machine.journal, {"spoilt": spoilt.connect, "other": other.connect}, machine.letter_path)
    delivery.start(["other"], 5)
    started.set()
    made = machine.append(5, delivery)
    delivery.drain(5)
    assert other.rows == made
    assert str(delivery.workers["spoilt"].status.failure) == "that is no database"
    assert logged == ["ERROR spoilt: given up: that is no database"]
    assert machine.journal.pending() == {"spoilt": 5, "other": 0}


def test_a_failure_right_after_the_check_of_the_start_is_logged(machine: Machine, logged: list[str]) -> None:
    def plan(sink: Sink, batch: Batch | None) -> None:
        raise ToolkitError("that is no database")

    delivery = Delivery(machine.journal, {"spoilt": Sink(plan).connect}, machine.letter_path)
    worker = delivery.workers["spoilt"]
    with delivery.changed:  # held by `start` while it checks
        worker.start()
        worker.join(0.1)
        delivery.is_starting = False
    worker.join(5)
    assert logged == ["ERROR spoilt: given up: that is no database"]


# Runs


def test_a_sink_is_asked_for_all_runs_that_have_records(machine: Machine) -> None:
    sink = Sink()
    ids = [machine.run(3, one=sink)[0][0] for _ in range(3)]
    machine.deliver(one=sink)
    assert sink.asked[-1] == ids
    machine.append(1)
    machine.end()
    machine.begin()
    assert sink.sequences == list(range(1, 11))


def test_the_run_is_durable_before_any_sink_is_opened(machine: Machine) -> None:
    """The new run's commit also syncs what a killed process left unsynced, before a sink can get rows of it."""
    seen: list[list[Row]] = []

    def look(sink: Sink, batch: Batch | None) -> None:
        with closing(sqlite3.connect(machine.path)) as other:
            seen.append(other.execute("SELECT producer_id, first FROM runs ORDER BY run").fetchall())

    machine.run(3, one=Sink())
    machine.deliver(one=Sink(look))
    assert seen[0][-1] == (machine.journal.producer_id, 4)


def test_the_journal_commits_with_full_sync(machine: Machine) -> None:
    ((mode,),) = machine.journal._file.query("PRAGMA synchronous")
    assert mode == 2


def test_mark_and_cursor_are_durable_before_the_first_emit(machine: Machine) -> None:
    """A search of the topic begins at the mark."""
    kept: list[Row] = []

    class Marked(Sink):
        def connect(self, mark: str) -> Emitter:
            emitter = super().connect(mark)
            assert isinstance(emitter, MemoryEmitter)
            emitter.mark = mark or "found by last"
            return emitter

    def look(sink: Sink, batch: Batch | None) -> None:
        if batch:
            with closing(sqlite3.connect(machine.path)) as other:
                kept.extend(other.execute("SELECT mark, reached FROM subscriptions").fetchall())

    sink = Marked(look)
    machine.journal.subscribe(["one"])
    machine.append(3)  # no append stores them in between
    machine.deliver(one=sink)
    machine.end()
    machine.begin()
    assert kept == [("found by last", 0)]
    assert sink.marks == [""]
    sink.plan = lambda sink, batch: None
    machine.run(1, one=sink)
    assert sink.marks == ["", "at 3"]


# Copies and backups


def test_two_copies_of_a_folder_at_once_deliver_pending_records_once(machine: Machine, tmp_path: Path) -> None:
    sinks = {"one": Sink(), "two": Sink()}
    machine.run(10, **sinks)
    for sink in sinks.values():
        sink.plan = is_down
    pending = machine.run(4_000, **sinks)
    for sink in sinks.values():
        sink.plan = lambda sink, batch: None
        sink.max_records = 50
    machine.stop()
    copied = shutil.copytree(machine.folder, tmp_path / "copy")
    machine.begin()
    with TemporaryMachine(copied) as copy:
        deliveries = [each.deliver(**sinks) for each in (machine, copy)]
        made = [row for _ in range(30) for each in (machine, copy) for row in each.append(7)]
        for delivery in deliveries:
            delivery.drain(20)
            assert low_watermark(delivery) == 10 + 4_000 + 30 * 7
    for sink in sinks.values():
        assert len(sink.rows) == len(set(sink.rows))
        assert set(sink.rows[10:]) == set(pending) | set(made)
        for run in {run for run, _ in sink.rows}:
            sequences = [sequence for producer_id, sequence in sink.rows if producer_id == run]
            assert sequences == sorted(sequences)


def test_a_journal_restored_from_an_older_copy_needs_nothing(
    machine: Machine, tmp_path: Path, logged: list[str]
) -> None:
    one, two = Sink(), Sink()
    made = machine.run(10, one=one, two=two)
    machine.stop()
    backup = machine.path.read_bytes()
    machine.begin()
    lost = machine.run(20, one=one, two=two)
    machine.stop()
    machine.path.write_bytes(backup)
    machine.begin()
    again = machine.run(5, one=one, two=two)
    again += machine.run(5, one=one, two=two)
    assert one.rows == two.rows == [*made, *lost, *again]
    assert [sequence for _, sequence in again] == list(range(11, 21))
    assert logged == []


def test_a_sink_that_is_ahead_of_its_run_is_clamped_with_one_warning(machine: Machine, logged: list[str]) -> None:
    """A sequence above the assigned ones is ignored with one warning: a restored journal, or an external row."""
    sink = Sink()
    made = machine.run(10, one=sink)
    sink.rows += [(made[0][0], sequence) for sequence in range(11, 1_000)]
    stored = len(sink.rows)
    sink.plan = fails(10)
    again = machine.run(30, one=sink)
    assert sink.rows[stored:] == again
    assert again[0][1] == 11
    (warning,) = lines_with(logged, "contains sequence 999")
    assert warning.endswith("but the journal assigned only 10: was the journal restored?")


@open_files_stay
def test_an_older_process_delivers_only_what_it_acknowledged(machine: Machine) -> None:
    """After a second producer took over a journal whose PID file was removed, nothing is lost or delivered twice."""
    sink = Sink()
    machine.deliver(one=sink)
    made = machine.append(10)
    for lock in machine.folder.glob("ann.pid*"):
        lock.unlink()
    with TemporaryMachine(machine.folder) as newer:
        newer.deliver(one=sink)
        made += newer.append(3)
        with pytest.raises(ToolkitError, match="another process writes"):
            machine.append(7)
        made += newer.append(4)
        newer.end()
        newer.begin()
    assert sink.rows == made


@pytest.mark.parametrize(("kept", "rest"), [(15, "16 to 20 have left the journal"), (20, "the journal has the rest")])
def test_a_sink_replaced_by_its_backup_gets_all_that_is_in_the_journal(
    machine: Machine, logged: list[str], kept: int, rest: str
) -> None:
    one, slow = Sink(), Sink()
    machine.run(20, one=one, slow=slow)
    slow.plan = is_down
    machine.run(20, one=one, slow=slow)
    made = list(one.rows)
    del one.rows[kept:]  # a backup
    one.plan = fails(5)
    made += machine.run(5, one=one, slow=slow)
    assert one.rows == [*made[:kept], *made[20:]]
    (warning,) = lines_with(logged, "replaced by an older copy")
    assert warning == (
        f"WARNING one: contains sequences up to {kept}, but had 40: it was replaced by an older copy; {rest}"
    )
    slow.plan = lambda sink, batch: None
    made += machine.run(1, one=one, slow=slow)
    assert slow.rows == made
    assert one.rows == [*made[:kept], *made[20:]]


def test_rows_that_leave_the_journal_while_a_sink_is_asked_again_are_named(
    machine: Machine, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink was emptied while an append pruned by its old cursor: the records that are gone are named."""
    monkeypatch.setattr(journal_module, "RECENT_RECORDS", 0)
    sink = Sink()
    delivery = machine.deliver(one=sink, slow=Sink(is_down))
    machine.append(10)
    wait_until(lambda: delivery.journal.pending()["one"] == 0)
    journal, real = machine.journal, machine.journal.note_reached

    def then_pruned(name: str, reached: int, mark: str, *, durable: bool) -> None:
        monkeypatch.setattr(journal, "note_reached", real)
        real("slow", 10, "")
        journal.prune()
        real(name, reached, mark, durable=durable)

    def replaced(sink: Sink, batch: Batch | None) -> None:
        if batch:
            sink.rows.clear()
            sink.plan = lambda sink, batch: None
            monkeypatch.setattr(journal, "note_reached", then_pruned)
            raise Unavailable("replaced")

    sink.plan = replaced
    made = machine.append(5, None)
    delivery.wake()
    wait_until(lambda: len(sink.rows) == 5)
    assert sink.rows == made
    assert lines_with(logged, "one: contains sequences up to 0 only, and those after it have just left the journal")


def test_a_worker_survives_that_its_next_records_have_left_the_journal(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(journal_module, "RECENT_RECORDS", 0)
    sink = Sink()
    delivery = machine.deliver(one=sink)
    machine.append(10)
    wait_until(lambda: low_watermark(delivery) == 10)
    read = machine.journal.read
    monkeypatch.setattr(machine.journal, "read", lambda after, most: monkeypatch.undo())  # a single time
    made = machine.append(5)
    wait_until(lambda: sink.rows[10:] == made)
    assert read(10, 5) is not None
    assert not lines_with(logged, "unexpected")


# Dead letters


def rejects(*sequences: int) -> Plan:
    def plan(sink: Sink, batch: Batch | None) -> None:
        for sequence in sequences:
            if batch and batch.first <= sequence <= batch.last:
                raise Rejected(sequence, f"no {sequence} here")

    return plan


def without(rows: list[Row], *sequences: int) -> list[Row]:
    return [row for row in rows if row[1] not in sequences]


def test_rejected_records_go_to_the_dead_letters_with_their_reason(machine: Machine, logged: list[str]) -> None:
    picky, other = Sink(rejects(1, 7, 8, 20)), Sink()
    delivery = machine.deliver(picky=picky, other=other)
    made = machine.append(10) + machine.append(10)
    delivery.drain(5)
    assert picky.rows == without(made, 1, 7, 8, 20)
    assert other.rows == made
    assert machine.letters("picky") == [(number, f"no {number} here") for number in (1, 7, 8, 20)]
    line = machine.letter_path("picky").read_bytes().splitlines()[0]
    assert BUZZ.codec.decode(line).message == "hello 1"
    assert delivery.workers["picky"].status.dead_letters == 4
    assert low_watermark(delivery) == 20
    assert len(lines_with(logged, "went to", "ERROR")) == 4


def test_dead_letters_far_apart_stay_through_outages_and_runs(machine: Machine) -> None:
    """Letters with gaps between them survive outages and restarts: they do not look like the hole of a power cut."""
    picky = Sink(rejects(3, 9, 24))
    made: list[Row] = []
    for _ in range(3):
        machine.deliver(picky=picky)
        made += machine.append(6) + machine.append(6)
        machine.end()
        machine.begin()
    assert picky.rows == without(made, 3, 9, 24)
    assert [sequence for sequence, _ in machine.letters("picky")] == [3, 9, 24]


def test_a_dead_letter_counts_for_the_cursor(machine: Machine) -> None:
    picky = Sink(rejects(3))
    made = machine.run(3, picky=picky)
    machine.deliver(picky=picky)
    assert machine.journal.pending() == {"picky": 0}
    machine.end()
    machine.begin()
    assert machine.letters("picky") == [(3, "no 3 here")]
    assert picky.rows == made[:2]


def test_dead_letters_skip_only_records_directly_behind_the_cursor(machine: Machine) -> None:
    """An emptied sink gets the records before a dead letter again, as long as the journal has them."""
    picky = Sink(rejects(3))
    made: list[Row] = []
    for _ in range(2):
        made += machine.run(4, picky=picky, other=Sink(is_down))
        assert picky.rows == without(made, 3)
        picky.rows.clear()
    assert machine.letters("picky")[0] == (3, "no 3 here")


def test_a_dead_letter_directly_behind_pruned_records_is_written_once(machine: Machine) -> None:
    """The sink may also have been emptied."""
    picky, other = Sink(rejects(3)), Sink()
    made = machine.run(2, picky=picky, other=other)
    other.plan = is_down
    made += machine.run(2, picky=picky, other=other)
    assert machine.journal.pruned == 2
    picky.rows.clear()
    made += machine.run(1, picky=picky, other=other)
    assert picky.rows == made[3:]
    assert machine.letters("picky") == [(3, "no 3 here")]


def test_a_crash_right_after_a_dead_letter_loses_nothing(machine: Machine) -> None:
    """A kill after the dead letter was written loses neither the record before it nor the one behind it."""
    picky = Sink(rejects(5))
    machine.deliver(picky=picky)
    made = machine.append(9)
    wait_until(lambda: len(picky.rows) == 8)
    machine.stop()
    del picky.rows[4:]  # the records behind the letter were not stored yet
    machine.begin()
    made += machine.run(2, picky=picky)
    assert picky.rows == without(made, 5)
    assert machine.letters("picky") == [(5, "no 5 here")]


def test_dead_letters_of_another_copy_of_the_journal_hide_no_record(machine: Machine) -> None:
    """The restored journal assigns their sequences under a new id."""
    picky = Sink(rejects(15))
    machine.deliver(picky=picky)
    machine.append(10)
    backup = machine.folder.parent / "backup.sqlite"
    with closing(sqlite3.connect(machine.path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)  # in the middle of a run
    machine.append(10)
    wait_until(lambda: len(picky.rows) == 19)
    machine.stop()
    shutil.copy(backup, machine.path)
    machine.begin()
    picky.plan = lambda sink, batch: None
    machine.deliver(picky=picky)
    made = machine.append(4)
    wait_until(lambda: picky.rows[-4:] == made)
    picky.plan = fails(3)
    made += machine.append(5)
    machine.end()
    machine.begin()
    assert [sequence for _, sequence in made] == list(range(11, 20))
    assert picky.rows[-9:] == made


def test_ten_rejections_in_a_row_stop_the_worker(machine: Machine, logged: list[str]) -> None:
    machine.deliver(picky=Sink(rejects(*range(1, 100))), other=Sink())
    machine.append(50)
    delivery = machine.delivery
    assert delivery
    wait_until(lambda: delivery.workers["picky"].status.failure)
    assert "rejected: no 11 here" in str(delivery.workers["picky"].status.failure)
    assert [sequence for sequence, _ in machine.letters("picky")] == list(range(1, MAX_REJECTED + 1))
    delivery.drain(5)
    assert machine.journal.pending() == {"picky": 40, "other": 0}
    assert len(lines_with(logged, "given up", "ERROR")) == 1


@pytest.mark.parametrize("max_records", [1, 1_000])
def test_rejections_with_a_record_stored_between_do_not_stop_the_worker(machine: Machine, max_records: int) -> None:
    even = range(2, 101, 2)
    picky = Sink(rejects(*even), max_records=max_records)
    made = machine.run(100, picky=picky)
    assert picky.rows == without(made, *even)


def test_a_dead_letter_that_cannot_be_written_is_pending(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def full(emitter: FileEmitter, batch: Batch) -> None:
        tries.append(batch.first)
        raise Unavailable("no space left")

    picky = Sink(rejects(1))
    delivery = machine.deliver(picky=picky)
    with monkeypatch.context() as patch:
        patch.setattr(FileEmitter, "emit", full)
        made = machine.append(2)
        wait_until(lambda: len(tries) > MAX_REJECTED + 5)
        assert machine.journal.pending() == {"picky": 2}
    delivery.drain(5)
    assert delivery.workers["picky"].status.failure is None
    assert machine.letters("picky") == [(1, "no 1 here")]
    assert picky.rows == made[1:]


# Random failures


Failures = list[tuple[str, int]]


@pytest.mark.proof(
    "an acknowledged record is in every sink, once and in order",
    "random failures while connecting and emitting, rejections and restarts, against a model",
    full=60,
)
@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 30), st.just(0)), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from(["connect", "emit", "reject", "none"]), st.integers(0, 40)), max_size=12),
    st.integers(1, 25),
)
def test_whatever_fails_each_record_is_stored_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, appends: list[int], failures: Failures, max_records: int
) -> None:
    """In any plan of failures and restarts (0 ends a run), a record is stored once in order or is a dead letter."""
    left = list(failures)
    rejected: set[int] = set()

    def plan(sink: Sink, batch: Batch | None) -> None:
        if batch:
            for sequence in range(batch.first, batch.last + 1):
                if sequence in rejected:
                    raise Rejected(sequence, "as before")
        if left:
            when, number = left[0]
            if when == "none" or (when == "connect") == (batch is None):
                left.pop(0)
                if when == "none":
                    return
                if batch and when == "reject":
                    rejected.add(min(batch.last, batch.first + number))
                    raise Rejected(min(batch.last, batch.first + number), "as planned")
                if batch and number:
                    sink.store(batch.between(batch.first, min(batch.last, batch.first + number - 1)))
                raise Unavailable("as planned")

    logger.remove()
    sink = Sink(plan, max_records=max_records)
    made: list[Row] = []
    with pytest.MonkeyPatch.context() as patch, TemporaryMachine(tmp_path_factory.mktemp("delivery")) as machine:
        patch.setattr(worker, "backoff", lambda: repeat(0.0))
        machine.deliver(one=sink)
        for amount in appends:
            if amount:
                made += machine.append(amount)
            else:
                machine.stop()
                machine.begin()
                machine.deliver(one=sink)
        delivery = machine.delivery
        assert delivery
        wait_until(lambda: low_watermark(delivery) == len(made))
        delivery.drain(5)
        assert sink.rows == without(made, *rejected)
        assert sink.open_now == 0
