"""Malformed requests to the served page: it answers or closes the connection, and serves the next one."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.consumers.test_dashboard_page import Program
from tests.helpers import wait_until


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    program = Program()
    wait_until(lambda: program.ask("/snapshot.json")[0] == 200)
    yield program.port
    program.end()


def answer(port: int, request: bytes) -> bytes:
    """Return everything that the server sends until it closes."""
    with closing(socket.create_connection(("127.0.0.1", port), 5)) as connection:
        connection.sendall(request)
        if b"\r\n\r\n" not in request:  # the server would wait for the rest
            connection.shutdown(socket.SHUT_WR)
        parts = []
        try:
            while part := connection.recv(65_536):
                parts.append(part)
        except ConnectionResetError:
            pass  # closed before it had read everything
        return b"".join(parts)


HOST = b"Host: 127.0.0.1\r\n\r\n"
REQUESTS: list[tuple[bytes, int]] = [
    (b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST, 200),
    (b"HEAD / HTTP/1.0\r\n" + HOST, 200),
    (b"GET /snapshot.json HTTP/1.0\r\n" + HOST, 200),
    (b"GET /snapshot.json?x=1#y HTTP/1.0\r\n" + HOST, 200),
    (b"GET /nothing HTTP/1.0\r\n" + HOST, 404),
    (b"GET /../../etc/passwd HTTP/1.0\r\n" + HOST, 404),
    (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.0\r\n" + HOST, 404),
    (b"GET //etc/passwd HTTP/1.0\r\n" + HOST, 404),
    (b"GET /snapshot.json/ HTTP/1.0\r\n" + HOST, 404),
    (b"GET /light.png%00 HTTP/1.0\r\n" + HOST, 404),
    (b"GET /\xff\xfe HTTP/1.0\r\n" + HOST, 400),
    (b"GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\nHost: 127.0.0.1.evil.example\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\nHost: [::1\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\nHost: 127.0.0.1:port\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nContent-Length: 5\r\n" + HOST + b"hello", 405),
    (b"PUT /snapshot.json HTTP/1.0\r\n" + HOST, 405),
    (b"DELETE / HTTP/1.0\r\n" + HOST, 405),
    (b"OPTIONS * HTTP/1.0\r\n" + HOST, 404),
    (b"BREW / HTTP/1.0\r\n" + HOST, 405),
    (b"GET / HTTP/9.9\r\nConnection: close\r\n" + HOST, 200),
    (b"GET / HTTP/x\r\n" + HOST, 400),
    (b"GET / FTP/1.0\r\n" + HOST, 400),
    (b"GET /  too many words HTTP/1.0\r\n" + HOST, 400),
    (b"hello\r\n\r\n", 400),
    (b"GET /" + b"a" * 60_000 + b" HTTP/1.0\r\n" + HOST, 404),
    (b"GET / HTTP/1.0\r\nX: " + b"a" * 60_000 + b"\r\n" + HOST, 200),
    (b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * 200 + HOST, 200),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (bytes(range(256)) + b"\r\n\r\n", 400),
    (b"\r\n", 400),
    (b"", 0),
    (b"GET", 0),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", 0),
]


@pytest.mark.parametrize(("request_", "status"), REQUESTS)
def test_requests(request_: bytes, status: int, port: int) -> None:
    found = answer(port, request_)
    if status:
        assert int(found.split(b" ", 2)[1]) == status, found[:300]
    else:
        assert found == b""
    assert b"Traceback" not in found
    body = answer(port, b"GET /snapshot.json HTTP/1.0\r\n" + HOST).partition(b"\r\n\r\n")[2]
    assert isinstance(json.loads(body), dict), "the server does not answer any more"
