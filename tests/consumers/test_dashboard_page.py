"""The served page: its rules over plain HTTP, and its life in a real browser."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from consumers.dashboard import picture, render, serve
from consumers.dashboard.serve import Served, parse_address
from consumers.dashboard.state import State
from tests.helpers import make_messages, wait_until
from utils.app.errors import ToolkitError
from utils.records.codec import instant_text
from utils.sources.base import Chunk

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOW = 1_800_000_000.0


class Program:
    """A dashboard that is served in this process, with a clock that the test moves."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.now = NOW
        self.state = State("file", "data/project_live.json", clock=lambda: self.now)
        self.state.healthy(caught_up=True)
        self.sent = 0
        self.served = Served(address, 0.2, None)
        self.port = int(self.served.url.rstrip("/").rpartition(":")[2])
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        dashboard = picture.headless((8, 6), "light", 0.2)
        render.run_headless(self.state, dashboard, [self.served], render.Plan(refresh_s=0.2), self.stop)

    def send(self, count: int) -> None:
        messages = make_messages(count, producer_id="ann-1", first=self.sent + 1)
        for message in messages:
            message.timestamp = instant_text(int(self.now * 1e6))
        self.sent += count
        self.state.add(Chunk("f", "", "1", messages))

    def end(self) -> None:
        self.stop.set()
        self.thread.join()
        self.served.close()

    def ask(self, path: str, host: str | None = None, method: str = "GET") -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, headers={"Host": host or f"127.0.0.1:{self.port}"})
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture
def program() -> Iterator[Program]:
    program = Program()
    yield program
    program.end()


