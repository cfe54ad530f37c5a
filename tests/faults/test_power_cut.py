"""Power cuts: what an emitter believes to be stored is on the disk, whatever a killed process had not synced.

A process is killed at each call that changes the sink's file, so that its pages are only in memory. The next process
asks `last`. A power cut leaves what the block device contains then: an image of it is mounted."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers import FILES, make_batch, sequences_in, start_python
from utils.app.config import Settings
from utils.emitters.file_emitter import FileEmitter
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.records.stream import BUZZ

SYNCED, ALL = 5, 45


class Disk:
    """An ext4 file system in an image, and a process that emits to it."""

    def __init__(self, folder: Path, shim: Path, settings: Settings) -> None:
        self.folder, self.mounted = folder, folder / "disk"
        self.mounted.mkdir()
        self.process = start_python("tests.faults.power", settings=settings, environment={"LD_PRELOAD": str(shim)})

    @property
    def settings(self) -> Settings:
        return Settings(data_dir=self.mounted / "data")

    def ask(self, *words: object) -> tuple[int, int]:
        """Return exit code and answer of a child of the process."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        code, *number = self.process.stdout.readline().split()
        return int(code), int(number[0]) if number else 0

    def mount(self, image: str) -> None:
        command = ["mount", "-o", "loop", str(self.folder / image), str(self.mounted)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("may not mount a loop device")

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.mounted)], check=True)

    def make(self, sink: str) -> None:
        """Make a file system with a sink whose first records are synced."""
        image = self.folder / "image"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        self.mount("image")
        assert self.ask("emit", sink, self.settings.data_path, 1, SYNCED, 0)[0] == 0
        subprocess.run(["sync", "-f", str(self.mounted)], check=True)

    def lose_power(self) -> None:
        """Replace the file system by what its block device contains."""
        shutil.copyfile(self.folder / "image", self.folder / "left")
        self.unmount()
        self.mount("left")


@pytest.fixture
def disk(tmp_path: Path, settings: Settings) -> Iterator[Disk]:
    if sys.platform != "linux" or os.geteuid() or not shutil.which("cc") or not shutil.which("mkfs.ext4"):
        pytest.skip("needs Linux, root, a C compiler and mkfs.ext4 to mount a disk of its own")
    shim = tmp_path / "shim.so"
    source = Path(__file__).with_name("crash_shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    disk = Disk(tmp_path, shim, settings)
    try:
        yield disk
    finally:
        disk.process.communicate(timeout=10)
        subprocess.run(["umount", "--lazy", str(disk.mounted)], check=False, capture_output=True)


def believed_and_left(disk: Disk, sink: str, call: int, *, sync: int = 1) -> tuple[int, int]:
    """Return what the process after a killed one believed, and what a power cut then left."""
    disk.make(sink)
    code, _ = disk.ask("emit", sink, disk.settings.data_path, SYNCED + 1, ALL, call)
    assert code == 9, f"not killed at call {call}"
    code, believed = disk.ask("last", sink, disk.settings.data_path, sync)
    assert code == 0
    disk.lose_power()
    code, left = disk.ask("last", sink, disk.settings.data_path, 1)
    assert code == 0
    assert sequences_in(sink, disk.settings) == {"ann-1": list(range(1, left + 1))}
    disk.unmount()
    return believed, left


@pytest.mark.proof(
    "a record that a sink reports is on its disk",
    "a power cut after each call that changes a file of a sink (needs root and Linux)",
    full="each call",
)
@pytest.mark.parametrize("sink", FILES)
def test_what_is_believed_is_on_the_disk(sink: str, disk: Disk) -> None:
    disk.make(sink)
    code, calls = disk.ask("emit", sink, disk.settings.data_path, SYNCED + 1, ALL, 0)
    disk.unmount()
    assert code == 0
    assert calls >= 2
    results = {call: believed_and_left(disk, sink, call) for call in range(1, calls + 1)}
    assert not {call: pair for call, pair in results.items() if not pair[1] >= pair[0] >= SYNCED}


def test_without_the_sync_records_would_be_lost(disk: Disk) -> None:
    """The sync is the second call of the file emitter: this method detects that it is missing."""
    believed, left = believed_and_left(disk, "file", 2, sync=0)
    assert (believed, left) == (ALL, SYNCED)


def test_the_file_and_its_folder_are_synced_before_it_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "live.jsonl"
    path.write_bytes(make_batch(3).lines)
    synced: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    with closing(FileEmitter(path)) as emitter:
        assert emitter.last(["ann-1"]) == ("ann-1", 3)
        assert synced == (["folder", "file"] if os.name == "posix" else ["file"])
        emitter.emit(make_batch(1, first=4))
    assert synced[-1] == "file"


def test_sqlite_writes_a_page_before_it_is_believed(tmp_path: Path) -> None:
    """SQLite syncs a commit only if it writes a page."""
    path = tmp_path / "buzz.sqlite"
    log = path.with_name("buzz.sqlite-wal")
    with closing(SqliteEmitter(path, BUZZ)) as first:
        first.emit(make_batch(3))
        before = log.stat().st_size
        with closing(SqliteEmitter(path, BUZZ)):
            assert log.stat().st_size > before
