"""Helpers for tests of several folders."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import pytest
from loguru import logger

from producers import ragini_producer
from utils.app import cli
from utils.app.config import PROJECT_DIR, Settings
from utils.records.record import Batch, Message
from utils.records.stream import BUZZ
from utils.sinks import EMBEDDED, SINKS

open_files_stay = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows keeps a file that is open from being renamed or deleted"
)
has_links = pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few users make symbolic links")


@contextmanager
def moving_open_files() -> Iterator[None]:
    """Skip the test on Windows, which keeps open files from being renamed or deleted."""
    try:
        yield
    except PermissionError:
        if sys.platform == "win32":
            pytest.skip(open_files_stay.kwargs["reason"])
        raise


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
    """Poll until the condition is true; raise AssertionError after `timeout_s` seconds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what or f"not within {timeout_s} s: {condition}"
        time.sleep(0.01)


def make_messages(amount: int, *, text: str = "hello", producer_id: str | None = None, first: int = 1) -> list[Message]:
    """Return distinct messages, numbered from `first` if there is a `producer_id`."""
    made = []
    for number in range(first, first + amount):
        words = f"{text} {number}"
        message = Message(
            message=words,
            author="Ann",
            timestamp="2026-11-23T19:04:05.123Z",
            category="tech",
            sentiment=0.5,
            keyword_mentioned="hello",
            message_length=len(words),
        )
        if producer_id:
            message.producer_id, message.sequence = producer_id, number
        made.append(message)
    return made


def make_batch(amount: int, *, producer_id: str = "ann-1", first: int = 1, text: str = "hello") -> Batch:
    return Batch.of_records(make_messages(amount, text=text, first=first), producer_id, first, BUZZ.codec)


FILES = ("file", "sqlite", "duckdb")
"""The sinks that are one file whose form the tests know; EMBEDDED has those too that somebody adds."""

Sequences = dict[str | None, list[int | None]]


def _grouped(pairs: Iterable[tuple[str | None, int | None]]) -> Sequences:
    found: Sequences = {}
    for producer_id, sequence in pairs:
        found.setdefault(producer_id, []).append(sequence)
    return found


def open_duckdb(path: Path) -> duckdb.DuckDBPyConnection:
    """Open read-only, as soon as the producer closes the file between two windows."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            return duckdb.connect(str(path), read_only=True)
        except duckdb.IOException:  # locked, or being extended
            if time.monotonic() > deadline_s:
                raise
        time.sleep(0.01)


def sequences_in(sink: str, settings: Settings) -> Sequences:
    """Return producer_id -> sequences in the sink's order; FILES are read without the project's code."""
    query = "SELECT producer_id, sequence FROM streamed_messages ORDER BY rowid"
    match sink:
        case "file":
            complete = settings.live_path.read_bytes().rpartition(b"\n")[0]  # the rest is still being written
            records = [json.loads(line) for line in complete.splitlines()]
            return _grouped((record.get("producer_id"), record.get("sequence")) for record in records)
        case "sqlite":
            connection = sqlite3.connect(settings.sqlite_path)
            try:
                return _grouped(connection.execute(query))
            finally:
                connection.close()
        case "duckdb":
            with open_duckdb(settings.duckdb_path) as database:
                return _grouped(database.execute(query).fetchall())
    with closing(SINKS[sink].source(settings, BUZZ, lambda partition: "", finished=True)) as source:
        records = [record for chunk in iter(lambda: source.poll(10_000), None) for record in chunk.records]
    return _grouped((record.producer_id, record.sequence) for record in records)


def assert_complete(
    settings: Settings, expected: Mapping[str, int | range] | None = None, sinks: Iterable[str] = EMBEDDED
) -> None:
    """Assert that each sink contains exactly the `expected` sequences of each run, once and in order.

    A number n stands for 1 to n. The default is all that the journal of ragini has assigned in all its runs."""
    whole = assigned(settings) if expected is None else expected
    runs = {run: range(1, each + 1) if isinstance(each, int) else each for run, each in whole.items()}
    for sink in sinks:
        found = sequences_in(sink, settings)
        assert found.keys() == runs.keys(), sink
        for run, sequences in runs.items():
            pairs = zip_longest(found[run], sequences)
            wrong = next((pair for pair in pairs if pair[0] != pair[1]), None)
            assert wrong is None, f"{sink}: {wrong[0]} of {run} where {wrong[1]} should be"
        for key in {run.rpartition("-")[0] for run in runs}:
            order = [[run for run in each if run and run.startswith(key)] for each in (found, runs)]
            assert order[0] == order[1], f"{sink}: runs out of order"


def assigned(settings: Settings, name: str = "ragini") -> dict[str, range]:
    """Return producer_id -> assigned sequences, for each run of the journal that has any."""
    rows = journal_query(settings, "SELECT producer_id, first, last FROM runs WHERE last >= first ORDER BY run", name)
    return {str(producer_id): range(int(first), int(last) + 1) for producer_id, first, last in rows}


def last_assigned(settings: Settings, name: str = "ragini") -> int:
    """Return the last sequence that the journal has assigned in any run, or 0."""
    return max((sequences[-1] for sequences in assigned(settings, name).values()), default=0)


def journal_query(settings: Settings, query: str, name: str = "ragini") -> list[tuple[str | int, ...]]:
    """Query a journal file without the project's code."""
    connection = sqlite3.connect(settings.journal_path(name), timeout=10)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def producer_ids(settings: Settings, name: str = "ragini") -> list[str]:
    return [str(row[0]) for row in journal_query(settings, "SELECT producer_id FROM runs ORDER BY run", name)]


