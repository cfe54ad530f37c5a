"""The journal alone: acknowledgement, identity, owed sinks, pruning, restarts and copies."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import make_messages, run_python, start_python
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import sqlite
from utils.delivery import journal as journal_module
from utils.delivery.journal import Journal
from utils.records.record import timestamp_text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "ann.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path)) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite.connect
    monkeypatch.setattr(sqlite, "connect", lambda path, wait_s: real(path, wait_s=0.05))


def test_sequences_go_on_across_restarts_and_pruning(path: Path) -> None:
    ids = set()
    for run in range(4):
        with closing(Journal(path)) as journal:
            ids.add(journal.producer_id)
            batch = journal.append(make_messages(5))
            assert (batch.first, batch.last) == (5 * run + 1, 5 * run + 5)
            assert [message.sequence for message in batch.messages] == list(range(batch.first, batch.last + 1))
            if run % 2:
                journal.prune(journal.last)
    (producer_id,) = ids
    assert producer_id.startswith("ann-")


def test_a_new_journal_is_a_new_producer(path: Path) -> None:
    with closing(Journal(path)) as journal:
        first = journal.producer_id
    for file in path.parent.iterdir():
        file.unlink()
    with closing(Journal(path)) as journal:
        assert journal.producer_id != first


def test_what_append_returned_from_is_on_disk(journal: Journal, path: Path) -> None:
    lines = journal.append(make_messages(3)).lines
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT last, count, lines FROM batches").fetchall() == [(3, 3, lines)]


def test_a_refused_message_takes_no_sequence(journal: Journal) -> None:
    journal.append(make_messages(2))
    with pytest.raises(ValueError, match="Unicode"):
        journal.append(make_messages(1, text="\ud800"))
    assert journal.append(make_messages(1)).first == 3


def test_a_locked_journal_takes_the_same_messages_later(path: Path, impatient: None) -> None:
    messages = make_messages(2)
    with closing(Journal(path)) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            journal.append(messages, delivered=0)
        assert journal.waiting_bytes == 0
        other.execute("ROLLBACK")
        assert journal.append(messages).last == 2


def test_reading_gives_what_was_appended_from_memory_or_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RECENT_MESSAGES", 10)
    with closing(Journal(path)) as journal:
        appended = b"".join(journal.append(make_messages(7)).lines for _ in range(9))
        for step in (1, 3, 7, 10, 100):
            reached, parts = 0, []
            while batch := journal.read(reached, step):
                assert batch.first == reached + 1
                assert batch.count <= step
                reached = batch.last
                parts.append(batch.lines)
            assert (reached, b"".join(parts)) == (63, appended)


def test_a_batch_for_the_sinks_is_bounded_in_bytes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BATCH_BYTES", 2_500)
    for _ in range(6):
        journal.append(make_messages(1, text="x" * 1000))
    batch = journal.read(0, 100)
    assert batch is not None
    assert batch.last == 2


def test_owed_until_forgotten(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.owe(["file", "sqlite"])
        journal.append(make_messages(4))
        journal.owe(["file", "duckdb"])
    with closing(Journal(path)) as journal:
        assert {sink: owed.after for sink, owed in journal.owed().items()} == {"file": 0, "sqlite": 0, "duckdb": 4}
        assert journal.owed()["file"].since.endswith("Z")
        journal.forget(["sqlite"])
    with closing(Journal(path)) as journal:
        assert list(journal.owed()) == ["file", "duckdb"]


def test_a_clock_that_is_set_back_makes_no_sink_owed_later_than_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent before `owed_since` is not found again in a topic, and would be sent a second time."""
    right = 1_790_000_000.0

    def clock(hours: float) -> float:
        monkeypatch.setattr(time, "time", lambda: right + hours * 3600)
        return right + hours * 3600

    def append(journal: Journal, hours: float) -> None:
        (made,) = make_messages(1)
        made.timestamp = timestamp_text(right + hours * 3600)
        journal.append([made])

    with closing(Journal(path)) as journal:
        ahead_s = clock(5)
        journal.owe(["kafka", "sqlite"])
        assert journal.owed_since("kafka") == ahead_s
        clock(-1)
        assert journal.owed_since("kafka") == right - 3600
        append(journal, 0)  # made, and sent, after the clock was set right
        clock(5)
        assert journal.owed_since("kafka") == right
        connected_s = clock(1)
        journal.offer("kafka")
        append(journal, 6)
        journal.prune(1)
        clock(6)
    with closing(Journal(path)) as journal:
        assert journal.owed_since("kafka") == connected_s  # sent from then on, however it is stamped
        now_s = clock(7)
        journal.owe(["duckdb"])
        assert journal.owed_since("duckdb") == now_s  # what waits is not for it


