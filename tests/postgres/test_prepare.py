"""scripts/prepare_postgres.sh: the server it starts, what it keeps, and its errors."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from tests.kafka_broker import free_ports
from tests.postgres_server import Server, programs
from tests.reading.test_store import ann, chunk
from utils.app.config import PROJECT_DIR, processed_store_url
from utils.reading.database import PostgresDatabase
from utils.reading.store import ProcessedStore
from utils.records.stream import BUZZ

SCRIPT = PROJECT_DIR / "scripts" / "prepare_postgres.sh"

pytestmark = [pytest.mark.full, pytest.mark.postgres, pytest.mark.skipif(os.name == "nt", reason="runs inside WSL")]


def prepare(target: Path, *arguments: str | int, **environment: str) -> "subprocess.CompletedProcess[str]":
    found = programs()  # otherwise each folder would fetch its own
    path = os.pathsep.join([*([str(found)] if found else []), os.environ["PATH"]])
    own = {**os.environ, "PATH": path, "POSTGRES_HOME": str(target), **environment}
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
    )


def assert_one_line(done: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.fixture
def target(postgres: Server) -> Iterator[Path]:
    """A folder that the server's user can reach; `postgres` skips the test if there are no programs.

    It is not one of pytest's, whose sessions close their folders to other users."""
    with TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        folder = Path(root) / "with space" / "postgres"
        yield folder
        prepare(folder, "--stop")


def test_a_server_that_is_started_once_and_keeps_its_data(target: Path) -> None:
    (port,) = free_ports(1)
    done = prepare(target, "--port", port)
    assert done.returncode == 0, done.stderr
    variable, _, text = (target / "store.env").read_text().strip().partition("=")
    url = processed_store_url({variable: text})
    assert url and url.place == f"127.0.0.1:{port}/streaming"
    assert (target / "store.env").stat().st_mode & 0o077 == 0
    password = text.partition("streaming:")[2].partition("@")[0]
    assert len(password) == 32 and password not in done.stdout + done.stderr
    with closing(ProcessedStore(PostgresDatabase(url, "x"), BUZZ)) as store:
        store.add(chunk("", "1", ann(1, 3)))
    again = prepare(target, "--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert prepare(target, "--stop").returncode == 0
    assert prepare(target, "--stop").returncode == 0
    assert prepare(target).returncode == 0
    with closing(ProcessedStore(PostgresDatabase(url, "x"), BUZZ)) as store:
        assert store.counts().records == 3
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(text.replace(password, "guess"))
    assert_one_line(prepare(target, "--port", port + 1), 2, f"runs on {port}", "--stop")
    assert sorted(path.name for path in target.iterdir()) == ["data", "store.env"]


def test_a_port_that_is_taken(target: Path, postgres: Server) -> None:
    assert_one_line(prepare(target, "--port", postgres.port), 3, "does not start", "Address already in use")
    (port,) = free_ports(1)
    assert prepare(target, "--port", port).returncode == 0
    psycopg.connect((target / "store.env").read_text().strip().partition("=")[2]).close()


def test_programs_alone(target: Path) -> None:
    done = prepare(target, "--programs")
    assert (done.returncode, done.stderr) == (0, "") and "PostgreSQL is in " in done.stdout
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--port"], "needs a value"), (["--port", "80"], "80"), (["--port", "x"], "1024"), (["--cluster"], "--cluster")],
)
def test_options_that_cannot_be(tmp_path: Path, arguments: list[str], word: str) -> None:
    assert_one_line(prepare(tmp_path / "postgres", *arguments), 2, word)
    assert not (tmp_path / "postgres").exists()


def test_help() -> None:
    done = prepare(Path("/nowhere"), "--help")
    assert done.returncode == 0 and "--programs" in done.stdout and "store.env" in done.stdout


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_one_line(prepare(tmp_path / "file" / "postgres"), 3, "cannot be created", "POSTGRES_HOME")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_root_needs_a_folder_that_another_user_reaches(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert_one_line(prepare(tmp_path / "postgres"), 3, "who runs PostgreSQL for root", "POSTGRES_HOME")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mvn"), reason="needs Maven")
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root to hide installed programs")
def test_programs_from_maven(target: Path) -> None:
    hidden = f"mount -t tmpfs none /usr/lib/postgresql && exec bash {SCRIPT} --programs"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", hidden], env={**os.environ, "POSTGRES_HOME": str(target)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"PostgreSQL is in {target}/bin" in done.stdout
    assert subprocess.run([target / "bin" / "postgres", "--version"], check=False).returncode == 0


def test_missing_postgres_is_skipped_without_ci(tmp_path: Path) -> None:
    """Without programs the tests are skipped, unless CI=true promises them."""
    (tmp_path / "test_it.py").write_text("def test_it(postgres): ...\n")
    (tmp_path / "conftest.py").write_text(
        "import tests.conftest\ntests.conftest.programs = lambda: None\nfrom tests.conftest import *\n"
    )
    shared = ["-p", "no:cacheprovider", "-c", str(PROJECT_DIR / "pyproject.toml"), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", *shared, str(tmp_path)],
        cwd=PROJECT_DIR, capture_output=True, text=True, check=False, env={**os.environ, "CI": ""},
    )  # fmt: skip
    assert "1 skipped" in done.stdout and "run scripts/prepare_postgres.sh" in done.stdout, done.stdout
