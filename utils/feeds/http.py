"""A feed of HTTP requests: JSON that is posted is answered once the journal has committed its records."""

from __future__ import annotations

import asyncio
import hmac
import math
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from queue import Empty, SimpleQueue

from loguru import logger
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.app.web import WebServer, is_loopback, parse_address
from utils.delivery.producing import REPORT_EVERY_S, Session, session
from utils.feeds.feeding import fed_stream
from utils.feeds.inputs import HTTP
from utils.feeds.requests import LATER, Answer, Group, Posted, batch_of, json_texts, respond, stopping
from utils.records.schema import known
from utils.records.stream import Stream
from utils.sinks import INFERRED_FROM, Run

MAX_BODY_BYTES = 4 << 20
MAX_READ_BYTES = 64 << 20  # of a body over the limit, before the answer, so that the client comes to read it
MAX_WAITING_BYTES = 64 << 20  # of all requests at a time
BODY_S = 30.0
FIRST_S = 1.0  # how long the first records are gathered from which the fields of a new stream are inferred
GROUP_BYTES = 2 << 20
TICK_S = 0.1
MAX_KEY = 255
TYPES = ("application/json", "application/x-ndjson", "application/ndjson", "application/jsonl")
CLOSE = {"Connection": "close"}
_REASONS = {404: "POST to /", 405: "POST a JSON object, an array of them or JSON lines"}


