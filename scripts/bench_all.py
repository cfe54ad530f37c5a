"""The figures side by side, as Markdown: python scripts/bench_all.py --count 500000 --write docs/performance.md.

Each sink alone and all together, through the real producer, beside what the bare library does with
the same messages in the same run; CPU and memory of the producer; latency of single messages; the
audit. Absolute figures are this machine's; the ratios travel better. Kafka needs what
scripts/prepare_kafka.sh sets up; without it its row is left out.
"""

import os
import platform
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duckdb
import psutil
from cyclopts import Parameter

from producers.ragini_producer import messages
from scripts.kafka_broker import Cluster, kafka_home
from utils.app import cli
from utils.app.config import ALL_SINKS, DEFAULTS, EMBEDDED_SINKS, PROJECT_DIR, Settings
from utils.delivery.journal import Journal
from utils.delivery.worker import MAX_BATCH, Delivery
from utils.records import table
from utils.records.record import Batch, timestamp_text
from utils.sinks import emitter

LATENCY_GAP_S = 0.05
SAMPLE_EVERY_S = 0.02
MARKS = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Figures:
    """One row: rates per second, CPU in microseconds per message, memory in MiB, latencies in ms.

    A row of several sinks has no bare library, no emitter and no latency: 0, 0 and None.
    """

    name: str
    bare_rate: float
    emitter_rate: float
    rate: float
    cpu_us: float
    peak_mb: float
    latency_ms: tuple[float, float] | None

    @property
    def ratio(self) -> str:
        return f"{self.emitter_rate / self.bare_rate:.2f}" if self.bare_rate else ""

    def cells(self) -> list[str]:
        latency = f"{self.latency_ms[0]:,.1f} / {self.latency_ms[1]:,.1f}" if self.latency_ms else ""
        alone = [f"{rate:,.0f}" if rate else "" for rate in (self.bare_rate, self.emitter_rate)]
        whole = [f"{self.rate:,.0f}", f"{self.cpu_us:.1f}", f"{self.peak_mb:,.0f}"]
        return [self.name, *alone, self.ratio, *whole, latency]


def batches(count: int) -> list[Batch]:
    """The producer's messages, numbered, encoded and as rows, in the sizes that a worker delivers."""
    stream = messages("wave", random.Random(1))
    made = []
    for first in range(1, count + 1, MAX_BATCH):
        part = [message for _, message in islice(stream, min(MAX_BATCH, count - first + 1))]
        for sequence, message in enumerate(part, first):
            message.producer_id, message.sequence = "bench-1", sequence
            message.timestamp = timestamp_text(1_780_000_000 + sequence / 1000)
        made.append(Batch.of(part))
        made[-1].rows  # noqa: B018  # made before any clock runs: it is no work of the bare library
    return made


def bare_file(path: Path, parts: list[Batch]) -> None:
    """One write and one fsync per batch."""
    with path.open("ab", buffering=0) as stream:
        for part in parts:
            stream.write(part.lines)
            os.fsync(stream.fileno())


def bare_sqlite(path: Path, parts: list[Batch]) -> None:
    """executemany, one durable transaction per batch."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        for statement in table.create("sqlite"):
            connection.execute(statement)
        for part in parts:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(table.insert(), part.rows)
            connection.execute("COMMIT")


def bare_duckdb(path: Path, parts: list[Batch]) -> None:
    """The native appender on a connection that stays open, one flush per batch."""
    with duckdb.connect(str(path)) as connection:
        for statement in table.create("duckdb"):
            connection.execute(statement)
        appender = connection.appender(table.TABLE, columns=list(table.COLUMNS))
        for part in parts:
            appender.append_rows(part.rows)
            appender.flush()


def bare_kafka(broker: str, parts: list[Batch]) -> None:
    """produce_batch and one transaction per batch."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker, "transactional.id": "bare", "batch.size": 1_000_000})
    producer.init_transactions(10)
    for part in parts:
        producer.begin_transaction()
        producer.produce_batch("bare", [{"value": line} for line in part.lines.splitlines()], partition=0)
        producer.commit_transaction(30)


BARE: dict[str, Callable[[Path, list[Batch]], None]] = {
    "file": bare_file,
    "sqlite": bare_sqlite,
    "duckdb": bare_duckdb,
}


def emit(sink: str, settings: Settings, parts: list[Batch]) -> None:
    """What a worker does with batches that are ready."""
    with closing(emitter(sink, settings)()) as opened:
        for part in parts:
            opened.emit(part)


def seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def produce(settings: Settings, sinks: Sequence[str], count: int) -> tuple[float, float, float]:
    """Run the producer in a process of its own: wall seconds, CPU seconds, peak MiB."""
    command = [sys.executable, "-m", "producers.ragini_producer", "--interval", "0", "--count", str(count)]
    command += ["--sinks", *sinks, "--drain", "600", "--log-level", "ERROR", "--data-dir", str(settings.data_path)]
    command += ["--kafka-broker", settings.kafka_broker]
    started_s = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT_DIR, stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    cpu_s = peak = 0.0
    while process.poll() is None:
        try:
            times = watched.cpu_times()
            cpu_s, peak = times.user + times.system, max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(SAMPLE_EVERY_S)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}")
    return time.perf_counter() - started_s, cpu_s, peak / 2**20


