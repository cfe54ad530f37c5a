"""Attack a running toolkit, then prove that nothing was lost: python scripts/chaos.py --kills 20 --minutes 1.

Three producers and a consumer per sink run in a temporary folder while they are killed and frozen,
their sinks locked and (on Linux) their disk full. Then everything ends cleanly, the audit compares the
sinks, and each consumer's processed store is compared with its sink. The same seed gives the same plan.
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
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import portalocker
import psutil
from cyclopts import Parameter
from cyclopts.validators import Number

from producers import producer_case
from scripts.start import ask_to_end
from utils.app import cli
from utils.app.config import DEFAULTS, PROJECT_DIR, Seed, Settings
from utils.app.errors import Unavailable
from utils.checks.accounts import accounts
from utils.checks.readers import pages
from utils.clients.kafka_admin import Admin
from utils.reading.store import StoreTable
from utils.records.codec import instant_text
from utils.records.record import encode_records
from utils.records.stream import BUZZ
from utils.sinks import EMBEDDED, SINKS, Sinks

PRODUCERS = ("ragini", "case", "replay")
RECORDED = 20_000
LOOK_EVERY_S = 0.02
LOCK_WAIT_S = 2.0
END_WITHIN_S = 30.0
DRAIN_S = 120
FULL_DISK_BYTES = 4096

Action = Literal["kill", "freeze", "fill", "lock"]
Undo = Callable[[], object]


@dataclass(frozen=True, order=True)
class Attack:
    """What happens `at_s` seconds after the start, for `length_s`, to a process or (lock) to a sink."""

    at_s: float
    action: Action
    target: str
    length_s: float


def plan(seed: int, seconds: float, kills: int, sinks: Sequence[str]) -> list[Attack]:
    """`kills` kills and a quarter as many of each other attack, at random moments; decided by the arguments alone."""
    rng = random.Random(seed)
    others = -(-kills // 4)
    processes = [*PRODUCERS, *(f"{sink} consumer" for sink in sinks)]
    kinds: tuple[tuple[Action, int, list[str]], ...] = (
        ("kill", kills, processes),
        ("freeze", others, processes),
        ("fill", others, list(PRODUCERS)),
        ("lock", others, [sink for sink in sinks if sink in EMBEDDED]),
    )
    attacks = [
        Attack(rng.uniform(0, seconds), action, rng.choice(targets), rng.uniform(0.2, 3.0))
        for action, amount, targets in kinds
        for _ in range(amount if targets else 0)
    ]
    return sorted(attacks)


class Attacked:
    """The processes that run, are attacked, and are started again when they have been killed."""

    def __init__(self, settings: Settings, sinks: Sequence[str], interval_s: float) -> None:
        self._settings = settings
        recording = str(_record(settings.data_path / "recording.jsonl", interval_s))
        replay = ["producers.replay_producer", recording]
        speeds = {
            "ragini": (["producers.ragini_producer"], ["--interval", str(interval_s)], ["--interval", "0"]),
            "case": (["producers.producer_case"], ["--interval", str(interval_s)], ["--interval", "0"]),
            "replay": (replay, ["--speed", "1" if interval_s else "0"], ["--speed", "0"]),
        }
        last = ["--count", "1", "--drain", str(DRAIN_S)]
        self._commands = {name: [*line, "--sinks", *sinks, *pace] for name, (line, pace, _) in speeds.items()}
        self._last = {name: [*line, "--sinks", *sinks, *fast, *last] for name, (line, _, fast) in speeds.items()}
        for sink in sinks:
            self._commands[f"{sink} consumer"] = [f"consumers.{sink}_consumer_case"]
            self._last[f"{sink} consumer"] = [f"consumers.{sink}_consumer_case", "--once"]
        self.done: Counter[str] = Counter()
        self.surprises: list[str] = []
        self._killed: set[str] = set()
        self._full: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            "BASE_DATA_DIR": str(settings.data_path),
            "LIVE_DATA_FILE_NAME": str(settings.live_file),
            "SQLITE_DB_FILE_NAME": str(settings.sqlite_file),
            "DUCKDB_DB_FILE_NAME": str(settings.duckdb_file),
            "KAFKA_BROKER_ADDRESS": settings.kafka_broker,
            "BUZZ_TOPIC": settings.topic,
            "BUZZ_CONSUMER_GROUP_ID": settings.topic,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP
        with (self._settings.data_path / f"{name}.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=PROJECT_DIR,
                env=self._environment,
                stdout=output,
                stderr=output,
                creationflags=flags,
                start_new_session=True,
            )

    def keep_running(self) -> None:
        """Start what is not running; one that ended without being killed is a surprise."""
        for name, command in self._commands.items():
            process = self._running.get(name)
            code = process.poll() if process else 0
            if process and code is None:
                continue
            # Opening the data folder fails with 2, beginning a run in the journal with 3.
            disk_was_full = process in self._full and code in (2, 3)
            replayed = name == "replay" and code == 0  # it begins again with its recording
            if process and name not in self._killed and not disk_was_full and not replayed:
                self.surprises.append(f"{name} ended by itself with code {code}")
            self._killed.discard(name)
            self._running[name] = self._start(name, command)

    def suffer(self, attacks: Sequence[Attack], seconds: float) -> None:
        """Let the processes run for so long, under these attacks."""
        begun_s = time.monotonic()
        waiting, undoing = list(attacks), list[tuple[float, Undo]]()
        with cli.progress(round(seconds), "seconds") as advance:
            shown_s = 0
            while (now_s := time.monotonic() - begun_s) < seconds or waiting:
                self.keep_running()
                while waiting and waiting[0].at_s <= now_s:
                    attack = waiting.pop(0)
                    with suppress(
                        psutil.NoSuchProcess, Unavailable, sqlite3.OperationalError, portalocker.LockException
                    ):
                        undoing.append((now_s + attack.length_s, self._begin(attack)))
                        self.done[attack.action] += 1
                for entry in [entry for entry in undoing if entry[0] <= now_s]:
                    undoing.remove(entry)
                    entry[1]()
                advance(int(now_s) - shown_s)
                shown_s = int(now_s)
                time.sleep(LOOK_EVERY_S)
        for _, undo in undoing:
            undo()

    def _begin(self, attack: Attack) -> Undo:
        """Attack, and say how it is taken back."""
        if attack.action == "lock":
            return self._lock(attack.target)
        process = psutil.Process(self._running[attack.target].pid)
        if attack.action == "kill":
            self._killed.add(attack.target)
            process.kill()
        elif attack.action == "freeze":
            process.suspend()
            return lambda: _quietly(process.resume)
        elif sys.platform == "linux":
            self._full.append(self._running[attack.target])
            process.rlimit(psutil.RLIMIT_FSIZE, (FULL_DISK_BYTES, psutil.RLIM_INFINITY))
            free = (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY)
            return lambda: _quietly(lambda: process.rlimit(psutil.RLIMIT_FSIZE, free))
        return lambda: None

    def _lock(self, sink: str) -> Undo:
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
        from utils.clients import duck

        return duck.connect(self._settings.duckdb_path, wait_s=LOCK_WAIT_S).close

    def finish(self) -> None:
        """End all, then run each once more: producers until all is delivered, consumers to the present end."""
        for process in self._running.values():
            if process.poll() is None:
                ask_to_end(process)
        for name, process in self._running.items():
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.surprises.append(f"{name} did not end within {END_WITHIN_S:.0f} s")
                process.kill()
                process.wait()
        for name, command in self._last.items():
            if code := self._start(name, command).wait():
                self.surprises.append(f"{name} ended its last run with code {code}")

    def kill(self) -> None:
        """Leave nothing behind."""
        for process in self._running.values():
            process.kill()
            process.wait()


def _record(path: Path, interval_s: float) -> Path:
    """A recording for the replay, with this pace."""
    made = islice(producer_case.messages(random.Random(1)), RECORDED)
    messages = [message for _, message in made]
    for number, message in enumerate(messages):
        message.timestamp = instant_text(round(number * interval_s * 1e6))
    path.write_bytes(encode_records(messages))
    return path


def _quietly(undo: Undo) -> None:
    with suppress(psutil.NoSuchProcess):
        undo()


def compare_store(sink: str, settings: Settings) -> str:
    """How a consumer's processed store differs from its sink, "" if it contains each record once and alike."""
    codec, path = BUZZ.codec, settings.processed_path(sink)
    sunk: dict[bytes, str] = {}
    for records, _ in pages(sink, settings, BUZZ):
        own = [record for record in records if record.sequence is not None]
        sunk |= zip(map(_digest, codec.canonical(codec.rows(own))), (record.producer_id for record in own), strict=True)
    stored: dict[bytes, str] = {}
    columns = StoreTable(BUZZ).columns[: len(codec.columns)]
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM records WHERE sequence IS NOT NULL")
        for row in rows:
            stored[_digest(codec.canonical([row])[0])] = row[-2]
        twice = "SELECT 1 FROM records WHERE sequence IS NOT NULL GROUP BY producer_id, sequence HAVING count(*) > 1"
        doubled = len(connection.execute(twice).fetchall())
    different = sorted({sunk.get(digest) or stored[digest] for digest in sunk.keys() ^ stored.keys()})
    problems = [f"{path.name} differs from the sink for {', '.join(different)}"] if different else []
    return "; ".join([*problems, f"{path.name} contains {doubled} twice"] if doubled else problems)


