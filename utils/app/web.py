"""A web server in a thread: where it listens, how long it waits for a client, and its clean end."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

import uvicorn
from loguru import logger
from uvicorn.protocols.http.h11_impl import H11Protocol

from utils.app.errors import ToolkitError

LOOPBACK = "127.0.0.1"
HEAD_S = 15  # from a connection, or from an answer, to the complete head of the next request
END_S = 5  # for the requests in hand when the server ends
MAX_CONNECTIONS = 1_000


def parse_address(text: str, option: str) -> tuple[str, int]:
    """Host and port of `PORT`, `HOST:PORT` or `[IPv6]:PORT`; without a host only this machine.

    Raises ToolkitError that names `option`, what stands before the address.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if any(each in host for each in "/[]") or not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise ToolkitError(f"{option}{text}: give PORT or ADDRESS:PORT, such as 8765, 0.0.0.0:8765 or [::1]:8765")
    return host or LOOPBACK, int(port)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class WebServer:
    """An ASGI application that is served until `close`."""

    def __init__(
        self,
        app: Callable[..., Any],
        host: str,
        port: int,
        option: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Listen at once; port 0 takes a free one. Each answer has `headers`, errors too.

        Raises ToolkitError that names `option` if that cannot be.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=1024)
        except (OSError, UnicodeError) as error:  # the second for a name that no host can have
            reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
            raise ToolkitError(f"{option}: cannot listen on port {port} of {host}: {reason}; name another") from error
        # Else the body of an answer waits until the client has acknowledged its head: 40 ms and more. Connections
        # inherit it, on Linux (a test times them) as in BSD; the event loop sets it for sockets of its own only.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/"
        _use_our_log()
        config = uvicorn.Config(
            app,
            http=_Bounded,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=list(headers),
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
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

    def end(self) -> None:
        """Begin to end: once the requests in hand are answered, after END_S at the latest."""
        self._server.should_exit = True

    def close(self) -> None:
        """End, and wait for it; may be called twice."""
        self.end()
        self._thread.join(2 * END_S)


class _Bounded(H11Protocol):
    """Ends a connection whose next request has no complete head in time; the base waits for ever for a slow one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        timer, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if timer and not answering and not self.timeout_keep_alive_task:
            self.timeout_keep_alive_task = timer  # the base would begin to count again with every byte
        elif timer:
            timer.cancel()


class _OurLog(logging.Handler):
    """Hands on what the server logs: its errors; what clients do wrong is no news."""

    def emit(self, record: logging.LogRecord) -> None:
        cancelled = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)  # at the end
        level = "ERROR" if record.levelno >= logging.ERROR and not cancelled else "DEBUG"
        logger.opt(exception=record.exc_info).log(level, "web server: {}", record.getMessage().strip())


def _use_our_log() -> None:
    server = logging.getLogger("uvicorn")
    server.handlers, server.propagate = [_OurLog()], False
    server.setLevel(logging.WARNING)
