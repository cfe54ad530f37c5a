"""Measure the reading half: sources beside a bare read, the processed store, latency, idling, and what writers feel.

python scripts/bench_consumers.py                      all of it (about three minutes)
python scripts/bench_consumers.py read follow writers  only these parts
"""

import argparse
import contextlib
import gc
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duckdb
import psutil

from producers.ragini_producer import messages
from scripts.bench_all import batches, emit
from utils.app.config import EMBEDDED_SINKS, PROJECT_DIR, Settings
from utils.reading.follow import consume
from utils.reading.store import ProcessedStore
from utils.reading.tracker import Tally
from utils.records.record import Batch, Message, decode_lines, timestamp_text
from utils.sinks import emitter, source
from utils.sources.base import Chunk, Resume

FOLLOWED = 20
IDLE_S = 30.0
SETTLE_S = 10.0


def fill(settings: Settings, count: int) -> None:
    parts = batches(count)
    for sink in EMBEDDED_SINKS:
        emit(sink, settings, parts)


def timed(name: str, count: int, work: Callable[[], object]) -> None:
    gc.collect()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    print(f"  {name:<34}{count / wall_s:>12,.0f} records/s{count / cpu_s:>14,.0f} per CPU second")


def bare_file(settings: Settings) -> None:
    with settings.live_path.open("rb") as stream:
        while lines := stream.readlines(1 << 20):
            decode_lines(b"".join(lines))


def bare_sqlite(settings: Settings) -> None:
    with contextlib.closing(sqlite3.connect(settings.sqlite_path)) as connection:
        rows = connection.execute("SELECT * FROM streamed_messages")
        while rows.fetchmany(10_000):
            pass


def bare_duckdb(settings: Settings) -> None:
    with duckdb.connect(str(settings.duckdb_path), read_only=True, config={"threads": 1}) as connection:
        rows = connection.execute("SELECT * FROM streamed_messages")
        while rows.fetchmany(10_000):
            pass


BARE = {"file": bare_file, "sqlite": bare_sqlite, "duckdb": bare_duckdb}


def read(count: int) -> None:
    """Records per second of each source to its end: bare, through the loop, into the processed store."""
    import pandas as pd

    pd.DataFrame([(1, 2)]).groupby(0).sum()  # its first use takes a second
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        fill(settings, count)
        for sink in EMBEDDED_SINKS:
            read_one(sink, settings, count)


def read_one(sink: str, settings: Settings, count: int) -> None:
    print(f"{sink}, {count:,} records")
    timed("bare read", count, lambda: BARE[sink](settings))
    tally = Tally()
    timed("source, loop, tally", count, lambda: consumed(sink, settings, tally.admit, lambda _: "", count))
    assert (tally.messages, tally.lost) == (count, 0)
    store = ProcessedStore(settings.processed_path(sink))
    timed("source, loop, processed store", count, lambda: consumed(sink, settings, store.add, store.resume, count))
    assert store.counts()["messages"] == count
    store.close()


def consumed(sink: str, settings: Settings, add: Callable[[Chunk], list[Message]], resume: Resume, count: int) -> int:
    reading = source(sink, settings, resume)
    return consume(lambda: reading, lambda chunk: len(add(chunk)), threading.Event(), once=True, count=count)


def follow() -> None:
    """Time from a durable message to its handler, and the CPU of a consumer at one message per 5 s."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        fill(settings, 1_000)
        for sink in EMBEDDED_SINKS:
            print(f"{sink}: one message takes {latency_ms(sink, settings)} to its handler")
        for sink in EMBEDDED_SINKS:
            print(f"{sink}: following one message per 5 s uses {idle_share(sink, settings):.2%} of a core")


def latency_ms(sink: str, settings: Settings) -> str:
    seen, stop = threading.Semaphore(0), threading.Event()

    def handle(chunk: Chunk) -> int:
        for _ in chunk.records:
            seen.release()
        return len(chunk.records)

    thread = threading.Thread(target=consume, args=(lambda: source(sink, settings, lambda _: "end"), handle, stop))
    thread.start()
    writer = emitter(sink, settings)()
    taken = []
    for sequence, (_, message) in enumerate(islice(messages("wave", random.Random(1)), FOLLOWED), 1):
        time.sleep(random.Random(sequence).uniform(0.3, 0.8))
        message.producer_id, message.sequence, message.timestamp = "follow-1", sequence, timestamp_text(time.time())
        start_s = time.perf_counter()
        writer.emit(Batch.of([message]))
        if seen.acquire(timeout=10):
            taken.append((time.perf_counter() - start_s) * 1000)
    stop.set()
    thread.join()
    writer.close()
    return f"{median(taken):.0f} ms (longest of {len(taken)}: {max(taken):.0f} ms)"


def start(module: str, *options: str, settings: Settings) -> subprocess.Popen[bytes]:
    environment = os.environ | {"BASE_DATA_DIR": str(settings.data_path), "LOG_LEVEL": "ERROR"}
    command = [sys.executable, "-m", module, *options]
    return subprocess.Popen(command, cwd=PROJECT_DIR, env=environment, stdout=subprocess.DEVNULL)


def idle_share(sink: str, settings: Settings) -> float:
    consumer = start(f"consumers.{sink}_consumer_case", settings=settings)
    producer = start("producers.ragini_producer", "--interval", "5", "--sinks", sink, settings=settings)
    time.sleep(SETTLE_S)  # imports, and the first messages
    process = psutil.Process(consumer.pid)
    before = process.cpu_times()
    time.sleep(IDLE_S)
    after = process.cpu_times()
    for each in (producer, consumer):
        each.terminate()
        each.wait()
    return (after.user + after.system - before.user - before.system) / IDLE_S


def writers(count: int) -> None:
    """A producer's rate at full speed alone, beside four consumers of other data, and of its own sinks."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [Settings(data_dir=Path(folder) / name) for name in ("alone", "beside", "followed")]
        alone = produced_per_s(count, settings[0], None)
        beside = produced_per_s(count, settings[1], settings[0])
        followed = produced_per_s(count, settings[2], settings[2])
    print(
        f"producer alone {alone:,.0f}/s, beside four consumers of other sinks {beside:,.0f}/s ({beside / alone:.2f}),"
    )
    print(f"  followed by four consumers {followed:,.0f}/s ({followed / alone:.2f}; {followed / beside:.2f} of beside)")


def produced_per_s(count: int, settings: Settings, watched: Settings | None) -> float:
    consumers: list[subprocess.Popen[bytes]] = []
    if watched:
        consumers = [start(f"consumers.{sink}_consumer_case", settings=watched) for sink in EMBEDDED_SINKS]
        consumers.append(start("consumers.ragini_consumer", "--source", "duckdb", "--json", settings=watched))
        time.sleep(SETTLE_S)  # they import pandas, and catch up
    start_s = time.perf_counter()
    code = start(
        "producers.ragini_producer", "--interval", "0", "--count", str(count), "--drain", "120", settings=settings
    ).wait()
    taken_s = time.perf_counter() - start_s
    assert code == 0
    for consumer in consumers:
        consumer.terminate()
        consumer.wait()
    return count / taken_s


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=(*PARTS, "all"), default="all", metavar="PART")
    parser.add_argument("--count", type=int, default=400_000)
    return parser.parse_args(arguments)


def main() -> None:
    chosen = options()
    for name, measure in PARTS.items():
        if name in chosen.parts or "all" in chosen.parts:
            measure(chosen.count)


PARTS: dict[str, Callable[[int], None]] = {"read": read, "follow": lambda count: follow(), "writers": writers}

if __name__ == "__main__":
    main()
