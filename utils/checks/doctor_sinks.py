"""The half of the doctor that looks at journals and sinks."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import portalocker

from utils.app.config import Settings, kafka_security
from utils.app.errors import ToolkitError, Unavailable
from utils.checks.accounts import account_of, journal_paths, stream_names, stream_of
from utils.clients import sqlite
from utils.records.codec import instant_text
from utils.records.stream import Stream
from utils.records.table import Table, quoted
from utils.sinks import EMBEDDED, SINKS
from utils.sources.auto_source import require_answer
from utils.sources.sqlite_source import open_read_only

INSTALL = "python -m pip install -r requirements.txt"
LARGE_WAL = 256 << 20


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at; `remedy` tells what to do about it."""

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


Look = Callable[[Path, list[Stream]], Iterable[Sign]]


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


def embedded_sinks(settings: Settings) -> Iterator[Sign]:
    """Look at the file of each embedded sink, once, and at each stream in it."""
    streams = [stream_of(name, settings, EMBEDDED) for name in stream_names(settings)]
    looks: dict[str, Callable[[Path, list[Stream]], Iterable[Sign]]] = {
        "file": _file,
        "sqlite": _sqlite,
        "duckdb": _duckdb,
    }
    for sink in EMBEDDED:
        by_path: dict[Path, list[Stream]] = {}
        for stream in streams:
            if path := SINKS[sink].path(settings, stream):
                by_path.setdefault(path, []).append(stream)
        for path, inside in by_path.items():
            try:
                yield from _sink(sink, path, inside, looks.get(sink, _other))
            except ToolkitError as error:
                yield Sign(sink, "problem", str(error))
            except ImportError as error:
                yield Sign(sink, "problem", f"cannot be looked at: {error}", INSTALL)


def _written(path: Path) -> str:
    logs = [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}.wal")]
    newest_s = max(each.stat().st_mtime for each in logs if each.exists() and (each == path or each.stat().st_size))
    return f"{path.name}, {path.stat().st_size / 2**20:,.1f} MiB, last write {instant_text(int(newest_s * 1e6))}"


def _sink(topic: str, path: Path, streams: list[Stream], look: Look) -> Iterator[Sign]:
    if not path.exists():
        yield Sign(topic, "ok", f"{path.name}: none yet")
    elif path.is_dir() and look is not _other:
        yield Sign(topic, "problem", f"{path} is a folder", "move it away or name another file")
    elif not os.access(path, os.R_OK):
        yield Sign(topic, "problem", f"{path} may not be read by this user", "change its permissions")
    else:
        if not os.access(path, os.W_OK):
            yield Sign(topic, "note", f"{path} may not be written by this user", "fine for consumers")
        yield from look(path, streams)


def _other(path: Path, streams: list[Stream]) -> Iterator[Sign]:
    yield Sign("sink", "ok", f"{path.name} exists")


def _file(path: Path, streams: list[Stream]) -> Iterator[Sign]:
    yield Sign("file", "ok", _written(path))
    with path.open("rb") as lines:
        if lines.seek(0, os.SEEK_END):
            lines.seek(-1, os.SEEK_END)
            if lines.read() != b"\n":
                yield Sign("file", "note", "its last line is partial", "the next producer repairs it")


def _sqlite(path: Path, streams: list[Stream]) -> Iterator[Sign]:
    written = _written(path)  # before this look writes beside it
    yield Sign("sqlite", "ok", written)
    with sqlite.errors(path), closing(open_read_only(path)[0]) as connection:
        for table in map(Table, streams):
            columns = sqlite.columns(connection, table.name)
            indexes = [row[1] for row in connection.execute(f"PRAGMA index_list({quoted(table.name)})")]
            yield from _table("sqlite", table, columns)
            if "sequence" in columns and f"{table.name}_identity" not in indexes:
                text = f"{table.name}: nothing keeps records from being stored twice"
                yield Sign("sqlite", "note", text, "the next producer adds the index")
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > LARGE_WAL:
        text = f"{log.name} has {log.stat().st_size / 2**20:,.0f} MiB: a program keeps an old view of the database open"
        yield Sign("sqlite", "note", text, "close what reads it")


def _table(topic: str, table: Table, existing: Mapping[str, str]) -> Iterator[Sign]:
    if not existing:
        yield Sign(topic, "note", f"there is no table {table.name} in it", "the next producer makes it")
        return
    missing = set(table.columns) - set(existing)
    table.upgrade("sqlite" if topic == "sqlite" else "duckdb", existing)
    if missing:
        text = f"older table {table.name} without {', '.join(sorted(missing))}"
        yield Sign(topic, "note", text, "the next producer adds them")


def _duckdb(path: Path, streams: list[Stream]) -> Iterator[Sign]:
    from utils.clients import duck

    try:
        connection = duck.connect(path, read_only=True)
    except Unavailable as error:
        yield Sign("duckdb", "problem", str(error), "close the program that keeps it open: until then this sink waits")
        return
    yield Sign("duckdb", "ok", _written(path))
    with connection, duck.errors(path):
        for table in map(Table, streams):
            yield from _table("duckdb", table, duck.columns(connection, table.name))


def kafka(settings: Settings) -> Iterator[Sign]:
    """Look at broker and topics."""
    try:
        require_answer(settings.kafka_broker)
    except Unavailable as error:
        yield Sign("kafka", "note", f"{error}; the other sinks need none", "start one, or see the README")
        yield _java()
        return
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    from utils.clients.kafka_admin import Admin, kafka_python_options

    security = kafka_security()
    topics = [settings.topic_of(name) for name in stream_names(settings)]
    try:
        with closing(KafkaConsumer(**kafka_python_options(settings), request_timeout_ms=3_000)) as consumer:
            version = ".".join(map(str, consumer.config["api_version"]))
            partitions = {topic: consumer.partitions_for_topic(topic) for topic in topics}
    except (KafkaError, OSError) as error:
        text = f"something listens at {settings.kafka_broker} but does not talk {security.protocol} as asked: {error}"
        yield Sign("kafka", "problem", text, "check KAFKA_BROKER_ADDRESS and the KAFKA_* security variables")
        return
    user = f" as {security.username}" if security.username else ""
    yield Sign("kafka", "ok", f"{settings.kafka_broker} answers ({security.protocol}{user}), Kafka {version} or newer")
    for topic, found in partitions.items():
        yield Sign("kafka", "ok", f"topic {topic}" + (f" with {len(found)} partitions" if found else ": none yet"))
        if found and (problem := Admin(settings).problem(topic)):
            yield Sign("kafka", "problem", problem)


def _java() -> Sign:
    """Only whoever runs a broker on this machine needs Java."""
    command = shutil.which("java")
    if command:
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=10, check=False)
            if done.returncode == 0:
                return Sign("kafka", "ok", f"java: {(done.stderr or done.stdout).splitlines()[0]}")
    return Sign("kafka", "note", "java is missing or does not run", "install Java 17 or newer to run a broker here")