def test_delivered_rows_go_with_an_append_or_a_prune(journal: Journal, path: Path) -> None:
    for _ in range(4):
        journal.append(make_messages(10))
    journal.append(make_messages(10), delivered=25)
    assert journal.first_waiting() == 21  # a batch goes as a whole
    waiting_bytes = journal.waiting_bytes
    journal.prune(50)
    assert (journal.first_waiting(), journal.waiting_bytes) == (51, 0)
    assert waiting_bytes > 0
    assert journal.append(make_messages(1)).first == 51


def test_a_prune_that_failed_is_made_up_for(path: Path, impatient: None) -> None:
    with closing(Journal(path)) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        journal.append(make_messages(3))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            journal.append(make_messages(3), delivered=3)
        with pytest.raises(Unavailable):
            journal.prune(3)
        assert journal.first_waiting() == 1
        other.execute("ROLLBACK")
        journal.prune(3)
        assert (journal.first_waiting(), journal.waiting_bytes) == (4, 0)


def test_space_is_given_back_after_an_outage(path: Path) -> None:
    with closing(Journal(path)) as journal:
        for _ in range(30):
            journal.append(make_messages(10, text="x" * 100_000))
        journal.prune(journal.last)
    assert path.stat().st_size < 1_000_000
    with closing(Journal(path)) as journal:
        assert journal.append(make_messages(1)).first == 301


