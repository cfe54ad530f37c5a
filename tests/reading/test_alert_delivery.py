"""Delivery of alerts: slow or failing receivers delay nothing, and every alert arrives at least once."""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import wait_until
from tests.reading.test_alerts import HOT, SENSORS, records
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import files
from utils.reading import alert_delivery
from utils.reading.alert_delivery import AlertDelivery, send_to
from utils.reading.alerts import Alerts, Rule
from utils.reading.database import SqliteDatabase
from utils.reading.store import ProcessedStore
from utils.sources.base import Chunk


class Webhook:
    """A receiver with an answer of the test's choice."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda request: request.send_response(204)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Content-Type"] == "application/json"
                outer.received.append((self.headers["Idempotency-Key"], body))
                outer.answer(self)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/secret"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Run:
    """A run of the consumer of one rule."""

    def __init__(self, path: Path, then: str, clock: Callable[[], float]) -> None:
        self.store = ProcessedStore(SqliteDatabase(path), SENSORS)
        self.alerts = Alerts(self.store, Rule(when=HOT, by="").on(SENSORS), clock)
        send = send_to(then) if then else None
        self.jsonl = path.parent / "alerts.jsonl"
        about = {"stream": "sensors", "by": ""}
        self.delivery = AlertDelivery(SqliteDatabase(path), about, self.jsonl, send, clock)

    def alert(self, number: int) -> None:
        """Read a record that raises an alert, and one that ends it."""
        read = records([(number, "a", 30.0), (number, "a", 1.0)], 2 * number - 1)
        self.store.add(Chunk("live", self.store.resume("live"), str(number), read), self.alerts.add)

    def finish(self, timeout_s: float) -> tuple[int, int]:
        self.delivery.start()
        return self.alerts.delivered(timeout_s)

    def attempts(self) -> list[int]:
        return [attempts for (attempts,) in self.store.database.query("SELECT attempts FROM alerts ORDER BY event_us")]

    def left(self) -> int:
        ((left,),) = self.store.database.query("SELECT COUNT(due_us) FROM alerts")
        return int(left)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def running(path: Path, then: str, clock: Callable[[], float]) -> Iterator[Run]:
    run = Run(path / "file.sqlite", then, clock)
    with closing(run.store), closing(run.delivery):
        yield run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def python(code: str) -> str:
    return f'"{sys.executable}" -c "{code}"'


def test_log_and_file_without_a_receiver(tmp_path: Path, clock: Clock, logged: list[str]) -> None:
    with running(tmp_path, "", clock) as run:
        run.alert(1)
        assert run.finish(60) == (1, 0)
        (alert,) = lines(run.jsonl)
    record = alert.pop("record")
    assert (record["device"], record["temperature_c"], record["sequence"]) == ("a", 30, 1)
    assert len(alert.pop("id")) == 32
    time_text = "2026-11-23T19:04:01.000Z"
    assert alert == {"stream": "sensors", "by": "", "alert": HOT, "name": "", "time": time_text}
    assert [line for line in logged if line.startswith(f"WARNING alert {HOT}: {time_text}")] != []


def test_an_alert_by_a_record_without_event_time(tmp_path: Path, clock: Clock, logged: list[str]) -> None:
    with running(tmp_path, "", clock) as run:
        read = SENSORS.codec.decode_lines(b'{"device":"a","temperature_c":30.5}\n')
        run.store.add(Chunk("live", "", "1", read), run.alerts.add)
        assert run.finish(60) == (1, 0)
        (alert,) = lines(run.jsonl)
    assert (alert["time"], alert["record"]["temperature_c"]) == (None, 30.5)
    assert [line for line in logged if line.startswith(f'WARNING alert {HOT}: {{"device":"a"')] != []


def test_a_webhook_gets_each_alert_with_its_id(tmp_path: Path, clock: Clock, webhook: Webhook) -> None:
    with running(tmp_path, webhook.url, clock) as run:
        for number in (1, 2, 3):
            run.alert(number)
        assert run.finish(60) == (3, 0)
        assert [body for _, body in webhook.received] == lines(run.jsonl)
    assert [id for id, _ in webhook.received] == [body["id"] for _, body in webhook.received]


def _hang(request: BaseHTTPRequestHandler) -> None:
    request.connection.recv(1)  # until the sender closes


def _redirect(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", "/elsewhere")


def _garbage(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"garbage\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda request: request.send_response(500), "answers 500"),
        (lambda request: request.send_response(404), "answers 404"),
        (lambda request: request.connection.close(), "does not answer"),
        (_redirect, "answers 302"),
        (_garbage, "does not answer"),
        (_hang, "timed out"),
    ],
)
def test_a_webhook_that_fails_is_tried_again(
    answer: Any, message: str, *, tmp_path: Path, clock: Clock, webhook: Webhook, logged: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if answer is _hang:  # a busy machine answers more slowly than this
        monkeypatch.setattr(alert_delivery, "ATTEMPT_S", 0.1)
    webhook.answer, well = answer, webhook.answer
    with running(tmp_path, webhook.url, clock) as run:
        run.alert(1)
        assert run.delivery.step()
        assert any(message in line for line in logged)
        assert not run.delivery.step()
        assert (run.attempts(), run.left()) == ([1], 1)
        webhook.answer = well
        monkeypatch.undo()
        clock.now_s += 1
        assert run.delivery.step()
        assert run.left() == 0
        assert len(lines(run.jsonl)) == 1
    assert len({id for id, _ in webhook.received}) == 1
    assert "secret" not in "".join(logged)
    assert "INFO waiting ended: alerts are delivered" in logged


def test_waits_double_up_to_five_minutes_and_end_after_a_day(tmp_path: Path, clock: Clock, logged: list[str]) -> None:
    with running(tmp_path, "http://127.0.0.1:9/", clock) as run:
        run.alert(1)
        waits = []
        for attempt in range(1, 13):
            assert run.delivery.step()
            assert run.attempts() == [attempt]
            ((due_us,),) = run.store.database.query("SELECT due_us FROM alerts")
            waits.append(due_us / 1e6 - clock.now_s)
            clock.now_s = due_us / 1e6
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
        assert len([line for line in logged if "alert temperature_c > 24" in line]) == len(lines(run.jsonl)) == 1
        with run.store.database.transaction():
            run.store.database.execute("UPDATE alerts SET attempts = ?", alert_delivery.MAX_ATTEMPTS)
        clock.now_s += 1_000
        assert not run.delivery.step()
    with running(tmp_path, "", clock) as run:
        assert run.finish(60) == (1, 0)


def test_a_new_alert_does_not_wait_for_a_retry(tmp_path: Path, clock: Clock, webhook: Webhook) -> None:
    webhook.answer = lambda request: request.send_response(500)
    with running(tmp_path, webhook.url, clock) as run:
        run.alert(1)
        run.alert(2)
        assert run.delivery.step() and run.delivery.step()
        clock.now_s += 60
        run.alert(3)
        assert run.delivery.step()
        assert run.attempts() == [1, 1, 1]


def test_a_receiver_that_hangs_delays_neither_reading_nor_the_end(
    tmp_path: Path, clock: Clock, webhook: Webhook
) -> None:
    release = threading.Event()
    webhook.answer = lambda request: request.send_response(204 if release.wait(20) else 500)
    with running(tmp_path, webhook.url, clock) as run:
        began_s = time.monotonic()
        run.alert(1)
        run.delivery.start()
        wait_until(lambda: webhook.received)
        for number in range(2, 100):
            run.alert(number)
        assert run.alerts.delivered(0.1) == (99, 99)
        assert time.monotonic() - began_s < 10
        release.set()


def test_an_answer_after_the_end_of_the_run_is_noted(tmp_path: Path, clock: Clock, webhook: Webhook) -> None:
    release = threading.Event()
    webhook.answer = lambda request: request.send_response(204 if release.wait(20) else 500)
    with running(tmp_path, webhook.url, clock) as run:
        run.alert(1)
        run.delivery.start()
        wait_until(lambda: webhook.received)
    release.set()
    wait_until(lambda: not run.delivery._thread.is_alive())
    with running(tmp_path, "", clock) as run:
        assert run.left() == 0


def test_the_next_run_delivers_what_is_left(tmp_path: Path, clock: Clock, webhook: Webhook) -> None:
    with running(tmp_path, "http://127.0.0.1:9/", clock) as run:
        run.alert(1)
        run.alert(2)
        assert run.finish(0.2) == (2, 2)
        first = run.delivery
    wait_until(lambda: not first._thread.is_alive(), timeout_s=60)  # as if its process had ended
    with running(tmp_path, webhook.url, clock) as run:
        assert run.finish(60) == (2, 0)
        assert {id for id, _ in webhook.received} == {each["id"] for each in lines(run.jsonl)}
        assert len(lines(run.jsonl)) == 2


def test_a_command_gets_the_alert_on_its_standard_input(tmp_path: Path, clock: Clock) -> None:
    copy = tmp_path / "copy of it.jsonl"
    code = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
    with running(tmp_path, f'{python(code)} "{copy}"', clock) as run:
        run.alert(1)
        run.alert(2)
        assert run.finish(60) == (2, 0)
        assert lines(copy) == lines(run.jsonl)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://127.0.0.1:9/secret", "127.0.0.1 does not answer: ["),
        ("http://no..name/secret", "no..name does not answer: "),
        ("http://127.0.0.1:9/sécret", "127.0.0.1 does not answer: "),
    ],
)
def test_an_address_that_cannot_be_reached(url: str, message: str) -> None:
    with pytest.raises(Unavailable, match=f"^the webhook at {re.escape(message)}") as raised:
        send_to(url)("1", b"{}\n")
    assert "cret" not in str(raised.value)


def test_the_output_of_a_command_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    send_to(python("print('rung')"))("1", b"{}\n")
    shown = capfd.readouterr()
    assert (shown.out, shown.err.split()) == ("", ["rung"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (python("raise SystemExit(3)"), "ended with exit code 3"),
        (python("import time; time.sleep(60)"), "took over 0.5 s and was ended"),
    ],
)
def test_a_command_that_fails(command: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_delivery, "ATTEMPT_S", 0.5 if "60" in command else 10)
    with pytest.raises(Unavailable, match=message):
        send_to(command)("1", b"{}\n")


def test_a_command_that_does_not_read_its_input() -> None:
    send_to(python("pass"))("1", b"x" * 10_000_000)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("  ", "neither"),
        ("http://", "no host"),
        ("/no/such/command 1", "there is no command /no/such/command"),
        pytest.param(
            "sh -c 'open",
            "quotation",
            marks=pytest.mark.skipif(os.name == "nt", reason="Windows programs split their command line themselves"),
        ),
    ],
)
def test_an_invalid_target_is_one_line(target: str, message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        send_to(target)


def test_a_command_that_does_not_exist_is_tried_again(tmp_path: Path) -> None:
    script = tmp_path / "notify.exe"
    script.write_text("no program")
    script.chmod(0o755)
    send = send_to(f'"{script}"')
    script.unlink()
    with pytest.raises(Unavailable, match="cannot be started: "):
        send("1", b"{}\n")


def test_a_file_that_cannot_be_written_delays_the_alert(tmp_path: Path, clock: Clock, logged: list[str]) -> None:
    with running(tmp_path, "", clock) as run:
        run.jsonl.mkdir()
        run.alert(1)
        assert not run.delivery.step()
        assert any("alerts.jsonl: " in line and "; waiting" in line for line in logged)
        assert run.attempts() == [0]
        run.jsonl.rmdir()
        assert run.finish(60) == (1, 0)
        assert len(lines(run.jsonl)) == 1


def test_a_line_is_on_the_disk_before_it_is_noted(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line is synced before the store notes it as delivered: a power cut would keep only the note."""
    synced: list[list[int]] = []
    with running(tmp_path, "", clock) as run:
        run.alert(1)
        monkeypatch.setattr(files, "sync", lambda fd: synced.append([os.fstat(fd).st_size, *run.attempts()]))
        assert run.delivery.step()
        assert synced[0] == [run.jsonl.stat().st_size, 0]
        assert run.attempts() == [1]


