"""Attack a running toolkit, then prove that nothing was lost: python scripts/chaos.py --kills 20 --minutes 1.

Two producers and a consumer per sink run in a temporary folder. They are killed and frozen, their sinks are locked,
and (on Linux) their disk is full. Then they end cleanly, the audit compares journals and sinks, and each consumer's
processed store is compared with its sink. The same seed gives the same attacks.
"""

import os
import random
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duckdb
import portalocker
import psutil
from cyclopts import Parameter
from cyclopts.validators import Number

from scripts.start import ask_to_end, begin
from utils.app import cli
from utils.app.config import DEFAULTS, Settings
from utils.app.errors import Unavailable
from utils.app.options import Seed
from utils.checks.journals import journal_summaries
from utils.checks.readers import pages
from utils.clients import duck
from utils.clients.kafka_admin import Admin
from utils.records.stream import BUZZ
from utils.sinks import EMBEDDED, SINKS, Sinks
from verify_emitters import print_audit

PRODUCERS = ("ragini_producer", "producer_case")
INTERVAL_S = 0.002  # between the records of each producer
LOOK_EVERY_S = 0.02
LOCK_WAIT_S = 2.0
END_WITHIN_S = 30.0
FULL_DISK_BYTES = 4096

Action = Literal["kill", "freeze", "fill", "lock"]


@dataclass(frozen=True, order=True)
class Attack:
    """An attack on a process or (lock) on a sink, `at_s` seconds after the start, for `length_s` seconds."""

    at_s: float
    action: Action
    target: str
    length_s: float


def plan(seed: int, seconds: float, kills: int, sinks: Sequence[str]) -> list[Attack]:
    """Return `kills` kills and a quarter as many of each other attack, at random times that depend on `seed` only."""
    rng = random.Random(seed)
    processes = [*PRODUCERS, *(f"{sink}_consumer_case" for sink in sinks)]
    targets: dict[Action, list[str]] = {
        "kill": processes,
        "freeze": processes,
        "fill": list(PRODUCERS) if sys.platform == "linux" else [],
        "lock": [sink for sink in sinks if sink in EMBEDDED],
    }
    return sorted(
        Attack(rng.uniform(0, seconds), action, rng.choice(names), rng.uniform(0.2, 3.0))
        for action, names in targets.items()
        for _ in range((kills if action == "kill" else ceil(kills / 4)) if names else 0)
    )


