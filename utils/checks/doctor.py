"""Is this machine set up well? Each line says what was looked at, how it is, and what to do about it."""

import difflib
import importlib.metadata
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cyclopts
import portalocker

from utils.app import cli, config
from utils.app.config import DEFAULTS, PROJECT_DIR, Interval, Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import sqlite
from utils.records import table
from utils.records.record import timestamp_text
from utils.sources.auto_source import require_answer

INSTALL = "python -m pip install -r requirements.txt"
LITTLE_SPACE = 1 << 30
TOO_LITTLE_SPACE = 100 << 20
LARGE_WAL = 256 << 20
_NETWORK = ("nfs", "cifs", "smb", "9p", "sshfs", "drvfs", "afp", "webdav", "davfs")


@dataclass(frozen=True)
class Line:
    """One thing that was looked at; `remedy` says what to do about it."""

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


def examine(settings: Settings, backend: Callable[[], str]) -> Iterator[Line]:
    """Look at everything but the environment. `backend` says which matplotlib backend draws, and why."""
    looks: tuple[tuple[str, Callable[[], Iterable[Line]]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("data folder", lambda: _data_folder(settings.data_path)),
        ("journal", lambda: _journals(settings)),
        ("file", lambda: _sink("file", settings.live_path, _file)),
        ("sqlite", lambda: _sink("sqlite", settings.sqlite_path, _sqlite)),
        ("duckdb", lambda: _sink("duckdb", settings.duckdb_path, _duckdb)),
        ("kafka", lambda: _kafka(settings)),
        ("dashboard", lambda: [Line("dashboard", "ok", backend())]),
        ("clock", lambda: _clock(settings.data_path)),
    )
    for topic, look in looks:
        try:
            yield from look()
        except ToolkitError as error:
            yield Line(topic, "problem", " ".join(str(error).split()))
        except ImportError as error:
            yield Line(topic, "problem", f"cannot be looked at: {error}", INSTALL)
        except OSError as error:
            yield Line(topic, "problem", f"cannot be looked at: {error}")


def environment() -> list[Line]:
    """Look at `.env` and the variables, and take those away that no command could use: the rest can go on."""
    lines = []
    try:
        path, values = cli.read_env_file()
        cli.load_env_file()
        lines.append(Line(".env", "ok", str(path) if path else "there is none: defaults and the environment count"))
    except ToolkitError as error:
        values = {}
        lines.append(Line(".env", "problem", str(error), "until then nothing in it counts"))
    known = config.variables()
    for name in sorted(values.keys() - known.keys()):
        meant = difflib.get_close_matches(name, known, 1)
        remedy = f"did you mean {meant[0]}?" if meant else ".env.example lists what there is"
        lines.append(Line(".env", "note", f"{name} is no setting of this toolkit", remedy))
    app = cyclopts.App(result_action="return_value")

    @app.default
    def parse(*, settings: Settings = DEFAULTS, interval: Interval = 5.0) -> None:
        """Only parsed, never called."""

    while True:
        try:
            app.parse_args([], exit_on_error=False, print_error=False)
            break
        except cyclopts.CycloptsError as error:
            argument = getattr(error, "argument", None)
            names = [name for name in (argument.parameter.env_var if argument else ()) or () if name in os.environ]
            if not names:
                raise ToolkitError(" ".join(str(error).split())) from error
            text = f"{names[0]}={os.environ.pop(names[0])}: {' '.join(str(error).split())}"
            lines.append(Line(".env", "problem", text, "change or remove it in .env or the environment"))
    try:
        config.kafka_security()
    except ToolkitError as error:
        lines.append(Line(".env", "problem", str(error)))
    return lines


def _python() -> Iterator[Line]:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}: {sys.executable}"
    yield Line("python", "ok", text)
    if sys.prefix == sys.base_prefix:
        yield Line("python", "note", "no virtual environment is active", "python scripts/start.py makes one")


