"""Backend choice, the loops that draw, and where pictures go."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from consumers.dashboard import backends, outputs, picture, render
from consumers.dashboard.backends import choose
from consumers.dashboard.reader import Reader
from consumers.dashboard.state import Snapshot, State
from tests.helpers import make_messages, wait_until
from utils.app.config import PROJECT_DIR, Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.records.record import Invalid
from utils.sources.base import Chunk

pytestmark = pytest.mark.full

DISPLAY = {"DISPLAY": ":0"}


def works(_: str) -> str:
    return ""


def pick(asked: str | None = None, **options: Any) -> backends.Choice:
    given: dict[str, Any] = {"environment": DISPLAY, "platform": "linux", "installed": lambda _: True, "probe": works}
    return choose(asked, **(given | options))


def test_backend_follows_the_precedence() -> None:
    assert pick("QtAgg").backend == "QtAgg"
    assert pick().backend == "TkAgg"
    assert pick(environment={"WAYLAND_DISPLAY": "wayland-0"}).backend == "TkAgg"
    assert pick(installed=lambda module: module != "_tkinter").backend == "QtAgg"
    assert pick(platform="darwin", environment={}).backend == "macosx"
    assert pick(platform="win32", environment={}).backend == "TkAgg"
    assert pick("agg").backend is None


def test_backend_falls_back_with_its_reason() -> None:
    assert "DISPLAY" in pick(environment={}).reason
    choice = pick(probe=lambda backend: f"{backend} is broken")
    assert choice.backend is None
    assert "TkAgg is broken" in choice.reason
    assert "QtAgg is broken" in choice.reason
    assert "not installed" in pick(installed=lambda _: False).reason


def test_backend_that_was_asked_for_is_not_replaced() -> None:
    with pytest.raises(ToolkitError, match=r"backend QtAgg .* no plugin; leave it out .* Agg to draw without"):
        pick("QtAgg", probe=lambda _: "no plugin")


def test_probe_tells_in_one_line_why_a_backend_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bananas" in backends.probe_backend("bananas")
    aborting = "import os; os.write(2, b'could not load the plugin\\n'); os.abort()"
    monkeypatch.setattr(backends, "_PROBE", aborting)
    assert backends.probe_backend("QtAgg") == "could not load the plugin"
    own_session = "import os, sys; sys.exit('alone' if os.getsid(0) == os.getpid() else 'reached by our Ctrl+C')"
    if os.name != "nt":
        monkeypatch.setattr(backends, "_PROBE", own_session)
        assert backends.probe_backend("TkAgg") == "alone"
    monkeypatch.setattr(backends, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(backends, "PROBE_S", 0.2)
    assert "within 0.2 s" in backends.probe_backend("QtAgg")


@pytest.fixture
def state() -> State:
    state = State("file", "data/project_live.json")
    state.add(Chunk("f", "", "1", make_messages(20, producer_id="ann-1")))
    return state


def run(state: State, places: list[Any], plan: render.Plan, stop: threading.Event | None = None) -> int:
    dashboard = picture.headless((8, 6), "light", plan.refresh_s)
    return render.run_headless(state, dashboard, places, plan, stop or threading.Event())


def test_picture_is_replaced_whole_and_nothing_is_left_behind(state: State, tmp_path: Path) -> None:
    path = tmp_path / "dashboard.png"
    assert run(state, [outputs.PictureFile(path)], render.Plan(refresh_s=0.01, frames=3)) == 3
    assert Image.open(path).size == (800, 600)
    assert list(tmp_path.iterdir()) == [path]


def test_image_that_cannot_be_written_is_logged_once_and_heals(state: State, tmp_path: Path, logged: list[str]) -> None:
    folder = tmp_path / "pictures"
    output = outputs.PictureFile(folder / "dashboard.png")
    run(state, [output], render.Plan(refresh_s=0.01, frames=3))
    assert sum("cannot be written" in line for line in logged) == 1
    folder.mkdir()
    run(state, [output], render.Plan(refresh_s=0.01, frames=1))
    assert (folder / "dashboard.png").exists()


def test_pictures_come_at_absolute_times_and_a_last_one_at_the_stop(state: State) -> None:
    times: list[float] = []
    stop = threading.Event()

    class Slow:
        def put(self, *_: object) -> None:
            times.append(time.monotonic())
            stop.wait(0.05)

        def close(self) -> None: ...

    thread = threading.Thread(target=run, args=(state, [Slow()], render.Plan(refresh_s=0.2), stop))
    thread.start()
    wait_until(lambda: len(times) >= 6)
    stop.set()
    thread.join()
    assert (times[5] - times[0]) / 5 == pytest.approx(0.2, abs=0.05)
    assert times[-1] - times[-2] < 0.2


def test_recording_holds_every_frame(state: State, tmp_path: Path) -> None:
    path = tmp_path / "out.gif"
    output = outputs.output_to(path, 0.05)

    class Growing:
        def put(self, dashboard: picture.Dashboard, snapshot: Snapshot) -> None:
            output.put(dashboard, snapshot)
            state.add(Chunk("f", "1", "1", make_messages(1, producer_id="ann-1", first=snapshot.total + 1)))

        def close(self) -> None:
            output.close()

    run(state, [Growing()], render.Plan(refresh_s=0.05, frames=5))
    output.close()
    assert getattr(Image.open(path), "n_frames", 1) == 5


def test_save_that_cannot_work_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    (tmp_path / "folder.gif").mkdir()
    for path, reason in (
        (tmp_path / "missing" / "a.gif", "no folder"),
        (tmp_path / "folder.gif", "no file can be written there"),
        (tmp_path / "a.bmp", "must end in"),
        (tmp_path / "a.mp4", "ffmpeg"),
    ):
        with pytest.raises(ToolkitError, match=reason):
            outputs.output_to(path, 2.0)


def test_slowest_gif_is_as_slow_as_the_format_allows(state: State, tmp_path: Path) -> None:
    output = outputs.output_to(tmp_path / "out.gif", 86_400.0)
    run(state, [output], render.Plan(refresh_s=0.01, frames=1))
    output.close()
    assert Image.open(tmp_path / "out.gif").size == (800, 600)


def stand_in_for_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A program of that name that ends at Ctrl+C, as the real one does."""
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport os, signal, sys\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