class Inbox:
    """The requests of all clients: the web server's thread reads them, another takes and answers them."""

    def __init__(self, token: str, *, body_s: float = BODY_S) -> None:
        """`token` is what clients must send as `Authorization: Bearer TOKEN`; "" = nothing."""
        self.stopping = False
        self.rejected = 0
        self._token, self._body_s = token.encode(), body_s
        self._queue: SimpleQueue[Posted] = SimpleQueue()
        self.waiting_bytes = 0
        self._logged_s = 0.0

    def app(self) -> Starlette:
        """What the web server runs."""
        handlers = {HTTPException: self._reject}
        return Starlette(routes=[Route("/", self._post, methods=["POST"])], exception_handlers=handlers)  # type: ignore[arg-type]

    def take(self, wait_s: float) -> list[Posted]:
        """The requests that wait, up to about GROUP_BYTES; none after `wait_s` without any."""
        found, size = [], 0
        try:
            found.append(self._queue.get(timeout=wait_s))
            while (size := size + len(found[-1].body)) < GROUP_BYTES:
                found.append(self._queue.get_nowait())
        except Empty:
            pass
        return found

    def close(self) -> None:
        """Answer what waits that the feed is stopping, and from now on each request so."""
        self.stopping = True
        while waiting := self.take(0):
            respond([(posted, stopping()) for posted in waiting])

    async def _post(self, request: Request) -> Response:
        self._check_head(request)
        key = request.headers.get("idempotency-key", "")
        if len(key) > MAX_KEY or not (key.isascii() and key.isprintable()):
            raise HTTPException(400, f"Idempotency-Key: send 1 to {MAX_KEY} ASCII characters")
        body = bytearray()
        try:
            await self._read(request, body)
            if self.stopping:
                raise stopping()
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._queue.put(Posted(bytes(body), key, answer))
            count = await answer
        finally:
            self.waiting_bytes -= len(body)
        if isinstance(count, HTTPException):
            raise count
        return JSONResponse({"acknowledged": count})

    def _check_head(self, request: Request) -> None:
        """Raise HTTPException for a request whose body need not be read."""
        headers = request.headers
        if self._token:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token):
                raise HTTPException(401, "send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        elif "origin" in headers:  # the program of another site, in a browser of this machine
            raise HTTPException(403, "requests of web pages need a token: set FEED_TOKEN")
        if self.stopping:
            raise stopping()
        kind, _, options = headers.get("content-type", "").lower().replace('"', "").partition(";")
        if kind.strip() not in TYPES and not (kind.startswith("application/") and kind.strip().endswith("+json")):
            raise HTTPException(415, f"Content-Type {kind or 'is missing'}: send {' or '.join(TYPES[:2])}")
        if "charset=" in options and "charset=utf-8" not in options.replace(" ", ""):
            raise HTTPException(415, f"Content-Type with{options}: send UTF-8")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "Content-Encoding: send the body uncompressed")

    async def _read(self, request: Request, body: bytearray) -> None:
        """The body of a request. Raises HTTPException if it is too large, or too slow."""
        size = 0
        try:
            async with asyncio.timeout(self._body_s):
                async for part in request.stream():
                    size += len(part)
                    if size <= MAX_BODY_BYTES:
                        body += part
                        self.waiting_bytes += len(part)
                    if self.waiting_bytes > MAX_WAITING_BYTES:
                        raise HTTPException(503, "too many requests wait: try again later", LATER | CLOSE)
                    if size > MAX_READ_BYTES:
                        break
        except TimeoutError:
            raise HTTPException(408, f"the body was not complete within {self._body_s:g} s", CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left before its body was complete", CLOSE) from None
        if size > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is over the limit of {MAX_BODY_BYTES:,} bytes", CLOSE)

    async def _reject(self, request: Request, error: HTTPException) -> Response:
        """The answer to a request of which nothing was taken; one line now and then in the log."""
        reason = _REASONS.get(error.status_code, error.detail)
        self.rejected += 1
        if time.monotonic() - self._logged_s >= REPORT_EVERY_S:
            self._logged_s = time.monotonic()
            client = request.client.host if request.client else "a client"
            logger.warning(
                "{} requests rejected, the last of {}: {} {}", self.rejected, client, error.status_code, reason
            )
        return JSONResponse({"error": reason}, error.status_code, error.headers)


def feed_http(
    address: str,
    name: str,
    settings: Settings,
    *,
    sinks: tuple[str, ...],
    run: Run,
    stop: threading.Event,
    time: str | None = None,
    token: str = "",
) -> int:
    """Take requests at `[ADDRESS:]PORT` for stream `name` until the stop, or `run.count` records; the exit code.

    Fields of a stream without a schema file are those of the records of the first second. Raises ToolkitError if the
    address cannot be used, or for what only the user can fix.
    """
    host, port = parse_address(address, HTTP)
    if not token and not is_loopback(host):
        raise ToolkitError(
            f"{HTTP}{address} can be reached by other machines: set FEED_TOKEN (in .env), or listen on {HTTP}{port}"
        )
    bare = None if known(name, settings.schema_folder) else Stream(name)
    inbox = Inbox(token)
    with closing(WebServer(inbox.app(), host, port, f"{HTTP}{address}")) as server, closing(inbox):
        logger.info("POST a JSON object, an array or JSON lines to {}", server.url)
        waiting, texts = _first(inbox, bare, stop) if bare else ([], [])
        if bare and not texts:
            return 0  # stopped before there was anything
        try:
            stream = fed_stream(name, texts, settings, time)
            with session(stream, f"feed-{name}-http", settings, sinks=sinks, run=run, stop=stop) as opened:
                opened.counts["read"] = 0
                group = Group(opened, replace(opened.journal.stream, time=stream.time))
                _run(group, inbox, waiting, lambda: _ends(opened, stop, run.count), server)
                opened.counts["rejected"] = inbox.rejected
        finally:
            respond([(posted, stopping()) for posted in waiting])  # if they have no other answer
    return opened.code


def _ends(session: Session, stop: threading.Event, count: int | None) -> bool:
    return stop.is_set() or (count is not None and session.counts["acknowledged"] >= count)


def _first(inbox: Inbox, bare: Stream, stop: threading.Event) -> tuple[list[Posted], list[bytes]]:
    """The valid requests of the first second and their records; the others are answered."""
    found: list[Posted] = []
    texts: list[bytes] = []
    until_s = math.inf
    while time.monotonic() < until_s and len(texts) < INFERRED_FROM and not stop.is_set():
        for posted in inbox.take(TICK_S):
            try:
                batch_of(posted.body, bare, "check", 1)
            except HTTPException as error:
                respond([(posted, error)])
                continue
            found.append(posted)
            texts += [text for _, text in json_texts(posted.body)[1]]
            until_s = min(until_s, time.monotonic() + FIRST_S)
    return found, texts


def _run(group: Group, inbox: Inbox, waiting: list[Posted], ends: Callable[[], bool], server: WebServer) -> None:
    """Handle requests until it is time to end and those in hand are answered."""
    try:
        while server.is_serving:
            group.handle(waiting)
            if not inbox.stopping and ends():
                inbox.stopping = True
                server.stop()
            waiting = inbox.take(TICK_S)
        if not inbox.stopping:
            raise Unavailable("the web server ended by itself: see the log, and start again")
    finally:
        inbox.close()
