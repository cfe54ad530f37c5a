"""Throwaway Kafka brokers on free ports in a temporary folder.

They run from the Kafka that scripts/prepare_kafka.sh set up. A guard process ends them and deletes the folder
when this process dies, however it dies.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START_S = 60.0
# Java options for servers that live for seconds: verifying the classes takes a fifth of the start.
QUICKLY = ("-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
           "-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote")  # fmt: skip

# Its input ends when the process that started it ends; then it kills the servers of the folder and deletes the folder.
GUARD = """
import contextlib, os, psutil, shutil, sys
sys.stdin.read()
for process in psutil.process_iter(["cmdline"]):
    if sys.argv[1] in " ".join(process.info["cmdline"] or ()) and process.pid != os.getpid():
        with contextlib.suppress(psutil.Error):
            process.kill()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def guard(folder: Path) -> "subprocess.Popen[bytes]":
    """Start a process that ends the servers of a folder and deletes it, when this one dies or calls `communicate`."""
    return subprocess.Popen([sys.executable, "-c", GUARD, str(folder)], stdin=subprocess.PIPE, start_new_session=True)


def kafka_home() -> Path | None:
    """Return the folder of the prepared Kafka, or None."""
    home = Path(os.environ.get("KAFKA_HOME") or Path.home() / "kafka")
    return home if any(home.glob("libs/kafka_*.jar")) else None


def java() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / "java") if home else "java"


def free_ports(count: int) -> list[int]:
    """Return free ports below the range of client connections, so that a restarted server finds them still free."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


class Broker:
    """A server process that can be stopped, killed, frozen and started again on the same data."""

    STOP = signal.SIGTERM

    def __init__(self, command: list[str], log: Path, port: int, account: Mapping[str, Any] | None = None) -> None:
        """Keep the command; `account` has the arguments of Popen that run it as another user."""
        self.port, self.address = port, f"127.0.0.1:{port}"
        self._command, self._log, self._account = command, log, account or {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start the server unless it runs."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, **self._account
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it accepts connections; raise RuntimeError with the end of its log if it does not."""
        deadline_s = time.monotonic() + START_S
        while not self._is_ready():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the server did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send kill -9 and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, number: int | None = None) -> None:
        """Send `number`, by default the signal of a clean stop; kill the server after 15 s."""
        if self._process is not None:
            self.signal(number or self.STOP)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
            self.kill()


class Cluster:
    """Brokers 1 to `count`, each also a controller; a context manager that leaves nothing behind."""

    def __init__(
        self,
        home: Path,
        count: int = 1,
        *,
        settings: Mapping[str, str] | None = None,
        format_arguments: Sequence[str] = (),
    ) -> None:
        """Start the brokers; `settings` override their properties, with `{port}` for that of the plain listener."""
        self.folder = Path(tempfile.mkdtemp(prefix="kafka-"))
        self._guard = guard(self.folder)
        self._java = [java(), *QUICKLY, "-cp", f"{home}/libs/*"]
        ports = free_ports(2 * count)
        voters = ",".join(f"{each + 1}@127.0.0.1:{ports[2 * each + 1]}" for each in range(count))
        self.brokers: list[Broker] = []
        try:
            for node in range(1, count + 1):
                port, controller_port = ports[2 * node - 2], ports[2 * node - 1]
                replicas, in_sync = str(min(count, 3)), str(min(count, 2))
                properties = {
                    "process.roles": "broker,controller",
                    "node.id": str(node),
                    "controller.quorum.voters": voters,
                    "controller.listener.names": "CONTROLLER",
                    "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
                    "log.dirs": str(self.folder / f"data-{node}"),
                    "default.replication.factor": replicas,
                    "min.insync.replicas": in_sync,
                    "offsets.topic.replication.factor": replicas,
                    "offsets.topic.num.partitions": "4",
                    "transaction.state.log.replication.factor": replicas,
                    "transaction.state.log.min.isr": in_sync,
                    "transaction.state.log.num.partitions": "4",
                    "broker.session.timeout.ms": "2000",  # otherwise a killed broker waits 9 s before it may return
                    "broker.heartbeat.interval.ms": "400",
                    "metadata.max.idle.interval.ms": "0",  # write nothing while idle
                    "group.initial.rebalance.delay.ms": "100",
                    "group.min.session.timeout.ms": "1000",
                    **{name: value.format(port=port, controller_port=controller_port)
                       for name, value in (settings or {}).items()},
                }  # fmt: skip
                config = self.folder / f"server-{node}.properties"
                config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
                self._run("kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", str(config),
                          *format_arguments)  # fmt: skip
                log = self.folder / f"broker-{node}.log"
                command = [*self._java, "kafka.Kafka", str(config)]
                self.brokers.append(Broker(command, log, port))
            for broker in self.brokers:
                broker.start(wait=False)
            for broker in self.brokers:
                broker.wait_ready()
        except (RuntimeError, OSError):
            self.close()
            raise

    @property
    def address(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([*self._java, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{arguments[0]}: {done.stdout}{done.stderr}")

    def close(self) -> None:
        for broker in self.brokers:
            broker.kill()
        self._guard.communicate(timeout=10)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