@pytest.mark.full
def test_page_picture_and_figures(program: Program) -> None:
    program.send(7)
    wait_until(lambda: b'"messages": 7' in program.ask("/snapshot.json")[1])
    status, page = program.ask("/")
    assert status == 200
    assert b"<title>Streaming Dashboard</title>" in page
    light, dark = program.ask("/light.png"), program.ask("/dark.png")
    assert light[0] == dark[0] == 200
    assert light[1][:8] == dark[1][:8] == b"\x89PNG\r\n\x1a\n"
    assert light[1] != dark[1]
    figures = json.loads(program.ask("/snapshot.json")[1])
    assert (figures["status"], figures["source"], figures["lost"]) == ("LIVE", "file", 0)
    assert figures["top_authors"] == [{"author": "Ann", "messages": 7}]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[::1", "10.1.2.3"]
)
def test_foreign_host_is_refused(program: Program, host: str) -> None:
    with closing(socket.create_connection(("127.0.0.1", program.port))) as client:
        client.sendall(f"GET /snapshot.json HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.0 403")


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "[::1]:8765"])
def test_own_host_is_served(program: Program, host: str) -> None:
    assert program.ask("/", host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_other_methods_are_refused(program: Program, method: str) -> None:
    assert program.ask("/", method=method)[0] == 405


def test_head_has_no_body_and_unknown_paths_no_page(program: Program) -> None:
    assert program.ask("/", method="HEAD") == (200, b"")
    assert program.ask("/../../etc/passwd")[0] == 404


def test_clients_are_bounded(program: Program) -> None:
    address = ("127.0.0.1", program.port)
    idle = [socket.create_connection(address) for _ in range(serve.MAX_CLIENTS)]
    try:

        def refused() -> bool:
            with closing(socket.create_connection(address)) as one_more:
                one_more.settimeout(0.3)
                try:
                    return one_more.recv(1) == b""
                except (TimeoutError, ConnectionResetError):
                    return False

        wait_until(refused)
    finally:
        for client in idle:
            client.close()

    def served_again() -> bool:
        try:
            return program.ask("/")[0] == 200
        except ConnectionError:  # the places are given back one by one, as each handler sees its client gone
            return False

    wait_until(served_again)


def test_named_address_serves_its_names_and_warns(logged: list[str]) -> None:
    program = Program("0.0.0.0:0")
    try:
        assert any("everyone" in line for line in logged)
        assert program.ask("/", host="10.1.2.3:80")[0] == 200
        assert program.ask("/", host=socket.gethostname())[0] == 200
        assert program.ask("/", host="evil.example")[0] == 403
    finally:
        program.end()


def test_port_in_use_is_one_clear_error(program: Program) -> None:
    with pytest.raises(ToolkitError, match="cannot listen there"):
        Served(f"127.0.0.1:{program.port}", 2.0, None)


@pytest.mark.parametrize("host", ["\u00e9" * 70, "\u00e9..x", "a..b"])
def test_name_that_no_machine_can_have_is_one_clear_error(host: str) -> None:
    with pytest.raises(ToolkitError, match="cannot listen there"):
        Served(f"{host}:0", 2.0, None)


def test_nothing_is_told_before_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PICTURE_WAIT_S", 0.1)
    served = Served("127.0.0.1:0", 2.0, None)
    try:
        assert (served.figures(), served.picture("dark")) == (None, None)
        for path in ("/snapshot.json", "/dark.png"):
            with pytest.raises(HTTPError, match="No image yet"):
                urlopen(served.url + path[1:], timeout=10)
    finally:
        served.close()


@pytest.mark.full
def test_other_theme_is_drawn_however_slow_the_pictures_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PICTURE_WAIT_S", 0.01)
    monkeypatch.setattr(serve, "WANTED_S", 0.0)
    dashboard, snapshot = picture.headless((8, 6), "light", 60.0), State("file").snapshot()
    dashboard.update(snapshot)
    served = Served("127.0.0.1:0", 60.0, None)
    try:
        served.put(dashboard, snapshot)
        meanwhile = served.picture("dark")  # no page should wait a minute with nothing to show
        assert meanwhile == served.picture("light")
        served.put(dashboard, snapshot)
        assert served.picture("dark") not in (None, meanwhile)
    finally:
        served.close()


def test_addresses() -> None:
    assert parse_address("9000") == ("127.0.0.1", 9000)
    assert parse_address("0.0.0.0:9000") == ("0.0.0.0", 9000)
    assert parse_address("[::1]:9000") == ("::1", 9000)
    for wrong in ("", "abc", "host:", "1:99999", "-1"):
        with pytest.raises(ToolkitError, match="--serve"):
            parse_address(wrong)


class Browser:
    """Chromium without a window, spoken to over its debugging pipe."""

    def __init__(self, profile: Path, url: str) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        script = f'exec 3<&{to_read} 4>&{to_write}; exec "$@"'
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        command = ["bash", "-c", script, "bash", str(CHROMIUM), *options, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(command, pass_fds=[to_read, to_write], stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._number, self._rest = 0, b""
        target = self.call("Target.createTarget", url=url)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, session: str = "", **parameters: Any) -> Any:
        self._number += 1
        order: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        os.write(self._write, json.dumps(order | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                data = os.read(self._read, 65_536)
                assert data, "the browser ended"
                self._rest += data
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                return answer["result"]

    def see(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", self._session, expression=expression)
        return result["result"].get("value")

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", self._session, features=features)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)


@pytest.mark.full
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_page_in_a_browser_updates_goes_stale_and_recovers(program: Program, tmp_path: Path) -> None:
    program.send(3)
    browser = Browser(tmp_path / "profile", program.served.url)
    try:
        figures = "document.getElementById('figures').innerText"
        age, alt = "document.getElementById('age').innerText", "document.getElementById('picture').alt"
        wait_until(lambda: "3 messages" in str(browser.see(alt)), timeout_s=30)
        assert browser.see("document.getElementById('picture').naturalWidth") == 800
        assert "light.png" in browser.see("document.getElementById('picture').src")
        assert "data/project_live.json" in browser.see("document.getElementById('figures').textContent"), figures
        assert browser.see(age).startswith("Picture ")

        program.send(4)  # it updates
        wait_until(lambda: "7 messages" in str(browser.see(alt)))
        browser.prefer("dark")  # it follows the system's theme
        wait_until(lambda: "dark.png" in str(browser.see("document.getElementById('picture').src")))

        program.now += 60  # the producer stopped
        wait_until(lambda: "STALE" in str(browser.see(age)))
        assert browser.see("document.title").startswith("(STALE)")
        program.send(1)  # and came back
        wait_until(lambda: "STALE" not in str(browser.see(age)))

        program.end()  # the program stopped
        wait_until(lambda: "no answer" in str(browser.see(age)), timeout_s=20)
        again = Program(f"127.0.0.1:{program.port}")  # and was started again
        try:
            again.send(2)
            wait_until(lambda: "2 messages" in str(browser.see(alt)), timeout_s=20)
            assert "STALE" not in browser.see(age)
        finally:
            again.end()
    finally:
        browser.close()
