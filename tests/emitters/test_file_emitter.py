"""Specific to the file sink: its lock, its last line, holes of a power cut, the scan from the end."""

import errno
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import make_batch
from utils.app.errors import SinkReplaced, ToolkitError, Unavailable
from utils.clients import line_file
from utils.emitters import file_emitter
from utils.emitters.file_emitter import FileEmitter, emit_message
from utils.records.external import MAX_RECORD_BYTES

OTHERS = b'{"message":"of another producer","producer_id":"bob-1","sequence":1}\n'
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="on Windows the lock is a file beside it")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "live.jsonl"


def whole(amount: int, first: int = 1, producer_id: str = "ann-1") -> bytes:
    return make_batch(amount, first=first, producer_id=producer_id).lines


def ids(path: Path) -> list[tuple[str | None, int | None]]:
    """Return the ids of the records that a reader finds."""
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line.strip(b"\0 "))
        except ValueError:
            continue
        found.append((record.get("producer_id"), record.get("sequence")))
    return found


def ann(last: int, first: int = 1) -> list[tuple[str | None, int | None]]:
    return [("ann-1", sequence) for sequence in range(first, last + 1)]


def not_allowed(*arguments: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def failing(number: int) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


class TestTail:
    @pytest.mark.parametrize(("meanwhile", "zeros"), [(False, 0), (True, 0), (False, 3)])
    @pytest.mark.parametrize("cut", [1, 2, 20, len(whole(1)) - 2])
    def test_a_partial_last_line_is_cut(
        self, path: Path, cut: int, meanwhile: bool, zeros: int, logged: list[str]
    ) -> None:
        """The line may also be of another producer, which was killed after this one connected."""
        partial = b"\0" * zeros + whole(1)[:-1][:-cut]
        path.write_bytes(whole(2) + partial * (not meanwhile))
        with closing(FileEmitter(path)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 2)
            with path.open("ab") as other:
                other.write(partial * meanwhile)
            emitter.emit(make_batch(1, first=3))
        assert path.read_bytes() == whole(3)
        assert len([line for line in logged if "cut a partial last line" in line]) == 1

    @pytest.mark.parametrize(("zeros", "behind"), [(0, b""), (3, b""), (0, b"\0\0")])
    @pytest.mark.parametrize(
        "last",
        [
            whole(1, 3)[:-1],
            b'{"message":"external","sequence":"7"}',
            b"[1, 2]",
            b"a text",
            b'{"too long for a record": "' + b"x" * 3_000_000,
        ],
    )
    def test_a_whole_last_line_without_newline_is_kept(
        self, path: Path, last: bytes, zeros: int, behind: bytes, logged: list[str]
    ) -> None:
        path.write_bytes(whole(2) + b"\0" * zeros + last + behind)
        with closing(FileEmitter(path)) as emitter:
            found = emitter.last(["ann-1"])
            assert found == ("ann-1", 3 if b"ann-1" in last else 2)
            emitter.emit(make_batch(1, first=found[1] + 1))
        assert path.read_bytes() == whole(2) + b"\0" * zeros + last + behind + b"\n" + whole(1, found[1] + 1)
        assert logged == []

    @pytest.mark.parametrize("tail", [b'{"message": "' + b"x" * 900_000, b"\0" * 3_000_000, b"{\0", b'{"a":' * 200_000])
    def test_a_file_that_is_all_one_partial_line_becomes_empty(self, path: Path, tail: bytes) -> None:
        path.write_bytes(tail)
        with closing(FileEmitter(path)) as emitter:
            assert emitter.last(["ann-1"]) is None
        assert path.read_bytes() == b""

    def test_where_cutting_is_not_allowed_the_line_is_ended(
        self, path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A newline ends the partial line of a file that cannot be truncated (append-only, some network drives)."""
        partial = whole(1, 3)[:50]
        path.write_bytes(whole(2) + partial)
        monkeypatch.setattr(os, "ftruncate", not_allowed)
        with closing(FileEmitter(path)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 2)
            emitter.emit(make_batch(2, first=3))
        assert path.read_bytes() == whole(2) + partial + b"\n" + whole(2, 3)
        assert logged == [f"WARNING {path}: ended a partial last line, which may not be cut"]

    @pytest.mark.parametrize("content", [b'[{"message":"array"}]', b"\xff\xfe{\0", b"\x1f\x8b\x08", b"time,author\n"])
    def test_a_file_without_json_lines_stays_as_it_is(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(ToolkitError, match="is not a JSON lines file; move it away or name another file") as error:
            FileEmitter(path)
        assert error.value.exit_code == 2
        assert path.read_bytes() == content


class TestScan:
    @pytest.mark.parametrize("block", [1 << 20, 4096])
    def test_the_last_record_is_found_behind_many_lines_of_others(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, block: int
    ) -> None:
        others = b"".join(make_batch(500, producer_id=f"bob-{number}").lines for number in range(4))
        quoting = b'{"message":"I am \\"ann-1\\"","producer_id":"bob-1","sequence":3}\n{"message":"\\"ann-1\\"\n'
        path.write_bytes(b"\xef\xbb\xbf" + whole(7) + others + quoting)
        monkeypatch.setattr(line_file, "SCAN_BYTES", block)
        with closing(FileEmitter(path)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 7)
            assert emitter.last(["bob-0", "bob-2"]) == ("bob-2", 500)
            assert emitter.last([f"ann-{number}" for number in range(2_000)]) == ("ann-1", 7)

    @pytest.mark.full
    @pytest.mark.parametrize("behind", [b"", b"\n", whole(2, 3), OTHERS])
    def test_many_zeros_are_passed_over_in_bounded_memory(self, path: Path, behind: bytes) -> None:
        with path.open("wb") as file:
            file.write(whole(2))
            file.seek(64 << 20, os.SEEK_CUR)
            file.write(behind or b"\0")
        tracemalloc.start()
        try:
            with closing(FileEmitter(path)) as emitter:
                assert emitter.last(["ann-1"]) == ("ann-1", 4 if b"ann-1" in behind else 2)
                emitter.emit(make_batch(1, first=9))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 << 20
        assert ids(path)[-1] == ("ann-1", 9)

    @settings(max_examples=150, deadline=None)
    @given(
        parts=st.lists(
            st.one_of(
                st.integers(1, 9).map(lambda number: b'{"id":"x%d"}' % number),
                st.sampled_from([b"", b"\n", b"\n", b"\0", b"\0" * 40, b"text without ids", b'{"id":"x' + b"y" * 70]),
            ),
            max_size=30,
        ),
        block=st.integers(1, 40),
    )
    def test_lines_come_as_a_simple_reader_finds_them(
        self, parts: list[bytes], block: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        data = b"".join(parts)
        path = tmp_path_factory.mktemp("lines") / "file"
        path.write_bytes(data)
        expected, offset = [], 0
        for line in data.split(b"\n"):
            offset = min(offset + len(line) + 1, len(data))
            if b'"id":"x' in line:
                expected.append((line.strip(line_file.BLANK), offset))
        with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
            patch.setattr(line_file, "SCAN_BYTES", block)
            found = list(line_file.lines_backwards(file.fileno(), b'"id":"x', len(data), 0))
            last = data.rfind(b"\n") + 1
            assert line_file.last_line(file.fileno()) == (last, data[last:].strip(line_file.BLANK))
        assert [end for _, end in found] == [end for _, end in reversed(expected)]
        squeezed = [b"".join(line.split(b"\0")) for line, _ in found]
        assert squeezed == [b"".join(line.split(b"\0")) for line, _ in reversed(expected)]
        assert [b"\0" in line for line, _ in found] == [b"\0" in line for line, _ in reversed(expected)]


class TestHoles:
    """Zeros anywhere in the last, unsynced append, even before a complete last line, after a power cut."""

    def crashed(self, path: Path, before: bytes, unsynced: bytes, start: int, zeros: int) -> str:
        """Write a file whose last append has zeros at `start`; return the mark from before this append."""
        path.write_bytes(before)
        with closing(FileEmitter(path)) as emitter:
            emitter.last(["ann-1"])
            mark = emitter.mark
        data = bytearray(unsynced)
        data[start : start + zeros] = bytes(len(data[start : start + zeros]))
        path.write_bytes(before + data)
        return mark

    def resumed(self, path: Path, mark: str, last: int, known: tuple[str, ...] = ("ann-1",)) -> None:
        """Do what a worker does next: emit everything behind the last record."""
        with closing(FileEmitter(path, mark)) as emitter:
            found = emitter.last(known)
            reached = found[1] if found else 0
            if reached < last:
                emitter.emit(make_batch(last - reached, first=reached + 1, producer_id=known[-1]))

    @pytest.mark.full
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(before=st.integers(1, 5), amount=st.integers(1, 60), start=st.floats(0, 1), share=st.floats(0, 1))
    def test_every_record_is_there_once_and_in_order(
        self, before: int, amount: int, start: float, share: float, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("holes") / "live.jsonl"
        unsynced = whole(amount, before + 1)
        at = int(start * len(unsynced))
        zeros = int(share * (len(unsynced) - at))
        mark = self.crashed(path, whole(before), unsynced, at, zeros)
        self.resumed(path, mark, before + amount)
        assert ids(path) == ann(before + amount)

    def test_a_hole_in_the_first_append_of_all(self, path: Path) -> None:
        mark = self.crashed(path, b"", whole(50), 0, 1_000)
        self.resumed(path, mark, 50)
        assert ids(path) == ann(50)

    def test_a_hole_where_another_run_began(self, path: Path) -> None:
        unsynced = whole(50, 8, "ann-2")
        mark = self.crashed(path, whole(7), unsynced, 0, 1_000)
        self.resumed(path, mark, 57, ("ann-1", "ann-2"))
        assert ids(path) == [*ann(7), *[("ann-2", sequence) for sequence in range(8, 58)]]

    @pytest.mark.parametrize("allowed", [True, False])
    def test_a_hole_that_cannot_be_cut_is_delivered_again(
        self, path: Path, allowed: bool, logged: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark = self.crashed(path, whole(3), whole(100, 4) + OTHERS * allowed, 2_000, 4_096)
        if not allowed:
            monkeypatch.setattr(os, "ftruncate", not_allowed)
        self.resumed(path, mark, 103)
        found = ids(path)
        assert set(found) - {("bob-1", 1)} == set(ann(103))
        assert found.count(("bob-1", 1)) == allowed
        assert found.count(("ann-1", 4)) == 1  # it is before the hole
        assert found[-1] == ("ann-1", 103)
        assert len([line for line in logged if "delivered again" in line]) == 1
        with closing(FileEmitter(path)) as emitter:  # with any later mark
            assert emitter.last(["ann-1"]) == ("ann-1", 103)

    @pytest.mark.parametrize("noted", [True, False])
    def test_a_gap_before_the_mark_is_never_cut(self, path: Path, noted: bool) -> None:
        """A gap before the mark stays: its records are lost, and the journal no longer has those behind it."""
        path.write_bytes(whole(3))
        with closing(FileEmitter(path)) as emitter:
            emitter.last(["ann-1"])
            mark = emitter.mark
            emitter.emit(make_batch(5, first=10))
        with closing(FileEmitter(path, mark if noted else "")) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 14)
        assert ids(path) == [*ann(3), *ann(14, 10)]

    def test_letters_with_their_gaps_are_never_cut(self, path: Path) -> None:
        lines = b"".join(whole(1, sequence) for sequence in (5, 17, 18, 90))
        path.write_bytes(lines)
        with closing(FileEmitter(path)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 90)
        assert path.read_bytes() == lines

    @pytest.mark.parametrize("mark", ["", "x", "-5:0", "10", "10:0", "99999999:00000000", "9" * 30 + ":0"])
    def test_any_text_may_be_a_mark(self, path: Path, mark: str) -> None:
        """A mark that does not fit the file is ignored: nothing may be cut by it."""
        path.write_bytes(whole(3) + b"\0" * 30 + whole(1, 7))
        with closing(FileEmitter(path, mark)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 7)
        assert ids(path) == [*ann(3), ("ann-1", 7)]


class TestAppend:
    def test_a_write_that_takes_only_a_part_is_continued(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:100]))
        with closing(FileEmitter(path)) as emitter:
            emitter.emit(make_batch(10))
        assert path.read_bytes() == whole(10)

    @pytest.mark.parametrize("may_cut", [True, False])
    @pytest.mark.parametrize("step", ["write", "fsync"])
    def test_a_failed_append_leaves_whole_lines_of_a_prefix(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, step: str, may_cut: bool
    ) -> None:
        with closing(FileEmitter(path)) as emitter:
            emitter.emit(make_batch(2))
            real_write = os.write
            left = [len(whole(1)) + 50]

            def full(fd: int, data: bytes) -> int:
                if not left[0] and len(data) > 1:
                    raise OSError(errno.ENOSPC, "No space left on device")
                taken = real_write(fd, bytes(data)[: left[0] or 1])
                left[0] -= min(left[0], taken)
                return taken

            with monkeypatch.context() as patch:
                patch.setattr(os, step, full if step == "write" else failing(errno.EIO))
                if not may_cut:
                    patch.setattr(os, "ftruncate", not_allowed)
                with pytest.raises(Unavailable, match=r"No space left|Input/output"):
                    emitter.emit(make_batch(5, first=3))
        prefix = 2 if may_cut else 3 if step == "write" else 7
        assert path.read_bytes()[-1:] == b"\n"
        assert ids(path) == ann(prefix)
        with closing(FileEmitter(path)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", prefix)
            emitter.emit(make_batch(1, first=prefix + 1))
        assert ids(path) == ann(prefix + 1)

    def test_lines_of_a_writer_without_our_lock_are_never_overwritten(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real_write = os.write
        with closing(FileEmitter(path)) as emitter:
            emitter.emit(make_batch(2))

            def late(fd: int, data: bytes) -> int:
                monkeypatch.undo()
                with path.open("ab") as file:
                    file.write(OTHERS)
                return real_write(fd, data)

            monkeypatch.setattr(os, "write", late)
            emitter.emit(make_batch(3, first=3))
            emitter.emit(make_batch(1, first=6))
        assert path.read_bytes() == whole(2) + OTHERS + whole(4, 3)

    def test_a_file_that_another_program_cuts_meanwhile_is_noticed(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(FileEmitter(path)) as emitter:
            emitter.emit(make_batch(2))
            real_write = os.write

            def write_and_cut(fd: int, data: bytes) -> int:
                written = real_write(fd, data)
                os.truncate(path, len(whole(2)))
                return written

            monkeypatch.setattr(os, "write", write_and_cut)
            with pytest.raises(Unavailable, match="shortened by another program"):
                emitter.emit(make_batch(3, first=3))

    def test_an_older_copy_that_was_written_over_the_file_is_noticed(self, path: Path) -> None:
        with closing(FileEmitter(path)) as emitter:
            emitter.emit(make_batch(5))
            path.write_bytes(whole(2))
            with pytest.raises(SinkReplaced, match="older copy"):
                emitter.emit(make_batch(1, first=6))
            assert emitter.last(["ann-1"]) == ("ann-1", 2)
            emitter.emit(make_batch(1, first=3))
        assert path.read_bytes() == whole(3)

    def test_an_id_within_an_external_text_is_no_delivery(self, path: Path) -> None:
        with closing(FileEmitter(path)) as emitter:
            emitter.last(["ann-1"])
            with path.open("ab") as file:
                file.write(b'{"source_producer_id":"ann-1","sequence":5,"producer_id":"bob-1"}\n')
            emitter.emit(make_batch(1))
        assert ids(path)[-1] == ("ann-1", 1)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
    def test_a_failed_connection_leaves_no_descriptor_open(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[int] = []
        real_open, real_fsync = os.open, os.fsync

        def noting(*arguments: object) -> int:
            opened.append(real_open(*arguments))  # type: ignore[arg-type]
            return opened[-1]

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


class TestLock:
    @posix_only
    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_it_holds_whatever_name_the_file_has(
        self, link: Callable[[Path, Path], None], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        monkeypatch.setattr(file_emitter, "LOCK_WAIT_S", 0.05)
        path.touch()
        other = path.with_name("other.jsonl")
        link(path, other)
        with closing(FileEmitter(other)) as emitter, path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(Unavailable, match="locked by another writer"):
                emitter.emit(make_batch(1))
            fcntl.flock(file, fcntl.LOCK_UN)
            emitter.emit(make_batch(1))

    @posix_only
    @pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symlink", "hard link"])
    def test_many_writers_under_many_names_never_mix_their_lines(
        self, link: Callable[[Path, Path], None], path: Path
    ) -> None:
        names = ["ann-1", "bob-1", "cat-1"]
        path.touch()
        for name in names:
            link(path, path.with_name(name))

        def write(name: str) -> None:
            with closing(FileEmitter(path.with_name(name))) as emitter:
                for first in range(1, 1_000, 50):
                    emitter.emit(make_batch(50, first=first, producer_id=name))

        writers = [threading.Thread(target=write, args=[name]) for name in names]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        found = ids(path)
        assert len(found) == path.read_bytes().count(b"\n") == 3_000
        for name in names:
            assert [sequence for owner, sequence in found if owner == name] == list(range(1, 1_001))


def test_emit_message_keeps_all_fields_and_reports_what_it_cannot_store(path: Path, logged: list[str]) -> None:
    given = {"message": "one", "author": "Zoe", "room": {"floor": 3}, "producer_id": "ann-1", "sequence": 5}
    assert emit_message(given, path=path)
    assert emit_message({"temperature": 21.5}, path=str(path))
    assert not emit_message({"message": "x" * MAX_RECORD_BYTES}, path=path)
    assert not emit_message({"value": float("nan")}, path=path)
    assert not emit_message("text", path=path)  # type: ignore[arg-type]  # as a notebook may
    assert not emit_message({"message": "two"}, path=path.parent)
    stored = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert stored == [{"message": "one", "author": "Zoe", "room": {"floor": 3}}, {"temperature": 21.5}]
    assert [line.split()[0] for line in logged] == ["ERROR"] * 4
