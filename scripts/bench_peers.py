"""Peers of the toolkit in the benchmarks: the same work in the usual way with bare libraries."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb

from utils.app.config import Settings
from utils.records.record import Batch
from utils.records.stream import BUZZ
from utils.records.table import Table

PAGE_RECORDS = 10_000


def write_file(batches: list[Batch], folder: Path) -> None:
    """Write batches with one write and one fsync each."""
    with (folder / "bare.jsonl").open("ab", buffering=0) as stream:
        for batch in batches:
            stream.write(batch.lines)
            os.fsync(stream.fileno())


def write_sqlite(batches: list[Batch], folder: Path) -> None:
    """Insert batches with executemany into the same table and index, in a durable transaction each."""
    table = Table(BUZZ)
    insert = f"INSERT INTO {table.name} ({table.row}) VALUES ({', '.join('?' * len(table.columns))})"
    with closing(sqlite3.connect(folder / "bare.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        for statement in (*table.create("sqlite"), table.identity_index()):
            connection.execute(statement)
        for batch in batches:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, batch.rows)
            connection.execute("COMMIT")


def write_duckdb(batches: list[Batch], folder: Path) -> None:
    """Append batches with the native appender on one open connection, with one flush each."""
    table = Table(BUZZ)
    with duckdb.connect(str(folder / "bare.duckdb")) as connection:
        for statement in table.create("duckdb"):
            connection.execute(statement)
        appender = connection.appender(table.name, columns=list(table.columns))
        for batch in batches:
            appender.append_rows(batch.rows)
            appender.flush()


def write_kafka(batches: list[Batch], folder: Path, broker: str) -> None:
    """Send batches with produce_batch, in one transaction each."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker, "transactional.id": "bare", "batch.size": 1_000_000})
    producer.init_transactions(10)
    for batch in batches:
        records = [{"value": line, "key": "bench-0"} for line in batch.lines.splitlines()]
        producer.begin_transaction()
        producer.produce_batch(folder.name, records, partition=0)
        producer.commit_transaction(30)


def read_file(settings: Settings) -> None:
    """Read and decode all lines."""
    with settings.live_path.open("rb") as stream:
        while lines := stream.readlines(1 << 20):
            BUZZ.codec.decode_lines(b"".join(lines))


def read_sqlite(settings: Settings) -> None:
    """Read all rows."""
    with closing(sqlite3.connect(settings.sqlite_path)) as connection:
        found = connection.execute(f"SELECT * FROM {Table(BUZZ).name}")
        while found.fetchmany(PAGE_RECORDS):
            pass


def read_duckdb(settings: Settings) -> None:
    """Read all rows."""
    with duckdb.connect(str(settings.duckdb_path), read_only=True, config={"threads": 1}) as database:
        rows = database.execute(f"SELECT * FROM {Table(BUZZ).name}")
        while rows.fetchmany(PAGE_RECORDS):
            pass


def read_kafka(settings: Settings) -> None:
    """Read and decode all records of the topic."""
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


def drop_schemas(url: str, prefix: str) -> None:
    """Drop the schemas of a PostgreSQL whose names begin with `prefix`."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        named = connection.execute("SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s)", (prefix,))
        for (name,) in named.fetchall():
            connection.execute(psycopg.sql.SQL("DROP SCHEMA {} CASCADE").format(psycopg.sql.Identifier(name)))
