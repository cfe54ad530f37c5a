"""Rates beside the bare libraries, as ratios measured in one run: python scripts/bench.py sinks --count 400000.

Machines differ fourfold and their speed drifts: compare the ratios, not the rates. What is compared takes turns, and
each number is the median of its rounds. Kafka and PostgreSQL need what scripts/prepare_kafka.sh and
scripts/prepare_postgres.sh set up; without them their rows are left out.
"""

import os
import platform
import random
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duckdb
import psutil
from cyclopts import Parameter
from msgspec.structs import asdict

from producers.ragini_producer import messages
from scripts.kafka_broker import Cluster, kafka_home
from scripts.postgres_server import programs, throwaway
from utils.app import cli
from utils.app.config import DEFAULTS, PROJECT_DIR, Settings, StoreUrl
from utils.delivery.journal import Journal
from utils.delivery.worker import Delivery
from utils.records.codec import Field, instant_text
from utils.records.record import Batch, Record, without_ids
from utils.records.schema import declare
from utils.records.stream import BUZZ, Stream
from utils.records.table import Table
from utils.sinks import ALL, EMBEDDED, SINKS, Run, source
from utils.sources.base import Chunk

KEY = "bench-0"
SAMPLE_EVERY_S = 0.02
PAGE_RECORDS = 10_000
MAX_BATCH = 20_000
MARKS = "<!-- measured: {} -->", "<!-- end of {} -->"

Count = Annotated[int, Parameter(help="Records per run.")]
Rounds = Annotated[int, Parameter(help="Runs of each kind, of which the median counts.")]
Write = Annotated[Path | None, Parameter(help="Put the table between the marks of this file too.")]


@dataclass
class Measured:
    """One thing that is timed in every round: seconds of wall and of CPU, and the highest memory in MiB."""

    name: str
    work: Callable[[Path], tuple[float, float, float]]
    bare: str = ""  # the row that its ratio compares it to
    runs: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        return median(run[0] for run in self.runs)


def machine() -> str:
    """What was measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        model = found[1]
    return (
        f"{psutil.cpu_count()} cores ({model}), {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, DuckDB {duckdb.__version__}"
    )


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


def bare_file(ready: list[Batch], folder: Path) -> None:
    """One write and one fsync per batch."""
    with (folder / "bare.jsonl").open("ab", buffering=0) as stream:
        for batch in ready:
            stream.write(batch.lines)
            os.fsync(stream.fileno())


def bare_sqlite(ready: list[Batch], folder: Path) -> None:
    """executemany into the same table with the same index, a durable transaction per batch."""
    table = Table(BUZZ)
    with closing(sqlite3.connect(folder / "bare.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        for statement in (*table.create("sqlite"), table.identity_index()):
            connection.execute(statement)
        for batch in ready:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(table.insert(), batch.rows)
            connection.execute("COMMIT")


def bare_duckdb(ready: list[Batch], folder: Path) -> None:
    """The native appender on a connection that stays open, one flush per batch."""
    table = Table(BUZZ)
    with duckdb.connect(str(folder / "bare.duckdb")) as connection:
        for statement in table.create("duckdb"):
            connection.execute(statement)
        appender = connection.appender(table.name, columns=list(table.columns))
        for batch in ready:
            appender.append_rows(batch.rows)
            appender.flush()


def bare_kafka(ready: list[Batch], folder: Path, broker: str) -> None:
    """produce_batch and one transaction per batch."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker, "transactional.id": "bare", "batch.size": 1_000_000})
    producer.init_transactions(10)
    for batch in ready:
        producer.begin_transaction()
        producer.produce_batch(
            f"bare-{folder.name}", [{"value": line, "key": KEY} for line in batch.lines.splitlines()], partition=0
        )
        producer.commit_transaction(30)


