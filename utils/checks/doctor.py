"""Is this machine set up well? Each line says what was looked at, how it is, and what to do about it."""

import difflib
import importlib.metadata
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import portalocker
import psutil

from utils.app import cli, config
from utils.app.config import PROJECT_DIR, Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.checks.accounts import Account, account_of, journal_paths, stream_names, stream_of
from utils.checks.readers import pages
from utils.clients.kafka_admin import Admin
from utils.records.instants import instant_text
from utils.records.stream import Stream
from utils.sinks import EMBEDDED, SINKS, Sink
from utils.sources.auto_source import require_answer

INSTALL = "python -m pip install -r requirements.txt"
LITTLE_SPACE = 100 << 20
_NETWORK = ("nfs", "cifs", "smb", "9p", "sshfs", "drvfs", "afp", "webdav", "davfs")


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at; `remedy` tells what to do about it."""

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


def examine(settings: Settings, backend: Callable[[], str]) -> Iterator[Sign]:
    """Look at everything. `backend` says which matplotlib backend draws."""
    found: list[Account] = []
    looks: dict[str, Callable[[], Iterable[Sign]]] = {
        ".env": _environment,
        "python": _python,
        "packages": _packages,
        "data folder": lambda: _data_folder(settings.data_path),
        "journal": lambda: _journals(settings, found),
        "sinks": lambda: _sinks(settings, found),
        "dashboard": lambda: [Sign("dashboard", "ok", backend())],
        "clock": lambda: _clock(settings.data_path),
    }
    for topic, look in looks.items():
        try:
            yield from look()
        except ToolkitError as error:
            yield Sign(topic, "problem", " ".join(str(error).split()))
        except ImportError as error:
            yield Sign(topic, "problem", f"cannot be looked at: {error}", INSTALL)
        except OSError as error:
            yield Sign(topic, "problem", f"cannot be looked at: {error}")


def _environment() -> Iterator[Sign]:
    """Names in `.env` that mean nothing; a line or value that cannot be used ends every command, this one too."""
    path, values = cli.read_env_file()
    yield Sign(".env", "ok", str(path) if path else "there is none: defaults and the environment count")
    known = config.variables()
    for name in sorted(values.keys() - known.keys()):
        meant = difflib.get_close_matches(name, known, 1)
        remedy = f"did you mean {meant[0]}?" if meant else ".env.example lists what there is"
        yield Sign(".env", "note", f"{name} is no setting of this toolkit", remedy)


def _python() -> Iterator[Sign]:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}: {sys.executable}"
    yield Sign("python", "ok", text)
    if sys.prefix == sys.base_prefix:
        yield Sign("python", "note", "no virtual environment is active", "python scripts/start.py makes one")


def _packages() -> Iterator[Sign]:
    """The packages that the project needs to run."""
    from packaging.requirements import Requirement

    found = list[str]()
    for line in (PROJECT_DIR / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if text := line.partition("#")[0].strip():
            wanted = Requirement(text)
            try:
                version = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                yield Sign("packages", "problem", f"{wanted.name} is missing", INSTALL)
                continue
            found.append(f"{wanted.name} {version}")
            if version not in wanted.specifier:
                yield Sign("packages", "problem", f"{found[-1]} is not {wanted.specifier}", f"{INSTALL} --upgrade")
    yield Sign("packages", "ok", ", ".join(found))


def _data_folder(folder: Path) -> Iterator[Sign]:
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "change its permissions, or name another folder with --data-dir or BASE_DATA_DIR"
        yield Sign("data folder", "problem", f"{folder} cannot be written: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / 2**30:,.1f} GiB free" + ("" if folder.exists() else "; will be made")
    if free < LITTLE_SPACE:
        yield Sign("data folder", "problem", text, "free some space, or move it with BASE_DATA_DIR")
    else:
        yield Sign("data folder", "ok", text)
    mounts = [disk for disk in psutil.disk_partitions(all=True) if existing.resolve().is_relative_to(disk.mountpoint)]
    disk = max(mounts, key=lambda each: len(each.mountpoint), default=None)
    if disk and ("remote" in disk.opts or any(kind in disk.fstype.lower() for kind in _NETWORK)):
        text = f"{disk.mountpoint} is a network or shared drive ({disk.fstype or 'remote'}): locks and fsync may lie"
        yield Sign("data folder", "problem", text, "put the data on a local disk with BASE_DATA_DIR")


def _journals(settings: Settings, found: list[Account]) -> Iterator[Sign]:
    """Look at each journal, and add what is known of it to `found`."""
    paths = journal_paths(settings)
    if not paths:
        yield Sign("journal", "ok", "none yet")
    for path in paths:
        try:
            account = account_of(path)
        except Unavailable as error:
            yield Sign("journal", "note", str(error), "look again when it is free")
        except ToolkitError as error:
            yield Sign("journal", "problem", str(error), "move it away: its producer begins a new one")
        else:
            if account:
                found.append(account)
                yield from _journal(account, settings.journal_max_mb)
            else:
                yield Sign("journal", "note", f"{path.name} is empty: its producer ended as it began", "start it again")


def _journal(account: Account, max_mb: int) -> Iterator[Sign]:
    name, pending = account.path.name, account.last - account.pruned
    # A PID file that a killed process left behind names nobody.
    user = portalocker.PidFileLock(account.path.with_suffix(".pid")).read_pid()
    in_use = bool(user and user < 1 << 31 and psutil.pid_exists(user))
    subscribed = ", ".join(f"{sink} since {since}" for sink, (since, _) in account.subscribed.items()) or "nothing"
    text = (
        f"{name} ({account.stream}): {account.last:,} assigned in {cli.counted(len(account.runs), 'run')}, "
        f"{pending:,} pending "
        f"({account.pending_bytes / 2**20:,.1f} MiB), subscribed: {subscribed}"
    )
    yield Sign("journal", "ok", f"{text}; {f'in use by process {user}' if in_use else 'not in use'}")
    if account.pending_bytes >= max_mb << 20:
        text = f"{name} is full (JOURNAL_MAX_MB={max_mb}): its producer waits for a sink"
        yield Sign("journal", "problem", text, "repair that sink, or --drop it, or raise JOURNAL_MAX_MB")
    elif pending and not in_use:
        yield Sign("journal", "note", f"{name} has pending records for the next run of its producer", "start it")


def _sinks(settings: Settings, found: list[Account]) -> Iterator[Sign]:
    """Read each stream in each sink, as a consumer would; a sink that a broker serves only where one answers."""
    streams = [stream_of(name, settings, EMBEDDED) for name in stream_names(settings, found)]
    for name, sink in SINKS.items():
        if not sink.embedded:
            try:
                Admin(settings)  # names a variable that cannot be used
                require_answer(settings.kafka_broker)
            except Unavailable as error:
                yield Sign(name, "note", f"{error}; the other sinks need none", "start one, or see the README")
                continue
        for stream in streams:
            try:
                yield from _read(sink, settings, stream)
            except ToolkitError as error:
                busy = "close what keeps it open, or change its permissions; damage: README.md, Troubleshooting"
                remedy = busy if isinstance(error, Unavailable) else ""
                address = "check KAFKA_BROKER_ADDRESS and the KAFKA_* security variables"
                text = " ".join(str(error).split())
                yield Sign(name, "problem", text, remedy if sink.embedded else address)


def _read(sink: Sink, settings: Settings, stream: Stream) -> Iterator[Sign]:
    path = sink.path(settings, stream)
    try:
        with closing(pages(sink.name, settings, stream)) as reader:
            contents = "has records" if next(reader, None) else "is empty"
    except Absent as error:
        yield Sign(sink.name, "ok", str(error))
        return
    place = f"{path}, {path.stat().st_size / 2**20:,.1f} MiB" if path else settings.kafka_broker
    yield Sign(sink.name, "ok", f"{place}: stream {stream.name} {contents}")
    if not path and (problem := Admin(settings).problem(settings.topic_of(stream.name))):
        yield Sign(sink.name, "problem", problem)


def _clock(folder: Path) -> Iterator[Sign]:
    now_s = time.time()
    newest_s = max((path.stat().st_mtime for path in folder.glob("*") if path.is_file()), default=0.0)
    if newest_s > now_s + 60:
        text = f"{instant_text(int(now_s * 1e6))}, but a data file was written at {instant_text(int(newest_s * 1e6))}"
        yield Sign("clock", "problem", text, "set the clock: records would get times in the past")
    else:
        yield Sign("clock", "ok", instant_text(int(now_s * 1e6)))
