"""Measure rates, as ratios to those of bare libraries: python -m scripts.bench sinks --count 400000.

Machines differ fourfold and their speed drifts: compare the ratios, not the rates. The runs to compare take turns, and
each number is the median of its rounds. For Linux and macOS; Kafka needs a broker, PostgreSQL PROCESSED_STORE_URL.
"""

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cyclopts import Parameter
from msgspec.structs import asdict

from producers.ragini_producer import messages
from scripts import bench_peers as bare
from scripts.bench_table import Bench, report
from utils.app import cli
from utils.app.config import DEFAULTS, PROJECT_DIR, Reads, Settings, processed_store_url
from utils.app.errors import Absent
from utils.app.options import optional
from utils.clients.kafka_admin import Admin
from utils.reading.database import Database, PostgresDatabase, SqliteDatabase
from utils.reading.store import ProcessedStore
from utils.records.instants import instant_text
from utils.records.record import Batch, Record, without_ids
from utils.records.stream import BUZZ
from utils.sinks import ALL, EMBEDDED, SINKS, source
from utils.sources.auto_source import require_answer

KEY = "bench-0"
MAX_BATCH = 20_000

Count = Annotated[int, Parameter(help="Records per run.")]
Rounds = Annotated[int, Parameter(help="Runs of each kind; the median is reported.")]
Write = Annotated[bool, optional("Also write the table into docs/performance.md.")]
Broker = Annotated[Settings, Reads("kafka_broker")]


@contextmanager
def new_bench(rounds: int, count: int) -> Iterator[Bench]:
    """Yield a bench in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        yield Bench(Path(folder), rounds, count)


def buzz_messages(count: int, seed: int = 1) -> Iterator[Record]:
    """Yield buzz messages with timestamps as at full speed: a hundred per millisecond."""
    for number, (_, message) in enumerate(islice(messages("wave", random.Random(seed)), count)):
        message.timestamp = instant_text((1_780_000_000_000 + number // 100) * 1_000)
        yield message


def batches(count: int) -> list[Batch]:
    """Return messages in batches of a worker's size, already decoded, because the bare libraries do not decode."""
    stream = buzz_messages(count)
    found = []
    for first in range(1, count + 1, MAX_BATCH):
        batch = Batch.of_records(list(islice(stream, MAX_BATCH)), f"{KEY}-1", first, BUZZ.codec)
        assert batch.rows
        found.append(batch)
    return found


def settings_in(place: Path, broker: str = DEFAULTS.kafka_broker) -> Settings:
    return replace(DEFAULTS, data_dir=place, kafka_broker=broker, topic=place.name)


def run_producer(
    module: str, settings: Settings, sinks: Sequence[str], *arguments: str, given: Path = Path(os.devnull)
) -> None:
    """Run a producer in a process of its own, start and clean end included, with a file as its standard input."""
    command = [sys.executable, "-m", f"producers.{module}", *arguments, "--sinks", *sinks, "--drain", "600"]
    command += ["--log-level", "ERROR", "--data-dir", str(settings.data_path), "--kafka-broker", settings.kafka_broker]
    with given.open("rb") as stream:
        subprocess.run(command, cwd=PROJECT_DIR, stdin=stream, stdout=subprocess.DEVNULL, check=True)


def produce(sinks: Sequence[str], count: int, place: Path, broker: str = DEFAULTS.kafka_broker) -> None:
    """Run the producer of buzz at full speed."""
    arguments = ["--interval", "0", "--count", str(count), "--topic", place.name]
    run_producer("ragini_producer", settings_in(place, broker), sinks, *arguments)