def emit(sink: str, settings: Settings, ready: list[Batch]) -> None:
    """What a worker does with batches that are ready."""
    with closing(SINKS[sink].emitter(settings, BUZZ, KEY, "")) as emitter:
        emitter.last([f"{KEY}-1"])
        step = max(1, emitter.max_records // MAX_BATCH)
        for start in range(0, len(ready), step):
            emitter.emit(Batch.join(ready[start : start + step]))


def timed(work: Callable[[], object]) -> tuple[float, float, float]:
    """Wall and CPU seconds of work in this process; its memory is not told apart."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s, 0.0


def produce(
    settings: Settings, sinks: Sequence[str], count: int, fed: tuple[Path, str] | None = None
) -> tuple[float, float, float]:
    """Run the producer in a process of its own, start and clean end included: wall and CPU seconds, peak MiB.

    With `fed`, a file of JSON lines and SOURCE, the feed instead; `-` is the file as standard input.
    """
    command = [sys.executable, "-m", "producers.ragini_producer", "--interval", "0", "--count", str(count)]
    if fed:
        command = [sys.executable, "-m", "producers.feed_producer", fed[1], "--once", "--stream", "fed"]
    command += ["--sinks", *sinks, "--drain", "600", "--log-level", "ERROR", "--data-dir", str(settings.data_path)]
    command += ["--kafka-broker", settings.kafka_broker, "--topic", settings.topic]
    started_s = time.perf_counter()
    with (fed[0] if fed else Path(os.devnull)).open("rb") as given:
        process = subprocess.Popen(command, cwd=PROJECT_DIR, stdin=given, stdout=subprocess.DEVNULL)
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


def latencies_ms(settings: Settings, sinks: Sequence[str], count: int, gap_s: float = 0.1) -> tuple[float, float]:
    """Median and 99th percentile from acknowledged to stored by all sinks, for single records with pauses."""
    taken_ms = []
    with closing(Journal(settings.journal_path("latency"), BUZZ)) as journal:
        delivery = Delivery(
            journal,
            {sink: partial(SINKS[sink].emitter, settings, BUZZ, journal.key) for sink in sinks},
            settings.dead_letter_path,
        )
        delivery.start(sinks, 10)
        for record in made(count, seed=2):
            journal.append(Batch.of_records([record], journal.producer_id, journal.last + 1, BUZZ.codec))
            started_s = time.perf_counter()
            delivery.wake()
            with delivery.changed:
                delivery.changed.wait_for(lambda: delivery.low_watermark() >= journal.last, 30)
            taken_ms.append((time.perf_counter() - started_s) * 1000)
            time.sleep(gap_s)
        delivery.drain(10)
    return median(taken_ms), quantiles(taken_ms, n=100)[98]


def run_rounds(rows: Sequence[Measured], rounds: int, folder: Path) -> None:
    """Run all rows in turn, so that a machine whose speed drifts slows all of them."""
    for number in range(rounds):
        for row in rows:
            place = folder / re.sub(r"\W+", "-", f"{row.name} {number}")  # topics are named like it
            place.mkdir()
            row.runs.append(row.work(place))


def report(
    title: str, rows: Sequence[Measured], count: int, notes: Sequence[str], write: Path | None, *, command: str = ""
) -> None:
    """Print the rows as a Markdown table, and write it between the marks of `command` where that is asked for."""
    by_name = {row.name: row for row in rows}
    head = ["what", "records/s", "ratio", "of", "CPU us/record", "peak MiB"]
    lines = [head, ["---", "---:", "---:", "---", "---:", "---:"]]
    for row in rows:
        bare = by_name.get(row.bare)
        cpu_us = median(run[1] for run in row.runs) / count * 1e6
        memory = median(run[2] for run in row.runs)
        compared = [f"{bare.wall_s / row.wall_s:.2f}", bare.name] if bare else ["", ""]
        memory_text = f"{memory:,.0f}" if memory else ""
        lines.append([row.name, f"{count / row.wall_s:,.0f}", *compared, f"{cpu_us:.1f}", memory_text])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = "\n\n".join([f"{title} {machine()}.", table, *notes]) + "\n"
    print(text)
    if write:
        begin, end = (mark.format(command) for mark in MARKS)
        before, _, rest = write.read_text(encoding="utf-8").partition(begin)
        after = rest.partition(end)[2]
        write.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def sinks(*, count: Count = 400_000, rounds: Rounds = 3, singles: int = 100, write: Write = None) -> int:
    """Measure emitters and the whole producer beside the bare libraries, and the latency of single records."""
    ready = batches(count)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        broker = DEFAULTS.kafka_broker
        home = kafka_home()
        if home:
            broker = stack.enter_context(Cluster(home, jvm=("-Xmx512m",))).address

        def at(place: Path) -> Settings:
            return replace(DEFAULTS, data_dir=place, kafka_broker=broker, topic=place.name)

        bare: dict[str, Callable[[list[Batch], Path], None]] = {
            "file": bare_file,
            "sqlite": bare_sqlite,
            "duckdb": bare_duckdb,
        }
        together = {"producer, three sinks": EMBEDDED}
        if home:
            bare["kafka"] = partial(bare_kafka, broker=broker)
            together["producer, four sinks"] = ALL
        rows = []
        for sink, work in bare.items():
            rows.append(Measured(f"bare {sink}", lambda place, work=work: timed(partial(work, ready, place))))  # type: ignore[misc]
            rows.append(
                Measured(
                    f"{sink} emitter",
                    lambda place, sink=sink: timed(partial(emit, sink, at(place), ready)),  # type: ignore[misc]
                    f"bare {sink}",
                )
            )
        for name, wanted in together.items():
            rows.append(
                Measured(name, lambda place, wanted=wanted: produce(at(place), wanted, count), "bare sqlite")  # type: ignore[misc]
            )
        run_rounds(rows, rounds, folder)
        p50_ms, p99_ms = latencies_ms(replace(DEFAULTS, data_dir=folder / "latency"), EMBEDDED, singles)
    stored = f"{p50_ms:.1f} ms (p99 {p99_ms:.1f} ms)"
    note = f"A single record is stored by the three embedded sinks {stored} after it was acknowledged."
    report(f"{count:,} buzz messages each, median of {rounds} rounds.", rows, count, [note], write, command="sinks")
    return 0


def read_bare(sink: str, settings: Settings) -> None:
    """All rows or lines, decoded where the library does not."""
    match sink:
        case "file":
            with settings.live_path.open("rb") as stream:
                while lines := stream.readlines(1 << 20):
                    BUZZ.codec.decode_lines(b"".join(lines))
        case "sqlite":
            with closing(sqlite3.connect(settings.sqlite_path)) as connection:
                found = connection.execute(f"SELECT * FROM {Table(BUZZ).name}")
                while found.fetchmany(PAGE_RECORDS):
                    pass
        case "duckdb":
            with duckdb.connect(str(settings.duckdb_path), read_only=True, config={"threads": 1}) as database:
                rows = database.execute(f"SELECT * FROM {Table(BUZZ).name}")
                while rows.fetchmany(PAGE_RECORDS):
                    pass
        case "kafka":
            _read_topic(settings)


def _read_topic(settings: Settings) -> None:
    from confluent_kafka import Consumer, TopicPartition

    options = {"bootstrap.servers": settings.kafka_broker, "group.id": "bare", "enable.partition.eof": True}
    with closing(Consumer(options | {"isolation.level": "read_committed", "enable.auto.commit": False})) as reader:
        partitions = reader.list_topics(settings.topic, timeout=10).topics[settings.topic].partitions
        reader.assign([TopicPartition(settings.topic, each, 0) for each in partitions])
        ended = 0
        while ended < len(partitions):
            found = reader.consume(PAGE_RECORDS, 1.0)
            ended += sum(1 for each in found if each.error())
            if values := [each.value() or b"" for each in found if not each.error()]:
                BUZZ.codec.decode_lines(b"\n".join(values) + b"\n")


def read_source(sink: str, settings: Settings, handle: Callable[[Chunk], object], resume: Callable[[str], str]) -> None:
    """A source from its beginning to its present end."""
    with closing(source(sink, settings, BUZZ, resume, finished=True)) as reader:
        while (chunk := reader.poll(PAGE_RECORDS)) is not None:
            handle(chunk)


def sources(*, count: Count = 400_000, rounds: Rounds = 3, write: Write = None) -> int:
    """Measure each source beside a bare read of its sink, alone and into the processed store."""
    from utils.reading.store import ProcessedStore
    from utils.reading.store_postgres import PostgresDatabase

    ready = batches(count)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        settings = replace(DEFAULTS, data_dir=folder / "filled", topic="filled")
        read = list(EMBEDDED)
        if home := kafka_home():
            settings = replace(settings, kafka_broker=stack.enter_context(Cluster(home, jvm=("-Xmx512m",))).address)
            read = list(ALL)
        for sink in read:
            emit(sink, settings, ready)

        def stored(sink: str, place: Path) -> None:
            with closing(ProcessedStore(place / "store.sqlite", BUZZ)) as store:
                read_source(sink, settings, store.add, store.resume)

        rows = []
        for sink in read:
            rows.append(
                Measured(f"bare {sink} read", lambda place, sink=sink: timed(partial(read_bare, sink, settings)))  # type: ignore[misc]
            )
            rows.append(
                Measured(
                    f"{sink} source",
                    lambda place, sink=sink: timed(  # type: ignore[misc]
                        partial(read_source, sink, settings, lambda chunk: None, lambda partition: "")
                    ),
                    f"bare {sink} read",
                )
            )
            rows.append(
                Measured(
                    f"{sink} source, processed store",
                    lambda place, sink=sink: timed(partial(stored, sink, place)),  # type: ignore[misc]
                    f"bare {sink} read",
                )
            )
        if programs() and find_spec("psycopg"):
            url = StoreUrl(stack.enter_context(closing(throwaway())).url, "PostgreSQL")

            def shared(place: Path) -> None:
                with closing(ProcessedStore(PostgresDatabase(url, place.name), BUZZ)) as store:
                    read_source("file", settings, store.add, store.resume)

            rows.append(
                Measured(
                    "file source, processed store in PostgreSQL",
                    lambda place: timed(partial(shared, place)),
                    "file source, processed store",
                )
            )
        run_rounds(rows, rounds, folder)
    report(f"{count:,} buzz messages each, median of {rounds} rounds.", rows, count, [], write, command="sources")
    return 0


# Its seconds; each of the clients has one connection and one request at a time, with one record.
POSTING = """
import asyncio, sys, time
port, clients, each = map(int, sys.argv[1:])
HEAD = b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Type: application/json\\r\\nIdempotency-Key: %b\\r\\n"
async def client(name):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(each):
        body = b'{"device":"d%d","number":%d,"temperature_c":20.5}' % (name, number)
        length = b"Content-Length: %d\\r\\n\\r\\n" % len(body)
        writer.write(HEAD % (b"%d-%d" % (name, number)) + length + body)
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\\r")[0]))
    writer.close()
async def main():
    await asyncio.gather(*map(client, range(clients)))
started_s = time.perf_counter()
asyncio.run(main())
print(time.perf_counter() - started_s)
"""


def listens(port: int) -> bool:
    """Whether a server takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def requests(*, count: Count = 20_000, rounds: Rounds = 3, clients: int = 50) -> int:
    """Measure a feed over HTTP, single records with keys, beside the same server without journal and sinks."""
    from utils.app.web import WebServer
    from utils.feeds.http import Inbox, feed_http
    from utils.feeds.requests import batch_of, respond

    types = {"device": "text", "number": "number", "temperature_c": "number", "timestamp": "timestamp"}
    stream = Stream("things", fields=tuple(Field(name, kind) for name, kind in types.items()))
    each = count // clients

    def post(port: int, work: Callable[[], object], end: Callable[[], object]) -> tuple[float, float, float]:
        thread = threading.Thread(target=work)
        thread.start()
        while not listens(port):
            time.sleep(SAMPLE_EVERY_S)
        cpu_s = time.process_time()
        command = [sys.executable, "-c", POSTING, *map(str, (port, clients, each))]
        seconds = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        cpu_s = time.process_time() - cpu_s
        end()
        thread.join()
        return seconds, cpu_s, 0.0

    def bare(place: Path) -> tuple[float, float, float]:
        inbox, ended = Inbox(""), threading.Event()

        def work() -> None:
            while not ended.is_set():
                found = inbox.take(0.1)
                respond([(posted, batch_of(posted.body, stream, "bare", 1).count) for posted in found])

        with closing(WebServer(inbox.app(), "127.0.0.1", 0, "bench")) as server:
            return post(int(server.url.rpartition(":")[2].strip("/")), work, ended.set)

    def fed(place: Path, sinks: tuple[str, ...]) -> tuple[float, float, float]:
        declare(stream, (settings := replace(DEFAULTS, data_dir=place)).schema_folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ended = threading.Event()
        work = partial(feed_http, str(port), "things", settings, sinks=sinks, run=Run(drain=60), stop=ended)
        return post(port, work, ended.set)

    rows = [
        Measured("server without journal", bare),
        Measured("feed, file sink", lambda place: fed(place, ("file",)), "server without journal"),
        Measured("feed, three sinks", lambda place: fed(place, EMBEDDED), "server without journal"),
    ]
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        run_rounds(rows, rounds, Path(folder))
    report(
        f"{each * clients:,} requests of {clients} clients, median of {rounds} rounds.", rows, each * clients, [], None
    )
    return 0


def feeds(*, count: Count = 400_000, rounds: Rounds = 3) -> int:
    """Measure feeds of standard input and of a file beside the producer of buzz; lines of the same size."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        lines = Path(folder) / "lines.jsonl"
        lines.write_bytes(b"".join(without_ids(asdict(record)) for record in made(count)))
        rows = []
        for name, wanted in (("file", ("file",)), ("three sinks", EMBEDDED)):
            rows.append(Measured(f"producer, {name}", partial(run_feed, wanted, count, None)))
            for source, label in (("-", "standard input"), (str(lines), "file that grows")):
                rows.append(
                    Measured(f"{label}, {name}", partial(run_feed, wanted, count, (lines, source)), f"producer, {name}")
                )
        run_rounds(rows, rounds, Path(folder))
    report(f"{count:,} records each, median of {rounds} rounds.", rows, count, [], None)
    return 0


def run_feed(sinks: Sequence[str], count: int, fed: tuple[Path, str] | None, place: Path) -> tuple[float, float, float]:
    return produce(replace(DEFAULTS, data_dir=place), sinks, count, fed)


def main() -> int:
    """Measure the toolkit beside the bare libraries: `sinks`, `sources`, `feeds` or `requests`."""
    sinks()
    sources()
    feeds()
    return requests()


if __name__ == "__main__":
    threading.stack_size(0)
    sys.exit(cli.run(main, sinks, sources, feeds, requests, name="scripts.bench"))
