"""Rates of the embedded sinks beside the bare libraries, as medians of rounds in one run.

python scripts/bench_throughput.py             rates, latency of single messages, start to exit
python scripts/bench_throughput.py --outage    the healthy sinks' rate while each sink in turn is down
python scripts/bench_throughput.py --flat      memory and CPU per message from 10,000 to 5,000,000 messages
"""

import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import portalocker
from cyclopts import Parameter

from producers.ragini_producer import messages
from scripts.bench_all import BARE, LATENCY_GAP_S, batches, delivery_to, emit, latencies, machine, produce, seconds
from utils.app import cli
from utils.app.config import DEFAULTS, EMBEDDED_SINKS, Settings
from utils.delivery.journal import Journal
from utils.delivery.producing import MAX_APPEND, SWITCH_INTERVAL_S
from utils.records.record import timestamp_text

FLAT_COUNTS = (10_000, 100_000, 1_000_000, 5_000_000)
HOLD_DUCKDB = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def show(title: str, rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def rates(count: int, rounds: int, folder: Path) -> list[list[str]]:
    """Ours and the bare libraries' in turn, so that a busy machine slows both."""
    parts = batches(count)
    start_s = median(seconds(lambda: produce(replace(DEFAULTS, data_dir=folder / "start"), EMBEDDED_SINKS, 1))
                     for _ in range(rounds))  # fmt: skip
    names = (*EMBEDDED_SINKS, "together")
    ours, bare, alone = ({name: list[float]() for name in names} for _ in range(3))
    for number in range(rounds):
        for name in names:
            settings = replace(DEFAULTS, data_dir=folder / f"{name}-{number}")
            settings.data_path.mkdir()
            if name in BARE:
                bare[name].append(seconds(partial(BARE[name], settings.data_path / "bare", parts)))
                alone[name].append(
                    seconds(partial(emit, name, replace(settings, data_dir=settings.data_path / "alone"), parts))
                )
            sinks = [name] if name in BARE else EMBEDDED_SINKS
            ours[name].append(produce(settings, sinks, count)[0])
    table = [["sink", "bare library", "emitter", "ratio", "whole producer", "ratio", "without start"]]
    for name, taken_s in ours.items():
        rate, going = count / median(taken_s), count / (median(taken_s) - start_s)
        cells = ["", "", "", f"{rate:,.0f}", "", f"{going:,.0f}"]
        if name in BARE:
            limit, emitted = count / median(bare[name]), count / median(alone[name])
            cells[:3] = f"{limit:,.0f}", f"{emitted:,.0f}", f"{emitted / limit:.2f}"
            cells[4] = f"{rate / limit:.2f}"
        table.append([name, *cells])
    table.append(["--count 1, start to exit", "", "", "", f"{start_s:.2f} s", "", ""])
    return table


@contextmanager
def duckdb_held(settings: Settings) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD_DUCKDB, str(settings.duckdb_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        yield
        holder.communicate()


@contextmanager
def sqlite_locked(settings: Settings) -> Iterator[None]:
    with closing(sqlite3.connect(settings.sqlite_path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


OUTAGES: dict[str, Callable[[Settings], AbstractContextManager[object]]] = {
    "": lambda settings: nullcontext(),
    "file": lambda settings: portalocker.Lock(f"{settings.live_path}.lock"),
    "sqlite": sqlite_locked,
    "duckdb": duckdb_held,
}


def healthy_rates(settings: Settings, down: str, count: int) -> dict[str, float]:
    """Messages/s that each sink takes while `down` is away; then it must converge."""
    stream = messages("wave", random.Random(1))
    rate: dict[str, float] = {}
    with closing(Journal(settings.journal_path("bench"))) as journal:
        delivery = delivery_to(EMBEDDED_SINKS, journal, settings)
        with OUTAGES[down](settings):
            started_s = time.perf_counter()
            for made in range(0, count, MAX_APPEND):
                part = [message for _, message in islice(stream, min(MAX_APPEND, count - made))]
                stamp = timestamp_text(time.time())
                for message in part:
                    message.timestamp = stamp
                journal.append(part, delivered=delivery.held_by_all())
                delivery.wake()
            while len(rate) < len(EMBEDDED_SINKS) - bool(down):
                with delivery.changed:
                    delivery.changed.wait(0.1)
                for sink, reached in delivery.reached().items():
                    if reached == journal.last and sink != down:
                        rate.setdefault(sink, count / (time.perf_counter() - started_s))
        delivery.drain(120)
        if delivery.held_by_all() != journal.last:
            raise RuntimeError(f"{down} did not converge")
    return rate


def outage(count: int, rounds: int, folder: Path) -> list[list[str]]:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    found = {
        down: [
            healthy_rates(replace(DEFAULTS, data_dir=folder / f"{down}-{number}"), down, count)
            for number in range(rounds)
        ]
        for down in OUTAGES
    }
    table = [["down", *(f"{sink}, messages/s (of all up)" for sink in EMBEDDED_SINKS)]]
    for down, runs in found.items():
        cells = []
        for sink in EMBEDDED_SINKS:
            if sink == down:
                cells.append("converged after")
                continue
            rate, usual = (median(run[sink] for run in some) for some in (runs, found[""]))
            cells.append(f"{rate:,.0f} ({rate / usual:.2f})")
        table.append([down or "nothing", *cells])
    return table


def flat(folder: Path) -> list[list[str]]:
    """CPU is told for what each row has more than the one before it: the first pays for what is done once."""
    _, before_s, _ = produce(replace(DEFAULTS, data_dir=folder / "start"), EMBEDDED_SINKS, 1)
    table, before = [["messages", "messages/s", "CPU us for each more", "peak MiB"]], 1
    for count in FLAT_COUNTS:
        wall_s, cpu_s, peak_mb = produce(replace(DEFAULTS, data_dir=folder / str(count)), EMBEDDED_SINKS, count)
        cost_us = (cpu_s - before_s) / (count - before) * 1e6
        table.append([f"{count:,}", f"{count / wall_s:,.0f}", f"{cost_us:.1f}", f"{peak_mb:,.0f}"])
        before, before_s = count, cpu_s
    return table


def main(
    *,
    count: Annotated[int, Parameter(help="Messages per run.")] = 400_000,
    rounds: Annotated[int, Parameter(help="Runs of each kind, of which the median is shown.")] = 3,
    singles: Annotated[int, Parameter(help="Single messages to measure the latency with.")] = 100,
    outage_rates: Annotated[bool, Parameter(name="--outage", help="Rates with a sink down.")] = False,
    flat_costs: Annotated[bool, Parameter(name="--flat", help="Cost and memory by amount.")] = False,
) -> int:
    """Measure the embedded sinks beside the bare libraries, during outages, or over growing amounts."""
    print(machine())
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if outage_rates:
            show(f"{count:,} messages each, median of {rounds}", outage(count, rounds, folder))
        elif flat_costs:
            show("three sinks together", flat(folder))
        else:
            show(f"{count:,} messages each, process start included, median of {rounds}", rates(count, rounds, folder))
            waits_ms = latencies(
                replace(DEFAULTS, data_dir=folder / "latency"), EMBEDDED_SINKS, singles, LATENCY_GAP_S * 2
            )
            cells = [f"{each:.1f}" for each in waits_ms]
            show("one message, from acknowledged to held by all three sinks", [["p50 ms", "p99 ms"], cells])
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, name="scripts.bench_throughput"))
