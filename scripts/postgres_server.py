"""A throwaway PostgreSQL on a free port in a temporary folder, for tests and benchmarks.

It runs the programs that scripts/prepare_postgres.sh finds or fetches, as another user where root starts it. A guard
process ends it and deletes the folder when this process dies, however it dies.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from scripts.kafka_broker import GUARD, START_S, Broker, free_ports

USER, PASSWORD, DATABASE = "ann", "a-very-secret-word", "postgres"


def programs() -> Path | None:
    """The folder of postgres and initdb, the newest that is found; None if there is none, or on Windows."""
    if os.name == "nt":
        return None
    home = os.environ.get("POSTGRES_HOME") or ("/opt/postgres" if os.geteuid() == 0 else "~/postgres")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    found.insert(0, Path(home).expanduser() / "bin")
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    return next((folder for folder in found if (folder / "postgres").exists() and (folder / "initdb").exists()), None)


def _account() -> tuple[int, int] | None:
    """User and group that the server runs as, where it is not this user: it does not run as root."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise RuntimeError("no user postgres or nobody: PostgreSQL does not run as root")


class Server(Broker):
    """One server process that can be stopped, killed, frozen and started again on the same data."""

    def __init__(self, folder: Path, *, settings: Iterable[str] = ()) -> None:
        """`settings` are lines of postgresql.conf. Raises RuntimeError if there are no programs or they fail."""
        home = programs()
        if home is None:
            raise RuntimeError("no PostgreSQL: run scripts/prepare_postgres.sh")
        guard = subprocess.Popen(
            [sys.executable, "-c", GUARD, str(folder)], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self.folder, account, data = folder, _account(), folder / "data"
        self._data = data
        prefix = []
        if account:
            os.chown(folder, *account)
            prefix = ["setpriv", f"--reuid={account[0]}", f"--regid={account[1]}", "--clear-groups", "--"]
        word = folder / "word"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        initdb = [*prefix, str(home / "initdb"), "--pgdata", str(data), "--username", USER, "--pwfile", str(word)]
        initdb += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        done = subprocess.run(initdb, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stdout}{done.stderr}")
        (port,) = free_ports(1)
        lines = ["listen_addresses = '127.0.0.1'", f"port = {port}", "unix_socket_directories = ''", *settings]
        with (data / "postgresql.conf").open("a") as config:
            config.writelines(f"{line}\n" for line in lines)
        super().__init__([*prefix, str(home / "postgres"), "-D", str(data)], folder / "server.log", port, guard)

    @property
    def url(self) -> str:
        """What a user would write into PROCESSED_STORE_URL."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it and all connections; with SIGQUIT as if the power had failed."""
        if self._process is not None:
            self.signal(number)
            self._process.wait(30)
            self.kill()

    def start_again(self) -> None:
        """Start after a stop or a kill; what a killed one left behind may still keep the data for a moment."""
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                self.start()
                return
            except RuntimeError:
                if time.monotonic() > deadline_s:
                    raise
                self.kill()

    def wait_ready(self) -> None:
        """Wait until it takes connections and has recovered. Raises RuntimeError if it ends instead."""
        super().wait_ready()
        deadline_s = time.monotonic() + START_S
        pid_file = self._data / "postmaster.pid"  # whose last line is its state
        while not pid_file.exists() or "ready" not in pid_file.read_text():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def place_file(self, name: str, content: bytes) -> None:
        """Write a file into its folder that it alone may read."""
        path = self._data / name
        path.write_bytes(content)
        owner = self._data.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o600)

    def configure(self, *lines: str) -> None:
        """Change its settings, for which it is started again."""
        with (self._data / "postgresql.conf").open("a") as config:
            config.writelines(f"{line}\n" for line in lines)
        self.stop()
        self.start()

    def close(self) -> None:
        """Leave nothing behind."""
        self.stop(signal.SIGQUIT)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


def throwaway(*, settings: Iterable[str] = ()) -> Server:
    """A started server in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Server(folder, settings=settings)
        server.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return server
