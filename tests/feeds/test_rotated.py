"""A file that is rotated while a feed follows it: each whole line comes once and in order, also after kills."""

import os
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.helpers import open_files_stay
from utils.clients.line_file import MAX_LINE_BYTES
from utils.feeds.lines import LineCodec
from utils.feeds.rotated import RotatedFile
from utils.records.stream import Stream
from utils.sources.file_source import parse_position

STREAM = Stream("lines")
STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 6)),
    st.tuples(st.just("begin_line"), st.floats(0, 1)),
    st.tuples(st.sampled_from(["rotate", "copy_and_truncate", "replace", "truncate", "remove_rotated"])),
    st.tuples(st.just("read"), st.integers(1, 9)),
    st.tuples(st.sampled_from(["drain", "restart"])),
)


class Model:
    """A file, its writers and rotations, and a feed that stores its position with the lines."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.jsonl"
        self.path.touch()
        self.made: list[str] = []
        self.may_miss: set[str] = set()  # destroyed before the feed could read them
        self.got: list[str] = []
        self.position = ""
        self.rest = ""  # of an unfinished line
        self.source = self.opened()

    def opened(self) -> RotatedFile:
        return RotatedFile(self.path, LineCodec(STREAM), lambda partition: self.position, linger_s=0)

    # Writers

    def append(self, amount: int) -> None:
        self.finish_line()
        for _ in range(amount):
            self.begin_line(0.5)
            self.finish_line()

    def begin_line(self, at: float) -> None:
        self.finish_line()
        name = f"{len(self.made)} {'x' * (len(self.made) * 7 % 90)}"
        line = f'{{"line":"{name}"}}\n'
        self.made.append(name)
        cut = 1 + int(at * (len(line) - 2))
        self._write(line[:cut])
        self.rest = line[cut:]

    def finish_line(self) -> None:
        self._write(self.rest)
        self.rest = ""

    def _write(self, text: str) -> None:
        with self.path.open("a", newline="") as file:
            file.write(text)

    # Rotations

    def rotated(self) -> list[Path]:
        return sorted(self.path.parent.glob("app.jsonl.*"), key=lambda path: int(path.suffix[1:]), reverse=True)

    def _make_room(self) -> Path:
        self.finish_line()
        if not self.is_known():
            self._destroy([self.path, *self.rotated()])
        for path in self.rotated():
            path.rename(path.with_suffix(f".{int(path.suffix[1:]) + 1}"))
        return self.path.with_name("app.jsonl.1")

    def is_known(self) -> bool:
        """Return whether the bytes before the position still exist; otherwise a feed begins with the present file."""
        offset, length, crc = parse_position(self.position)
        before = [path.read_bytes()[:offset][-length:] for path in (self.path, *self.rotated())]
        return offset > 0 and (length, crc) in [(len(each), crc32(each)) for each in before]

    def rotate(self) -> None:
        self.path.rename(self._make_room())
        self.path.touch()

    def copy_and_truncate(self) -> None:
        shutil.copy(self.path, self._make_room())
        os.truncate(self.path, 0)

    def replace(self) -> None:
        self.finish_line()
        self._destroy([self.path])
        draft = self.path.with_name("draft")
        draft.touch()
        draft.replace(self.path)

    def truncate(self) -> None:
        self.finish_line()
        self._destroy([self.path])
        os.truncate(self.path, 0)

    def remove_rotated(self) -> None:
        found = self.rotated()[:1]
        self._destroy(found)
        for path in found:
            path.unlink()

    def _destroy(self, paths: list[Path]) -> None:
        """Excuse the feed from lines that are only in these files, unless it has read them."""
        inside = "".join(path.read_text() for path in paths)
        self.may_miss |= {name for name in self.made if name not in self.got and f'"{name}"' in inside}

    # The feed

    def read(self, amount: int) -> bool:
        """Handle one chunk as a feed does, which stores the position with the lines."""
        if not self.is_known():
            self._destroy(self.rotated())
        chunk = self.source.poll(amount)
        if chunk is None:
            return False
        assert chunk.partition == "app.jsonl"
        assert not chunk.invalid
        self.got += [each.record.extra[9:-2] for each in chunk.records]
        self.position = chunk.end
        return True

    def drain(self) -> None:
        while self.read(100):
            pass

    def restart(self) -> None:
        """Continue with the stored position alone, as after kill -9."""
        self.source.close()
        self.source = self.opened()

    def check(self) -> None:
        self.finish_line()
        if not self.is_known():
            self._destroy(self.rotated())
        self.drain()
        assert len(self.got) == len(set(self.got)), "twice"
        assert self.got == [name for name in self.made if name in set(self.got)], "out of order"
        assert set(self.made) - set(self.got) <= self.may_miss, "lost"


@open_files_stay
@pytest.mark.parametrize("way", ["rotate", "copy_and_truncate"])
def test_a_rotation_during_the_search_for_rotated_files_hides_none(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(tmp_path)
    model.append(3)
    model.drain()
    model.source.close()
    for _ in range(3):
        model.append(2)
        model.rotate()
    listed = RotatedFile._rotated
    looks = iter([True, True, False])

    def rotated(source: RotatedFile) -> list[tuple[int, int, str, int]]:
        found = listed(source)
        if next(looks, False):  # rotate behind the first look, and again behind the second
            model.append(2)
            getattr(model, way)()
        return found

    monkeypatch.setattr(RotatedFile, "_rotated", rotated)
    model.restart()
    model.check()
    assert model.got == model.made
    model.source.close()


@pytest.mark.parametrize("names", [[".1", ".2", ".10", ".11"], ["-20261127", "-20261126", "-20261109", "-20261108"]])
def test_files_that_were_rotated_in_one_tick_of_the_clock_are_ordered_by_their_names(
    names: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "app.jsonl"
    path.write_bytes(b'{"line":0}\n')
    source = RotatedFile(path, LineCodec(STREAM), lambda partition: "")
    chunk = source.poll(10)
    source.close()
    assert chunk is not None
    path.rename(f"{path}{names[-1]}")
    for number, name in enumerate([*reversed(names[:-1]), ""], 1):
        hole = bytes(MAX_LINE_BYTES + 1) if number == 1 else b""  # as copytruncate leaves it
        Path(f"{path}{name}").write_bytes(b'%b{"line":%d}\n' % (hole, number))
    for name in names:
        os.utime(f"{path}{name}", ns=(10**18, 10**18))
    for old in (path, f"{path}{names[-1]}"):
        os.utime(old, (0, 0))
    source, seen = RotatedFile(path, LineCodec(STREAM), lambda partition: chunk.end), list[bytes]()
    while more := source.poll(10):
        seen += [line.line for line in more.records]
    source.close()
    assert seen == [b'{"line":%d}' % number for number in (1, 2, 3, 4)]


@open_files_stay
@pytest.mark.parametrize("written_s", [-60, 3600])
def test_a_renamed_file_is_left_for_the_new_one_once_it_is_quiet(written_s: int, tmp_path: Path) -> None:
    """The writer may not have opened the new file yet. A clock that is set back delays nothing."""
    path, rotated = tmp_path / "app.jsonl", tmp_path / "app.jsonl.1"
    path.write_bytes(b'{"line":1}\n')
    source = RotatedFile(path, LineCodec(STREAM), lambda partition: "", linger_s=60.0)

    def read() -> list[bytes]:
        return [each.line for each in chunk.records] if (chunk := source.poll(10)) else []

    assert read() == [b'{"line":1}']
    path.rename(rotated)
    assert source.poll(10) is None
    path.write_bytes(b'{"line":3}\n')
    assert source.poll(10) is None
    source.close()
    assert source.poll(10) is None
    with rotated.open("ab") as late:
        late.write(b'{"line":2}\n')
    assert read() == [b'{"line":2}']
    os.utime(rotated, (0, time.time() + written_s))
    assert [*read(), *read()] == [b'{"line":3}']
    source.close()


def test_half_a_first_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """A line that a run with --once saw in part is read whole by the next run, even after another rotation."""
    path, got, position = tmp_path / "app.jsonl", list[bytes](), ""

    def run() -> list[str]:
        nonlocal position
        source, invalid = RotatedFile(path, LineCodec(STREAM), lambda partition: position, finished=True), list[str]()
        while chunk := source.poll(10):
            got.extend(each.line for each in chunk.records)
            invalid += [each.reason for each in chunk.invalid]
            position = chunk.end
        source.close()
        return invalid

    path.write_bytes(b'{"line":1}\n')
    assert run() == []
    os.utime(path, (0, 0))  # long ago
    path.rename(tmp_path / "app.jsonl.2")
    path.write_bytes(b'{"line":')
    assert len(run()) == 1
    path.write_bytes(b'{"line":2}\n')
    path.rename(tmp_path / "app.jsonl.1")
    path.write_bytes(b'{"line":3}\n')
    assert run() == []
    assert got == [b'{"line":1}', b'{"line":2}', b'{"line":3}']


@pytest.mark.full
def test_lines_of_a_rotated_file_come_once(long: bool, disk_folder: Path) -> None:
    # On a disk a new file gets the inode of a deleted one.
    @hypothesis_settings(
        max_examples=10_000 if long else 400,
        deadline=None,
        database=None,
        derandomize=not long,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(STEPS, min_size=4, max_size=30))
    @example([("append", 3), ("drain",), ("rotate",), ("drain",), ("append", 2), ("copy_and_truncate",), ("append", 2)])
    def run(steps: list[tuple[str, object]]) -> None:
        with TemporaryDirectory(dir=disk_folder) as folder:
            model = Model(Path(folder))
            try:
                for name, *arguments in steps:
                    getattr(model, name)(*arguments)
                model.check()
            finally:
                model.source.close()

    run()
