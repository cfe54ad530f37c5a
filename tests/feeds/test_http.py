"""A feed over HTTP: the answer to each request, and what was answered with 200 is in the sinks once."""

import errno
import json
import logging
import re
import secrets
import socket
import sqlite3
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.feeds.http_clients import (
    JSON,
    LINES,
    NAME,
    THINGS,
    RunningFeed,
    answered,
    can_connect,
    post,
    raw,
    running,
    thing,
)
from tests.helpers import wait_until
from utils.app import web
from utils.app.config import Settings, feed_token
from utils.app.errors import ToolkitError, Unavailable
from utils.app.web import WebServer
from utils.delivery.journal import Journal
from utils.delivery.producing import Session
from utils.delivery.worker import Delivery
from utils.feeds import http
from utils.feeds.feeding import PLAIN_FEED
from utils.feeds.http import Endpoint, Intake, PendingRequest, fed_lines, feed_http, next_requests
from utils.feeds.lines import LineCodec

ONE = thing("a", 1)
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
DEEP = '{"client":' + "[" * 200 + "]" * 200 + "}"
BEYOND_UTF8 = b'{"client":"\xff"}'
MANY = "[" + ",".join(["{}"] * (http.MAX_RECORDS + 1)) + "]"

# name: (body, headers, status, words of the answer)
ANSWERS: dict[str, tuple[bytes | str, dict[str, str], int, str]] = {
    "an object": (ONE, JSON, 200, '"acknowledged": 1'),
    "an object over several lines": ('{\n "client": "a",\n\n "number": 2\n}\n', JSON, 200, '"acknowledged": 1'),
    "an array": (f"[{ONE}, {ONE}]", JSON, 200, '"acknowledged": 2'),
    "an empty array": ("[]", JSON, 200, '"acknowledged": 0'),
    "lines": (f"{ONE}\n\n{ONE}\r\n{ONE}", LINES, 200, '"acknowledged": 3'),
    "lines as JSON": (f"{ONE}\n{ONE}\n", JSON, 200, '"acknowledged": 2'),
    "a byte order mark": (b"\xef\xbb\xbf" + ONE.encode(), JSON, 200, '"acknowledged": 1'),
    "another field": ('{"client": "a", "colour": "red"}', JSON, 200, '"acknowledged": 1'),
    "UTF-8": (ONE, {"Content-Type": 'application/json; charset="UTF-8"'}, 200, '"acknowledged": 1'),
    "a kind of JSON": (ONE, {"Content-Type": "application/cloudevents+json"}, 200, '"acknowledged": 1'),
    "nothing": ("", JSON, 400, "record 1: not a JSON object"),
    "white space": (" \n ", JSON, 400, "record 1: not a JSON object"),
    "a number": ("5", JSON, 400, "record 1: not a JSON object"),
    "a text": ("hello", JSON, 400, "record 1: not a JSON object"),
    "NaN in an object over several lines": ('{\n"number": NaN\n}', JSON, 400, "record 1: NaN or Infinity"),
    "NaN": (f'{ONE}\n{{"client":"b","number":NaN}}', LINES, 400, "record 2: NaN or Infinity (byte 23)"),
    "NaN in an array": (f'[{ONE}, {{"number": NaN}}]', JSON, 400, "cannot be read: NaN or Infinity (byte"),
    "an item that is no object": (f"[{ONE}, 7]", JSON, 400, "record 2: not a JSON object"),
    "half an object": (ONE[:-3], JSON, 400, "record 1: Input data was truncated"),
    "half an array": (f"[{ONE},", JSON, 400, "the JSON array cannot be read"),
    "nested deeply": (DEEP, JSON, 400, "record 1: nested too deeply"),
    "nested very deeply": ("[" * 100_000, JSON, 400, "the JSON array cannot be read"),
    "an object nested very deeply": ('{"a":' * 30_000, JSON, 400, "nested too deeply"),
    "no UTF-8": (BEYOND_UTF8, JSON, 400, "record 1: not valid UTF-8 at byte 11"),
    "UTF-16": (ONE.encode("utf-16"), JSON, 400, "record 1: not a JSON object"),
    "a lone surrogate": (r'{"client":"\ud800"}', JSON, 400, "record 1: a lone surrogate in a text"),
    "a large record": (json.dumps({"client": "a" * 300_000}), JSON, 400, "over the limit of 262144"),
    "too many records": (MANY, JSON, 413, "send 10,000 at most"),
    "a large body": (b" " * (http.MAX_BODY_BYTES + 1), JSON, 413, "over the limit of 4,194,304 bytes"),
    "a form": ("client=a", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "send application/json"),
    "text": (ONE, {"Content-Type": "text/plain"}, 415, "Content-Type text/plain"),
    "no type": (ONE, {}, 415, "Content-Type is missing"),
    "gzip": (ONE, JSON | {"Content-Encoding": "gzip"}, 415, "uncompressed"),
    "a web page": (ONE, JSON | {"Origin": "http://example.com"}, 403, "set FEED_TOKEN"),
    "a long key": (ONE, JSON | {"Idempotency-Key": "k" * 1_000}, 200, '"acknowledged": 1'),
    "an odd key": (ONE, JSON | {"Idempotency-Key": "\xe9"}, 200, '"acknowledged": 1'),
}