def emit(sink: str, ready: list[Batch], place: Path, broker: str = DEFAULTS.kafka_broker) -> None:
    """Deliver ready batches as a worker does."""
    with closing(SINKS[sink].emitter(settings_in(place, broker), BUZZ, KEY, "")) as emitter:
        emitter.last([f"{KEY}-1"])
        step = max(1, emitter.max_records // MAX_BATCH)
        for start in range(0, len(ready), step):
            emitter.emit(Batch.join(ready[start : start + step]))


def sinks(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = False) -> int:
    """Measure emitters and the whole producer beside the bare libraries."""
    ready = batches(count)
    with new_bench(rounds, count) as bench:
        for sink, writer in (("file", bare.write_file), ("sqlite", bare.write_sqlite), ("duckdb", bare.write_duckdb)):
            bench.add(f"bare {sink}", "", partial(writer, ready))
            bench.add(f"{sink} emitter", f"bare {sink}", partial(emit, sink, ready))
        bench.add("producer, three sinks", "bare sqlite", partial(produce, EMBEDDED, count))
        bench.run("sinks", write)
    return 0


def read(name: str, settings: Settings, place: Path) -> None:
    """Read a source from its beginning to its present end."""
    with closing(source(name, settings, BUZZ, lambda partition: "", finished=True)) as reader:
        while reader.poll(bare.PAGE_RECORDS):
            pass


def store(name: str, settings: Settings, connect: Callable[[Path], Database], place: Path) -> None:
    """Read a source into a processed store."""
    with (
        closing(ProcessedStore(connect(place), BUZZ)) as kept,
        closing(source(name, settings, BUZZ, kept.resume, finished=True)) as reader,
    ):
        while chunk := reader.poll(bare.PAGE_RECORDS):
            kept.add(chunk)


def add_reading(bench: Bench, name: str, settings: Settings, reader: Callable[[Settings], object]) -> None:
    """Add rows for a source: a bare read, the source alone, the source with a processed store."""
    bench.add(f"bare {name} read", "", lambda place: reader(settings))
    bench.add(f"{name} source", f"bare {name} read", partial(read, name, settings))
    stored = partial(store, name, settings, lambda place: SqliteDatabase(place / "store.sqlite"))
    bench.add(f"{name} source, processed store", f"bare {name} read", stored)


def sources(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = False) -> int:
    """Measure each source beside a bare read of its sink, alone and into the processed store."""
    ready, url = batches(count), processed_store_url()
    with new_bench(rounds, count) as bench:
        filled = bench.place("filled")
        for sink, reader in (("file", bare.read_file), ("sqlite", bare.read_sqlite), ("duckdb", bare.read_duckdb)):
            emit(sink, ready, filled)
            add_reading(bench, sink, settings_in(filled), reader)
        if url:
            stored = partial(store, "file", settings_in(filled), lambda place: PostgresDatabase(url, place.name))
            bench.add("file source, processed store in PostgreSQL", "file source, processed store", stored)
        try:
            bench.run("sources", write)
        finally:
            if url:
                bare.drop_schemas(url.text, bench.folder.name)
    return 0


def kafka(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = False, settings: Broker = DEFAULTS) -> int:
    """Measure emitter, producer and source of Kafka beside bare clients, with a running broker."""
    broker = settings.kafka_broker
    require_answer(broker)
    ready = batches(count)
    with new_bench(rounds, count) as bench:
        bench.add("bare kafka", "", partial(bare.write_kafka, ready, broker=broker))
        bench.add("bare sqlite", "", partial(bare.write_sqlite, ready))
        bench.add("kafka emitter", "bare kafka", partial(emit, "kafka", ready, broker=broker))
        bench.add("producer, four sinks", "bare sqlite", partial(produce, ALL, count, broker=broker))
        filled = bench.place("filled")
        try:
            emit("kafka", ready, filled, broker)
            add_reading(bench, "kafka", settings_in(filled, broker), bare.read_kafka)
            bench.run("kafka", write)
        finally:
            admin = Admin(settings)
            for topic in admin.client.list_topics(timeout=10).topics:
                if topic.startswith(bench.folder.name):
                    admin.delete_topic(topic)
    return 0


def feed(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = False) -> int:
    """Measure feeds of standard input and of a file beside the producer of buzz; lines of the same size."""
    with new_bench(rounds, count) as bench:
        lines = bench.folder / "lines.jsonl"
        lines.write_bytes(b"".join(without_ids(asdict(record)) for record in buzz_messages(count)))

        def fed(sinks: Sequence[str], origin: str, place: Path) -> None:
            run_producer("feed_producer", settings_in(place), sinks, origin, "--once", "--stream", "fed", given=lines)

        for name, wanted in (("file", ("file",)), ("three sinks", EMBEDDED)):
            bench.add(f"producer, {name}", "", partial(produce, wanted, count))
            bench.add(f"standard input, {name}", f"producer, {name}", partial(fed, wanted, "-"))
            bench.add(f"file that grows, {name}", f"producer, {name}", partial(fed, wanted, str(lines)))
        bench.run("feed", write)
    return 0


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
    report("dashboard", "Median of 40 frames, each with new data.", rows, write)
    return 0


def all_(*, write: Write = False, settings: Broker = DEFAULTS) -> int:
    """Measure all: `sinks`, `sources`, `feed`, `dashboard` and, if a broker runs, `kafka`."""
    for each in (sinks, sources, feed, dashboard):
        each(write=write)
    try:
        return kafka(write=write, settings=settings)
    except Absent as error:
        cli.print_lines(f"Kafka is not measured: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(all_, sinks, sources, kafka, feed, dashboard, all_, name="scripts.bench"))
