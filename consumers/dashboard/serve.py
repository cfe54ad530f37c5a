"""The page: matplotlib's SVG for browsers, JSON and metrics for programs; view only."""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Sequence
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
from consumers.dashboard.figure import Dashboard
from consumers.dashboard.snapshot import Snapshot, ThemeName
from consumers.dashboard.theme import DEFAULT_SIZE
from utils.app.errors import ToolkitError
from utils.app.web import WebServer, is_loopback, parse_address

DEFAULT_ADDRESS = "127.0.0.1:8765"
PAGE = Path(__file__).with_name("page.html")


class Form(NamedTuple):
    """One of the four forms in which a browser can ask for the image."""

    theme: ThemeName
    narrow: bool


class Page:
    """Serves the latest snapshot. An output of the headless loop.

    A form is drawn when the first browser asks for it, once per snapshot, by a thread of the web server.
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
        self._refresh_s, self._size = refresh_s, size
        self._lock = threading.Lock()  # only one thread may draw
        self._snapshot: Snapshot | None = None
        self._drawings: dict[Form, Dashboard] = {}
        self._drawn: dict[Form, tuple[Snapshot, bytes]] = {}
        html = PAGE.read_text("utf-8").encode()  # with line ends as the browser counts them for the script's hash
        app = self._app(html, known_hosts(host, allow_hosts), theme)
        self._server = WebServer(app, host, port, "--serve", headers=headers(html))
        self.where = f"the page is at {self._server.url}"
        if not is_loopback(host):
            logger.warning("the page at {} can be seen by everyone who reaches this machine", self._server.url)

    @property
    def url(self) -> str:
        return self._server.url

    def put(self, snapshot: Snapshot) -> None:
        """Show the snapshot from now on."""
        self._snapshot = snapshot

    def close(self) -> None:
        self._server.close()

    def _app(self, html: bytes, hosts: list[str], theme: ThemeName | None) -> Starlette:
        """The pages; those that are no coroutines run in the server's threads."""

        async def page(request: Request) -> Response:
            return Response(html, media_type="text/html; charset=utf-8")

        def frame(request: Request, snapshot: Snapshot) -> Response:
            asked: ThemeName = "dark" if request.query_params.get("theme") == "dark" else "light"
            form = Form(theme or asked, request.query_params.get("form") == "narrow")
            return Response(self._frame(form, snapshot), media_type="application/json")

        def latest(make: Callable[[Request, Snapshot], Response]) -> Callable[[Request], Response]:
            def answer(request: Request) -> Response:
                if self._snapshot is None:
                    return PlainTextResponse("Nothing yet", 503, {"Retry-After": "2"})
                return make(request, self._snapshot)

            return answer

        def text(make: Callable[[Snapshot], str], kind: str) -> Callable[[Request], Response]:
            return latest(lambda request, snapshot: Response(make(snapshot), headers={"Content-Type": kind}))

        routes = [
            Route("/", page),
            Route("/frame.json", latest(frame)),
            Route("/snapshot.json", text(report.statistics, "application/json")),
            Route("/metrics", text(report.metrics, report.METRICS_TYPE)),
        ]
        middleware = [
            Middleware(TrustedHostMiddleware, hosts, www_redirect=False),
            Middleware(GZipMiddleware, compresslevel=4),
        ]
        return Starlette(routes=routes, middleware=middleware)

    def _frame(self, form: Form, snapshot: Snapshot) -> bytes:
        """The snapshot in this form; drawn if it is not yet."""
        with self._lock:
            drawn, body = self._drawn.get(form, (None, b""))
            if drawn is snapshot:
                return body
            if form not in self._drawings:
                self._drawings[form] = Dashboard(form.theme, narrow=form.narrow, size=self._size)
            content = {
                "svg": self._drawings[form].svg(snapshot).decode(),
                "statistics": list(report.sentences(snapshot)),
                "status": snapshot.status,
                "stream": snapshot.stream,
                "refresh_s": self._refresh_s,
                "theme": form.theme,
            }
            body = json.dumps(content, ensure_ascii=False).encode()
            self._drawn[form] = snapshot, body
            return body


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
