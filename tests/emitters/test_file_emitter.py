"""What only the file sink has: tails, short writes, its lock, the backward scan."""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers import held, make_batch, make_messages
from utils.app.config import Settings
from utils.app.errors import Unavailable
from utils.emitters import file_emitter
from utils.emitters.file_emitter import FileEmitter, emit_message
from utils.records.record import MAX_MESSAGE_BYTES


@pytest.fixture
def path(settings: Settings) -> Path:
    settings.live_path.parent.mkdir(parents=True)
    return settings.live_path


def whole(amount: int) -> bytes:
    return make_batch(amount).lines


@pytest.mark.parametrize("cut", [1, 2, 20, len(whole(1)) - 2])
def test_a_torn_last_line_is_cut(path: Path, cut: int, said: list[str]) -> None:
    path.write_bytes(whole(2) + whole(1)[:-1][:-cut])
    with closing(FileEmitter(path)) as emitter:
        assert emitter.last_sequence("ann-1") == 2
        emitter.emit(make_batch(1, first=3))
    assert path.read_bytes() == whole(3)
    assert len([line for line in said if "cut a torn last line" in line]) == 1


@pytest.mark.parametrize(
    "last", [whole(3)[len(whole(2)) : -1], b'{"message":"foreign","sequence":"7","message_length":"1"}', b"[1, 2]"]
)
def test_a_whole_last_record_without_newline_is_kept(path: Path, last: bytes, said: list[str]) -> None:
    path.write_bytes(whole(2) + last)
    with closing(FileEmitter(path)) as emitter:
        next_sequence = emitter.last_sequence("ann-1") + 1
        emitter.emit(make_batch(1, first=next_sequence))
    assert path.read_bytes() == whole(2) + last + b"\n" + make_batch(1, first=next_sequence).lines
    assert said == []


def test_a_file_that_is_all_one_torn_line_becomes_empty(path: Path) -> None:
    path.write_bytes(b'{"message": "' + b"x" * 3_000_000)
    with closing(FileEmitter(path)) as emitter:
        assert emitter.last_sequence("ann-1") == 0
    assert path.read_bytes() == b""


def test_the_cursor_is_found_behind_many_lines_of_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = b"".join(make_batch(500, producer_id=f"bob-{number}").lines for number in range(4))
    quoting = b'{"message":"I am \\"ann-1\\"","producer_id":"bob-1","sequence":3}\n{"message":"\\"ann-1\\"\n'
    path.write_bytes(whole(7) + others + quoting)
    for block in (1 << 20, 4096, 100, 7):
        monkeypatch.setattr(file_emitter, "_SCAN_BYTES", block)
        with closing(FileEmitter(path)) as emitter:
            assert emitter.last_sequence("ann-1") == 7
            assert emitter.last_sequence("bob-2") == 500


def test_a_write_that_takes_only_a_part_is_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:100]))
    with closing(FileEmitter(path)) as emitter:
        emitter.emit(make_batch(10))
    assert path.read_bytes() == whole(10)


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_failed_append_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    with closing(FileEmitter(path)) as emitter:
        emitter.emit(make_batch(2))
        real_write = os.write
        left = [150]

        def full(fd: int, data: bytes) -> int:
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = real_write(fd, bytes(data)[: left[0]])
            left[0] -= taken
            return taken

        def broken(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, step, full if step == "write" else broken)
            with pytest.raises(Unavailable, match=r"No space left|Input/output"):
                emitter.emit(make_batch(5, first=3))
        assert path.read_bytes() == whole(2)


def test_a_foreign_writer_without_our_lock_is_never_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign, real_write = b'{"message":"from elsewhere"}\n', os.write
    with closing(FileEmitter(path)) as emitter:
        emitter.emit(make_batch(2))

        def late(fd: int, data: bytes) -> int:
            monkeypatch.undo()
            with path.open("ab") as stream:
                stream.write(foreign)
            return real_write(fd, data)

        monkeypatch.setattr(os, "write", late)
        emitter.emit(make_batch(3, first=3))
        assert path.read_bytes() == whole(2) + foreign + make_batch(3, first=3).lines


def test_a_foreign_last_line_is_kept(path: Path) -> None:
    path.write_bytes(whole(1) + b"no record, but somebody's")
    with closing(FileEmitter(path)) as emitter:
        emitter.emit(make_batch(1, first=2))
    assert path.read_bytes() == whole(1) + b"no record, but somebody's\n" + make_batch(1, first=2).lines


def test_what_cannot_be_opened_stays_not_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real_open, real_fsync = os.open, os.fsync

    def noting(*arguments: object) -> int:
        opened.append(real_open(*arguments))  # type: ignore[arg-type]
        return opened[-1]

    def failing(number: int) -> Callable[[int], None]:
        def fsync(fd: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "open", noting)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(Unavailable):
        FileEmitter(path)
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))  # a drive that cannot sync folders
    emitter = FileEmitter(path)
    monkeypatch.setattr(os, "fsync", real_fsync)
    emitter.close()


def test_many_writers_never_mix_their_lines(settings: Settings) -> None:
    def write(name: str) -> None:
        with closing(FileEmitter(settings.live_path)) as emitter:
            for first in range(1, 1_000, 50):
                emitter.emit(make_batch(50, first=first, producer_id=name))

    names = ["ann-1", "bob-1", "cat-1"]
    writers = [threading.Thread(target=write, args=[name]) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert held("file", settings) == {name: list(range(1, 1_001)) for name in names}


def test_emit_message_says_whether_it_is_stored(path: Path, said: list[str]) -> None:
    assert emit_message({"message": "one", "author": "Zoe", "producer_id": "ann-1", "sequence": 5}, path=path)
    assert b"producer_id" not in path.read_bytes()
    assert not emit_message({"author": "Zoe"}, path=path)
    assert not emit_message({"message": "x" * MAX_MESSAGE_BYTES}, path=path)
    assert not emit_message({"message": "two"}, path=path.parent)
    assert len(path.read_bytes().splitlines()) == 1
    assert [line.split()[0] for line in said] == ["ERROR"] * 3


def test_messages_of_a_batch_are_not_needed_to_write_it(path: Path) -> None:
    batch = make_batch(3)
    del batch.__dict__["messages"]
    with closing(FileEmitter(path)) as emitter:
        emitter.emit(batch)
    assert "messages" not in batch.__dict__
    assert make_messages(3)[0].message in path.read_text(encoding="utf-8")