class Process(subprocess.Popen[str]):
    """A process with text pipes that is killed if the test in its `with` block fails."""

    def __init__(self, command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        flags = 0
        if sys.platform == "win32":  # Windows can interrupt a single process only if it has a process group of its own
            flags = subprocess.CREATE_NEW_PROCESS_GROUP
        super().__init__(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            creationflags=flags,
        )

    def interrupt(self) -> None:
        """Send Ctrl+C, on Windows Ctrl+Break."""
        if sys.platform == "win32":
            self.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM, on Windows Ctrl+Break."""
        if sys.platform == "win32":
            self.interrupt()
        else:
            super().terminate()

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind:
            self.kill()
        super().__exit__(kind, *rest)


def start_python(
    *arguments: str | Path, settings: Settings, code: str = "", environment: Mapping[str, str] | None = None
) -> Process:
    """Start `python -m` with these arguments (or `-c code`) with pipes, away from the user's .env and data."""
    # Without `__file__` DuckDB takes the program for an interactive session and draws progress bars on stdout.
    command = [sys.executable, *(("-c", f"__file__ = ''\n{code}") if code else ("-m",)), *map(str, arguments)]
    settings.data_path.parent.mkdir(parents=True, exist_ok=True)
    (settings.data_path.parent / ".env").touch()
    own = {
        **os.environ,
        "PYTHONPATH": str(PROJECT_DIR),
        "PYTHONIOENCODING": "utf-8",
        "BASE_DATA_DIR": str(settings.data_path),
        **(environment or {}),
    }
    return Process(command, settings.data_path.parent, own)


def run_python(
    *arguments: str | Path, settings: Settings, code: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, started as by `start_python`."""
    with start_python(*arguments, settings=settings, code=code, environment=environment) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_here(
    name: str, *arguments: object, settings: Settings, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module's command line to its end as `run_python` does, but in this process, which saves half a second.

    It shows what a command does and prints. Tests of how a process ends need a real process."""
    folder, module, line = settings.data_path.parent, import_module(name), [*map(str, arguments)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".env").touch()
    several = getattr(module, "run", None)  # only modules with several commands have it
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    own = {"BASE_DATA_DIR": str(settings.data_path), **(environment or {})}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    switch_s = sys.getswitchinterval()
    try:
        with mock.patch.dict(os.environ, own), chdir(folder), redirect_stdout(out), redirect_stderr(err):
            code = several(line) if several else cli.run(module.main, name=name, arguments=line)
    finally:
        sys.setswitchinterval(switch_s)
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        logger.remove()
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return subprocess.CompletedProcess([name, *line], code, *texts)


TEXTS = cache(ragini_producer.pool)


def ragini(*arguments: str | int, settings: Settings, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run ragini_producer at full speed in this process and assert its exit code, unless `code` is None.

    All runs share one pool of texts, so that it is scored once."""
    with mock.patch.object(ragini_producer, "pool", TEXTS):
        done = run_here("producers.ragini_producer", "--interval", "0", *arguments, settings=settings)
    assert code is None or done.returncode == code, done.stderr + done.stdout
    return done
