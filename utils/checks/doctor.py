"""Diagnosis of the set-up on this machine: for each part its state and, where something is wrong, a remedy."""

import difflib
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import portalocker

from utils.app import cli, config
from utils.app.config import PROJECT_DIR, Settings
from utils.app.env_file import read_env_file
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.checks.journals import JournalSummary, journal_paths, journal_summary, stream_names, stream_of
from utils.checks.readers import pages
from utils.clients.kafka_admin import Admin
from utils.records.stream import Stream
from utils.sinks import EMBEDDED, SINKS, Sink
from utils.sources.auto_source import require_answer

INSTALL = "python -m pip install -r requirements.txt"
LITTLE_SPACE = 100 << 20
MISSING = "not there yet"
_NETWORK = ("nfs", "cifs", "smb", "9p", "sshfs", "drvfs", "afp", "webdav", "davfs")


@dataclass(frozen=True)
class Finding:
    """Result of one check of the set-up. `remedy` is what the user should do about it."""

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


def examine(settings: Settings, backend: Callable[[], str]) -> Iterator[Finding]:
    """Yield the results of all checks. `backend` returns the name of matplotlib's backend, or raises."""
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        ".env": _environment,
        "packages": _packages,
        "data folder": lambda: _data_folder(settings.data_path),
        "journal": lambda: _journals(settings),
        "sinks": lambda: _sinks(settings),
        "dashboard": lambda: [Finding("dashboard", "ok", backend())],
    }
    for topic, check in checks.items():
        try:
            yield from check()
        except ToolkitError as error:
            yield Finding(topic, "problem", " ".join(str(error).split()))
        except (ImportError, OSError) as error:
            remedy = INSTALL if isinstance(error, ImportError) else ""
            yield Finding(topic, "problem", f"cannot be checked: {error}", remedy)


def _environment() -> Iterator[Finding]:
    """Check `.env` for unknown names. A line or value that is invalid ends every command at its start."""
    path, values = read_env_file(PROJECT_DIR)
    yield Finding(".env", "ok", str(path) if path else "no such file: defaults and environment variables apply")
    known = config.variables()
    for name in sorted(values.keys() - known.keys()):
        similar = difflib.get_close_matches(name, known, 1)
        remedy = f"did you mean {similar[0]}?" if similar else ".env.example lists all settings"
        yield Finding(".env", "note", f"{name} is not a setting of this toolkit", remedy)


