"""The half of the doctor that looks at journals and sinks."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import portalocker

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.checks.accounts import account_of, journal_paths, stream_names, stream_of
from utils.checks.pages import open_reader
from utils.clients.kafka_admin import Admin
from utils.records.stream import Stream
from utils.sinks import EMBEDDED, SINKS, Sink
from utils.sources.auto_source import require_answer

INSTALL = "python -m pip install -r requirements.txt"
ADDRESS = "check KAFKA_BROKER_ADDRESS and the KAFKA_* security variables"


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at; `remedy` tells what to do about it."""

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


def journals(settings: Settings) -> Iterator[Sign]:
    """Look at each journal."""
    paths = journal_paths(settings)
    if not paths:
        yield Sign("journal", "ok", "none yet")
    for path in paths:
        if not path.stat().st_size:
            yield Sign("journal", "note", f"{path.name} is empty: its producer ended as it began", "start it again")
            continue
        try:
            yield from _journal(path, settings)
        except Unavailable as error:
            yield Sign("journal", "note", str(error), "look again when it is free")
        except ToolkitError as error:
            yield Sign("journal", "problem", str(error), "move it away: its producer begins a new one")


def _journal(path: Path, settings: Settings) -> Iterator[Sign]:
    account = account_of(path)
    if account is None:
        yield Sign("journal", "note", f"{path.name} is being created", "look again in a moment")
        return
    user = _user(path)
    subscribed = ", ".join(f"{sink} since {each.since}" for sink, each in account.subscriptions.items()) or "nothing"
    pending = account.last - account.pruned
    size = f"{account.pending_bytes / 2**20:,.1f} MiB"
    text = (
        f"{path.name} ({account.stream}): {account.last:,} assigned in {len(account.runs):,} runs, "
        f"{pending:,} pending ({size}), subscribed: {subscribed}"
    )
    yield Sign("journal", "ok", f"{text}; {f'in use by process {user}' if user else 'not in use'}")
    if account.pending_bytes >= settings.journal_max_mb << 20:
        text = f"{path.name} is full (JOURNAL_MAX_MB={settings.journal_max_mb}): its producer waits for a sink"
        yield Sign("journal", "problem", text, "repair that sink, or --drop it, or raise JOURNAL_MAX_MB")
    elif pending and not user:
        yield Sign("journal", "note", f"{path.name} has pending records for the next run of its producer", "start it")


def _user(path: Path) -> int | None:
    """The process that has the journal open; a PID file that a killed one left behind names nobody."""
    import psutil

    pid = portalocker.PidFileLock(path.with_suffix(".pid")).read_pid()
    return pid if pid and pid < 1 << 31 and psutil.pid_exists(pid) else None


def sinks(settings: Settings) -> Iterator[Sign]:
    """Read each stream in each sink, as a consumer would; a sink that a broker serves only where one answers."""
    streams = [stream_of(name, settings, EMBEDDED) for name in stream_names(settings)]
    for name, sink in SINKS.items():
        if not sink.embedded:
            try:
                require_answer(settings.kafka_broker)
            except Unavailable as error:
                yield Sign(name, "note", f"{error}; the other sinks need none", "start one, or see the README")
                yield _java()
                continue
        for stream in streams:
            try:
                yield from _read(sink, settings, stream)
            except ToolkitError as error:
                remedy = "close what keeps it open" if isinstance(error, Unavailable) else ""
                yield Sign(name, "problem", " ".join(str(error).split()), remedy if sink.embedded else ADDRESS)
            except ImportError as error:
                yield Sign(name, "problem", f"cannot be looked at: {error}", INSTALL)


def _read(sink: Sink, settings: Settings, stream: Stream) -> Iterator[Sign]:
    path = sink.path(settings, stream)
    if path and path.exists() and not os.access(path, os.R_OK):
        yield Sign(sink.name, "problem", f"{path} may not be read by this user", "change its permissions")
        return
    try:
        with closing(open_reader(sink.name, settings, stream)) as reader:
            contents = "has records" if reader.poll(1) else "is empty"
    except Absent as error:
        yield Sign(sink.name, "ok", str(error))
        return
    size = f", {path.stat().st_size / 2**20:,.1f} MiB" if path else ""
    yield Sign(sink.name, "ok", f"{reader.detail}{size}: stream {stream.name} {contents}")
    if path and not os.access(path, os.W_OK):
        yield Sign(sink.name, "note", f"{path} may not be written by this user", "fine for consumers")
    if not path and (problem := Admin(settings).problem(settings.topic_of(stream.name))):
        yield Sign(sink.name, "problem", problem)


def _java() -> Sign:
    """Only whoever runs a broker on this machine needs Java."""
    command = shutil.which("java")
    if command:
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=10, check=False)
            if done.returncode == 0:
                return Sign("kafka", "ok", f"java: {(done.stderr or done.stdout).splitlines()[0]}")
    return Sign("kafka", "note", "java is missing or does not run", "install Java 17 or newer to run a broker here")
