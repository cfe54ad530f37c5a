"""The served page: matplotlib's SVG for browsers, JSON and metrics for programs; read-only."""

import re
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import msgspec
import psutil
from loguru import logger
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from consumers.dashboard.figure import Dashboard, column
from consumers.dashboard.options import DashboardOptions, ThemeName
from consumers.dashboard.snapshot import Snapshot
from utils.app.errors import ToolkitError
from utils.app.web import WebServer, is_loopback, parse_address

DEFAULT_ADDRESS = "127.0.0.1:8765"
FOLDER = Path(__file__).with_name("page")
FORMS = 4
JSON, METRICS = "application/json", "text/plain; version=0.0.4"
# The page runs only its own script and connects only to this server.
POLICY = "default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Page:
    """A web server with the latest snapshot.

    The image has four forms: light or dark, wide or in one column. Each is drawn when the first browser asks for it,
    once per snapshot, by a thread of the server.
    """

    def __init__(self, options: DashboardOptions, first: Snapshot) -> None:
        """Start the server. Without a theme the page has that of each browser. Raises ToolkitError like WebServer."""
        host, port = parse_address("".join(options.serve or ()) or DEFAULT_ADDRESS, "--serve ")
        self._options, self._snapshot, self._lock = options, first, threading.Lock()  # only one thread may draw
        self._dashboard, self._drawn = lru_cache(Dashboard), lru_cache(FORMS)(self._draw)
        routes = [
            Route("/frame.json", self._frame),
            Route("/snapshot.json", lambda _: Response(statistics(self._snapshot), media_type=JSON)),
            Route("/metrics", lambda _: Response(metrics(self._snapshot), media_type=METRICS)),
            Mount("/", StaticFiles(directory=FOLDER, html=True)),
        ]
        middleware = [
            Middleware(TrustedHostMiddleware, known_hosts(host, options.allow_host), www_redirect=False),
            Middleware(GZipMiddleware, compresslevel=4),
        ]
        app = Starlette(routes=routes, middleware=middleware)
        self._server = WebServer(app, host, port, "--serve", headers=[*HEADERS.items()])
        self.url = self._server.url
        logger.info("drawing without a window: the page is at {}", self.url)
        if not is_loopback(host):
            logger.warning("the page at {} can be seen by everyone who reaches this machine", self.url)

    def show(self, shown: Iterable[Snapshot]) -> None:
        """Serve each snapshot until the next one comes. Stop the server after the last one."""
        for snapshot in shown:
            self._snapshot = snapshot
        self._server.close()

    def _frame(self, request: Request) -> Response:
        """Answer with the image in the form that the query asks for, and its statistics."""
        asked: ThemeName = "dark" if request.query_params.get("theme") == "dark" else "light"
        narrow = request.query_params.get("form") == "narrow"
        with self._lock:
            return Response(self._drawn(self._options.theme or asked, narrow, self._snapshot), media_type=JSON)

    def _draw(self, theme: ThemeName, narrow: bool, snapshot: Snapshot) -> bytes:
        dashboard = self._dashboard(theme, column() if narrow else self._options.size)
        frame = {
            "svg": dashboard.svg(snapshot),
            "statistics": dashboard.alt_texts(),
            "status": snapshot.status,
            "stream": snapshot.stream,
            "refresh_s": self._options.refresh,
            "theme": theme,
        }
        return msgspec.json.encode(frame)


def known_hosts(host: str, allowed: Sequence[str]) -> list[str]:
    """Return the values of a Host header that are allowed. Others may be DNS rebinding by a website.

    If the page is for other machines, name and addresses of this one are among them. Raises ToolkitError if one of
    `allowed` cannot be a name.
    """
    for name in allowed:
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):  # * would allow all names
            raise ToolkitError(f"--allow-host {name}: give a host name without port, such as dash.example.org")
    names = ["localhost", "127.0.0.1", "::1", host, *allowed]
    if not is_loopback(host):
        addresses = [each.address for card in psutil.net_if_addrs().values() for each in card]
        names += [socket.gethostname(), *(address.partition("%")[0] for address in addresses)]
    return [f"[{name}]" if ":" in name else name for name in names]


def statistics(snapshot: Snapshot) -> bytes:
    """Return the snapshot as JSON, with its own names and units; unknown values are null."""
    return msgspec.json.encode(asdict(snapshot) | {"status": snapshot.status, "idle_s": snapshot.idle_s})


def metrics(snapshot: Snapshot) -> str:
    """Return the statistics in the text format of Prometheus."""
    delay = snapshot.lag
    samples = {
        "records_total": snapshot.total,
        "invalid_total": snapshot.invalid,
        "duplicate_total": snapshot.duplicate,
        "lost": snapshot.lost,
        "records_per_second": snapshot.rate,
        "lag_median_seconds": delay.median if delay else None,
        "lag_p95_seconds": delay.p95 if delay else None,
        "stale": snapshot.status == "STALE",
        "source_up": not snapshot.source.trouble,
        "last_record_timestamp_seconds": snapshot.last,
        "start_timestamp_seconds": snapshot.started,
    }
    return "".join(
        f"# TYPE ragini_{name} {'counter' if name.endswith('_total') else 'gauge'}\n"
        f'ragini_{name}{{stream="{snapshot.stream}"}} {float(number)!r}\n'
        for name, number in samples.items()
        if number is not None
    )
