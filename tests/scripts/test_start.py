"""start.py runs two processes that end together; its exit code tells how."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import environment, start
from tests.helpers import Process, assert_complete, producer_ids, wait_until
from utils.app.config import PROJECT_DIR, Settings
from utils.sinks import ALL

# A fake producer: it marks that it runs, and ends when asked to or once the file `until` exists.
CHILD = """
import pathlib, signal, sys, time
mark, until = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
code, obeys = int(sys.argv[3]), sys.argv[4] == "obeys"
asked = []
signal.signal(getattr(signal, "SIGBREAK", signal.SIGTERM), lambda *_: asked.append(1))
mark.write_text("runs")
while not until.exists() and not (asked and obeys):
    time.sleep(0.02)
mark.write_text("asked" if asked else "ended")
sys.exit(code)
"""

# A process that runs the pair as start.py does: argv has the commands as JSON, then the duration.
PARENT = """
import json, sys
from scripts import start
duration_s, end_within_s = map(float, sys.argv[2:4])
sys.exit(start.run_together(*json.loads(sys.argv[1]), duration_s=duration_s, end_within_s=end_within_s))
"""


REAL = """
import sys
from scripts import start
chosen = start.parse([])
commands = [make(sys.executable, chosen) for make in (start.producer_command, start.dashboard_command)]
sys.exit(start.run_together(*commands, duration_s=60.0))
"""


def child(mark: Path, code: int = 0, until: Path = Path("never"), obeys: bool = True) -> list[str]:
    return [sys.executable, "-c", CHILD, str(mark), str(until), str(code), "obeys" if obeys else "deaf"]


def start_parent(*arguments: str, code: str = PARENT) -> Process:
    return Process([sys.executable, "-c", code, *arguments], PROJECT_DIR, os.environ)


class Parent:
    def __init__(self, *commands: list[str], duration_s: float = 60.0, end_within_s: float = 10.0) -> None:
        self.process = start_parent(json.dumps(commands), str(duration_s), str(end_within_s))

    def ends(self) -> tuple[int, str]:
        _, logged = self.process.communicate(timeout=30)
        return self.process.returncode, logged


def runs(*marks: Path) -> bool:
    return all(mark.exists() and mark.read_text() == "runs" for mark in marks)


@pytest.fixture
def marks(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "producer", tmp_path / "dashboard"


@pytest.mark.parametrize(("first", "code"), [(0, 2), (1, 0)])
def test_when_one_ends_the_other_is_ended(marks: tuple[Path, Path], first: int, code: int) -> None:
    commands = [child(mark) for mark in marks]
    commands[first] = child(marks[first], code=code, until=marks[1 - first])
    assert Parent(*commands).ends()[0] == code
    assert marks[first].read_text() == "ended"
    assert marks[1 - first].read_text() == "asked"


# A second command that is chosen once the first one works.
WAITING = """
import json, pathlib, sys, time
from scripts import start
first, second = json.loads(sys.argv[1])
def once_it_works():
    while not pathlib.Path(sys.argv[4]).exists():
        time.sleep(0.02)
    return second
