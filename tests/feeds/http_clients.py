"""HTTP feeds in this process, and clients of them."""

import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from loguru import logger

from tests.helpers import wait_until
from utils.app.config import Settings
from utils.feeds.feeding import FeedOptions
from utils.feeds.http import feed_http
from utils.records.record import Record
from utils.records.stream import Stream, declare
from utils.sinks import RunOptions

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


class Thing(Record):
    """A record that the clients post."""

    client: str
    number: int | None = None


THINGS = Stream("things", Thing)
NAME = "feed-things-http"  # of the journal


@dataclass
class Answered:
    """The answer to a request."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def answered(response: HTTPResponse) -> Answered:
    data = response.read()
    return Answered(response.status, json.loads(data) if data else {}, dict(response.getheaders()))


def post(
    port: int, body: bytes | str, headers: Mapping[str, str] = JSON, *, method: str = "POST", to: str = "/"
) -> Answered:
    """Send one request over a new connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, to, body.encode() if isinstance(body, str) else body, dict(headers))
        return answered(connection.getresponse())
    finally:
        connection.close()


def thing(client: str, number: int) -> str:
    return json.dumps({"client": client, "number": number})


def raw(port: int, data: bytes, *, timeout_s: float = 30) -> bytes:
    """Send bytes; return everything that the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(1 << 16):
            found += part
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def can_connect(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class RunningFeed:
    """A feed in a thread; once it has ended, `code` is its exit code or the error it raised."""

    def __init__(
        self,
        settings: Settings,
        *,
        token: str = "",
        declared: bool = True,
        sinks: tuple[str, ...] = ("file",),
        count: int | None = None,
    ) -> None:
        self.stop = threading.Event()
        self.code: int | BaseException | None = None
        self._lines: list[str] = []
        self._settings = settings
        if declared:
            declare(THINGS, settings.schema_folder)

        def feed() -> None:
            try:
                options = FeedOptions(sinks=sinks, run=RunOptions(count, drain=20))
                self.code = feed_http("0", "things", options, settings, self.stop, token)
            except BaseException as error:  # noqa: BLE001 (the test looks at it)
                self.code = error

        self._sink = logger.add(lambda text: self._lines.append(str(text)), format="{message}")
        self._thread = threading.Thread(target=feed)
        self._thread.start()
        wait_until(lambda: self.code is not None or self._port(), 20, "the feed does not listen")
        self.port = self._port()

    def _port(self) -> int:
        found = re.search(r"http://127.0.0.1:(\d+)/", "".join(self._lines))
        return int(found[1]) if found else 0

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def stored(self) -> list[dict[str, Any]]:
        """Return the records of the file sink."""
        path = self._settings.file_path("things")
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def end(self) -> list[dict[str, Any]]:
        """Stop the feed cleanly; return the records of the file sink."""
        self.stop.set()
        self.wait()
        return self.stored()

    def wait(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        logger.remove(self._sink)


@contextmanager
def running(settings: Settings, **options: Any) -> Iterator[RunningFeed]:
    """Run a feed of things, and stop it at the end; it must end with 0 unless the test has waited for its end."""
    feed = RunningFeed(settings, **options)
    try:
        yield feed
    finally:
        if feed.code is None:
            feed.end()
    assert feed.code == 0, feed.log