def test_each_request_is_answered_as_documented(settings: Settings) -> None:
    """A request is taken whole or not at all: the sinks contain exactly the records answered with 200."""
    found = {}
    with running(settings) as feed:
        for name, (body, headers, _, _) in ANSWERS.items():
            answer = post(feed.port, body, headers)
            found[name] = (answer.status, json.dumps(answer.body))
        stored = feed.end()
    wrong = {
        name: found[name]
        for name, (_, _, status, text) in ANSWERS.items()
        if found[name][0] != status or text not in found[name][1]
    }
    assert wrong == {}
    taken = sum(json.loads(text)["acknowledged"] for status, text in found.values() if status == 200)
    assert [record["sequence"] for record in stored] == list(range(1, taken + 1))
    assert {record["client"] for record in stored} == {"a"}


@pytest.mark.parametrize(
    ("method", "to", "status", "text"),
    [("GET", "/", 405, "Method Not Allowed"), ("PUT", "/", 405, ""), ("POST", "/things", 404, "Not Found")],
)
def test_other_methods_and_paths_are_answered_too(
    settings: Settings, method: str, to: str, status: int, text: str
) -> None:
    with closing(WebServer(Endpoint(SimpleQueue(), "").app(), "127.0.0.1", 0, "")) as server:
        answer = post(port_of(server), ONE, method=method, to=to)
    assert answer.status == status and text in answer.body["error"]


def port_of(server: WebServer) -> int:
    return int(server.url.rpartition(":")[2].rstrip("/"))


def test_a_token_is_required_and_never_logged(settings: Settings) -> None:
    token = "k9-secret-token"
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {token}"},
        {"Authorization": f"Bearer {token}x"},
        {"Authorization": f"Bearer {token[:-1]}"},
        {"Authorization": "Bearer \xe9"},
    ]
    with running(settings, token=token) as feed:
        answers = [post(feed.port, ONE, JSON | headers) for headers in wrong]
        assert [answer.status for answer in answers] == [401] * len(wrong)
        assert all(answer.headers["www-authenticate"] == "Bearer" for answer in answers)
        for scheme in ("Bearer", "bearer"):
            assert post(feed.port, ONE, JSON | {"Authorization": f"{scheme} {token}"}).status == 200
        page = {"Authorization": f"Bearer {token}", "Origin": "https://example.com"}
        assert post(feed.port, ONE, JSON | page).status == 200
        assert len(feed.end()) == 3
    assert "rejected" in feed.log and token not in feed.log


@pytest.mark.parametrize("token", ["two words", "\u00e9t\u00e9", "line\nend"])
def test_a_token_that_cannot_be_sent_is_one_error(token: str) -> None:
    with pytest.raises(ToolkitError, match="FEED_TOKEN has spaces") as raised:
        feed_token({"FEED_TOKEN": token})
    assert token not in str(raised.value)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "example.com:80"])
def test_an_address_open_to_other_machines_needs_a_token(settings: Settings, address: str) -> None:
    with pytest.raises(ToolkitError, match="can be reached by other machines: set FEED_TOKEN"):
        feed_http(address, "things", PLAIN_FEED, settings, threading.Event())


