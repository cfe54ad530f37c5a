"""The doctor finds each kind of broken set-up and names a remedy; a healthy one has no problem."""

import importlib.metadata
import json
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import duckdb
import msgspec
import psutil
import pytest

import verify_emitters
from tests.helpers import FILES, make_batch, run_python
from utils.app.config import Settings, load_env_file
from utils.app.errors import ToolkitError
from utils.checks import doctor
from utils.checks.doctor import Finding
from utils.checks.journals import journal_summaries
from utils.delivery.journal import Journal
from utils.emitters.base import Emitter
from utils.records.codec import Field
from utils.records.record import Batch
from utils.records.stream import BUZZ, Stream, declare
from utils.sinks import ALL, EMBEDDED, SINKS


def append(journal: Journal, count: int, text: str = "hello") -> Batch:
    batch = make_batch(count, producer_id=journal.producer_id, first=journal.last + 1, text=text)
    journal.append(batch)
    return batch


def emitter(sink: str, settings: Settings, stream: Stream = BUZZ) -> Emitter:
    return SINKS[sink].emitter(settings, stream, "ann-1", "")


VERSION = cache(importlib.metadata.version)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with a journal and complete sinks, made once."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("healthy") / "data")
    with closing(Journal(settings.journal_path("ann"), BUZZ)) as journal:
        journal.subscribe(EMBEDDED)
        batch = append(journal, 3)
        for sink in EMBEDDED:
            with closing(emitter(sink, settings)) as each:
                each.last([])
                each.emit(batch)
        for sink in EMBEDDED:
            journal.note_reached(sink, 3, "")
        journal.prune()
    return settings.data_path