def test_a_partial_line_of_a_full_disk_spoils_no_alert(tmp_path: Path, clock: Clock) -> None:
    with running(tmp_path, "", clock) as run:
        run.jsonl.write_bytes(b'{"id":"1"}\n{"id":"2","str')
        run.alert(1)
        run.alert(2)
        assert run.delivery.step() and run.delivery.step()
        first, part, *alerts = run.jsonl.read_bytes().splitlines()
        assert (first, part) == (b'{"id":"1"}', b'{"id":"2","str')
        assert [json.loads(line)["time"][17:19] for line in alerts] == ["01", "02"]


def test_two_copies_share_the_alerts(tmp_path: Path, clock: Clock, webhook: Webhook) -> None:
    with running(tmp_path, webhook.url, clock) as one, running(tmp_path, webhook.url, clock) as two:
        for number in range(1, 41):
            one.alert(number)
        two.delivery.start()
        assert one.finish(60) == (40, 0)
        assert len(webhook.received) == len(lines(one.jsonl)) == 40


def test_an_alert_of_a_killed_copy_is_taken_over_after_a_while(tmp_path: Path, clock: Clock, webhook: Webhook) -> None:
    with running(tmp_path, webhook.url, clock) as other, running(tmp_path, webhook.url, clock) as killed:
        killed.alert(1)
        assert killed.delivery._claim()  # the copy is killed after it claimed the alert
        clock.now_s += alert_delivery.LEASE_S - 1
        assert not other.delivery.step()
        assert webhook.received == []
        clock.now_s += 1
        assert other.delivery.step()
        assert other.left() == 0