@pytest.mark.parametrize(
    "address",
    ["", "http", "99999", "localhost:", "127.0.0.1:x", "//host:80", "\u0663", "[::1:80", "::1]:80", "[[::1]]:80"],
)
def test_an_invalid_address_is_one_error(settings: Settings, address: str) -> None:
    with pytest.raises(ToolkitError, match="give PORT or ADDRESS:PORT"):
        feed_http(address, "things", PLAIN_FEED, settings, threading.Event())


def test_a_feed_without_any_request_ends_with_one_line(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    stop = threading.Event()
    stop.set()
    for address, token in (("0", ""), ("0.0.0.0:0", "token")):
        assert feed_http(address, "things", PLAIN_FEED, settings, stop, token) == 0
        assert capsys.readouterr().out == "feed-things-http: no record came\n"


def test_a_server_that_ends_by_itself_ends_the_feed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebServer, "is_serving", False)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Unavailable, match="the web server ended by itself"):
        feed_http("0", "things", PLAIN_FEED, settings, stop)


def test_a_retry_with_its_key_answers_the_same_and_adds_nothing(settings: Settings) -> None:
    keyed = JSON | {"Idempotency-Key": "one"}
    two = f"[{ONE}, {ONE}]"
    with running(settings) as feed:
        assert [post(feed.port, two, keyed).body for _ in range(3)] == [{"acknowledged": 2}] * 3
        other = post(feed.port, ONE, keyed)
        assert other.status == 422 and "another body" in other.body["error"]
    with running(settings) as feed:  # the journal sees another process
        assert post(feed.port, two, keyed).body == {"acknowledged": 2}
        assert post(feed.port, ONE, keyed).status == 422
        assert post(feed.port, two, JSON | {"Idempotency-Key": "two"}).body == {"acknowledged": 2}
        assert len(feed.end()) == 4


