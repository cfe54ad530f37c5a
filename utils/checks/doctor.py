"""Is this machine set up well? Each line says what was looked at, how it is, and what to do about it."""

import difflib
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import portalocker

from utils.app import cli, config
from utils.app.config import PROJECT_DIR, Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.checks.accounts import Account, account_of, journal_paths, stream_names, stream_of
from utils.checks.readers import pages
from utils.clients.kafka_admin import Admin
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
        "packages": _packages,
        "data folder": lambda: _data_folder(settings.data_path),
        "journal": lambda: _journals(settings, found),
        "sinks": lambda: _sinks(settings, found),
        "dashboard": lambda: [Sign("dashboard", "ok", backend())],
    }
    for topic, look in looks.items():
        try:
            yield from look()
        except ToolkitError as error:
            yield Sign(topic, "problem", " ".join(str(error).split()))
        except (ImportError, OSError) as error:
            remedy = INSTALL if isinstance(error, ImportError) else ""
            yield Sign(topic, "problem", f"cannot be looked at: {error}", remedy)


def _environment() -> Iterator[Sign]:
    """Names in `.env` that mean nothing; a line or value that cannot be used ends every command, this one too."""
    path, values = cli.read_env_file()
    yield Sign(".env", "ok", str(path) if path else "there is none: defaults and the environment count")
    known = config.variables()
    for name in sorted(values.keys() - known.keys()):
        meant = difflib.get_close_matches(name, known, 1)
        remedy = f"did you mean {meant[0]}?" if meant else ".env.example lists what there is"
        yield Sign(".env", "note", f"{name} is no setting of this toolkit", remedy)


def _packages() -> Iterator[Sign]:
    """Python, and the packages that the project needs to run."""
    from packaging.requirements import Requirement

    found = [f"Python {platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"]
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
    import psutil  # here and below: what is missing is a sign of its own

    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "change its permissions, or name another folder with --data-dir or BASE_DATA_DIR"
        yield Sign("data folder", "problem", f"{folder} cannot be written: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(existing).free
    enough, remedy = free >= LITTLE_SPACE, "free some space, or move it with BASE_DATA_DIR"
    text = f"{folder}, {free / 2**30:,.1f} GiB free"
    yield Sign("data folder", "ok" if enough else "problem", text, "" if enough else remedy)
    mounts = [disk for disk in psutil.disk_partitions(all=True) if existing.resolve().is_relative_to(disk.mountpoint)]
    disk = max(mounts, key=lambda each: len(each.mountpoint), default=None)
    if disk and ("remote" in disk.opts or any(kind in disk.fstype.lower() for kind in _NETWORK)):
        text = f"{disk.mountpoint} is a network or shared drive ({disk.fstype or 'remote'}): locks and fsync may lie"
        yield Sign("data folder", "problem", text, "put the data on a local disk with BASE_DATA_DIR")


def _journals(settings: Settings, found: list[Account]) -> Iterator[Sign]:
    """Look at each journal, and add what is known of it to `found`."""
    for path in journal_paths(settings):
        try:
            account = account_of(path)
        except Unavailable as error:
            yield Sign("journal", "note", str(error), "look again when it is free")
        except ToolkitError as error:
            yield Sign("journal", "problem", str(error), "move it away: its producer begins a new one")
        else:
            if account:  # else its producer ended as it began
                found.append(account)
                yield _journal(account, settings.journal_max_mb)


def _journal(account: Account, max_mb: int) -> Sign:
    """What is in it, and who must do something about what is pending."""
    import psutil

    pending = account.last - account.pruned
    # A PID file that a killed process left behind names nobody.
    user = portalocker.PidFileLock(account.path.with_suffix(".pid")).read_pid()
    in_use = bool(user and user < 1 << 31 and psutil.pid_exists(user))
    subscribed = ", ".join(f"{sink} since {since}" for sink, (since, _) in account.subscribed.items()) or "nothing"
    text = (
        f"{account.path.name} ({account.stream}): {account.last:,} assigned in "
        f"{cli.counted(len(account.runs), 'run')}, {pending:,} pending ({account.pending_bytes / 2**20:,.1f} MiB), "
        f"subscribed: {subscribed}; "
        f"{f'in use by process {user}' if in_use else 'not in use'}"
    )
    if account.pending_bytes >= max_mb << 20:
        remedy = f"full (JOURNAL_MAX_MB={max_mb}): repair the sink that it waits for, or --drop it, or raise the limit"
        return Sign("journal", "problem", text, remedy)
    if pending and not in_use:
        return Sign("journal", "note", text, "start its producer: it delivers what is pending")
    return Sign("journal", "ok", text)


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
                yield Sign(name, "problem", " ".join(str(error).split()), "README.md, Troubleshooting, says what to do")


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
