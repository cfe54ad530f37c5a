"""A feed over HTTP that is killed repeatedly, and clients that repeat each unanswered request."""

import json
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPException

import pytest

from tests.feeds.http_clients import JSON, THINGS, Answered, can_connect, free_port, post, thing
from tests.helpers import Process, open_duckdb, start_python, wait_until
from utils.app.config import Settings
from utils.records.stream import declare

WAIT_S = 0.05  # before a client repeats a request


class Clients:
    """Threads that post their things in requests of several sizes, and repeat each one until a 200 comes."""

    def __init__(self, port: int, clients: int, each: int, *, keyed: bool) -> None:
        self.port, self.each, self.keyed = port, each, keyed
        self.acknowledged = self.again = 0
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"c{number}",)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, name: str) -> None:
        size, first = len(name), 1
        while first <= self.each and not self._given_up.is_set():
            size = size % 25 + 1
            numbers = range(first, min(first + size, self.each + 1))
            body = "\n".join(thing(name, number) for number in numbers)
            self._post_until_taken(body, JSON | ({"Idempotency-Key": f"{name}-{first}"} if self.keyed else {}))
            with self._lock:
                self.acknowledged += len(numbers)
            first += len(numbers)

    def _post_until_taken(self, body: str, headers: dict[str, str]) -> None:
        while not self._given_up.is_set():
            try:
                answer = post(self.port, body, headers)
            except (OSError, HTTPException):
                answer = Answered(0, {})
            if answer.status == 200:
                return
            assert answer.status in (0, 503), answer
            with self._lock:
                self.again += 1
            self._given_up.wait(WAIT_S)

    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def give_up(self) -> None:
        self._given_up.set()
        for thread in self._threads:
            thread.join(60)


def start(port: int, settings: Settings) -> Process:
    arguments = (
        "producers.feed_producer",
        f"http:{port}",
        "--stream",
        "things",
        "--drain",
        "60",
        "--log-level",
        "ERROR",
    )
    return start_python(*arguments, settings=settings)


def kill(process: Process) -> None:
    process.kill()
    process.communicate(timeout=30)


def stored(settings: Settings) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Return each sink's things in the sink's order."""
    lines = settings.file_path("things").read_text(encoding="utf-8").splitlines()
    yield "file", [(record["client"], record["number"]) for record in map(json.loads, lines)]
    query = "SELECT client, number FROM things ORDER BY sequence"
    with closing(sqlite3.connect(settings.sqlite_path)) as connection:
        yield "sqlite", connection.execute(query).fetchall()
    with open_duckdb(settings.duckdb_path) as database:
        yield "duckdb", database.execute(query).fetchall()


@pytest.mark.proof(
    "a record that is posted with an Idempotency-Key arrives once, without one at least once",
    "kill -9 of a feed over HTTP while many clients post",
    full=2,
    long=20,
)
@pytest.mark.parametrize("keyed", [True, False], ids=["with keys", "without"])
@pytest.mark.timeout(3600)  # for the long setting
def test_a_killed_feed_has_each_record_once_with_keys_and_at_least_once_without(
    settings: Settings, keyed: bool, times: int, long: bool, measured: Callable[[str], None]
) -> None:
    clients, each = (50, 2_000) if long else (8, 250)
    declare(THINGS, settings.schema_folder)
    port = free_port()
    posting = Clients(port, clients, each, keyed=keyed)
    process = start(port, settings)
    try:
        for number in range(1, times + 1):
            due = clients * each * number // (times + 1)
            wait_until(lambda: posting.acknowledged >= due, 240)  # noqa: B023
            kill(process)
            process = start(port, settings)
        wait_until(posting.is_done, 240)
        process.terminate()
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, ""), out + err
    finally:
        posting.give_up()
        kill(process)
    assert posting.again >= times  # each kill interrupts a request
    expected = {(f"c{client}", number) for client in range(clients) for number in range(1, each + 1)}
    for sink, things in stored(settings):
        counts = Counter(things)
        assert counts.keys() == expected, sink
        if keyed:
            assert counts.total() == len(expected), f"{sink}: {counts.most_common(3)}"
            for name in {client for client, _ in things}:
                assert [number for client, number in things if client == name] == list(range(1, each + 1)), sink
    measured(f"{times} kills, {clients} clients, {len(expected):,} records, {posting.again:,} requests sent again")


@pytest.mark.full
def test_sigterm_delivers_acknowledged_records_and_ends_the_command(settings: Settings) -> None:
    process = start(port := free_port(), settings)
    try:
        wait_until(lambda: can_connect(port), 30)
        assert post(port, thing("a", 1)).status == 200
        process.terminate()
        out, err = process.communicate(timeout=60)
    finally:
        kill(process)
    assert (process.returncode, err) == (0, "")
    assert re.search(r"feed-things-http: read 1, acknowledged 1; file 1 delivered, 0 pending", out)
    assert "client" in out and "number" in out  # the inferred fields


# Kill the process after the journal's commit and before any answer.
DIES_BEFORE_IT_ANSWERS = """
import os, sys
from producers import feed_producer
from utils.app import cli
from utils.delivery.producing import Session
append = Session.append
Session.append = lambda self, *arguments: append(self, *arguments) and os._exit(9)
cli.run(feed_producer.main, name="producers.feed_producer", arguments=sys.argv[1:])
"""


@pytest.mark.full
def test_a_committed_request_without_an_answer_is_not_taken_again(settings: Settings) -> None:
    declare(THINGS, settings.schema_folder)
    port = free_port()
    keyed = JSON | {"Idempotency-Key": "one"}
    process = start_python(f"http:{port}", "--stream", "things", settings=settings, code=DIES_BEFORE_IT_ANSWERS)
    try:
        wait_until(lambda: can_connect(port), 30)
        with pytest.raises((OSError, HTTPException)):
            post(port, thing("a", 1), keyed)
        assert process.wait(30) == 9
        kill(process)
        process = start(port, settings)
        wait_until(lambda: can_connect(port), 30)
        assert post(port, thing("a", 1), keyed).body == {"acknowledged": 1}
        assert post(port, thing("a", 2), JSON).body == {"acknowledged": 1}
        process.terminate()
        process.communicate(timeout=60)
    finally:
        kill(process)
    assert all(things == [("a", 1), ("a", 2)] for _, things in stored(settings))
