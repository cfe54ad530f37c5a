"""A feed of HTTP requests: JSON that is posted is answered once the journal has committed its records."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from contextlib import closing
from dataclasses import replace

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
from utils.delivery.producing import REPORT_EVERY_S, session
from utils.feeds.feeding import FeedOptions, fed_stream
from utils.feeds.inputs import HTTP
from utils.feeds.lines import LineCodec
from utils.feeds.requests import Intake, Posted, Waiting, fed_lines
from utils.records.schema import known
from utils.records.stream import Stream

MAX_BODY_BYTES = 4 << 20
BODY_S = 30.0
FIRST_S = 1.0  # how long the first records are gathered from which the fields of a new stream are inferred
TICK_S = 0.1
CLOSE = {"Connection": "close"}


class Endpoint:
    """Reads and checks the requests of clients, and sends the answers."""

    def __init__(self, waiting: Waiting, token: str) -> None:
        """`token` is what clients must send as `Authorization: Bearer TOKEN`; "" = nothing."""
        self.rejected = 0
        self._waiting, self._token = waiting, token.encode()
        self._logged_s = 0.0

    def app(self) -> Starlette:
        """What the web server runs."""
        handlers = {HTTPException: self._reject}
        return Starlette(routes=[Route("/", self._post, methods=["POST"])], exception_handlers=handlers)  # type: ignore[arg-type]

    async def _post(self, request: Request) -> Response:
        self._check_client(request)
        body = await self._body(request)
        self._check_form(request)  # not before: a client that still sends may not come to read the answer
        count = await self._waiting.answer_to(body, request.headers.get("idempotency-key", ""))
        return JSONResponse({"acknowledged": count})

    def _check_client(self, request: Request) -> None:
        """Raise HTTPException for a client who may not post."""
        headers = request.headers
        if self._token:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token):
                raise HTTPException(401, "send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        elif "origin" in headers:  # the program of another site, in a browser of this machine
            raise HTTPException(403, "requests of web pages need a token: set FEED_TOKEN")

    def _check_form(self, request: Request) -> None:
        """Raise HTTPException for a body that is no JSON, or compressed."""
        headers = request.headers
        kind = headers.get("content-type", "is missing").lower().partition(";")[0].strip()
        if "json" not in kind:
            raise HTTPException(415, f"Content-Type {kind}: send application/json or application/x-ndjson")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "Content-Encoding: send the body uncompressed")

    async def _body(self, request: Request) -> bytes:
        """The body of a request. Raises HTTPException if it is too large, or too slow."""
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():  # to its end, so that the client comes to read the answer
                    size += len(part)
                    body += part if size <= MAX_BODY_BYTES else b""
        except TimeoutError:
            raise HTTPException(408, f"the body was not complete within {BODY_S:g} s", CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left before its body was complete", CLOSE) from None
        if size > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is over the limit of {MAX_BODY_BYTES:,} bytes", CLOSE)
        return bytes(body)

    async def _reject(self, request: Request, error: HTTPException) -> Response:
        """The answer to a request of which nothing was taken; one line now and then in the log."""
        self.rejected += 1
        if time.monotonic() - self._logged_s >= REPORT_EVERY_S:
            self._logged_s = time.monotonic()
            client = request.client.host if request.client else "a client"
            requests = cli.counted(self.rejected, "request")
            logger.warning("{} rejected, the last of {}: {} {}", requests, client, error.status_code, error.detail)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def feed_http(  # noqa: PLR0917
    address: str, name: str, options: FeedOptions, settings: Settings, stop: threading.Event, token: str = ""
) -> int:
    """Take requests at `[ADDRESS:]PORT` for stream `name` until the stop, or the run's count of records; the exit code.

    Fields of a stream without a schema file are those of the records of the first second. Raises ToolkitError if the
    address cannot be used, or for what only the user can fix.
    """
    host, port = parse_address(address, HTTP)
    if not token and not is_loopback(host):
        raise ToolkitError(
            f"{HTTP}{address} can be reached by other machines: set FEED_TOKEN (in .env), or listen on {HTTP}{port}"
        )
    waiting, codec = Waiting(), LineCodec(Stream(name))
    endpoint = Endpoint(waiting, token)
    server = WebServer(endpoint.app(), host, port, f"{HTTP}{address}")
    with closing(server), closing(waiting):
        logger.info("POST a JSON object, an array or JSON lines to {}", server.url)

        def is_over() -> bool:
            if not server.is_serving:
                raise Unavailable("the web server ended by itself: see the log, and start again")
            return stop.is_set()

        group, samples = list[Posted](), list[bytes]()
        if known(name, settings.schema_folder) is None:
            while not samples:
                if is_over():
                    cli.print_lines(f"feed-{name}-http: no record came")
                    return 0
                for posted in waiting.group(TICK_S, FIRST_S):
                    try:
                        samples += [line.line for line in fed_lines(posted.body, codec)]
                        group.append(posted)  # to be taken
                    except HTTPException as error:
                        posted.answer(error)
        stream, run = fed_stream(name, samples, settings, options.time), options.run
        with session(stream, f"feed-{name}-http", settings, sinks=options.sinks, run=run, stop=stop) as opened:
            counts = opened.counts
            counts["read"] = 0
            intake = Intake(opened, LineCodec(replace(opened.journal.stream, time=stream.time)))
            with closing(server), closing(waiting):  # before what is pending is delivered
                while not is_over() and (run.count is None or counts["acknowledged"] < run.count):
                    if group:
                        intake.answer(group)
                    group = waiting.group(TICK_S)
            counts["rejected"] = endpoint.rejected
    return opened.code
