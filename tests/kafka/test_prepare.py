"""scripts/prepare_kafka.sh: the set-up, what it keeps, and its errors."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.kafka_broker import QUICKLY
from utils.app.config import PROJECT_DIR

SCRIPT = PROJECT_DIR / "scripts" / "prepare_kafka.sh"
SYNC = "log.flush.interval.messages"
KEEP = "log.retention.hours=-1"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Kafka runs inside WSL")


def prepare(target: Path, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    own = {**os.environ, "KAFKA_HOME": str(target), "KAFKA_OPTS": " ".join(QUICKLY), **environment}
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)], env=own, capture_output=True, text=True, check=False
    )


def assert_one_line(done: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.fixture
def tarball(home: Path, tmp_path: Path) -> Path:
    """Make a tarball like Apache's download of Kafka 4."""
    folder = tmp_path / "kafka_2.13-4.9.9"
    (folder / "config").mkdir(parents=True)
    (folder / "libs").symlink_to(home / "libs")
    shutil.copytree(home / "bin", folder / "bin")
    for name in ("log4j2.properties", "tools-log4j2.properties"):
        if (home / "config" / name).exists():
            shutil.copy(home / "config" / name, folder / "config")
    (folder / "config" / "server.properties").write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=localhost:9093\n"
        "listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ncontroller.listener.names=CONTROLLER\n"
        f"log.dirs=/tmp/kraft-combined-logs-{tmp_path.name}\nlog.retention.hours=168\n"
    )
    with tarfile.open(tmp_path / "kafka.tgz", "w:gz") as archive:
        archive.add(folder, folder.name)
    return tmp_path / "kafka.tgz"


def test_a_tarball_is_set_up_and_its_data_kept(tarball: Path, tmp_path: Path) -> None:
    target = tmp_path / "with space" / "kafka"
    done = prepare(target, "--from", tarball)
    assert done.returncode == 0, done.stderr
    assert "bin/kafka-server-start.sh config/kraft/server.properties" in done.stdout
    for config in ("config/server.properties", "config/kraft/server.properties"):
        assert f"log.dirs={target}/data\n{KEEP}\n" in (target / config).read_text()
    used = target / "config/kraft/server.properties"
    assert used.read_text().count(f"{SYNC}=1\n") == 1
    used.write_text(used.read_text().replace(f"{SYNC}=1\n", f"{SYNC}=5\n"))
    formatted = (target / "data" / "meta.properties").stat()
    again = prepare(target, "--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (target / "data" / "meta.properties").stat().st_mtime_ns == formatted.st_mtime_ns
    assert used.read_text().count(SYNC) == used.read_text().count(f"{SYNC}=5\n") == 1
    assert [path.name for path in target.parent.iterdir()] == ["kafka"]


def test_a_cluster_gets_its_own_data_and_commands(tarball: Path, tmp_path: Path) -> None:
    target = tmp_path / "kafka"
    done = prepare(target, "--from", tarball.as_uri(), "--cluster", "3", "--port", "21000")
    assert done.returncode == 0, done.stderr
    assert "KAFKA_BROKER_ADDRESS=localhost:21000,localhost:21010,localhost:21020" in done.stdout
    cluster = target / "cluster-3"
    formatted = [(cluster / f"data-{number}" / "meta.properties").read_text() for number in (1, 2, 3)]
    identity = {line for text in formatted for line in text.splitlines() if line.startswith("cluster.id")}
    assert len(identity) == 1
    settings = (cluster / "server-2.properties").read_text()
    assert "default.replication.factor=3\nmin.insync.replicas=2\n" in settings
    assert f"{SYNC}=1\n" in settings
    assert f"{KEEP}\n" in settings
    assert os.access(cluster / "start.sh", os.X_OK) and os.access(cluster / "stop.sh", os.X_OK)
    assert prepare(target, "--cluster", "3", "--port", "21000", "--quiet").returncode == 0
    assert [(cluster / f"data-{number}" / "meta.properties").read_text() for number in (1, 2, 3)] == formatted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bogus"], ["unknown option '--bogus'"]),
        (["--from"], ["--from needs a value"]),
        (["--cluster", "x"], ["--cluster is 'x'", "1 to 9"]),
        (["--cluster", "10"], ["--cluster is '10'"]),
        (["--port", "99999"], ["--port is '99999'"]),
        (["--from", "/no/such.tgz"], ["no such file"]),
    ],
)
def test_wrong_options(home: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    assert_one_line(prepare(tmp_path / "kafka", *arguments), 2, *words)


def _fake(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("logged", "words"),
    [
        ('openjdk version "11.0.2" 2019-01-15', ["Java 11 is too old", "17 or newer"]),
        ('java version "1.8.0_281"', ["Java 8 is too old"]),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", ["Java is missing", "17 or newer"]),
    ],
)
def test_java_too_old_or_missing(tmp_path: Path, logged: str, words: list[str]) -> None:
    _fake(tmp_path / "bin", "java", f"cat >&2 <<'X'\n{logged}\nX")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    assert_one_line(prepare(tmp_path / "kafka", PATH=path, JAVA_HOME=""), 3, *words)


def test_no_kafka_and_no_way_to_get_it(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    _fake(tools, "java", "echo 'openjdk version \"21.0.1\"' >&2")
    for name in ("bash", "sed", "head", "dirname", "mkdir", "mktemp", "ls", "rm"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(name))
    assert_one_line(prepare(tmp_path / "kafka", PATH=str(tools), JAVA_HOME=""), 3, "--from FILE", "Maven")
    _fake(tools, "mvn", "echo '[ERROR] no network here'; exit 1")
    for name in ("cat", "grep", "tail"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(name))
    assert_one_line(prepare(tmp_path / "kafka", PATH=str(tools), JAVA_HOME=""), 3, "Maven cannot", "no network here")
    assert not (tmp_path / "kafka").exists() and not list(tmp_path.glob(".kafka-*"))


def test_a_folder_with_something_else_is_left_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "novel.txt").write_text("The Castle")
    assert_one_line(prepare(tmp_path / "kafka"), 3, "contains no Kafka", "KAFKA_HOME")
    assert [path.name for path in (tmp_path / "kafka").iterdir()] == ["novel.txt"]


def test_something_that_is_no_tarball(home: Path, tmp_path: Path) -> None:
    (tmp_path / "kafka.tgz").write_text("<html>404</html>")
    assert_one_line(prepare(tmp_path / "kafka", "--from", tmp_path / "kafka.tgz"), 3, "is not a .tgz archive")


def test_missing_kafka_fails_where_it_must_be_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "tests/kafka/test_source.py", "-k", "only_new_records"],
        cwd=PROJECT_DIR, capture_output=True, text=True, check=False,
        env={**os.environ, "KAFKA_HOME": str(tmp_path), "CI": "true"},
    )  # fmt: skip
    assert "1 error" in done.stdout and "run scripts/prepare_kafka.sh" in done.stdout, done.stdout