sys.exit(start.run_together(first, once_it_works, duration_s=float(sys.argv[2]), end_within_s=float(sys.argv[3])))
"""


def test_the_first_one_works_while_the_second_is_decided(marks: tuple[Path, Path]) -> None:
    commands = [child(marks[0]), child(marks[1], code=2, until=marks[0])]
    parent = start_parent(json.dumps(commands), "60", "10", str(marks[0]), code=WAITING)
    parent.communicate(timeout=30)
    assert (parent.returncode, marks[0].read_text()) == (2, "asked")


def test_the_exit_code_is_that_of_the_process_that_ended_first(marks: tuple[Path, Path]) -> None:
    code, _ = Parent(child(marks[0], code=3), child(marks[1], code=2, until=marks[0])).ends()
    assert code == 2


@pytest.mark.full
def test_duration_ends_both(marks: tuple[Path, Path]) -> None:
    assert Parent(*map(child, marks), duration_s=2.5).ends()[0] == 0
    assert [mark.read_text() for mark in marks] == ["asked", "asked"]


@pytest.mark.parametrize("ask", [Process.interrupt, Process.terminate])
def test_a_signal_ends_both_and_keeps_unfinished(marks: tuple[Path, Path], ask: Callable[[Process], None]) -> None:
    parent = Parent(child(marks[0], code=3), child(marks[1]))
    wait_until(lambda: runs(*marks))
    ask(parent.process)
    assert parent.ends()[0] == 3
    assert [mark.read_text() for mark in marks] == ["asked", "asked"]


@pytest.mark.full
@pytest.mark.parametrize("again", [False, True])
def test_a_process_that_ignores_signals_is_killed(marks: tuple[Path, Path], again: bool) -> None:
    parent = Parent(child(marks[0], obeys=False), child(marks[1]), end_within_s=60.0 if again else 0.5)
    wait_until(lambda: runs(*marks))
    started_s = time.monotonic()
    parent.process.interrupt()
    if again:
        wait_until(lambda: marks[1].read_text() == "asked")
        parent.process.interrupt()
    code, logged = parent.ends()
    assert code == 3
    assert "safe in the journal" in logged
    assert time.monotonic() - started_s < 20


@pytest.mark.full
def test_producer_and_dashboard_run_until_ctrl_c(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("MESSAGE_INTERVAL_SECONDS", "0.05")
    image = settings.data_path / "dashboard.png"
    process = start_parent(code=REAL)
    wait_until(lambda: image.exists() and len(settings.live_path.read_bytes().splitlines()) > 20, timeout_s=60)
    process.interrupt()
    _, logged = process.communicate(timeout=30)
    assert process.returncode == 0, logged
    assert str(image) in logged
    assert_complete(settings, {producer_ids(settings)[0]: len(settings.live_path.read_bytes().splitlines())})


def test_env_file_is_made_once_and_then_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text("LOG_LEVEL=INFO\nMESSAGE_INTERVAL_SECONDS=5\n")
    start.copy_env_file(tmp_path)
    assert (tmp_path / ".env").read_text() == "LOG_LEVEL=INFO\nMESSAGE_INTERVAL_SECONDS=0.3\n"
    (tmp_path / ".env").write_text("LOG_LEVEL=DEBUG\n")
    start.copy_env_file(tmp_path)
    assert (tmp_path / ".env").read_text() == "LOG_LEVEL=DEBUG\n"


def test_options_reach_producer_and_dashboard() -> None:
    chosen = ["--stream", "sensors", "--source", "kafka", "--theme", "dark", "--serve", "9000"]
    options = start.parse(chosen)
    producer, dashboard = start.producer_command("python", options), start.dashboard_command("python", options)
    assert producer[2] == "producers.sensor_producer"
    assert producer[producer.index("--sinks") :] == ["--sinks", *ALL]
    for option in (chosen[i : i + 2] for i in range(0, 8, 2)):
        assert " ".join(option) in " ".join(dashboard)


def test_the_dashboard_reads_what_the_producer_writes_unless_an_option_names_another_source() -> None:
    chosen: tuple[list[str], ...] = ([], ["--stream", "ticks"], ["--stream", "wind"], ["--source", "auto"])
    assert [start.parse(each).source for each in chosen] == ["file", "file", "auto", "auto"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the list of commands that start.py would run; nothing is installed, copied or started."""
    commands: list[list[str]] = []

    def run_together(*given: list[str] | Callable[[], list[str]], duration_s: float) -> int:
        commands.extend(command() if callable(command) else command for command in given)
        return 0

    monkeypatch.setattr(start, "run_together", run_together)
    monkeypatch.setattr(environment, "prepare", lambda: Path(sys.executable))
    monkeypatch.setattr(start, "copy_env_file", lambda project: None)
    return commands


def test_a_stream_without_a_producer_is_shown(started: list[list[str]]) -> None:
    """The dashboard waits for a stream that no producer of the project makes."""
    arguments = ["--stream", "wind", "--serve"]
    assert start.main(arguments) == 0
    assert started == [start.dashboard_command(sys.executable, start.parse(arguments))]


def test_every_stream_has_its_producer() -> None:
    for stream, producer in start.PRODUCERS.items():
        assert f'Stream("{stream}"' in (PROJECT_DIR / "producers" / f"{producer}.py").read_text() or stream == "buzz"
    assert (*start.SOURCES[1:],) == ALL


@pytest.mark.parametrize("arguments", [[], ["--serve"], ["--serve", "0.0.0.0:9000"]])
@pytest.mark.parametrize("window", [True, False])
def test_the_dashboard_is_a_page_if_asked_for_or_without_a_display(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, arguments: list[str], window: bool
) -> None:
    monkeypatch.setattr(start, "has_window", lambda python: window)
    assert start.main(arguments) == 0
    expected = arguments or ([] if window else ["--serve"])
    assert started[1][-len(expected) :] == expected or not expected
    assert ("--serve" in started[1]) == bool(expected)


@pytest.mark.full
def test_window_is_what_matplotlib_opens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for backend in ("Agg", "svg", "nosuch"):
        monkeypatch.setenv("MPLBACKEND", backend)
        assert not start.has_window(sys.executable)
    for code, opened in (("raise SystemExit(False)", True), ("import os; os.abort()", False)):
        monkeypatch.setattr(start, "WINDOW", code)
        assert start.has_window(sys.executable) == opened
    (tmp_path / "matplotlibrc").write_bytes(b"nonsense\xff\n")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND")
    monkeypatch.setattr(start, "WINDOW", "import matplotlib")
    assert start.has_window(sys.executable)
    monkeypatch.setattr(start, "WINDOW", "import time; time.sleep(60)")
    monkeypatch.setattr(start, "WINDOW_S", 0.5)
    assert not start.has_window(sys.executable)


@pytest.mark.parametrize(
    "arguments",
    [["--duration", "long"], ["--duration", "-3"], ["--duration", "nan"], ["--durations"], ["--theme", "pink"]],
)
def test_bad_options_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        start.parse(arguments)
    assert ended.value.code == 2
