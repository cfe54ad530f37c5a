"""Rates beside the bare libraries, as ratios measured in one run: python -m scripts.bench sinks --count 400000.

Machines differ fourfold and their speed drifts: compare the ratios, not the rates. What is compared takes turns, and
each number is the median of its rounds. It runs on Linux and macOS; Kafka and PostgreSQL need what
scripts/prepare_kafka.sh and scripts/prepare_postgres.sh set up.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
from cyclopts import Parameter
from msgspec.structs import asdict

from producers.ragini_producer import messages
from scripts import bench_peers as bare
from scripts.bench_table import Bench, Taken, report
from scripts.kafka_broker import Cluster, kafka_home
from scripts.postgres_server import programs, throwaway
from utils.app import cli
from utils.app.config import DEFAULTS, PROJECT_DIR, Settings, StoreUrl
from utils.app.errors import ToolkitError
from utils.delivery.journal import Journal
from utils.delivery.worker import Delivery
from utils.records.instants import instant_text
from utils.records.record import Batch, Record, without_ids
from utils.records.stream import BUZZ
from utils.sinks import ALL, EMBEDDED, SINKS, source

if TYPE_CHECKING:
    from utils.reading.database import Database

KEY = "bench-0"
MAX_BATCH = 20_000
SAMPLE_EVERY_S = 0.02

Count = Annotated[int, Parameter(help="Records per run.")]
Rounds = Annotated[int, Parameter(help="Runs of each kind, of which the median counts.")]
Write = Annotated[bool, Parameter(help="Put the table into docs/performance.md too.")]


def begin(stack: ExitStack, rounds: int, count: int) -> Bench:
    """A bench in a temporary folder."""
    folder = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
    return Bench(Path(stack.enter_context(folder)), rounds, count)


def made(count: int, seed: int = 1) -> Iterator[Record]:
    """Buzz messages as the producer makes them at full speed: about a hundred in a millisecond."""
    for number, (_, message) in enumerate(islice(messages("wave", random.Random(seed)), count)):
        message.timestamp = instant_text((1_780_000_000_000 + number // 100) * 1_000)
        yield message


def batches(count: int) -> list[Batch]:
    """Them in the sizes that a worker delivers, decoded before any clock runs: it is no work of the bare library."""
    stream = made(count)
    found = []
    for first in range(1, count + 1, MAX_BATCH):
        batch = Batch.of_records(list(islice(stream, MAX_BATCH)), f"{KEY}-1", first, BUZZ.codec)
        assert batch.rows
        found.append(batch)
    return found


def timed(work: Callable[[Path], object]) -> Callable[[Path], Taken]:
    """Wall and CPU seconds of work in this process."""

    def measured(place: Path) -> Taken:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        work(place)
        return Taken(time.perf_counter() - wall_s, time.process_time() - cpu_s)

    return measured


def at(place: Path, broker: str = DEFAULTS.kafka_broker) -> Settings:
    return replace(DEFAULTS, data_dir=place, kafka_broker=broker, topic=place.name)


def run_producer(
    module: str, settings: Settings, sinks: Sequence[str], *arguments: str, given: Path = Path(os.devnull)
) -> Taken:
    """Run a producer in a process of its own, start and clean end included, with a file as its standard input."""
    command = [sys.executable, "-m", f"producers.{module}", *arguments, "--sinks", *sinks, "--drain", "600"]
    command += ["--log-level", "ERROR", "--data-dir", str(settings.data_path), "--kafka-broker", settings.kafka_broker]
    started_s = time.perf_counter()
    with given.open("rb") as stream:
        process = subprocess.Popen(command, cwd=PROJECT_DIR, stdin=stream, stdout=subprocess.DEVNULL)
    peak_bytes = 0  # by looking at it, for the peak that wait4 knows began as that of this process
    while not (found := os.wait4(process.pid, os.WNOHANG))[0]:
        with suppress(psutil.Error):  # it may end just now
            peak_bytes = max(peak_bytes, psutil.Process(process.pid).memory_info().rss)
        time.sleep(SAMPLE_EVERY_S)
    _, status, used = found
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ToolkitError(f"{' '.join(command)} ended with code {process.returncode}")
    return Taken(time.perf_counter() - started_s, used.ru_utime + used.ru_stime, peak_bytes / 2**20)


def produce(sinks: Sequence[str], count: int, place: Path, broker: str = DEFAULTS.kafka_broker) -> Taken:
    """The producer of buzz at full speed."""
    arguments = ["--interval", "0", "--count", str(count), "--topic", place.name]
    return run_producer("ragini_producer", at(place, broker), sinks, *arguments)


def emit(sink: str, settings: Settings, ready: list[Batch]) -> None:
    """What a worker does with batches that are ready."""
    with closing(SINKS[sink].emitter(settings, BUZZ, KEY, "")) as emitter:
        emitter.last([f"{KEY}-1"])
        step = max(1, emitter.max_records // MAX_BATCH)
        for start in range(0, len(ready), step):
            emitter.emit(Batch.join(ready[start : start + step]))


def latencies_ms(settings: Settings, count: int, gap_s: float = 0.1) -> tuple[float, float]:
    """Median and 99th percentile from acknowledged to stored by the embedded sinks, for single records with pauses."""
    taken_ms = []
    with closing(Journal(settings.journal_path("latency"), BUZZ)) as journal:
        delivery = Delivery(
            journal,
            {sink: partial(SINKS[sink].emitter, settings, BUZZ, journal.key) for sink in EMBEDDED},
            settings.dead_letter_path,
        )
        delivery.start(EMBEDDED, 10)
        for record in made(count, seed=2):
            journal.append(Batch.of_records([record], journal.producer_id, journal.last + 1, BUZZ.codec))
            started_s = time.perf_counter()
            delivery.wake()
            with delivery.changed:
                delivery.changed.wait_for(lambda: not any(journal.pending().values()), 30)
            taken_ms.append((time.perf_counter() - started_s) * 1000)
            time.sleep(gap_s)
        delivery.drain(10)
    return median(taken_ms), quantiles(taken_ms, n=100)[98]


def sinks(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = False) -> int:
    """Measure emitters and the whole producer beside the bare libraries, and the latency of single records."""
    ready = batches(count)
    with ExitStack() as stack:
        bench = begin(stack, rounds, count)
        writers = {"file": bare.write_file, "sqlite": bare.write_sqlite, "duckdb": bare.write_duckdb}
        for sink, writer in writers.items():
            bench.add(f"bare {sink}", "", timed(partial(writer, ready)))
            emitter = timed(lambda place, sink=sink: emit(sink, at(place), ready))  # type: ignore[misc]
            bench.add(f"{sink} emitter", f"bare {sink}", emitter)
        bench.add("producer, three sinks", "bare sqlite", partial(produce, EMBEDDED, count))
        p50_ms, p99_ms = latencies_ms(at(bench.folder / "latency"), 100)
        stored = f"{p50_ms:.1f} ms (p99 {p99_ms:.1f} ms)"
        note = f"A single record is stored by the three embedded sinks {stored} after it was acknowledged."
        return bench.run("sinks", note, write)


def read(name: str, settings: Settings, store: Callable[[Path], "Database"] | None = None) -> Callable[[Path], Taken]:
    """Read a source from its beginning to its present end, with `store` into a processed store that this opens."""
    from utils.reading.store import ProcessedStore

    def work(place: Path) -> None:
        with ExitStack() as stack:
            kept = stack.enter_context(closing(ProcessedStore(store(place), BUZZ))) if store else None
            resume: Callable[[str], str] = kept.resume if kept else lambda partition: ""
            reader = stack.enter_context(closing(source(name, settings, BUZZ, resume, finished=True)))
            while (chunk := reader.poll(bare.PAGE_RECORDS)) is not None:
                if kept:
                    kept.add(chunk)

    return timed(work)


def add_reading(bench: Bench, name: str, settings: Settings, reader: Callable[[Settings], object]) -> None:
    """The rows of a source: a bare read, the source, the source into the processed store."""
    from utils.reading.database import SqliteDatabase

    bench.add(f"bare {name} read", "", timed(lambda place: reader(settings)))
    bench.add(f"{name} source", f"bare {name} read", read(name, settings))
    stored = read(name, settings, lambda place: SqliteDatabase(place / "store.sqlite"))
    bench.add(f"{name} source, processed store", f"bare {name} read", stored)


def sources(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = False) -> int:
    """Measure each source beside a bare read of its sink, alone and into the processed store."""
    from utils.reading.database import PostgresDatabase

    ready = batches(count)
    with ExitStack() as stack:
        bench = begin(stack, rounds, count)
        settings = at(bench.folder / "filled")
        readers = {"file": bare.read_file, "sqlite": bare.read_sqlite, "duckdb": bare.read_duckdb}
        for sink, reader in readers.items():
            emit(sink, settings, ready)
            add_reading(bench, sink, settings, reader)
        if programs() and find_spec("psycopg"):
            url = StoreUrl(stack.enter_context(closing(throwaway())).url, "PostgreSQL")
            stored = read("file", settings, lambda place: PostgresDatabase(url, place.name))
            bench.add("file source, processed store in PostgreSQL", "file source, processed store", stored)
        return bench.run("sources", "", write)


def kafka(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = False) -> int:
    """Measure emitter, producer and source of Kafka beside bare clients."""
    home = kafka_home()
    if not home:
        raise ToolkitError("there is no Kafka: run scripts/prepare_kafka.sh")
    ready = batches(count)
    with ExitStack() as stack:
        bench = begin(stack, rounds, count)
        broker = stack.enter_context(Cluster(home, jvm=("-Xmx512m",))).address
        bench.add("bare kafka", "", timed(partial(bare.write_kafka, ready, broker=broker)))
        bench.add("bare sqlite", "", timed(partial(bare.write_sqlite, ready)))
        bench.add("kafka emitter", "bare kafka", timed(lambda place: emit("kafka", at(place, broker), ready)))
        bench.add("producer, four sinks", "bare sqlite", partial(produce, ALL, count, broker=broker))
        settings = at(bench.folder / "filled", broker)
        emit("kafka", settings, ready)
        add_reading(bench, "kafka", settings, bare.read_kafka)
        return bench.run("kafka", "", write)


def feed(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = False) -> int:
    """Measure feeds of standard input and of a file beside the producer of buzz; lines of the same size."""
    with ExitStack() as stack:
        bench = begin(stack, rounds, count)
        lines = bench.folder / "lines.jsonl"
        lines.write_bytes(b"".join(without_ids(asdict(record)) for record in made(count)))

        def fed(sinks: Sequence[str], origin: str, place: Path) -> Taken:
            return run_producer("feed_producer", at(place), sinks, origin, "--once", "--stream", "fed", given=lines)

        for name, wanted in (("file", ("file",)), ("three sinks", EMBEDDED)):
            bench.add(f"producer, {name}", "", partial(produce, wanted, count))
            bench.add(f"standard input, {name}", f"producer, {name}", partial(fed, wanted, "-"))
            bench.add(f"file that grows, {name}", f"producer, {name}", partial(fed, wanted, str(lines)))
        return bench.run("feed", "", write)


def dashboard(*, write: Write = False) -> int:
    """Measure frames beside clear-and-replot of the same data, and SVG beside PNG."""
    from scripts.bench_dashboard import compare_formats, compare_frames

    rows = [("what", "CPU ms", "ratio", "of")]
    for width, height in ((12.8, 7.2), (8.0, 6.0), (19.2, 10.8)):
        ours, theirs = compare_frames((width, height))
        size = f"{width:g} x {height:g} inches"
        rows += [(f"clear and replot, {size}", f"{theirs:.1f}", "", "")]
        rows += [(f"frame, {size}", f"{ours:.1f}", f"{ours / theirs:.2f}", "clear and replot")]
    svg, png = compare_formats()
    rows += [("PNG", f"{png:.1f}", "", ""), ("SVG", f"{svg:.1f}", f"{svg / png:.2f}", "PNG")]
    report("dashboard", "Median of 40 frames, each with new data.", rows, "", write)
    return 0


def all_(*, write: Write = False) -> int:
    """Measure all, with Kafka where there is one: `sinks`, `sources`, `kafka`, `feed` and `dashboard`."""
    for each in (sinks, sources, *([kafka] if kafka_home() else []), feed, dashboard):
        each(write=write)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(all_, sinks, sources, kafka, feed, dashboard, all_, name="scripts.bench"))
