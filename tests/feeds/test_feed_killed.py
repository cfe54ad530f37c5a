"""Feeds that are killed while their source changes: each sink has each record once and in order."""

import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.feeds.feed_runs import column, feed, lines
from tests.helpers import start_python, wait_until
from utils.app.config import Settings

Write = Callable[[int, int], object]


class Writer(threading.Thread):
    """Another program that writes numbered records in groups until it is stopped."""

    def __init__(self, write: Write) -> None:
        super().__init__(daemon=True)
        self._write, self._stop_now = write, threading.Event()
        self.count = 0
        self._rng = random.Random(7)

    def run(self) -> None:
        while not self._stop_now.wait(self._rng.random() * 0.02):
            amount = self._rng.randrange(1, 40)
            self._write(self.count, amount)
            self.count += amount

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


def fed_bytes(settings: Settings, stream: str = "things") -> int:
    """Return the size of the file sink."""
    path = settings.file_path(stream)
    return path.stat().st_size if path.exists() else 0


def attack(arguments: list[str], writer: Writer, kills: int, settings: Settings, stream: str) -> None:
    """Kill the feed `kills` times while the writer writes; then let it finish."""
    rng = random.Random(11)
    writer.start()
    for _ in range(kills):
        before = fed_bytes(settings, stream)
        with start_python("producers.feed_producer", *arguments, settings=settings) as process:
            killed_at = before + rng.randrange(20_000)  # somewhere in its work
            wait_until(lambda: fed_bytes(settings, stream) > killed_at, 60, "nothing was fed")  # noqa: B023
            process.kill()
            process.communicate()
    writer.stop()
    feed(*arguments, "--once", "--drain", 120, settings=settings)
    for sink, found in column(settings, stream, "n").items():
        assert found == list(range(writer.count)), sink


class RotatedLog:
    """A log that is rotated in each way, once it is `known`, and appended to in pieces with any end."""

    def __init__(self, path: Path, known: Callable[[], object]) -> None:
        self.path, self._known = path, known
        self._rng = random.Random(3)
        self._rotated_s = 0.0
        path.touch()

    def write(self, first: int, amount: int) -> None:
        data = b"".join(b'{"n":%d,"text":"%s"}\n' % (n, b"x" * (n % 50)) for n in range(first, first + amount))
        cut = self._rng.randrange(len(data))
        for part in (data[:cut], data[cut:]):
            with self.path.open("ab") as file:
                file.write(part)
        is_due = time.monotonic() - self._rotated_s > 0.5  # a running feed sees each rotation
        if is_due and self._rng.random() < 0.05 and self._known():
            self._rotate()
            self._rotated_s = time.monotonic()

    def _rotate(self) -> None:
        rotated = self.path.parent.glob(f"{self.path.name}.*")  # all are kept: a killed feed may be far behind
        for number in sorted((int(path.suffix[1:]) for path in rotated), reverse=True):
            old = self.path.with_name(f"{self.path.name}.{number}")
            old.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
        first = self.path.with_name(f"{self.path.name}.1")
        if self._rng.random() < 0.5:
            self.path.rename(first)
            self.path.touch()
        else:
            shutil.copy(self.path, first)
            os.truncate(self.path, 0)


@pytest.mark.proof(
    "each record of a feed arrives once and in order",
    "kill -9 of the feed while the file is appended to, rotated, copied and truncated",
    full=3,
    long=100,
)
@pytest.mark.timeout(3600)
def test_a_followed_file(times: int, settings: Settings, tmp_path: Path, measured: Callable[[str], None]) -> None:
    log = RotatedLog(tmp_path / "app.jsonl", lambda: fed_bytes(settings, "app"))
    writer = Writer(log.write)
    attack([str(log.path)], writer, times, settings, "app")
    measured(f"{times} kills, {writer.count:,} lines")


@pytest.mark.proof(
    "each record of a feed arrives once and in order",
    "kill -9 of the feed while another program inserts rows",
    full=2,
    long=50,
)
@pytest.mark.timeout(3600)
def test_a_table(times: int, settings: Settings, tmp_path: Path, measured: Callable[[str], None]) -> None:
    path = tmp_path / "things.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE things (n INTEGER, text TEXT)")

        def insert(first: int, amount: int) -> None:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO things VALUES (?, 'x')", [(n,) for n in range(first, first + amount)])
            database.execute("COMMIT")

        writer = Writer(insert)
        attack([str(path), "--table", "things"], writer, times, settings, "things")
    measured(f"{times} kills, {writer.count:,} rows")


@pytest.mark.proof(
    "each record of a feed arrives once and in order", "kill -9 of the feed somewhere in the file", full=2, long=50
)
@pytest.mark.timeout(3600)
def test_a_complete_file(times: int, settings: Settings, tmp_path: Path, measured: Callable[[str], None]) -> None:
    path, amount = tmp_path / "things.csv", 60_000 if times > 10 else 20_000
    path.write_text("n,text\n" + "".join(f'{n},"a\nb"\n' for n in range(amount)))
    rng = random.Random(5)
    for _ in range(times):
        with start_python("producers.feed_producer", path, "--drain", "0", settings=settings) as process:
            killed_at = fed_bytes(settings) + rng.randrange(1_000_000)
            wait_until(lambda: fed_bytes(settings) > killed_at or process.poll() is not None, 60)  # noqa: B023
            process.kill()
            process.communicate()
    feed(path, "--drain", 120, settings=settings)
    for sink, found in column(settings, "things", "n").items():
        assert found == list(range(amount)), sink
    measured(f"{times} kills, {amount:,} rows")


@pytest.mark.full
def test_an_interrupted_file_is_unfinished_and_the_next_run_finishes_it(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "things.csv"
    path.write_text("n\n" + "".join(f"{n}\n" for n in range(100_000)))
    with start_python("producers.feed_producer", path, "--sinks", "file", settings=settings) as process:
        wait_until(lambda: fed_bytes(settings), 60)
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 3, out + err
    assert 0 < len(lines(settings, "things")) < 100_000
    feed(path, "--sinks", "file", settings=settings)
    assert column(settings, "things", "n")["file"] == list(range(100_000))
