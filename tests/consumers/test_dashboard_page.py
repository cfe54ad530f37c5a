"""The served page: its protocol over plain HTTP, and its behaviour in a real browser."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from consumers.dashboard import serve
from consumers.dashboard.figure import Dashboard, column
from consumers.dashboard.options import DashboardOptions
from consumers.dashboard.serve import Page
from consumers.dashboard.snapshot import Roles, Series, Snapshot, Source, Summary, plain
from consumers.dashboard.state import State
from tests.consumers.browser import Browser, needs_browser
from tests.helpers import wait_until
from utils.app.errors import ToolkitError
from utils.app.web import END_S
from utils.records.codec import Field
from utils.records.stream import Stream
from utils.sources.base import Chunk

pytestmark = pytest.mark.full

NOW = 1_800_000_000.0
SERIES = Series(
    name="",
    times=tuple(NOW - 40 + index for index in range(30)),
    values=(*(round(0.4 + index % 5 / 20, 2) for index in range(29)), 0.98),
    rolling=(0.51,) * 30,
    anomalies=(*[False] * 29, True),
    keys=tuple(("Ann", "Bob", "Cem")[index % 3] for index in range(30)),
)
SNAPSHOT = Snapshot(
    stream="buzz",
    now=NOW,
    started=NOW - 90,
    source=Source("file", "data/project_live.json"),
    roles=Roles(zones=(0.3, 0.7), scale=(0.0, 1.0), unit="characters"),
    received=1240,
    total=1234,
    invalid=2,
    lost=3,
    duplicate=4,
    groups=(("Ann", 700), ("Bob", 300), ("Cem", 200)),
    group_count=5,
    flow=tuple((NOW - 50 + index, 1185 + index) for index in range(50)),
    series=(SERIES,),
    measured=tuple(float(20 + index) for index in range(30)),
    measures=Summary(34.5, 34.5, 47.55, 8.8, 20, 49, 30),
    rate=2.5,
    sparkline=(2.0,) * 30,
    lag=Summary(0.25, 0.25, 0.5, 0.1, 0.1, 0.6, 30),
    last=NOW - 1,
    usual_gap=1.0,
)
STALE = replace(SNAPSHOT, now=NOW + 60)
HOSTILE = (
    "<script>document.title='owned'</script>",
    "</svg><img src=x onerror=alert(1)>",
    "]]><!--",
    "&lt;b&gt; &amp; \"quoted' \\",
    "\u202eabc\u2066def",
    "a\x00b\x1b[31m\x07c\ufffe",  # records with half a surrogate pair are rejected
)


def hostile() -> Snapshot:
    """Return a snapshot with hostile names of records, fields and sources."""
    fields = tuple(map(Field, HOSTILE, ("text", "number", "integer")))
    stream = Stream("hostile", by=HOSTILE[0], value=HOSTILE[1], histogram=HOSTILE[2], fields=fields)
    state = State(stream, "file", clock=lambda: NOW)
    state.using("file", HOSTILE[1], HOSTILE[0])
    lines = [{HOSTILE[0]: name, HOSTILE[1]: 0.98} for name in HOSTILE * 5]
    state.add(Chunk("f", "", "1", [stream.codec.decode(msgspec.json.encode(line)) for line in lines]))
    return state.snapshot()


class Program:
    """A page in this process with the loop that refreshes it."""

    def __init__(self, address: str = "127.0.0.1:0", snapshot: Snapshot = SNAPSHOT, **options: Any) -> None:
        self.snapshot = snapshot
        self.page = Page(DashboardOptions(refresh=0.2, serve=(address,), **options), snapshot)
        self.port = int(self.page.url.rstrip("/").rpartition(":")[2])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.page.show, args=(self._shown(),))
        self._thread.start()

    def _shown(self) -> Iterator[Snapshot]:
        while not self._stop.wait(0.2):
            yield self.snapshot

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def ask(self, path: str, host: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, headers={"Host": host or f"127.0.0.1:{self.port}"})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def body(self, path: str) -> bytes:
        status, _, body = self.ask(path)
        assert status == 200, body
        return body

    def shown(self, snapshot: Snapshot) -> None:
        """Show a snapshot and wait until it is served."""
        self.snapshot = snapshot
        wait_until(lambda: json.loads(self.body("/snapshot.json")) == json.loads(serve.statistics(snapshot)))


@pytest.fixture
def program() -> Iterator[Program]:
    program = Program()
    wait_until(lambda: program.ask("/snapshot.json")[0] == 200)
    yield program
    program.end()


def texts(svg: str) -> list[str]:
    """Return every text of an image, hover labels included; fail if it is not well-formed."""
    root = ElementTree.fromstring(svg)
    shown = [*root.itertext(), *(each.get("aria-label", "") for each in root.iter())]
    return [text.strip() for text in shown if text.strip()]


def test_page_in_every_form(program: Program) -> None:
    assert b"<title>Streaming Dashboard</title>" in program.body("/")
    frames = {
        form: json.loads(program.body(f"/frame.json?{form}"))
        for form in ("", "theme=dark", "form=narrow", "theme=dark&form=narrow")
    }
    assert [frame["theme"] for frame in frames.values()] == ["light", "dark", "light", "dark"]
    assert len({frame["svg"] for frame in frames.values()}) == 4


def test_image_statistics_and_text_have_the_same_values(program: Program) -> None:
    statistics = json.loads(program.body("/snapshot.json"))
    frame = json.loads(program.body("/frame.json"))
    image, words = "\n".join(texts(frame["svg"])), str(frame["statistics"])
    assert (statistics["total"], statistics["lost"], statistics["status"]) == (1234, 3, "LIVE")
    assert statistics["series"][0]["values"] == list(SERIES.values)
    assert statistics["flow"][-1] == [NOW - 1, 1234]
    for expected in ("1,234", "1,240", "2.5", "Ann", "700", "Bob", "300", "34.5", "0.51"):
        assert expected in image, expected
        assert expected in words, expected
    assert re.search(r"0\.98.*Cem|Cem.*0\.98", image.replace("\n", " ")), "hover title of the anomaly"
    assert re.search(r"anomaly: 0\.98 \u00b7 [\d:]+ \u00b7 Cem", words)


def test_metrics_are_the_text_format(program: Program) -> None:
    status, headers, body = program.ask("/metrics")
    assert (status, headers["content-type"]) == (200, f"{serve.METRICS}; charset=utf-8")
    samples = parsed(body.decode())
    assert samples['ragini_records_total{stream="buzz"}'] == 1234
    assert samples['ragini_lag_p95_seconds{stream="buzz"}'] == 0.5
    assert samples['ragini_stale{stream="buzz"}'] == 0
    program.shown(STALE)
    assert parsed(program.body("/metrics").decode())['ragini_stale{stream="buzz"}'] == 1


SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*\}) (\S+)')


def parsed(text: str) -> dict[str, float]:
    """Return samples by name and labels; fail on a sample that comes twice or before its type."""
    types: set[str] = set()
    samples: dict[str, float] = {}
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("#"):
            word, name, rest = line[2:].split(" ", 2)
            assert word == "HELP" or rest in ("gauge", "counter")
            assert name not in types or word == "HELP"
            types |= {name} if word == "TYPE" else set()
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        assert found[1] in types
        assert found[1] + found[2] not in samples
        samples[found[1] + found[2]] = float(found[3])
    return samples


def test_hostile_names_are_text(program: Program) -> None:
    program.shown(hostile())
    frame = json.loads(program.body("/frame.json"))
    root = ElementTree.fromstring(frame["svg"])
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "img", "foreignObject", "a"}
    assert not [name for element in root.iter() for name in element.keys() if name.startswith("on")]  # noqa: SIM118
    shown = texts(frame["svg"])
    for name in HOSTILE[:4]:
        assert any(plain(name)[:8] in text for text in shown), name
    everything = frame["svg"] + json.dumps(frame["statistics"], ensure_ascii=False)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", everything)
    assert parsed(program.body("/metrics").decode())
    json.loads(program.body("/snapshot.json"))


def test_nothing_known_yet(program: Program) -> None:
    program.shown(Snapshot("sensors", NOW, NOW, Source("auto"), Roles(by="", value="", histogram="", record="record")))
    assert parsed(program.body("/metrics").decode())['ragini_records_total{stream="sensors"}'] == 0
    frame = json.loads(program.body("/frame.json"))
    assert (frame["status"], frame["stream"]) == ("WAITING", "sensors")
    assert texts(frame["svg"])


def test_headers_of_every_answer(program: Program) -> None:
    for path, host in (
        ("/", None),
        ("/frame.json", None),
        ("/metrics", None),
        ("/nothing", None),
        ("/", "evil.example"),
    ):
        _, headers, _ = program.ask(path, host)
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "'unsafe-inline'" not in policy.replace("style-src 'self' 'unsafe-inline'", "")
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert "server" not in headers


def test_only_its_own_hosts_are_served(program: Program) -> None:
    for host in ("localhost", "LocalHost:99", "127.0.0.1", "[::1]:8765"):
        assert program.ask("/", host)[0] == 200
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "[::2]", "[::1", "10.1.2.3"):
        assert program.ask("/snapshot.json", host)[0] == 400
    with closing(socket.create_connection(("127.0.0.1", program.port))) as client:
        client.sendall(b"GET /snapshot.json HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_allowed_host_and_no_other() -> None:
    program = Program(allow_host=("Dash.example.org",))
    try:
        assert [program.ask("/", host)[0] for host in ("dash.example.org:80", "example.org")] == [200, 400]
    finally:
        program.end()


@pytest.mark.parametrize("name", ["", "*", "a*b", "a b", "dash.example.org:80", "http://x"])
def test_an_invalid_host_is_one_clear_error(name: str) -> None:
    """Starlette would let in any host for a star, and fail at each request for a name with one inside."""
    with pytest.raises(ToolkitError, match="--allow-host"):
        serve.known_hosts("127.0.0.1", [name])


def test_a_page_for_other_machines_also_serves_this_one_and_warns(logged: list[str]) -> None:
    program = Program("0.0.0.0:0")
    try:
        assert any("everyone" in line for line in logged)
        assert program.ask("/", host=socket.gethostname())[0] == 200
        assert [program.ask("/", host=host)[0] for host in ("evil.example", "203.0.113.9")] == [400, 400]
    finally:
        program.end()


def test_slow_clients_do_not_block_other_clients(program: Program) -> None:
    address = ("127.0.0.1", program.port)
    slow = [socket.create_connection(address) for _ in range(32)]
    try:
        for number, client in enumerate(slow):
            head = f"GET /frame.json HTTP/1.1\r\nHost: 127.0.0.1:{program.port}\r\n".encode()
            client.sendall((b"", b"GE", head, head + b"\r\n")[number % 4])  # the last one never reads its answer
        assert program.ask("/")[0] == program.ask("/frame.json")[0] == 200
    finally:
        for client in slow:
            client.close()


def test_port_in_use_is_one_clear_error(program: Program) -> None:
    with pytest.raises(ToolkitError, match=r"--serve: cannot listen") as found:
        Page(DashboardOptions(serve=(f"127.0.0.1:{program.port}",)), SNAPSHOT)
    assert found.value.exit_code == 2
    assert "\n" not in str(found.value)


def test_wrong_address_is_one_clear_error() -> None:
    with pytest.raises(ToolkitError, match="--serve here"):
        Page(DashboardOptions(serve=("here",)), SNAPSHOT)


def test_an_image_is_drawn_on_request_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, bool]] = []

    class Counted:
        def __init__(self, theme: str, size: tuple[float, float]) -> None:
            self.form = theme, size == column()

        def svg(self, snapshot: Snapshot) -> str:
            drawn.append(self.form)
            return "<svg/>"

        def alt_texts(self) -> list[tuple[str, str]]:
            return []

    monkeypatch.setattr(serve, "Dashboard", Counted)
    program = Program()
    try:
        wait_until(lambda: program.ask("/snapshot.json")[0] == 200)
        assert drawn == []
        program.body("/frame.json?theme=dark")
        program.body("/frame.json?theme=dark")
        assert drawn == [("dark", False)]
        program.shown(replace(SNAPSHOT, total=4321))
        program.body("/frame.json?theme=dark")
        assert drawn == [("dark", False)] * 2
    finally:
        program.end()


@pytest.fixture
def browser(program: Program, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile", program.page.url)
    yield browser
    browser.close()


IMAGE = "document.querySelector('#image svg')"
BOX = f"(box => [box.left, box.top, box.width, box.height])({IMAGE}.getBoundingClientRect())"
SMALLEST = f"""Math.min(...[...{IMAGE}.querySelectorAll('text')].filter(each => each.textContent.trim()).map(
    each => parseFloat(getComputedStyle(each).fontSize) * Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b)))"""


def words(snapshot: Snapshot) -> str:
    """Return the text of the table of statistics."""
    dashboard = Dashboard("light")
    dashboard.update(snapshot)
    return "".join(map("".join, dashboard.alt_texts()))


# Texts that overlap (apart from marks on lines, by more than 2 pixels) or leave the image.
CLASHES = f"""(() => {{
    const texts = [...{IMAGE}.querySelectorAll('text')].filter(each => each.textContent.trim())
        .map(each => [each.textContent, each.getBoundingClientRect()]);
    const image = {IMAGE}.getBoundingClientRect();
    const found = texts.filter(([, box]) => box.left < image.left - 1 || box.right > image.right + 1);
    texts.forEach(([one, a], index) => texts.slice(index + 1).forEach(([other, b]) => {{
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 2 && down > 0.35 * Math.min(a.height, b.height)) found.push([one, other]);
    }}));
    return found.map(each => String(each));
}})()"""


@needs_browser
@pytest.mark.parametrize(("width", "height", "scale"), [(1920, 1080, 1), (390, 844, 3)])
def test_image_fits_the_screen(program: Program, browser: Browser, width: int, height: int, scale: float) -> None:
    browser.resize(width, height, scale, mobile=width < 500)
    wait_until(
        lambda: browser.see(f"({IMAGE}.parentElement.className === 'narrow') === {str(width < 500).lower()}"), 30
    )
    left, _, shown_width, shown_height = browser.see(BOX)
    assert left >= 0
    assert left + shown_width <= width
    assert shown_width >= 0.9 * width
    proportion = browser.see(f"(box => box.width / box.height)({IMAGE}.viewBox.baseVal)")
    assert shown_width / shown_height == pytest.approx(proportion, rel=0.02) or width > 500
    assert browser.see("document.documentElement.scrollWidth") <= width
    assert browser.see(SMALLEST) >= (11 if width < 500 else 9)
    if width > 500:
        assert shown_height <= height  # without scrolling
    for snapshot in (STALE, SNAPSHOT, hostile()):  # none of them is the first image of a drawing
        program.shown(snapshot)
        wait_until(lambda: browser.see("statistics.textContent") == words(snapshot))  # noqa: B023 (called at once)
        assert browser.see(CLASHES) == []


@needs_browser
def test_page_follows_data_theme_stale_and_a_restart(program: Program, browser: Browser) -> None:
    wait_until(lambda: "1,234" in browser.text("#statistics"), 30)
    program.shown(replace(SNAPSHOT, total=4321))
    wait_until(lambda: "4,321" in browser.text("#statistics") and "4,321" in browser.text("#image"))
    light = browser.see("getComputedStyle(document.body).backgroundColor")
    browser.prefer("dark")
    wait_until(lambda: browser.see("document.documentElement.dataset.theme") == "dark")
    assert browser.see("getComputedStyle(document.body).backgroundColor") != light

    program.shown(STALE)
    wait_until(lambda: "STALE" in browser.text("#mark"))
    assert browser.see("document.title").startswith("(STALE)")
    program.shown(SNAPSHOT)
    wait_until(lambda: browser.text("#mark") == "")

    browser.see("getSelection().selectAllChildren(document.getElementById('image'))")
    wait_until(lambda: "text is selected" in browser.text("#mark"), 20)
    browser.see("getSelection().removeAllRanges()")
    wait_until(lambda: browser.text("#mark") == "")

    program.end()
    wait_until(lambda: "does not answer" in browser.text("#mark"), 20)
    again = Program(f"127.0.0.1:{program.port}", replace(SNAPSHOT, total=777))
    try:
        wait_until(lambda: "777" in browser.text("#statistics") and browser.text("#mark") == "", 20)
    finally:
        again.end()


@needs_browser
def test_hover_has_value_time_and_key(browser: Browser) -> None:
    browser.resize(1280, 720)
    spot = "[...document.querySelectorAll('#image [aria-label]')].find(each => /0\\.98/.test(each.ariaLabel))"
    wait_until(lambda: browser.see(f"image.className === '' && !!{spot}"), 30)
    browser.point(1, 1)
    assert browser.see("hint.hidden")
    middle = f"(box => [box.left + box.width / 2, box.top + box.height / 2])({spot}.getBoundingClientRect())"
    browser.point(*browser.see(middle))
    wait_until(lambda: not browser.see("hint.hidden"))
    shown = browser.text("#hint")
    assert "0.98" in shown
    assert "Cem" in shown
    assert re.search(r"\d\d:\d\d:\d\d", shown)
    assert "anomaly" in shown.lower()


@needs_browser
def test_hostile_names_run_nothing(program: Program, browser: Browser) -> None:
    program.shown(hostile())
    wait_until(lambda: "<script>" in browser.text("#statistics"), 30)
    assert "owned" not in browser.see("document.title")
    assert browser.see("document.querySelectorAll('main script, main img').length") == 0
    assert browser.see("document.querySelectorAll('#image > svg').length") == 1


def test_end_is_quick_while_browsers_wait(logged: list[str]) -> None:
    page = Page(DashboardOptions(serve=("127.0.0.1:0",)), SNAPSHOT)
    assert not any("everyone" in line for line in logged)
    port = int(page.url.rstrip("/").rpartition(":")[2])
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.recv(10)
        began_s = time.monotonic()
        page.show([])
    assert time.monotonic() - began_s < END_S, "it waited for an idle connection"
    with suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
        pytest.fail("it still listens")