def _digest(line: bytes) -> bytes:
    return blake2b(line, digest_size=16).digest()


def main(
    *,
    kills: Annotated[
        int, Parameter(validator=Number(gte=0), help="How often a producer or consumer is killed (kill -9).")
    ] = 20,
    minutes: Annotated[float, Parameter(validator=Number(gt=0), help="How long the attacks last.")] = 1.0,
    seed: Seed = None,
    sinks: Sinks = EMBEDDED,
    interval: Annotated[
        float, Parameter(validator=Number(gte=0), help="Seconds between the records of each producer.")
    ] = 0.002,
    keep: Annotated[Path | None, Parameter(help="Work in this folder and leave it (default: a temporary one).")] = None,
    settings: Settings = DEFAULTS,
) -> int:
    """Attack producers, consumers and sinks in a temporary place, then audit: was anything lost or doubled?

    Exit code 0 if every acknowledged record is in every sink and every processed store exactly once, else 1.
    """
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    attacks = plan(seed, minutes * 60, kills, sinks)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as temporary:
        settings = settings.elsewhere((keep or Path(temporary)).resolve(), f"chaos-{secrets.token_hex(4)}")
        settings.data_path.mkdir(parents=True, exist_ok=True)
        print(f"seed {seed}: {len(attacks)} attacks in {minutes:g} minutes, in {settings.data_path}", flush=True)
        attacked = Attacked(settings, sinks, interval)
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
    from verify_emitters import print_audit

    code = print_audit(settings, sinks)
    problems = [*attacked.surprises, *(text for sink in sinks if (text := compare_store(sink, settings)))]
    for problem in problems:
        cli.print_lines(f"problem: {problem}")
    suffered = ", ".join(f"{attacked.done[action]} x {action}" for action in ("kill", "freeze", "fill", "lock"))
    count = sum(account.last for account in accounts(settings))
    verdict = "BROKEN" if code or problems else "ok"
    cli.print_lines(
        f"{verdict}: {count:,} records acknowledged under {suffered}; {len(sinks)} sinks and their consumers compared"
    )
    return cli.CHECK_FAILED if code or problems else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, name="scripts.chaos"))