TAKES_ALL = """
signal.signal(signal.SIGINT, lambda *_: os._exit(255))
size = len(sys.stdin.buffer.read())
open(sys.argv[-1], "w").write(f"{size} {sys.argv[sys.argv.index('-framerate') + 1]}")
"""


@pytest.mark.skipif(os.name == "nt", reason="a script cannot stand in for a program there")
def test_film_gets_every_frame(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_ffmpeg(tmp_path, monkeypatch, TAKES_ALL)
    output = outputs.output_to(tmp_path / "out.mp4", 0.5)
    run(state, [output], render.Plan(refresh_s=0.01, frames=3))
    output.close()
    assert (tmp_path / "out.mp4").read_text() == f"{3 * 800 * 600 * 3} 2.0"


@pytest.mark.skipif(os.name == "nt", reason="a script cannot stand in for a program there")
def test_film_that_fails_is_one_line_with_the_reason(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_ffmpeg(tmp_path, monkeypatch, "sys.exit('out.mp4: Permission denied')")
    output = outputs.output_to(tmp_path / "out.mp4", 0.5)
    with pytest.raises(ToolkitError, match=r"out.mp4 cannot be written; ffmpeg says: out.mp4: Permission denied"):
        run(state, [output], render.Plan(refresh_s=0.01, frames=9))
        output.close()


@pytest.mark.skipif(os.name == "nt", reason="a script cannot stand in for a program there")
def test_film_survives_ctrl_c(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal the signal goes to ffmpeg as well."""
    stand_in_for_ffmpeg(tmp_path, monkeypatch, "open(sys.argv[-1], 'w')" + TAKES_ALL)
    film = tmp_path / "out.mp4"
    command = ["-m", "consumers.ragini_visual_consumer", "--source", "file", "--backend", "agg"]
    options = ["--save", str(film), "--refresh", "0.2", "--data-dir", str(settings.data_path)]
    process = subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=PROJECT_DIR,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(film.exists, timeout_s=40)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, "0 messages" in out) == (0, True), err
    assert film.read_text().endswith(" 5.0")


class Script:
    """A source that plays what it is given: chunks, None, or errors to raise."""

    name, detail = "sqlite", "data/buzz.sqlite"

    def __init__(self, *steps: Chunk | Exception | None) -> None:
        self.steps = list(steps)
        self.closed = False

    def poll(self, max_records: int) -> Chunk | None:
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.closed = True


def read(source: Script, stop: threading.Event) -> tuple[Reader, State]:
    state = State("auto")
    reader = Reader(source, state, stop)
    reader.start()
    return reader, state


def test_reader_shows_trouble_and_recovers(logged: list[str]) -> None:
    locked = Unavailable("data/buzz.sqlite: database is locked")
    first = Chunk("b", "", "1", make_messages(3, producer_id="ann-1"), [Invalid("b row 9", "no text")])
    again = Chunk("b", "1", "2", make_messages(5, producer_id="ann-1"))
    troubles: list[str] = []

    class Watched(State):
        def troubled(self, reason: str) -> None:
            super().troubled(reason)
            troubles.append(self.snapshot().trouble)

    state, stop = Watched("auto"), threading.Event()
    reader = Reader(Script(first, locked, locked, again), state, stop)
    reader.start()
    wait_until(lambda: state.snapshot().total == 5)
    stop.set()
    reader.join(10)
    snapshot = state.snapshot()
    assert troubles == [str(locked)] * 2
    assert (snapshot.trouble_since, snapshot.source, snapshot.total, snapshot.duplicate) == (None, "sqlite", 5, 3)
    assert sum("locked" in line for line in logged) == 1
    assert "INFO no more waiting: data/buzz.sqlite is read" in logged
    assert sum("invalid record in b row 9" in line for line in logged) == 1


def test_reader_stops_everything_when_the_user_must_act_or_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    for error in (ToolkitError("not a database"), RuntimeError("bug")):
        stop, source = threading.Event(), Script(error)
        reader, _ = read(source, stop)
        reader.join(10)
        assert stop.is_set()
        assert source.closed
        assert reader.failure is (error if isinstance(error, ToolkitError) else None)
        assert not reader.alive_to_the_end


def test_reader_ends_with_stop() -> None:
    stop, source = threading.Event(), Script()
    reader, _ = read(source, stop)
    stop.set()
    reader.join(10)
    assert reader.alive_to_the_end
    assert source.closed


def test_flood_does_not_block_the_drawing_thread() -> None:
    """Frames keep coming while the reader takes in all it can."""

    class Flood(Script):
        sent = 0

        def poll(self, max_records: int) -> Chunk | None:
            self.sent += max_records
            return Chunk("f", "1", "1", make_messages(max_records, producer_id="ann-1", first=self.sent))

    dashboard = picture.headless((12.8, 7.2), "light", 0.2)
    stop = threading.Event()
    reader, state = read(Flood(), stop)
    times: list[float] = []

    class Watch:
        where = ""

        def put(self, dashboard: picture.Dashboard, snapshot: Snapshot) -> None:
            times.append(dashboard.frame_s or 0.0)

        def close(self) -> None: ...

    render.run_headless(state, dashboard, [Watch()], render.Plan(refresh_s=0.2, frames=8), stop)
    stop.set()
    reader.join(10)
    assert sorted(times)[4] < 0.3
    assert state.snapshot().total > 10_000