@pytest.mark.full
def test_only_the_last_keys_are_remembered(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEYS", 3)
    monkeypatch.setattr(http, "TRIM_EVERY", 2)

    def send(*keys: str) -> None:
        for key in keys:
            assert post(feed.port, f"[{ONE}, {ONE}]", JSON | {"Idempotency-Key": key}).status == 200

    with running(settings) as feed:
        assert post(feed.port, ONE).status == 200  # so that no batch ends at a multiple of two
        send("a", "b", "c", "d", "e", "b")  # b is remembered
        assert len(feed.end()) == 11
    with running(settings) as feed:
        send("e", "a")  # a is new again
        assert len(feed.end()) == 13


def test_rejected_requests_are_counted_and_do_not_fill_the_log(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(settings) as feed:
        for _ in range(7):
            assert post(feed.port, "7").status == 400
    assert re.findall(r"(\d+) requests? rejected, the last of 127.0.0.1: 400", feed.log) == ["1", "2", "4"]
    assert "acknowledged 0; rejected 7; file" in capsys.readouterr().out


def test_a_rejected_request_leaves_its_key_free(settings: Settings) -> None:
    keyed = JSON | {"Idempotency-Key": "one"}
    with running(settings) as feed:
        assert [post(feed.port, body, keyed).status for body in (f"[{ONE}, 7]", ONE, ONE)] == [400, 200, 200]
        assert len(feed.end()) == 1


def test_a_full_journal_is_answered_with_429_until_there_is_room(settings: Settings) -> None:
    """One sink is down, so nothing leaves the journal; afterwards it gets all acknowledged records."""
    small = Settings(data_dir=settings.data_dir, journal_max_mb=1)
    large = json.dumps({"client": secrets.token_hex(100_000)})  # the journal compresses, so random text
    with running(small, sinks=("file", "sqlite")) as feed:
        post(feed.port, ONE)
        with closing(sqlite3.connect(settings.sqlite_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            statuses = [post(feed.port, large).status for _ in range(10)]
            assert statuses == [200] * statuses.count(200) + [429] * statuses.count(429)
            assert statuses.count(200) in (5, 6)
            full = post(feed.port, ONE)
            assert (
                full.status == 429 and int(full.headers["retry-after"]) > 0 and "journal is full" in full.body["error"]
            )
            other.execute("ROLLBACK")
        wait_until(lambda: post(feed.port, ONE).status == 200, 30)
        stored = feed.end()
    assert len(stored) == 2 + statuses.count(200)
    with closing(sqlite3.connect(settings.sqlite_path)) as database:
        assert database.execute("SELECT COUNT(*) FROM things").fetchone() == (len(stored),)
    assert "journal is full" in feed.log and "waiting for sqlite" in feed.log


@pytest.mark.full
def test_a_slow_body_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_S", 0.3)
    monkeypatch.setattr(web, "HEAD_S", 0.1)
    endpoint = Endpoint(SimpleQueue(), "")
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with closing(WebServer(endpoint.app(), "127.0.0.1", 0, "")) as server:
        slow = raw(port_of(server), head + b"Content-Length: 100\r\n\r\n{")
        assert slow.startswith(b"HTTP/1.1 408") and b"not complete within 0.3 s" in slow
        chunked = raw(port_of(server), head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
        assert chunked.startswith(b"HTTP/1.1 408")


def test_a_client_that_disconnects_disturbs_no_other(settings: Settings) -> None:
    with running(settings) as feed:
        for data in (b"", b"POST", HEAD % 100, HEAD % 100 + b"{"):
            with socket.create_connection(("127.0.0.1", feed.port)) as connection:
                connection.sendall(data)
        assert post(feed.port, ONE).status == 200
        assert len(feed.end()) == 1
    assert "Traceback" not in feed.log


def test_a_client_of_the_wrong_type_sends_its_body_before_it_is_answered() -> None:
    """A body of a wrong type, such as urllib's default, is read whole: an early answer would break the connection."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    with (
        closing(WebServer(Endpoint(SimpleQueue(), "").app(), "127.0.0.1", 0, "")) as server,
        socket.create_connection(("127.0.0.1", port_of(server)), timeout=0.3) as connection,
    ):
        connection.sendall(head)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(b"{}")
        connection.settimeout(20)
        assert connection.recv(1000).startswith(b"HTTP/1.1 415")


def test_answers_over_one_connection_come_at_once() -> None:
    """Answers are sent at once, not after the client's delayed acknowledgement of a packet (40 ms or more)."""
    took_s = list[float]()
    with (
        closing(WebServer(Endpoint(SimpleQueue(), "").app(), "127.0.0.1", 0, "")) as server,
        closing(HTTPConnection("127.0.0.1", port_of(server), timeout=20)) as connection,
    ):
        for _ in range(40):
            begun_s = time.perf_counter()
            connection.request("GET", "/")
            assert answered(connection.getresponse()).status == 405
            took_s.append(time.perf_counter() - begun_s)
    assert min(took_s[20:]) < 0.03  # the first ones are fast in any case


def test_chunked_and_pipelined_requests_are_answered_in_their_order(settings: Settings) -> None:
    def request(body: bytes, more: bytes = b"") -> bytes:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n" + more
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = (
        chunked + b"%x\r\n%b\r\n" % (5, ONE.encode()[:5]) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE) - 5, ONE.encode()[5:])
    )
    data += (
        request(ONE.encode() + b"\n" + thing("b", 2).encode())
        + request(b"no")
        + request(b"{}", b"Connection: close\r\n")
    )
    with running(settings) as feed:
        answers = raw(feed.port, data)
        bodies = re.findall(rb"\{.*?\}", answers)
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"400", b"200"], answers
        assert [json.loads(body).get("acknowledged") for body in bodies] == [1, 2, None, 1]
        assert [record.get("client") for record in feed.end()] == ["a", "a", "b", None]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"\r\n" * 100 + b"\0" * 1000,
    ],
    ids=["TLS", "version", "two lengths", "negative length", "length and chunks", "huge head", "zeros"],
)
@pytest.mark.full
def test_a_connection_without_http_is_closed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEAD_S", 0.5)
    with closing(WebServer(Endpoint(SimpleQueue(), "").app(), "127.0.0.1", 0, "")) as server, suppress(ConnectionError):
        answer = raw(port_of(server), data, timeout_s=10)
        assert not answer or re.match(rb"HTTP/1.1 4\d\d", answer)