@pytest.fixture
def settings(healthy: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with a copy of the healthy folder, an empty .env, and a broker's address where nobody listens."""
    (tmp_path / ".env").touch()
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    shutil.copytree(healthy, settings.data_path)
    monkeypatch.setattr(importlib.metadata, "version", VERSION)  # the doctor asks for about 30, each a file to read
    return replace(settings, kafka_broker=address)


def look(settings: Settings, topic: str, state: str = "problem") -> str:
    """Return findings of this topic and state, with their remedies, as one text."""
    lines = list(doctor.examine(settings, lambda: "Agg: tests"))
    return "\n".join(f"{each.text} -> {each.remedy}" for each in lines if (each.topic, each.state) == (topic, state))


def test_a_healthy_set_up_has_no_problem(settings: Settings) -> None:
    lines = list(doctor.examine(settings, lambda: "Agg: tests"))
    assert [line for line in lines if line.state == "problem"] == []
    topics = [".env", "packages", "data folder", "journal", *ALL, "dashboard"]
    assert list(dict.fromkeys(line.topic for line in lines)) == topics
    assert "ann.sqlite (buzz): 3 assigned in 1 run, 0 pending" in look(settings, "journal", "ok")
    assert f"subscribed: {' '.join(EMBEDDED)} since 20" in look(settings, "journal", "ok")
    assert all("; with records: buzz" in look(settings, sink, "ok") for sink in EMBEDDED)


def test_looking_changes_nothing(tmp_path: Path, settings: Settings) -> None:
    empty = replace(settings, data_dir=tmp_path / "nothing here")
    assert "nothing here" in look(empty, "data folder", "ok")
    assert not empty.data_path.exists()
    before = {path: path.read_bytes() for path in settings.data_path.rglob("*") if path.is_file()}
    assert look(settings, "sqlite") == ""
    assert {path: path.read_bytes() for path in settings.data_path.rglob("*") if path in before} == before


def test_packages(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("rich", "mypy", "hypothesis"):  # mypy and hypothesis are for developers only
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.0.2" if name == "kafka-python" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = look(settings, "packages")
    assert "rich is missing -> python -m pip install -r requirements.txt" in found
    assert "kafka-python 2.0.2 is not >=3.0.9 -> python -m pip install -r requirements.txt --upgrade" in found
    assert "mypy" not in found and "hypothesis" not in found


WITHOUT = """
import sys
from importlib import metadata
package, module, known = *sys.argv[1:], metadata.version
class Gone:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
def version(name):
    if name == package:
        raise metadata.PackageNotFoundError(name)
    return known(name)
sys.meta_path.insert(0, Gone())
metadata.version = version
import verify_emitters
sys.exit(verify_emitters.run(["doctor", "--json"]))
"""


@pytest.mark.full
@pytest.mark.parametrize("package", ["psutil", "matplotlib", "pandas", "duckdb", "confluent-kafka"])
def test_a_missing_package_stops_no_other_check(package: str, settings: Settings) -> None:
    module = package.replace("-", "_")
    done = run_python(package, module, settings=settings, code=WITHOUT)
    assert done.returncode == 1, done.stderr
    signs = msgspec.json.decode(done.stdout, type=list[Finding])
    assert Finding("packages", "problem", f"{package} is missing", doctor.INSTALL) in signs
    assert {".env", "packages", "data folder", "file", "dashboard"} <= {sign.topic for sign in signs}


def test_a_data_folder_that_is_a_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    for folder in ("plain", "plain/inside"):
        assert "cannot be written" in look(replace(settings, data_dir=tmp_path / folder), "data folder")


def test_a_read_only_data_folder(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", deny)
    assert "cannot be written: Permission denied -> change its permissions" in look(settings, "data folder")


def test_little_space(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50 << 20))
    assert "free some space" in look(settings, "data folder")


@pytest.mark.parametrize(("fstype", "opts"), [("nfs4", "rw"), ("9p", "rw"), ("NTFS", "rw,remote")])
def test_a_network_drive(settings: Settings, monkeypatch: pytest.MonkeyPatch, fstype: str, opts: str) -> None:
    mounts = [
        SimpleNamespace(mountpoint=str(Path(settings.data_path.anchor)), fstype="ext4", opts="rw"),
        SimpleNamespace(mountpoint=str(settings.data_path), fstype=fstype, opts=opts),
        SimpleNamespace(mountpoint=f"{settings.data_path}-of-others", fstype="ext4", opts="rw"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert "put the data on a local disk" in look(settings, "data folder")


def test_a_journal_that_is_no_database(settings: Settings) -> None:
    settings.journal_path("aaa").write_text("not a database, but long enough to be read as one" * 10)
    problem = look(settings, "journal")
    assert "aaa.sqlite is not a SQLite database" in problem and "move it away" in problem
    assert "ann.sqlite (buzz): 3 assigned" in look(settings, "journal", "ok")


def test_a_journal_of_the_first_edition_is_no_empty_one(settings: Settings) -> None:
    """Its records that were pending when the toolkit was updated are acknowledged."""
    with closing(sqlite3.connect(settings.journal_path("bob"))) as connection:
        connection.execute("CREATE TABLE identities (a)")
    assert "bob.sqlite is not a journal of this version: deliver what is pending" in look(settings, "journal")
    with pytest.raises(ToolkitError, match="not a journal of this version"):
        journal_summaries(settings)


def test_a_copied_journal_is_no_problem(settings: Settings) -> None:
    shutil.copy(settings.journal_path("ann"), settings.journal_path("copy"))
    settings.journal_path("ann").unlink()
    assert look(settings, "journal") == ""
    assert "copy.sqlite (buzz): 3 assigned" in look(settings, "journal", "ok")


def test_only_a_damaged_journal_is_to_be_moved_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(settings.journal_path("ann"), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        found = look(settings, "journal", "note")
    assert "locked" in found
    assert "move it away" not in found + look(settings, "journal")


def test_a_full_journal_a_pending_one_and_its_user(settings: Settings) -> None:
    with closing(Journal(settings.journal_path("ann"), BUZZ)) as journal:
        for _ in range(3):
            append(journal, 5, text=secrets.token_hex(100_000))  # the journal compresses, so random text
        assert f"in use by process {os.getpid()}" in look(settings, "journal", "ok")
        assert "18 assigned in 2 runs, 15 pending" in look(settings, "journal", "ok")
        assert "full (JOURNAL_MAX_MB=1): fix the sink" in look(replace(settings, journal_max_mb=1), "journal")
        assert look(settings, "journal", "note") == ""
    assert "not in use -> start its producer" in look(settings, "journal", "note")


def test_every_stream_is_looked_at(settings: Settings) -> None:
    wind = Stream("wind", by="place", value="speed", fields=(Field("place", "text"), Field("speed", "number")))
    declare(wind, settings.schema_folder)
    with closing(emitter("sqlite", settings, wind)):
        pass
    assert look(settings, "file", "ok") == f"{settings.data_path}; with records: buzz; not there yet: wind -> "
    assert "MiB; with records: buzz; not there yet: wind" in look(settings, "duckdb", "ok")
    assert "MiB; with records: buzz; empty: wind" in look(settings, "sqlite", "ok")


@pytest.mark.parametrize("sink", FILES)
def test_a_sink_that_is_a_folder(settings: Settings, sink: str) -> None:
    path = SINKS[sink].path(settings, BUZZ)
    assert path
    path.unlink()
    path.mkdir()
    assert path.name in look(settings, sink)


@pytest.mark.parametrize("sink", ["sqlite", "duckdb"])
def test_a_sink_that_is_no_database(settings: Settings, sink: str) -> None:
    path = settings.sqlite_path if sink == "sqlite" else settings.duckdb_path
    path.write_text("not a database, but long enough to be read as one" * 1_000)
    assert "move it away or name another file" in look(settings, sink)


@pytest.mark.full
def test_a_duckdb_file_that_another_program_keeps_open(settings: Settings) -> None:
    hold = "import duckdb, sys; kept = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(settings.duckdb_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert "Troubleshooting" in look(settings, "duckdb")
        holder.communicate()


def test_a_damaged_duckdb_file(settings: Settings) -> None:
    duckdb.connect(str(settings.duckdb_path)).close()
    with settings.duckdb_path.open("r+b") as file:
        file.seek(4096)
        file.write(b"of other")
    assert "README.md, Troubleshooting" in look(settings, "duckdb")


@pytest.fixture
def impostor() -> Iterator[str]:
    """Yield the address of a server that accepts connections and closes them at once."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                server.accept()[0].close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@pytest.mark.full
def test_a_server_that_is_no_broker(settings: Settings, impostor: str) -> None:
    assert "cannot be read" in look(replace(settings, kafka_broker=impostor), "kafka")


def test_no_broker(settings: Settings) -> None:
    assert "no Kafka broker answers" in look(settings, "kafka", "note")


def test_a_library_that_cannot_be_loaded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def pages(sink: str, *_: object) -> None:
        raise ImportError("no library")

    monkeypatch.setattr(doctor, "pages", pages)
    assert "no library -> python -m pip install" in look(settings, "sinks")


def test_a_backend_that_cannot_draw(settings: Settings) -> None:
    def backend() -> str:
        raise ToolkitError("backend Nonsense cannot draw here")

    assert Finding("dashboard", "problem", "backend Nonsense cannot draw here") in list(
        doctor.examine(settings, backend)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("BUZZ_TOPICS=x", "BUZZ_TOPICS is not a setting of this toolkit -> did you mean BUZZ_TOPIC?"),
        ("HUGO=x", "HUGO is not a setting of this toolkit -> .env.example lists all settings"),
    ],
)
def test_env_file(settings: Settings, text: str, words: str) -> None:
    Path(".env").write_text(f"{text}\n")
    load_env_file()
    assert words in look(settings, ".env", "note")


@pytest.mark.full
def test_the_command(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["doctor", "--data-dir", str(settings.data_path), "--kafka-broker", settings.kafka_broker]
    assert verify_emitters.run([*arguments, "--json"]) == 0
    states = [line["state"] for line in json.loads(capsys.readouterr().out)]
    assert set(states) == {"ok", "note"}
    settings.journal_path("bob").write_text("not a database, but long enough to be read as one" * 10)
    assert verify_emitters.run(arguments) == 1
    assert "problem" in capsys.readouterr().out
    Path(".env").write_text("JOURNAL_MAX_MB=much\n")
    assert verify_emitters.run(arguments) == 2
    assert "JOURNAL_MAX_MB" in capsys.readouterr().err


@pytest.mark.full
def test_a_damaged_matplotlibrc_or_backend_is_no_end_of_it(settings: Settings, tmp_path: Path) -> None:
    home = tmp_path / "config"
    home.mkdir()
    (home / "matplotlibrc").write_bytes(b"nonsense\xff\n")
    for backend in ("", "nosuch"):
        own = {"MPLCONFIGDIR": str(home), "MPLBACKEND": backend}
        done = run_python("verify_emitters", "doctor", settings=settings, environment=own)
        shown = done.stdout + done.stderr
        assert done.returncode in (0, 1) and "Traceback" not in shown and "unexpected" not in shown, shown
        (line,) = [line for line in done.stdout.splitlines() if "dashboard" in line.lower()]
        assert ("nosuch" in line) == bool(backend), line