def _packages() -> Iterator[Line]:
    from packaging.requirements import Requirement

    found = []
    for line in (PROJECT_DIR / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if not (text := line.partition("#")[0].strip()):
            continue
        required = Requirement(text)
        try:
            version = importlib.metadata.version(required.name)
        except importlib.metadata.PackageNotFoundError:
            yield Line("packages", "problem", f"{required.name} is missing", INSTALL)
            continue
        if version not in required.specifier:
            text = f"{required.name} {version} is not {required.specifier}"
            yield Line("packages", "problem", text, f"{INSTALL} --upgrade")
        found.append(f"{required.name} {version}")
    yield Line("packages", "ok", ", ".join(found))


def _data_folder(folder: Path) -> Iterator[Line]:
    import psutil

    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "change its permissions, or name another folder with --data-dir or BASE_DATA_DIR"
        yield Line("data folder", "problem", f"{folder} cannot be written: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / 2**30:,.1f} GiB free" + ("" if folder.exists() else "; will be made")
    if free < LITTLE_SPACE:
        state: Literal["note", "problem"] = "problem" if free < TOO_LITTLE_SPACE else "note"
        yield Line("data folder", state, text, "free some space, or move it with BASE_DATA_DIR")
    else:
        yield Line("data folder", "ok", text)
    mounts = [disk for disk in psutil.disk_partitions(all=True) if existing.resolve().is_relative_to(disk.mountpoint)]
    if mounts:
        disk = max(mounts, key=lambda each: len(each.mountpoint))
        if "remote" in disk.opts or any(kind in disk.fstype.lower() for kind in _NETWORK):
            text = (
                f"{disk.mountpoint} is a network or shared drive ({disk.fstype or 'remote'}): locks and fsync may lie"
            )
            yield Line("data folder", "problem", text, "put the data on a local disk with BASE_DATA_DIR")


def _journals(settings: Settings) -> Iterator[Line]:
    paths = sorted(settings.journal_path("x").parent.glob("*.sqlite"))
    if not paths:
        yield Line("journal", "ok", "none yet")
    for path in paths:
        if not path.stat().st_size:
            yield Line("journal", "note", f"{path.name} is empty: its producer ended as it began", "start it again")
            continue
        try:
            yield from _journal(path, settings)
        except ToolkitError as error:
            yield Line("journal", "problem", str(error), "move it away: a new producer_id begins")


def _journal(path: Path, settings: Settings) -> Iterator[Line]:
    with sqlite.errors(path), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        owed = connection.execute("SELECT sink, since FROM owed ORDER BY rowid").fetchall()
        ((inode, last),) = connection.execute("SELECT inode, last FROM state").fetchall()
        waiting, size = connection.execute("SELECT total(count), total(length(lines)) FROM batches").fetchone()
    holder = _holder(path)
    owes = ", ".join(f"{sink} since {since}" for sink, since in owed) or "nothing"
    text = f"{path.name}: {last:,} given out, {waiting:,.0f} waiting ({size / 2**20:,.1f} MiB), owed: {owes}"
    yield Line("journal", "ok", f"{text}; {f'in use by process {holder}' if holder else 'not in use'}")
    if inode != str(path.stat().st_ino):
        text = f"{path.name} is a copy or was restored: its producer will not start"
        yield Line("journal", "problem", text, "start the producer once with --adopt, or use the original folder")
    if size >= settings.journal_max_mb << 20:
        text = f"{path.name} is full (JOURNAL_MAX_MB={settings.journal_max_mb}): its producer waits for a sink"
        yield Line("journal", "problem", text, "mend that sink, or --forget it, or raise JOURNAL_MAX_MB")
    elif waiting and not holder:
        yield Line("journal", "note", f"{path.name} waits for a run of its producer to deliver", "start it again")


def _holder(path: Path) -> int | None:
    """The process that has the journal open; a PID file that a killed one left behind names nobody."""
    import psutil

    pid = portalocker.PidFileLock(path.with_suffix(".pid")).read_pid()
    return pid if pid and pid < 1 << 31 and psutil.pid_exists(pid) else None


def _written(path: Path) -> str:
    logs = [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}.wal")]
    newest_s = max(each.stat().st_mtime for each in logs if each.exists() and (each == path or each.stat().st_size))
    return f"{path.name}, {path.stat().st_size / 2**20:,.1f} MiB, last write {timestamp_text(newest_s)}"


def _sink(topic: str, path: Path, look: Callable[[Path], Iterator[Line]]) -> Iterator[Line]:
    if not path.exists():
        yield Line(topic, "ok", f"{path.name}: none yet")
    elif path.is_dir():
        yield Line(topic, "problem", f"{path} is a folder", "move it away or name another file")
    elif not os.access(path, os.R_OK | os.W_OK):
        yield Line(topic, "problem", f"{path} may not be read and written by this user", "change its permissions")
    else:
        yield from look(path)


def _file(path: Path) -> Iterator[Line]:
    yield Line("file", "ok", _written(path))
    with path.open("rb") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read() != b"\n":
                yield Line("file", "note", "its last line is torn", "the next producer mends it")


def _sqlite(path: Path) -> Iterator[Line]:
    written = _written(path)  # before this look writes beside it
    with sqlite.errors(path), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table.TABLE})")]
        indexes = [row[1] for row in connection.execute(f"PRAGMA index_list({table.TABLE})")]
        last = connection.execute(f"SELECT max(rowid) FROM {table.TABLE}").fetchone()[0] if columns else 0
    yield Line("sqlite", "ok", f"{written}, last row {last or 0:,}")
    yield from _schema("sqlite", columns)
    if columns and "sequence" in columns and f"{table.TABLE}_identity" not in indexes:
        yield Line(
            "sqlite", "note", "nothing keeps messages from being stored twice", "the next producer adds the index"
        )
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > LARGE_WAL:
        text = f"{log.name} has {log.stat().st_size / 2**20:,.0f} MiB: a program keeps an old view of the database open"
        yield Line("sqlite", "note", text, "close what reads it")