@pytest.mark.full
def test_a_head_that_comes_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head may also follow an answer, on a connection that stays open."""
    monkeypatch.setattr(web, "HEAD_S", 0.4)
    with closing(WebServer(Endpoint(SimpleQueue(), "").app(), "127.0.0.1", 0, "")) as server:
        for before in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port_of(server)), timeout=20) as connection:
                connection.sendall(before)
                connection.settimeout(0.05)
                wait_until(lambda: ended(connection), 20)


def ended(connection: socket.socket) -> bool:
    """Send one more byte of a head; return whether the server has closed the connection."""
    try:
        connection.sendall(b"P")
        return connection.recv(1000) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.full
@pytest.mark.parametrize("count", [None, 100], ids=["stopped", "by its count"])
def test_a_clean_end_answers_every_request_it_has_taken(count: int | None, settings: Settings) -> None:
    """When a feed ends while clients post, the sinks contain exactly the records answered with 200."""
    acknowledged: Counter[str] = Counter()
    others: Counter[int | str] = Counter()

    def client(name: str, port: int) -> None:
        number = 0
        with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            while number < 100_000:
                number += 1
                try:
                    connection.request("POST", "/", thing(name, number), JSON)
                    answer = answered(connection.getresponse())
                except (OSError, HTTPException) as error:
                    others[type(error).__name__] += 1
                    return
                if answer.status != 200:
                    others[answer.status] += 1
                    return
                acknowledged[thing(name, number)] += 1

    with running(settings, count=count) as feed:
        clients = [threading.Thread(target=client, args=(f"c{number}", feed.port)) for number in range(8)]
        for each in clients:
            each.start()
        if count is None:
            wait_until(lambda: acknowledged.total() > 100, 30)
            feed.stop.set()
        feed.wait()
        stored = feed.stored()
        for each in clients:
            each.join(30)
    assert len(stored) >= 100
    assert Counter(thing(record["client"], record["number"]) for record in stored) == acknowledged
    assert others.total() == len(clients) and others.keys() <= {
        "ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected", "BrokenPipeError"
    }  # fmt: skip
    with pytest.raises(OSError):
        post(feed.port, ONE)


def test_too_many_clients_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that send nothing: each is one of the files that the process may open, and sinks need some too."""
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 8)
    with ExitStack() as opened:
        server = opened.enter_context(closing(WebServer(Endpoint(SimpleQueue(), "").app(), "127.0.0.1", 0, "")))
        address = "127.0.0.1", port_of(server)
        clients = [opened.enter_context(socket.create_connection(address, timeout=10)) for _ in range(20)]
        for client in clients[12:]:
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
        clients[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 503 " in clients[0].recv(1000)
        for client in clients[1:]:
            client.close()
        wait_until(lambda: post(address[1], "", method="GET").status == 405)


@pytest.mark.parametrize(("files", "most"), [(256, 128), (20_000, 1_000), (None, 1_000)])
def test_connections_leave_half_of_the_files_to_others(
    files: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    soft = resource.RLIM_INFINITY if files is None else files
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))

    def raised(_: int, limits: tuple[int, int]) -> None:
        if limits[0] > limits[1]:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", raised)
    assert web.most_connections() == most
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, 1 << 20))
    assert web.most_connections() == 1_000


def test_clients_that_cannot_be_accepted_do_not_fill_the_log(logged: list[str]) -> None:
    """Nothing but a file that is closed ends it, and asyncio tries again a thousand times per second."""
    with closing(WebServer(Endpoint(SimpleQueue(), "").app(), "127.0.0.1", 0, "")):
        error = OSError(errno.EMFILE, "Too many open files")
        logging.getLogger("asyncio").error("socket.accept() out of system resource", exc_info=error)
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=ValueError("odd"))
    errors = [line for line in logged if line.startswith("ERROR")]
    assert len(errors) == 1 and "never retrieved" in errors[0]