class Attacked:
    """The processes that are attacked, and started again when they have been killed."""

    def __init__(self, settings: Settings, sinks: Sequence[str]) -> None:
        self.done: Counter[str] = Counter()
        self.surprises: list[str] = []
        self._settings, self._sinks = settings, sinks
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._killed: set[int] = set()
        self._full: set[int] = set()

    def _start(self, name: str, last: bool = False) -> subprocess.Popen[bytes]:
        """Start a command that runs without end; with `last` it ends once all is delivered or read."""
        if name in PRODUCERS:
            interval_s, rest = (0.0, ["--count", "1", "--drain", "120"]) if last else (INTERVAL_S, [])
            command = [f"producers.{name}", "--interval", str(interval_s), *rest, "--sinks", *self._sinks]
        else:
            command = [f"consumers.{name}", *(["--once"] if last else [])]
        environment = os.environ | self._settings.variables()
        with (self._settings.data_path / f"{name}.txt").open("ab") as output:
            return begin([sys.executable, "-m", *command], env=environment, stdout=output, stderr=output)

    def keep_running(self) -> None:
        """Start each process that is not running. If one ended without being killed, note it in `surprises`."""
        for name in (*PRODUCERS, *(f"{sink}_consumer_case" for sink in self._sinks)):
            process = self._running.get(name)
            if process and process.poll() is None:
                continue
            # Exit codes on a full disk: 2 if the data folder cannot be opened, 3 if the journal cannot begin a run.
            disk_was_full = process and process.pid in self._full and process.returncode in (2, 3)
            if process and process.pid not in self._killed and not disk_was_full:
                self.surprises.append(f"{name} ended by itself with code {process.returncode}")
            self._running[name] = self._start(name)

    def suffer(self, attacks: Sequence[Attack], seconds: float) -> None:
        """Run the processes for some seconds, under these attacks."""
        begun_s, shown_s = time.monotonic(), 0
        agenda: list[tuple[float, Attack | Callable[[], object]]] = [(each.at_s, each) for each in attacks]
        with cli.progress(round(seconds), "seconds") as advance:
            while (now_s := time.monotonic() - begun_s) < seconds or agenda:
                self.keep_running()
                for entry in [each for each in agenda if each[0] <= now_s]:
                    agenda.remove(entry)
                    _, due = entry  # an attack, or the function that ends one
                    with suppress(psutil.Error, Unavailable, sqlite3.OperationalError, portalocker.LockException):
                        if isinstance(due, Attack):
                            agenda.append((now_s + due.length_s, self._begin(due)))
                            self.done[due.action] += 1
                        else:
                            due()
                advance(int(now_s) - shown_s)
                shown_s = int(now_s)
                time.sleep(LOOK_EVERY_S)

    def _begin(self, attack: Attack) -> Callable[[], object]:
        """Begin an attack and return the function that ends it."""
        if attack.action == "lock":
            return self._lock(attack.target)
        process = psutil.Process(self._running[attack.target].pid)
        if attack.action == "kill":
            self._killed.add(process.pid)
            process.kill()
        elif attack.action == "freeze":
            process.suspend()
            return process.resume
        elif sys.platform == "linux":  # fill, which `plan` has on no other platform
            self._full.add(process.pid)
            process.rlimit(psutil.RLIMIT_FSIZE, (FULL_DISK_BYTES, psutil.RLIM_INFINITY))
            return lambda: process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        return lambda: None

    def _lock(self, sink: str) -> Callable[[], object]:
        if sink == "file":
            path = self._settings.live_path.resolve()
            locked = path.with_name(f"{path.name}.lock") if sys.platform == "win32" else path  # as the emitter does
            lock = portalocker.Lock(locked, mode="ab", timeout=LOCK_WAIT_S)
            lock.acquire()
            return lock.release
        if sink == "sqlite":
            connection = sqlite3.connect(self._settings.sqlite_path, timeout=LOCK_WAIT_S, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            return connection.close
        with ExitStack() as held:
            memory = held.enter_context(closing(duckdb.connect(config=duck.CONFIG)))
            held.enter_context(duck.attached(memory, self._settings.duckdb_path, wait_s=LOCK_WAIT_S))
            return held.pop_all().close

    def finish(self) -> None:
        """End all processes, then run each once more: producers to deliver all, consumers to the present end."""
        for process in self._running.values():
            if process.poll() is None:
                ask_to_end(process)
        for name, process in self._running.items():
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.surprises.append(f"{name} did not end within {END_WITHIN_S:.0f} s")
        self.kill()
        for name in self._running:
            if code := self._start(name, last=True).wait():
                self.surprises.append(f"{name} ended its last run with code {code}")

    def kill(self) -> None:
        """Kill all processes."""
        for process in self._running.values():
            process.kill()
            process.wait()


def compare_store(sink: str, settings: Settings) -> str:
    """Return how a consumer's processed store differs from its sink; "" if it has each record once and unchanged."""
    codec = BUZZ.codec
    differing: Counter[int] = Counter()
    for records, _ in pages(sink, settings, BUZZ):
        if own := [record for record in records if record.sequence is not None]:
            differing.update(map(hash, codec.canonical(codec.columns_of(own))))
    with closing(sqlite3.connect(settings.processed_path(sink))) as connection:
        lines = [line for (line,) in connection.execute("SELECT record FROM records WHERE sequence IS NOT NULL")]
    stored = codec.decode_lines("".join(f"{line}\n" for line in lines).encode())
    differing.subtract(map(hash, codec.canonical(codec.columns_of(stored))))
    missing, extra = (sum(max(sign * count, 0) for count in differing.values()) for sign in (1, -1))
    lost = cli.counted(missing, "record")
    return f"{sink} consumer: {lost} of the sink missing, {extra} more stored" if missing or extra else ""


def main(
    *,
    kills: Annotated[
        int, Parameter(validator=Number(gte=0), help="Number of kills (kill -9) of producers and consumers.")
    ] = 20,
    minutes: Annotated[float, Parameter(validator=Number(gt=0), help="Minutes of attacks.")] = 1.0,
    seed: Annotated[Seed, Parameter(help="The same seed gives the same attacks.")] = None,
    sinks: Sinks = EMBEDDED,
    keep: Annotated[Path | None, Parameter(help="Work in this folder and leave it (default: a temporary one).")] = None,
    settings: Settings = DEFAULTS,
) -> int:
    """Attack producers, consumers and sinks in a temporary place, then audit whether anything was lost or doubled.

    Exit code 0 if every acknowledged record is in every sink and every processed store exactly once, else 1.
    """
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    attacks = plan(seed, minutes * 60, kills, sinks)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as temporary:
        settings = settings.in_folder((keep or Path(temporary)).resolve(), f"chaos-{secrets.token_hex(4)}")
        settings.data_path.mkdir(parents=True, exist_ok=True)
        print(f"seed {seed}: {len(attacks)} attacks in {minutes:g} minutes, in {settings.data_path}", flush=True)
        attacked = Attacked(settings, sinks)
        try:
            attacked.suffer(attacks, minutes * 60)
            attacked.finish()
            return _verdict(settings, sinks, attacked)
        finally:
            attacked.kill()
            if not all(SINKS[sink].embedded for sink in sinks):
                with suppress(Unavailable):
                    Admin(settings).delete_topic(settings.topic)


def _verdict(settings: Settings, sinks: Sequence[str], attacked: Attacked) -> int:
    code = print_audit(settings, sinks)
    problems = [*attacked.surprises, *filter(None, (compare_store(sink, settings) for sink in sinks))]
    cli.print_lines(*(f"problem: {problem}" for problem in problems))
    suffered = ", ".join(f"{attacked.done[action]} x {action}" for action in ("kill", "freeze", "fill", "lock"))
    count = sum(journal.last for journal in journal_summaries(settings))
    verdict = "BROKEN" if code or problems else "ok"
    cli.print_lines(
        f"{verdict}: {count:,} records acknowledged under {suffered}; "
        f"{cli.counted(len(sinks), 'sink')} and consumers compared"
    )
    return cli.CHECK_FAILED if code or problems else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, name="scripts.chaos"))