def delivery_to(sinks: Sequence[str], journal: Journal, settings: Settings) -> Delivery:
    """Workers that have reached their sinks."""
    delivery = Delivery(journal, {sink: emitter(sink, settings) for sink in sinks}, settings.dead_letter_path)
    delivery.start(sinks, 10)
    return delivery


def latencies(
    settings: Settings, sinks: Sequence[str], count: int, gap_s: float = LATENCY_GAP_S
) -> tuple[float, float]:
    """Median and 99th percentile, in ms, from acknowledged to held by all sinks, for single messages with pauses."""
    stream = messages("wave", random.Random(2))
    taken_ms = []
    with closing(Journal(settings.journal_path("latency"))) as journal:
        delivery = delivery_to(sinks, journal, settings)
        for _, message in islice(stream, count):
            message.timestamp = timestamp_text(time.time())
            journal.append([message])
            started_s = time.perf_counter()
            delivery.wake()
            with delivery.changed:
                delivery.changed.wait_for(lambda: delivery.held_by_all() >= journal.last, 30)
            taken_ms.append((time.perf_counter() - started_s) * 1000)
            time.sleep(gap_s)
        delivery.drain(10)
    return median(taken_ms), quantiles(taken_ms, n=100)[98]


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        model = found[1]
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, DuckDB {duckdb.__version__}"
    )


def measure(count: int, singles: int) -> tuple[list[Figures], str]:
    """All rows, and a line on the audit of what was written."""
    parts = batches(count)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        settings = replace(DEFAULTS, data_dir=folder)
        bare, together = dict(BARE), {"three together": EMBEDDED_SINKS}
        if home := kafka_home():
            settings = replace(settings, kafka_broker=stack.enter_context(Cluster(home)).address)
            bare["kafka"] = lambda path, parts: bare_kafka(settings.kafka_broker, parts)
            together["all four"] = ALL_SINKS
        rows = []
        for sink, work in bare.items():
            bare_s = seconds(partial(work, folder / f"bare.{sink}", parts))
            emit_s = seconds(partial(emit, sink, replace(settings, data_dir=folder / f"{sink}-alone"), parts))
            wall_s, cpu_s, peak_mb = produce(replace(settings, data_dir=folder / sink), [sink], count)
            waits_ms = latencies(replace(settings, data_dir=folder / f"{sink}-latency"), [sink], singles)
            cpu_us = cpu_s / count * 1e6
            rows.append(Figures(sink, count / bare_s, count / emit_s, count / wall_s, cpu_us, peak_mb, waits_ms))
        for name, sinks in together.items():
            wall_s, cpu_s, peak_mb = produce(replace(settings, data_dir=folder / name), sinks, count)
            rows.append(Figures(name, 0, 0, count / wall_s, cpu_s / count * 1e6, peak_mb, None))
        return rows, audited(replace(settings, data_dir=folder / "three together"), count)


def audited(settings: Settings, count: int) -> str:
    from utils.checks.audit import audit

    report = audit(settings, EMBEDDED_SINKS, lambda more: None)
    verdict = "broken" if report.broken else "nothing lost, doubled, different or out of order"
    return f"Audit of the three sinks: {3 * count / report.seconds:,.0f} messages/s; {verdict}."


def markdown(rows: Sequence[Figures], count: int, audit_line: str) -> str:
    head = ["sink", "bare library", "emitter", "ratio", "whole producer", "CPU us/message", "peak MiB", "p50 / p99, ms"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *(row.cells() for row in rows)]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{count:,} messages each, messages per second. {machine()}.\n\n{body}\n\n{audit_line}\n"


def picture(rows: Sequence[Figures], count: int, path: Path) -> None:
    """Bars of the rates: the bare library's, the emitter's with its ratio, the whole producer's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.75 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"Messages per second, {count:,} each", loc="left", fontweight="bold")
    bars = (
        ("bare library", "#c9ced6", [(row.bare_rate, "") for row in rows]),
        ("emitter (and its ratio)", "#7fb0de", [(row.emitter_rate, f"  ({row.ratio})") for row in rows]),
        ("whole producer", "#2f6fb0", [(row.rate, "") for row in rows]),
    )
    height = 0.26
    for number, (label, colour, values) in enumerate(bars):
        # Several sinks together have no bare library: then the producer's bar stands alone in the middle.
        places = [place + (number - 1) * height * bool(row.bare_rate) for place, row in enumerate(rows)]
        axes.barh(places, [rate for rate, _ in values], height * 0.9, color=colour, label=label)
        for place, (rate, note) in zip(places, values, strict=True):
            if rate:
                axes.annotate(
                    f"{rate:,.0f}{note}", (rate, place), (4, 0), textcoords="offset points", va="center", fontsize=8
                )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main(
    *,
    count: Annotated[int, Parameter(help="Messages per run.")] = 500_000,
    singles: Annotated[int, Parameter(help="Single messages to measure the latency with.")] = 200,
    write: Annotated[Path | None, Parameter(help="Put the table between the marks of this file too.")] = None,
    image: Annotated[Path | None, Parameter(help="Draw the rates into this picture.")] = None,
) -> int:
    """Measure each sink alone and all together, beside the bare libraries, and print one table as Markdown."""
    rows, audit_line = measure(count, singles)
    text = markdown(rows, count, audit_line)
    print(text)
    if image:
        picture(rows, count, image)
    if write:
        before, _, rest = write.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        write.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, name="scripts.bench_all"))