def test_a_request_that_has_begun_is_taken_while_the_feed_ends(settings: Settings) -> None:
    with running(settings) as feed:
        with socket.create_connection(("127.0.0.1", feed.port), timeout=20) as connection:
            connection.sendall(HEAD % len(ONE) + ONE[:5].encode())
            post(feed.port, ONE)  # so that the first request is being read
            feed.stop.set()
            wait_until(lambda: not can_connect(feed.port))
            connection.sendall(ONE[5:].encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert len(feed.end()) == 2


@pytest.mark.full
def test_a_request_that_is_not_complete_in_time_is_not_taken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "END_S", 0.3)
    with running(settings) as feed, socket.create_connection(("127.0.0.1", feed.port), timeout=20) as connection:
        connection.sendall(HEAD % len(ONE) + ONE[:5].encode())
        post(feed.port, ONE)  # so that the first request is being read
        assert len(feed.end()) == 1
        assert connection.recv(1000).startswith(b"HTTP/1.1 500")


def test_a_cancelled_request_is_not_taken(settings: Settings) -> None:
    with closing(Journal(settings.journal_path(NAME), THINGS)) as journal:
        intake = Intake(Session(Delivery(journal, {}, lambda _: Path()), threading.Event()), LineCodec(THINGS))
        cancelled, posted = PendingRequest(ONE.encode(), "one"), PendingRequest(ONE.encode(), "two")
        cancelled.cancel()
        intake.answer([cancelled, posted])
        assert posted.result() == journal.last == 1


def test_a_key_that_comes_twice_at_once_is_taken_once(settings: Settings) -> None:
    with closing(Journal(settings.journal_path(NAME), THINGS)) as journal:
        intake = Intake(Session(Delivery(journal, {}, lambda _: Path()), threading.Event()), LineCodec(THINGS))
        group = [PendingRequest(body.encode(), "one") for body in (ONE, ONE, thing("a", 2))]
        intake.answer(group)
        assert [getattr(posted.result(), "status_code", 200) for posted in group] == [200, 200, 422]
        assert journal.last == 1


def test_one_transaction_takes_a_bounded_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "GROUP_BYTES", 2 * len(ONE))
    queue = SimpleQueue[PendingRequest]()
    for _ in range(5):
        queue.put(PendingRequest(ONE.encode(), ""))
    assert [len(next_requests(queue)) for _ in range(4)] == [2, 2, 1, 0]


def test_records_that_a_full_disk_does_not_take_are_not_acknowledged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Unavailable("no space left")

    stop = threading.Event()
    stop.set()
    with closing(Journal(settings.journal_path(NAME), THINGS)) as journal:
        monkeypatch.setattr(journal, "append", full)
        intake = Intake(Session(Delivery(journal, {}, lambda _: Path()), stop), LineCodec(THINGS))
        group = [PendingRequest(ONE.encode(), "one"), PendingRequest(ONE.encode(), "")]
        intake.answer(group)
    assert [getattr(posted.result(), "status_code", 200) for posted in group] == [503, 503]


@pytest.mark.full
def test_after_an_error_clients_are_answered_before_the_drain(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Intake, group: list[PendingRequest]) -> None:
        if group:
            raise ToolkitError("given up")

    def drain(self: Delivery, timeout_s: float) -> None:
        listening.append(can_connect(feed.port))
        drain_as_before(self, timeout_s)

    listening, drain_as_before = list[bool](), Delivery.drain
    monkeypatch.setattr(web, "END_S", 0.3)
    monkeypatch.setattr(Intake, "answer", answer)
    monkeypatch.setattr(Delivery, "drain", drain)
    feed = RunningFeed(settings)
    assert raw(feed.port, HEAD % len(ONE) + ONE.encode()).startswith(b"HTTP/1.1 500")
    feed.wait()
    assert (listening, str(feed.code)) == ([False], "given up")


@pytest.mark.full
def test_endlessly_many_field_names_fill_neither_log_nor_memory(settings: Settings) -> None:
    records = [json.dumps({f"field {number} {'x' * 1000}": 1, "known": 1}) for number in range(5_000)]
    with running(settings) as feed:
        for start in range(0, len(records), 500):
            assert post(feed.port, "\n".join(records[start : start + 500])).status == 200
        assert len(feed.end()) == len(records)
    assert "'known'" in feed.log
    assert len(feed.log) < 30_000


def test_count_ends_the_feed(settings: Settings) -> None:
    with running(settings, count=3) as feed:
        assert post(feed.port, f"[{ONE}, {ONE}]").status == 200
        assert post(feed.port, f"[{ONE}, {ONE}]").status == 200
        feed.wait()
        assert len(feed.stored()) == 4


