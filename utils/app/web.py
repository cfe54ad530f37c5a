"""A web server in a thread, with the parsing of its address and its timeouts."""

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import uvicorn
from loguru import logger
from uvicorn.protocols.http.h11_impl import H11Protocol

from utils.app.errors import ToolkitError

LOOPBACK = "127.0.0.1"
HEAD_S = 15  # timeout from a connection or an answer to the complete head of the next request
END_S = 5  # timeout for running requests when the server ends
MAX_CONNECTIONS = 1_000  # beyond it requests are answered with 503, and half as many more are not connected at all
MAX_FILES = 4_096  # for so many connections, and those that are accepted at the same moment


def parse_address(text: str, option: str) -> tuple[str, int]:
    """Parse `PORT`, `HOST:PORT` or `[IPv6]:PORT` into host and port. Without a host it is 127.0.0.1.

    Raises ToolkitError that begins with `option`, the text before the address on the command line.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if any(each in host for each in "/[]") or not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise ToolkitError(f"{option}{text}: give PORT or ADDRESS:PORT, such as 8765, 0.0.0.0:8765 or [::1]:8765")
    return host or LOOPBACK, int(port)


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def most_connections() -> int:
    """Return MAX_CONNECTIONS, or half of the files that the process may open if that is less: each connection is one.

    Lets the process open MAX_FILES first, if the system allows it: without a free file no sink can be opened.
    """
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    if soft < MAX_FILES:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, hard))
            soft = MAX_FILES
    return min(MAX_CONNECTIONS, soft // 2)


class WebServer:
    """Server of an ASGI application, which runs in a daemon thread until `close`."""

    def __init__(
        self,
        app: Callable[..., Any],
        host: str,
        port: int,
        option: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Begin to listen; port 0 takes a free port. All answers have `headers`, also errors.

        Raises ToolkitError that names `option` if the server cannot listen there.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=1024)
        except (OSError, UnicodeError) as error:  # UnicodeError: the host's name is not valid
            reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
            message = f"{option}: cannot listen on port {port} of {host}: {reason}; name another address"
            raise ToolkitError(message) from error
        # Without TCP_NODELAY the body of an answer waits 40 ms or more until the client has acknowledged the head.
        # On Linux and BSD connections inherit it from this socket. The event loop sets it only for its own sockets.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/"
        _redirect_log()
        config = uvicorn.Config(
            app,
            http=_TimeoutProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=list(headers),
            proxy_headers=False,
            limit_concurrency=most_connections(),
            timeout_keep_alive=HEAD_S,
            timeout_graceful_shutdown=END_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="web server", daemon=True
        )
        self._thread.start()

    @property
    def is_serving(self) -> bool:
        return self._thread.is_alive()

    def request_stop(self) -> None:
        """Tell the server to end once the running requests are answered, or after END_S, and do not wait for it."""
        self._server.should_exit = True

    def close(self) -> None:
        """End the server and wait until it has ended. A second call does nothing."""
        self.request_stop()
        self._thread.join(2 * END_S)


class _TimeoutProtocol(H11Protocol):
    """HTTP connection with a timeout for the head of each request; the base class waits without end for a slow one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > 1.5 * (self.limit_concurrency or 0):
            transport.abort()
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        timer, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if timer and not answering and not self.timeout_keep_alive_task:
            self.timeout_keep_alive_task = timer  # above it was hidden from the base class, which cancels it
        elif timer:
            timer.cancel()


class _LogHandler(logging.Handler):
    """Log handler that passes errors of the server to loguru, and all else, which clients cause, at level DEBUG.

    So is an OSError of asyncio, which logs a thousand per second while no file is free for the next client.
    """

    def emit(self, record: logging.LogRecord) -> None:
        expected = (OSError,) if record.name == "asyncio" else (asyncio.CancelledError,)  # when the server ends
        harmless = record.exc_info and isinstance(record.exc_info[1], expected)
        level = "ERROR" if record.levelno >= logging.ERROR and not harmless else "DEBUG"
        logger.opt(exception=record.exc_info).log(level, "web server: {}", record.getMessage().strip())


def _redirect_log() -> None:
    for name in ("uvicorn", "asyncio"):
        server = logging.getLogger(name)
        server.handlers, server.propagate = [_LogHandler()], False
        server.setLevel(logging.WARNING)