def test_a_copied_folder_needs_adopt(path: Path, tmp_path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.owe(["file"])
        journal.append(make_messages(5))
        original = journal.producer_id
    copy = shutil.copytree(path.parent, tmp_path / "elsewhere") / path.name
    with pytest.raises(ToolkitError, match="--adopt") as error:
        Journal(copy)
    assert error.value.exit_code == 2
    with closing(Journal(copy, adopt=True)) as journal:
        assert journal.producer_id != original
        waiting = journal.read(0, 100)
        assert waiting is not None
        assert (waiting.producer_id, waiting.last) == (original, 5)
        assert journal.append(make_messages(1)).first == 1
        assert journal.owed()["file"].after == 0
    Journal(copy).close()  # adopted once and for all
    Journal(path).close()  # and the original is none the worse


def test_identities_outlive_their_rows_so_that_the_audit_knows_them(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.append(make_messages(5))
        journal.begin_identity()
        journal.append(make_messages(3))
        journal.prune(5)
        assert len(journal.identities) == 2
        assert journal.describe(1, 8) == f"sequences 1-3 of {journal.producer_id}"
    with closing(Journal(path)) as journal:
        assert journal.append(make_messages(1)).first == 4


def test_a_lost_range_is_named_under_the_id_that_gave_it_out(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.append(make_messages(5))
        original = journal.producer_id
        journal.begin_identity()
        journal.prune(5)
        assert journal.describe(1, 5) == f"sequences 1-5 of {original}"


def test_a_copy_is_adopted_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Journal(path)) as journal:
        original = journal.producer_id
    copy = path.with_name("copy.sqlite")
    shutil.copy(path, copy)

    def no_id(self: Journal) -> str:
        raise Unavailable("killed here")

    with monkeypatch.context() as patch, pytest.raises(ToolkitError):
        patch.setattr(Journal, "_new_id", no_id)
        Journal(copy, adopt=True)
    with pytest.raises(ToolkitError, match="--adopt"):
        Journal(copy)
    with closing(Journal(copy, adopt=True)) as journal:
        assert journal.producer_id != original


HOLD = """
import sys
from pathlib import Path
from utils.delivery.journal import Journal
journal = Journal(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_journal_in_use_names_the_process(path: Path, settings: Settings) -> None:
    with start_python(path, code=HOLD, settings=settings) as holder:
        assert holder.stdout and holder.stdout.readline()
        with pytest.raises(ToolkitError, match=rf"in use by process {holder.pid}\b"):
            Journal(path)
        holder.kill()
        holder.communicate()
    Journal(path).close()  # a killed holder holds nothing


def test_a_deleted_journal_is_no_longer_written_to(journal: Journal, path: Path) -> None:
    journal.append(make_messages(1))
    path.rename(path.with_name("away"))
    with pytest.raises(ToolkitError, match="deleted or replaced") as error:
        journal.append(make_messages(1))
    assert not isinstance(error.value, Unavailable)


@pytest.mark.parametrize("spoil", ["text", "folder", "foreign"])
def test_a_file_that_is_no_journal_is_told_in_one_line(path: Path, spoil: str) -> None:
    path.parent.mkdir()
    if spoil == "text":
        path.write_text("not a database at all " * 50)
    elif spoil == "folder":
        path.mkdir()
    else:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE state (something TEXT)")
    with pytest.raises(ToolkitError, match=r"journal cannot be opened: .*ann\.sqlite") as error:
        Journal(path)
    assert (error.value.exit_code, str(error.value).count("\n")) == (2, 0)


def test_close_may_be_called_twice(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    journal.close()


Step = tuple[str, int]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "prune", "reopen", "identity"]), st.integers(1, 9)), max_size=25))
def test_any_history_loses_nothing_that_waits(tmp_path_factory: pytest.TempPathFactory, history: list[Step]) -> None:
    """Against a model: a list of (producer_id, sequence) in the order of acknowledgement."""
    path = tmp_path_factory.mktemp("history") / "ann.sqlite"
    model: list[tuple[str, int]] = []
    gone = 0
    journal = Journal(path)
    for action, number in history:
        match action:
            case "append":
                batch = journal.append(make_messages(number))
                model += [(batch.producer_id, sequence) for sequence in range(batch.first, batch.last + 1)]
            case "prune":
                gone = min(len(model), gone + number)
                journal.prune(gone)
            case "reopen":
                journal.close()
                journal = Journal(path)
            case "identity":
                journal.begin_identity()
    read: list[tuple[str, int]] = []
    first = journal.first_waiting()
    assert first <= gone + 1
    while waiting := journal.read(first - 1 + len(read), 4):
        read += [(waiting.producer_id, sequence) for sequence in range(waiting.first, waiting.last + 1)]
    journal.close()
    assert read == model[first - 1 :]


KILLED = """
import os, sys
from pathlib import Path
from tests.helpers import make_messages
from utils.delivery.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(5):
    print(journal.append(make_messages(3)).last, flush=True)
os._exit(9)
"""


def test_a_killed_process_leaves_what_it_acknowledged(path: Path, settings: Settings) -> None:
    for run in range(2):
        done = run_python(path, code=KILLED, settings=settings)
        assert done.returncode == 9, done.stderr
        assert done.stdout.split() == [str(15 * run + 3 * number) for number in range(1, 6)]
    with closing(Journal(path)) as journal:
        waiting = journal.read(0, 1000)
        assert waiting is not None
        assert waiting.count == journal.last == 30


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("")
    with pytest.raises(ToolkitError, match="data folder cannot be used"):
        Journal(tmp_path / "journal" / "ann.sqlite")


def test_all_is_released_when_opening_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Journal, adopt: bool) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_load", failing)
        with pytest.raises(ToolkitError, match="disk I/O error"):
            Journal(path)
    Journal(path).close()