@pytest.mark.full
def test_fields_of_a_new_stream_are_those_of_the_first_records(settings: Settings) -> None:
    """Invalid records do not count, but those of every client of the first second do."""
    with running(settings, declared=False, sinks=("file", "sqlite")) as feed:
        assert post(feed.port, '{"device": 7, "t": NaN}').status == 400
        answers: list[Any] = []
        first = threading.Thread(target=lambda: answers.append(post(feed.port, '{"device": "a", "t": 20}')))
        first.start()
        assert post(feed.port, '{"device": "b", "t": 20.5, "ok": true}').status == 200
        first.join(30)
        assert [answer.body for answer in answers] == [{"acknowledged": 1}]
        assert post(feed.port, '{"device": "c", "t": "n/a"}').status == 200
        assert len(feed.end()) == 3
    schema = json.loads((settings.schema_folder / "things.json").read_text())
    assert schema["fields"] == {"device": "text", "t": "number", "ok": "boolean", "timestamp": "timestamp"}
    with closing(sqlite3.connect(settings.sqlite_path)) as database:
        assert set(database.execute("SELECT device, t, ok, extra FROM things")) == {
            ("a", 20.0, None, None),
            ("b", 20.5, 1, None),
            ("c", None, None, '{"t":"n/a"}'),
        }


@pytest.mark.full
def test_a_new_stream_without_any_record_leaves_nothing_behind(settings: Settings) -> None:
    with running(settings, declared=False) as feed:
        assert post(feed.port, "7").status == 400
        assert feed.end() == []
    assert not settings.data_path.exists()


@pytest.mark.full
def test_a_journal_in_use_is_one_error_and_clients_are_answered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "END_S", 0.3)
    with closing(Journal(settings.journal_path(NAME), THINGS)):
        feed = RunningFeed(settings, declared=False)
        assert raw(feed.port, HEAD % len(ONE) + ONE.encode()).startswith(b"HTTP/1.1 500")
        feed.wait()
    assert isinstance(feed.code, ToolkitError) and "in use by process" in str(feed.code)


OBJECTS = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(), st.none(), st.lists(st.booleans())))


@given(st.lists(OBJECTS, min_size=1, max_size=5), st.sampled_from(["array", "lines", "blank lines"]), st.booleans())
def test_records_are_found_in_arrays_and_lines_of_any_form(
    objects: list[dict[str, Any]], form: str, spaced: bool
) -> None:
    indent = 2 if spaced and (form == "array" or len(objects) == 1) else None
    if form == "array":
        body = json.dumps(objects, indent=indent)
    else:
        body = ("\n" if form == "lines" else "\r\n\n").join(json.dumps(each, indent=indent) for each in objects)
    assert [json.loads(line.line) for line in fed_lines(body.encode(), LineCodec(THINGS))] == objects


REQUEST = st.tuples(st.sampled_from(["", "k1", "k2", "k3"]), st.sampled_from(["[]", ONE, f"[{ONE},{ONE}]", "7", "{"]))


@pytest.mark.full
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(REQUEST, max_size=6), max_size=4))
def test_any_sequence_of_requests_agrees_with_a_model(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[tuple[str, str]]]
) -> None:
    """The model: keys with their bodies; the journal has the records of new requests, once and in order."""
    expected, known = 0, dict[str, str]()
    folder = tmp_path_factory.mktemp("model")
    with closing(Journal(folder / "feed.sqlite", THINGS)) as journal:
        session = Session(Delivery(journal, {}, lambda _: Path()), threading.Event())
        intake = Intake(session, LineCodec(THINGS))
        for each in groups:
            group = [PendingRequest(body.encode(), key) for key, body in each]
            intake.answer(group)
            for (key, body), posted in zip(each, group, strict=True):
                amount = {"[]": 0, ONE: 1, f"[{ONE},{ONE}]": 2}.get(body)
                if key in known:
                    wanted: int | None = {True: amount, False: 422}[known[key] == body]
                else:
                    wanted = 400 if amount is None else amount
                    expected += amount or 0
                    if key and amount:
                        known[key] = body
                assert getattr(posted.result(0), "status_code", posted.result()) == wanted
            assert journal.last == expected
