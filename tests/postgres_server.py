"""A throwaway PostgreSQL on a free port in a temporary folder.

It runs the programs that scripts/prepare_postgres.sh finds or fetches; as root it runs them as another user. A guard
process ends the server and deletes the folder when this process dies, however it dies."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.kafka_broker import START_S, Broker, free_ports, guard

USER, PASSWORD, DATABASE = "ann", "a-very-secret-word", "postgres"


def programs() -> Path | None:
    """Return the folder of the newest postgres and initdb, or None if there is none or on Windows."""
    if os.name == "nt":
        return None
    home = os.environ.get("POSTGRES_HOME") or ("/opt/postgres" if os.geteuid() == 0 else "~/postgres")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    found.insert(0, Path(home).expanduser() / "bin")
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    return next((folder for folder in found if (folder / "postgres").exists() and (folder / "initdb").exists()), None)


def _account() -> dict[str, Any]:
    """Return arguments of Popen that run it as another user if this one is root: PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = users.get("postgres") or users["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class Server(Broker):
    """A PostgreSQL that can be stopped, killed, frozen and started again on the same data."""

    STOP = signal.SIGINT  # the fast shutdown, which ends all connections; SIGQUIT simulates a crash

    def __init__(self, folder: Path, *, settings: Iterable[str] = ()) -> None:
        """Initialize the data folder; `settings` are lines of postgresql.conf.

        Raise RuntimeError if there are no programs or they fail."""
        home = programs()
        if home is None:
            raise RuntimeError("no PostgreSQL: run scripts/prepare_postgres.sh")
        self._guard = guard(folder)
        account = _account()
        self.data = folder / "data"
        if account:
            os.chown(folder, account["user"], account["group"])
        word = folder / "word"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        initdb = [str(home / "initdb"), "--pgdata", str(self.data), "--username", USER, "--pwfile", str(word)]
        initdb += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        done = subprocess.run(initdb, cwd="/", capture_output=True, text=True, check=False, **account)
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stdout}{done.stderr}")
        (port,) = free_ports(1)
        super().__init__([str(home / "postgres"), "-D", str(self.data)], folder / "server.log", port, account)
        self.configure("listen_addresses = '127.0.0.1'", f"port = {port}", "unix_socket_directories = ''", *settings)

    @property
    def url(self) -> str:
        """The address as a user would write it into PROCESSED_STORE_URL."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    def start_again(self) -> None:
        """Start after a stop or a kill; retry while processes of a killed server still lock the data folder."""
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                self.start()
                return
            except RuntimeError:
                if time.monotonic() > deadline_s:
                    raise
                self.kill()

    def _is_ready(self) -> bool:
        pid_file = self.data / "postmaster.pid"  # its last line is the server's state
        return super()._is_ready() and pid_file.exists() and "ready" in pid_file.read_text()

    def configure(self, *lines: str) -> None:
        """Add settings that hold from the next start on."""
        with (self.data / "postgresql.conf").open("a") as config:
            config.writelines(f"{line}\n" for line in lines)

    def close(self) -> None:
        """Stop the server and delete its folder."""
        self.stop(signal.SIGQUIT)
        self._guard.communicate(timeout=10)


def throwaway(*, settings: Iterable[str] = ()) -> Server:
    """Return a started server in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Server(folder, settings=settings)
        server.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return server
