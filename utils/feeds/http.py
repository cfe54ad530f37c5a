"""The HTTP feed: answers a POST of JSON once the journal has committed its records.

One transaction takes the records of many requests, each request as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from hashlib import blake2b
from queue import Empty, SimpleQueue

from loguru import logger
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from utils.app import cli
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.app.web import WebServer, is_loopback, parse_address
from utils.delivery.producing import Session, session
from utils.feeds.feeding import FeedOptions, fed_stream
from utils.feeds.inputs import HTTP
from utils.feeds.lines import LineCodec
from utils.feeds.rows import array_items
from utils.records.record import Line
from utils.records.stream import Stream, load_stream
from utils.sources.base import decode_all

MAX_BODY_BYTES = 4 << 20
MAX_RECORDS = 10_000  # of one request
BODY_S = 30.0
FIRST_S = 1.0  # how long the first records are collected, from which the fields of a new stream are inferred
TICK_S = 0.1
GROUP_BYTES = 2 << 20
KEYS = 1_000_000  # so many Idempotency-Keys are kept, the newest
TRIM_EVERY = 10_000  # records
RETRY_LATER = {"Retry-After": "5"}
CLOSE_CONNECTION = {"Connection": "close"}

_BOM = b"\xef\xbb\xbf"
_KEY = "key:"  # prefix of the positions that keep Idempotency-Keys in the journal

Answer = int | HTTPException
"""The number of acknowledged records, or the error to answer with."""


class PendingRequest(Future[Answer]):
    """A request, which is the future of its answer."""

    def __init__(self, body: bytes, key: str) -> None:
        super().__init__()
        self.body, self.key = body, key


def next_requests(queue: SimpleQueue[PendingRequest], gather_s: float = 0.0) -> list[PendingRequest]:
    """Return the requests to answer next, about GROUP_BYTES at most; none if none comes within TICK_S.

    After the first one, wait `gather_s` for more.
    """
    group, size = list[PendingRequest](), 0
    with suppress(Empty):
        group.append(queue.get(timeout=TICK_S))
        time.sleep(gather_s)
        while (size := size + len(group[-1].body)) < GROUP_BYTES:
            group.append(queue.get_nowait())
    return group


class Endpoint:
    """The HTTP endpoint: reads and checks the requests of clients, and sends the answers."""

    def __init__(self, queue: SimpleQueue[PendingRequest], token: str) -> None:
        """`token` must be sent as `Authorization: Bearer TOKEN`; "" = none is needed."""
        self.rejected = 0
        self._queue, self._token = queue, token.encode()

    def app(self) -> Starlette:
        """Return the application for the web server."""
        handlers = {HTTPException: self._reject}
        return Starlette(routes=[Route("/", self._post, methods=["POST"])], exception_handlers=handlers)  # type: ignore[arg-type]

    async def _post(self, request: Request) -> Response:
        self._check_client(request)
        body = await self._body(request)
        self._check_form(request)  # not earlier, because a client may not read an answer while it still sends
        posted = PendingRequest(body, request.headers.get("idempotency-key", ""))
        self._queue.put(posted)
        answer = await asyncio.wrap_future(posted)
        if isinstance(answer, HTTPException):
            raise answer
        return JSONResponse({"acknowledged": answer})

    def _check_client(self, request: Request) -> None:
        """Raise HTTPException for a client that may not post."""
        headers = request.headers
        if self._token:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token):
                raise HTTPException(401, "send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        elif "origin" in headers:  # a script of a web page, in a browser of this machine
            raise HTTPException(403, "requests of web pages need a token: set FEED_TOKEN")

    def _check_form(self, request: Request) -> None:
        """Raise HTTPException if the headers say that the body is not JSON, or compressed."""
        headers = request.headers
        kind = headers.get("content-type", "is missing").lower().partition(";")[0].strip()
        if "json" not in kind:
            raise HTTPException(415, f"Content-Type {kind}: send application/json or application/x-ndjson")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "Content-Encoding: send the body uncompressed")

    async def _body(self, request: Request) -> bytes:
        """Read the body of a request. Raises HTTPException if it is too large, or too slow."""
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():  # to its end, because the client reads the answer only then
                    size += len(part)
                    body += part if size <= MAX_BODY_BYTES else b""
        except TimeoutError:
            raise HTTPException(408, f"the body was not complete within {BODY_S:g} s", CLOSE_CONNECTION) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left before its body was complete", CLOSE_CONNECTION) from None
        if size > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is over the limit of {MAX_BODY_BYTES:,} bytes", CLOSE_CONNECTION)
        return bytes(body)

    async def _reject(self, request: Request, error: HTTPException) -> Response:
        """Return the answer to a rejected request. Log the first, second, fourth, eighth and so on."""
        self.rejected += 1
        if self.rejected.bit_count() == 1:
            requests, client = cli.counted(self.rejected, "request"), request.client and request.client.host
            logger.warning("{} rejected, the last of {}: {} {}", requests, client, error.status_code, error.detail)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def fed_lines(body: bytes, codec: LineCodec) -> list[Line]:
    """Return the records of a body: one JSON object, an array or JSON lines.

    Raises HTTPException with number and reason of the first invalid record.
    """
    body = body.removeprefix(_BOM).strip()
    if body.startswith(b"["):
        try:
            texts = array_items(body)
        except ValueError as error:
            raise HTTPException(400, f"the JSON array cannot be read: {error}") from error
    elif body.partition(b"\n")[0].rstrip().endswith(b"}"):
        texts = [line for line in body.split(b"\n") if line.strip()]
    else:
        texts = [body]  # one object over several lines
    if len(texts) > MAX_RECORDS:
        raise HTTPException(413, f"{len(texts):,} records in one request: send {MAX_RECORDS:,} at most")
    lines, invalid = decode_all(codec, texts, [f"record {number}" for number in range(1, len(texts) + 1)])
    if invalid:
        raise HTTPException(400, f"{invalid[0].where}: {invalid[0].reason}")
    return lines


class Intake:
    """The intake of requests into the journal, with one transaction per group."""

    def __init__(self, session: Session, codec: LineCodec) -> None:
        self._session, self._codec = session, codec

    def answer(self, group: Sequence[PendingRequest]) -> None:
        """Acknowledge or reject each request of a group as a whole, and answer it."""
        session, lines, keys = self._session, list[Line](), dict[str, str]()
        group = [posted for posted in group if posted.set_running_or_notify_cancel()]  # without cancelled requests
        is_full = not session.has_room()
        answers = [self._answer(posted, lines, keys, is_full) for posted in group]
        if lines:
            batch, rejected = session.batch(lines)
            assert not rejected, "a decoded line can be stored"
            if batch.last % TRIM_EVERY < batch.count:
                session.write(lambda: session.journal.trim_positions(_KEY, KEYS))
            if session.append(batch, keys):
                session.counts["read"] += batch.count
            else:
                answers = [HTTPException(503, "the feed is stopping: try again later", RETRY_LATER) for _ in group]
        for posted, answer in zip(group, answers, strict=True):
            posted.set_result(answer)

    def _answer(self, posted: PendingRequest, lines: list[Line], keys: dict[str, str], is_full: bool) -> Answer:
        """Add a request to `lines` and `keys`. Return the answer to it once these are in the journal."""
        position, fingerprint = _KEY + posted.key, ""
        if posted.key:
            fingerprint = blake2b(posted.body, digest_size=8).hexdigest()
            if known := keys.get(position) or self._session.journal.position(position):
                count, _, before = known.partition(" ")
                if fingerprint != before:
                    return HTTPException(422, "this Idempotency-Key came with another body: use one key per request")
                return int(count)
        if is_full:
            return HTTPException(429, "the journal is full: try again later", RETRY_LATER)
        try:
            found = fed_lines(posted.body, self._codec)
        except HTTPException as error:
            return error
        lines += found
        if found and posted.key:
            keys[position] = f"{len(found)} {fingerprint}"
        return len(found)


def feed_http(  # noqa: PLR0917
    address: str, name: str, options: FeedOptions, settings: Settings, stop: threading.Event, token: str = ""
) -> int:
    """Feed requests at `[ADDRESS:]PORT` to stream `name` until `stop`, or the run's count. Return the exit code.

    Without a schema file, the fields are inferred from the records of the first second. Raises ToolkitError if the
    address cannot be used, or if only the user can fix an error.
    """
    host, port = parse_address(address, HTTP)
    if not token and not is_loopback(host):
        raise ToolkitError(
            f"{HTTP}{address} can be reached by other machines: set FEED_TOKEN (in .env), or listen on {HTTP}{port}"
        )
    queue, codec = SimpleQueue[PendingRequest](), LineCodec(Stream(name))
    endpoint = Endpoint(queue, token)
    server = WebServer(endpoint.app(), host, port, f"{HTTP}{address}")

    def is_over() -> bool:
        if not server.is_serving:
            raise Unavailable("the web server ended by itself: see the log, and start again")
        return stop.is_set()

    with closing(server):
        logger.info("POST a JSON object, an array or JSON lines to {}", server.url)
        samples = list[bytes]()
        while not samples and load_stream(name, settings.schema_folder) is None:
            if is_over():
                cli.print_lines(f"feed-{name}-http: no record came")
                return 0
            for posted in next_requests(queue, FIRST_S):
                try:
                    samples += [line.line for line in fed_lines(posted.body, codec)]
                    queue.put(posted)  # back, to be fed below
                except HTTPException as error:
                    posted.set_result(error)
        stream, run = fed_stream(name, samples, settings, options.time), options.run
        with session(stream, f"feed-{name}-http", settings, sinks=options.sinks, run=run, stop=stop) as opened:
            counts = opened.counts
            counts["read"] = 0
            intake = Intake(opened, LineCodec(replace(opened.journal.stream, time=stream.time)))
            with closing(server):  # closed before pending records are delivered
                while not is_over() and (run.count is None or counts["acknowledged"] < run.count):
                    intake.answer(next_requests(queue))
                server.request_stop()
                while server.is_serving:
                    intake.answer(next_requests(queue))
            counts["rejected"] = endpoint.rejected
    return opened.code
