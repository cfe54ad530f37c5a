"""A small web server on this machine that shows the live picture and its figures; view only."""

import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from loguru import logger

from consumers.dashboard import words
from consumers.dashboard.picture import Dashboard, headless
from consumers.dashboard.state import Snapshot
from consumers.dashboard.theme import ThemeName
from utils.app.errors import ToolkitError

DEFAULT_ADDRESS = "127.0.0.1:8765"
MAX_CLIENTS = 32
CLIENT_TIMEOUT_S = 10.0
PICTURE_WAIT_S = 5.0
WANTED_S = 15.0
PAGE = Path(__file__).with_name("page.html")
_POLICY = (
    "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `PORT`, `HOST:PORT` or `[IPv6]:PORT`; without a host only this machine. Raises ToolkitError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise ToolkitError(f"--serve {text}: give PORT or ADDRESS:PORT, such as 8765 or 0.0.0.0:8765")
    return host.strip("[]") or "127.0.0.1", int(port)


class Served:
    """The latest picture in each theme that a client asked for lately, and the figures. An `Output`."""

    def __init__(self, address: str, refresh_s: float, fixed_theme: ThemeName | None) -> None:
        """Listen. Raises ToolkitError if the address cannot be used."""
        host, port = parse_address(address)
        self.refresh_s, self.fixed_theme = refresh_s, fixed_theme
        self._changed = threading.Condition()
        self._pictures: dict[ThemeName, bytes] = {}
        self._wanted: dict[ThemeName, float] = {}
        self._extra: dict[ThemeName, Dashboard] = {}
        self._figures: dict[str, Any] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._server = _Server(host, port, family, self)
        except (OSError, TypeError) as error:  # the second for a name that no name may be
            raise ToolkitError(f"--serve {address}: cannot listen there: {error}; name another port") from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}/"
        self.where = f"the page is at {self.url}"
        if not _is_loopback(host):
            logger.warning("the page at {} can be seen by everyone who reaches this machine", self.url)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="web page", daemon=True)
        self._thread.start()

    def put(self, dashboard: Dashboard, snapshot: Snapshot) -> None:
        """Take over the picture, and draw the other theme if somebody looks at it."""
        now = time.monotonic()
        pictures = {dashboard.theme_name: dashboard.png()}
        for name, asked in list(self._wanted.items()):
            if name != dashboard.theme_name and now - asked < WANTED_S + 2 * self.refresh_s:
                if name not in self._extra:
                    width, height = dashboard.figure.get_size_inches()
                    self._extra[name] = headless((width, height), name, self.refresh_s)
                self._extra[name].update(snapshot)
                pictures[name] = self._extra[name].png()
        figures = words.figures(snapshot) | {"refresh_s": self.refresh_s, "theme": self.fixed_theme}
        with self._changed:
            self._pictures, self._figures = pictures, figures
            self._changed.notify_all()

    def picture(self, name: ThemeName) -> bytes | None:
        """The latest picture in this theme; waits for the first one, and takes the other theme's if it is slow."""
        with self._changed:
            self._wanted[name] = time.monotonic()
            self._changed.wait_for(lambda: name in self._pictures, PICTURE_WAIT_S)
            return self._pictures.get(name) or next(iter(self._pictures.values()), None)

    def figures(self) -> bytes | None:
        """What the latest picture shows, as JSON; waits for the first one."""
        with self._changed:
            drawn = self._changed.wait_for(lambda: self._figures, PICTURE_WAIT_S)
            return json.dumps(self._figures, ensure_ascii=False).encode() if drawn else None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MAX_CLIENTS  # the standard five make a browser with several tabs wait a second for a place
    allow_reuse_address = os.name != "nt"  # there it would let two programs share a port

    def __init__(self, host: str, port: int, family: socket.AddressFamily, served: Served) -> None:
        self.address_family = family
        self.served, self.host = served, host
        self._places = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the standard server, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(self.allow_reuse_address))
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.host, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""
        logger.opt(exception=True).debug("request of {} failed", client_address)

    def knows(self, host_header: str) -> bool:
        """Whether a Host header names this machine; others come from pages that rebind a foreign name to us."""
        name = (urlsplit(f"//{host_header}").hostname or "").rstrip(".")
        if name == self.host or _is_loopback(name):
            return True
        if _is_loopback(self.host):
            return False
        return _is_ip(name) or name in (socket.gethostname().lower(), socket.getfqdn().lower())


def _is_ip(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_ip(name) and ip_address(name).is_loopback)


class _Handler(BaseHTTPRequestHandler):
    server_version = "dashboard"
    sys_version = ""
    timeout = CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        server = cast(_Server, self.server)
        try:
            known = server.knows(self.headers.get("Host", ""))
        except ValueError:
            known = False
        if not known:
            self.send_error(403, "This host name is not served here")
            return
        served, path = server.served, urlsplit(self.path).path
        if path == "/":
            self._send(PAGE.read_bytes(), "text/html; charset=utf-8")
        elif path == "/snapshot.json":
            self._send(served.figures(), "application/json")
        elif path in ("/light.png", "/dark.png"):
            name: ThemeName = "light" if path == "/light.png" else "dark"
            self._send(served.picture(served.fixed_theme or name), "image/png")
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 (the library's name)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say 405 where the library says 501."""
        super().send_error(405 if code == 501 else code, message, explain)

    def _send(self, body: bytes | None, kind: str) -> None:
        if body is None:
            self.send_error(503, "No image yet")
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests come every two seconds and are not news."""