def _schema(topic: str, existing: Collection[str]) -> Iterator[Line]:
    if not existing:
        yield Line(topic, "note", f"there is no table {table.TABLE} in it", "the next producer makes it")
    elif "message" not in existing:
        yield Line(topic, "problem", f"its table {table.TABLE} has no column message", "name another file")
    elif missing := [name for name in table.COLUMNS if name not in existing]:
        yield Line(topic, "note", f"older table without {', '.join(missing)}", "the next producer adds them")


def _duckdb(path: Path) -> Iterator[Line]:
    from utils.clients import duck

    try:
        connection = duck.connect(path, read_only=True)
    except Unavailable as error:
        yield Line("duckdb", "problem", str(error), "close the program that keeps it open: until then this sink waits")
        return
    with connection, duck.errors(path):
        query = "SELECT column_name FROM duckdb_columns() WHERE table_name = ?"
        columns = [name for (name,) in connection.execute(query, [table.TABLE]).fetchall()]
        count = connection.execute(f"SELECT count(*) FROM {table.TABLE}").fetchall()[0][0] if columns else 0
    yield Line("duckdb", "ok", f"{_written(path)}, {count:,} rows")
    yield from _schema("duckdb", columns)


def _kafka(settings: Settings) -> Iterator[Line]:
    try:
        require_answer(settings.kafka_broker)
    except Unavailable as error:
        yield Line("kafka", "note", f"{error}; the other sinks need none", "start one, or see the README")
        yield _java()
        return
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    from utils.clients.kafka_admin import kafka_python_options

    security = config.kafka_security()
    try:
        with closing(KafkaConsumer(**kafka_python_options(settings), request_timeout_ms=3_000)) as consumer:
            version = ".".join(map(str, consumer.config["api_version"]))
            partitions = consumer.partitions_for_topic(settings.topic)
    except (KafkaError, OSError) as error:
        text = f"something listens at {settings.kafka_broker} but does not talk {security.protocol} as asked: {error}"
        yield Line("kafka", "problem", text, "check KAFKA_BROKER_ADDRESS and the KAFKA_* security variables")
        return
    user = f" as {security.username}" if security.username else ""
    yield Line("kafka", "ok", f"{settings.kafka_broker} answers ({security.protocol}{user}), Kafka {version} or newer")
    if partitions:
        yield Line("kafka", "ok", f"topic {settings.topic} with {len(partitions)} partitions")
    else:
        yield Line("kafka", "ok", f"topic {settings.topic}: none yet")


def _java() -> Line:
    """Only whoever runs a broker on this machine needs Java."""
    command = shutil.which("java")
    if command:
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=10, check=False)
            if done.returncode == 0:
                return Line("kafka", "ok", f"java: {(done.stderr or done.stdout).splitlines()[0]}")
    return Line("kafka", "note", "java is missing or does not run", "install Java 17 or newer to run a broker here")


def _clock(folder: Path) -> Iterator[Line]:
    now_s = time.time()
    newest_s = max((path.stat().st_mtime for path in folder.glob("*") if path.is_file()), default=0.0)
    if newest_s > now_s + 60:
        text = f"{timestamp_text(now_s)}, but a data file was written at {timestamp_text(newest_s)}"
        yield Line("clock", "problem", text, "set the clock: messages would get times in the past")
    else:
        yield Line("clock", "ok", timestamp_text(now_s))