def _packages() -> Iterator[Finding]:
    """Check the versions of Python and of the packages in requirements.txt."""
    from packaging.requirements import Requirement

    found = [f"Python {platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"]
    for line in (PROJECT_DIR / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if text := line.partition("#")[0].strip():
            wanted = Requirement(text)
            try:
                version = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                yield Finding("packages", "problem", f"{wanted.name} is missing", INSTALL)
                continue
            found.append(f"{wanted.name} {version}")
            if version not in wanted.specifier:
                yield Finding("packages", "problem", f"{found[-1]} is not {wanted.specifier}", f"{INSTALL} --upgrade")
    yield Finding("packages", "ok", ", ".join(found))


def _data_folder(folder: Path) -> Iterator[Finding]:
    """Check that the data folder is writable, has free space, and is not on a network drive."""
    import psutil  # not at the top: if it is missing, `_packages` must still report it

    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "change its permissions, or name another folder with --data-dir or BASE_DATA_DIR"
        yield Finding("data folder", "problem", f"{folder} cannot be written: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(existing).free
    enough, remedy = free >= LITTLE_SPACE, "free some space, or name a folder on another disk with BASE_DATA_DIR"
    text = f"{folder}, {free / 2**30:,.1f} GiB free"
    yield Finding("data folder", "ok" if enough else "problem", text, "" if enough else remedy)
    mounts = [disk for disk in psutil.disk_partitions(all=True) if existing.resolve().is_relative_to(disk.mountpoint)]
    disk = max(mounts, key=lambda each: len(each.mountpoint), default=None)
    if disk and ("remote" in disk.opts or any(kind in disk.fstype.lower() for kind in _NETWORK)):
        text = f"{disk.mountpoint} is a network or shared drive: locks and fsync may fail"
        yield Finding("data folder", "problem", text, "put the data on a local disk with BASE_DATA_DIR")


def _journals(settings: Settings) -> Iterator[Finding]:
    """Check each journal."""
    for path in journal_paths(settings):
        try:
            journal = journal_summary(path)
        except Unavailable as error:
            yield Finding("journal", "note", str(error), "run doctor again later")
        except ToolkitError as error:  # here, so that it does not hide the others
            yield Finding("journal", "problem", str(error), "move it away: its producer will create a new one")
        else:
            if journal:  # None: its producer ended before it had created its tables
                yield _journal(journal, settings.journal_max_mb)


def _journal(journal: JournalSummary, max_mb: int) -> Finding:
    """Describe a journal: its runs, pending records, subscriptions and process, and what to do if it is full."""
    import psutil

    pending = journal.last - journal.pruned
    user = portalocker.PidFileLock(journal.path.with_suffix(".pid")).read_pid()
    in_use = bool(user and user < 1 << 31 and psutil.pid_exists(user))  # a killed process leaves its PID file
    sinks = dict[str, list[str]]()
    for sink, (since, _) in journal.subscribed.items():
        sinks.setdefault(since, []).append(sink)
    subscribed = ", ".join(f"{' '.join(names)} since {since}" for since, names in sinks.items()) or "nothing"
    text = (
        f"{journal.path.name} ({journal.stream}): {journal.last:,} assigned in "
        f"{cli.counted(len(journal.runs), 'run')}, {pending:,} pending ({journal.pending_bytes / 2**20:,.1f} MiB), "
        f"subscribed: {subscribed}; {f'in use by process {user}' if in_use else 'not in use'}"
    )
    if journal.pending_bytes >= max_mb << 20:
        remedy = f"full (JOURNAL_MAX_MB={max_mb}): fix the sink that it waits for, or --drop it, or raise the limit"
        return Finding("journal", "problem", text, remedy)
    if pending and not in_use:
        return Finding("journal", "note", text, "start its producer, which delivers the pending records")
    return Finding("journal", "ok", text)


def _sinks(settings: Settings) -> Iterator[Finding]:
    """Read the first records of each stream in each sink; in Kafka only if a broker answers."""
    streams = [stream_of(name, settings, EMBEDDED) for name in stream_names(settings)]
    for name, sink in SINKS.items():
        admin: Admin | None = None
        if not sink.embedded:
            try:
                admin = Admin(settings)  # raises ToolkitError that names a variable if Kafka's client rejects it
                require_answer(settings.kafka_broker)
            except Unavailable as error:
                yield Finding(name, "note", f"{error}; the other sinks need none", "to use Kafka: README.md, Task 1")
                continue
        contents = dict[str, list[str]]()
        for stream in streams:
            try:
                state = _contents(sink, settings, stream)
                contents.setdefault(state, []).append(stream.name)
                if admin and state != MISSING and (problem := admin.problem(settings.topic_of(stream.name))):
                    yield Finding(name, "problem", problem)
            except ToolkitError as error:
                yield Finding(
                    name, "problem", " ".join(str(error).split()), "README.md, Troubleshooting, says what to do"
                )
        if contents:
            states = [f"{state}: {', '.join(names)}" for state, names in contents.items()]
            yield Finding(name, "ok", "; ".join([_place(sink, settings, streams), *states]))


def _contents(sink: Sink, settings: Settings, stream: Stream) -> str:
    """Read the first records of a stream and return "with records", "empty" or MISSING. Raises ToolkitError."""
    try:
        with closing(pages(sink.name, settings, stream)) as reader:
            return "with records" if next(reader, None) else "empty"
    except Absent:
        return MISSING


def _place(sink: Sink, settings: Settings, streams: Sequence[Stream]) -> str:
    """Return the sink's file with its size; for several files their folder, for Kafka the brokers."""
    paths = {path for stream in streams if (path := sink.path(settings, stream))}
    if len(paths) != 1:
        return str(settings.data_path) if paths else settings.kafka_broker
    (path,) = paths
    return f"{path}, {path.stat().st_size / 2**20:,.1f} MiB" if path.exists() else str(path)
