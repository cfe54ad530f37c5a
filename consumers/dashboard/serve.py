"""The page: matplotlib's SVG for browsers, JSON and metrics for programs; view only."""

import asyncio
import base64
import hashlib
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from loguru import logger
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from consumers.dashboard import report
from consumers.dashboard.figure import Drawing
from consumers.dashboard.snapshot import Snapshot, ThemeName
from consumers.dashboard.theme import DEFAULT_SIZE, PAGE_FONTS
from utils.app.errors import ToolkitError
from utils.app.web import WebServer, is_loopback, parse_address

DEFAULT_ADDRESS = "127.0.0.1:8765"
WAIT_S = 10.0  # of a browser for its first image
LOOK_EVERY_S = 0.05
WANTED_S = 15.0  # a form that nobody asked for during this time and two refreshes is not drawn
PAGE = Path(__file__).with_name("page.html")


class Form(NamedTuple):
    """One of the four forms in which a browser can ask for the image."""

    theme: ThemeName
    narrow: bool


class Frame(NamedTuple):
    """One snapshot and what was made of it."""

    snapshot: Snapshot
    bodies: dict[Form, bytes]


class Page:
    """Serves the latest snapshot, drawn in the forms that somebody looks at. An output of the headless loop.

    `put` belongs to the thread that draws; the web server's thread only reads what it left.
    """

    def __init__(
        self,
        address: str,
        refresh_s: float,
        theme: ThemeName | None = None,
        allow_hosts: Sequence[str] = (),
        size: tuple[float, float] = DEFAULT_SIZE,
    ) -> None:
        """Listen. `theme` None follows each browser. Raises ToolkitError if the address cannot be used."""
        host, port = parse_address(address, "--serve ")
        self._refresh_s, self._theme, self._size = refresh_s, theme, size
        self._frame: Frame | None = None
        self._wanted: dict[Form, float] = {}
        self._drawings: dict[Form, Drawing] = {}
        html = PAGE.read_text("utf-8").encode()  # with line ends as the browser counts them for the script's hash
        app = self._app(html, known_hosts(host, allow_hosts))
        self._server = WebServer(app, host, port, "--serve", headers=headers(html))
        self.where = f"the page is at {self.url}"
        if not is_loopback(host):
            logger.warning("the page at {} can be seen by everyone who reaches this machine", self.url)

    @property
    def url(self) -> str:
        return self._server.url

    def put(self, snapshot: Snapshot) -> None:
        """Draw the snapshot in the forms that are looked at, and show it."""
        oldest = time.monotonic() - WANTED_S - 2 * self._refresh_s
        bodies = {form: self._body(form, snapshot) for form, asked in list(self._wanted.items()) if asked > oldest}
        self._frame = Frame(snapshot, bodies)

    def close(self) -> None:
        self._server.close()

    def _body(self, form: Form, snapshot: Snapshot) -> bytes:
        if form not in self._drawings:
            self._drawings[form] = Drawing(
                form.theme, narrow=form.narrow, size=self._size, refresh_s=self._refresh_s, fonts=PAGE_FONTS
            )
        content = {
            "svg": self._drawings[form].svg(snapshot).decode(),
            "statistics": report.sentences(snapshot),
            "status": snapshot.status,
            "stream": snapshot.stream,
            "refresh_s": self._refresh_s,
            "theme": form.theme,
        }
        return json.dumps(content, ensure_ascii=False).encode()

    def _app(self, html: bytes, hosts: list[str]) -> Starlette:
        async def page(request: Request) -> Response:
            return Response(html, media_type="text/html; charset=utf-8")

        async def frame(request: Request) -> Response:
            theme: ThemeName = "dark" if request.query_params.get("theme") == "dark" else "light"
            form = Form(self._theme or theme, request.query_params.get("form") == "narrow")
            body = await self._drawn(form)
            return Response(body, media_type="application/json") if body else _not_yet()

        def report_of(make: Callable[[Snapshot], str], kind: str) -> Callable[[Request], Awaitable[Response]]:
            async def answer(request: Request) -> Response:
                frame = self._frame
                return Response(make(frame.snapshot), headers={"Content-Type": kind}) if frame else _not_yet()

            return answer

        routes = {
            "/": page,
            "/frame.json": frame,
            "/snapshot.json": report_of(report.statistics, "application/json"),
            "/metrics": report_of(report.metrics, report.METRICS_TYPE),
        }
        middleware = [
            Middleware(TrustedHostMiddleware, hosts, www_redirect=False),
            Middleware(GZipMiddleware, compresslevel=4),
        ]
        return Starlette(routes=[Route(path, get) for path, get in routes.items()], middleware=middleware)

    async def _drawn(self, form: Form) -> bytes | None:
        """The latest frame in this form; waits for the next refresh if nobody looked at it before."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            self._wanted[form] = time.monotonic()
            body = self._frame.bodies.get(form) if self._frame else None
            if body or time.monotonic() > deadline_s:
                return body
            await asyncio.sleep(LOOK_EVERY_S)


def _not_yet() -> Response:
    return PlainTextResponse("No image yet", 503, {"Retry-After": "2"})


def known_hosts(host: str, allowed: Sequence[str]) -> list[str]:
    """Names in a Host header that mean this page; others come from sites that point a name of theirs at it.

    Where the page is for other machines these are also the name and the addresses of this one. Raises ToolkitError if
    one of `allowed` cannot be a name.
    """
    for name in allowed:
        if not re.fullmatch(r"(\*\.)?[\w.-]+|\[?[0-9a-fA-F:]+\]?", name, re.ASCII):
            raise ToolkitError(f"--allow-host {name}: give a host name without port, such as dash.example.org")
    names = ["localhost", "127.0.0.1", "::1", host, *allowed]
    if not is_loopback(host):
        addresses = [each.address for card in psutil.net_if_addrs().values() for each in card]
        names += [socket.gethostname(), *(address.partition("%")[0] for address in addresses)]
    return [f"[{name.strip('[]')}]" if ":" in name else name for name in names]


def headers(html: bytes) -> list[tuple[str, str]]:
    """Headers of every answer: the page runs its own script only and asks nobody but this server."""
    scripts = re.findall(rb"<script>(.*?)</script>", html, re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'" for each in scripts)
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; script-src {hashes}; style-src 'unsafe-inline';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ]
