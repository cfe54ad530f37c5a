"""The loop without a window, the images it writes, and the reader in its thread."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from consumers.dashboard import animation
from consumers.dashboard.figure import Dashboard
from consumers.dashboard.options import DashboardOptions
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from consumers.ragini_visual_consumer import Reader
from tests.helpers import make_messages, wait_until
from utils.app.config import PROJECT_DIR, Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.records.record import Invalid
from utils.records.stream import BUZZ
from utils.sources.base import Chunk

pytestmark = pytest.mark.full


@pytest.fixture
def state() -> State:
    state = State(BUZZ, "file")
    state.add(Chunk("f", "", "1", make_messages(20, producer_id="ann-1")))
    return state


def options(refresh: float = 0.01, frames: int | None = None, save: Path | None = None) -> DashboardOptions:
    return DashboardOptions(size=(4, 3), refresh=refresh, frames=frames, save=save)


@pytest.fixture(scope="module")
def drawing() -> Dashboard:
    return Dashboard("light", size=(4, 3))


def frames(state: State, options: DashboardOptions, stop: threading.Event | None = None) -> Iterator[Snapshot]:
    stop = stop or threading.Event()
    return animation.frames(state, options, stop, stop.wait)


def show(state: State, options: DashboardOptions, folder: Path, shown: Iterable[Snapshot]) -> None:
    animation.open_output(options, folder, state.snapshot())(shown)


def test_image_is_replaced_whole_and_nothing_is_left_behind(state: State, tmp_path: Path) -> None:
    show(state, options(), tmp_path, frames(state, options(frames=3)))
    path = tmp_path / "dashboard.png"
    assert Image.open(path).size == (400, 300)
    assert list(tmp_path.iterdir()) == [path]


def test_image_that_cannot_be_written_is_logged_once_and_heals(
    state: State, drawing: Dashboard, tmp_path: Path, logged: list[str]
) -> None:
    folder = tmp_path / "images"

    def shown() -> Iterator[Snapshot]:
        yield from frames(state, options(frames=3))
        assert sum("cannot be written" in line for line in logged) == 1
        folder.mkdir()
        yield state.snapshot()
        assert logged[-1].endswith("dashboard.png is written")

    animation.keep_image(folder / "dashboard.png", drawing, shown())
    assert (folder / "dashboard.png").exists()
    assert logged[-1].endswith("dashboard.png is written")


def test_an_image_that_is_not_written_at_the_end_is_exit_code_3(
    state: State, drawing: Dashboard, tmp_path: Path
) -> None:
    with pytest.raises(ToolkitError, match=r"dashboard.png cannot be written: ") as error:
        animation.keep_image(tmp_path / "images" / "dashboard.png", drawing, frames(state, options(frames=2)))
    assert error.value.exit_code == 3


def test_images_come_at_absolute_times_and_a_last_one_at_the_stop(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, stop, times = 100.0, threading.Event(), list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)

    def wait(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds
        if len(times) == 6:
            stop.set()

    for _ in animation.frames(state, options(2.0), stop, wait):
        times.append(now_s)
        now_s += 0.3 if len(times) < 5 else 2.5  # drawing takes its time, once longer than a refresh
    assert times == pytest.approx([100, 102, 104, 106, 108, 112, 116])


def test_gif_holds_every_frame(state: State, tmp_path: Path) -> None:
    path = tmp_path / "out.gif"

    def shown() -> Iterator[Snapshot]:
        for snapshot in frames(state, options(frames=5)):
            yield snapshot
            state.add(Chunk("f", "1", "1", make_messages(1, producer_id="ann-1", first=snapshot.total + 1)))

    show(state, options(0.05, save=path), tmp_path, shown())
    image = Image.open(path)
    assert (getattr(image, "n_frames", 1), image.info["duration"]) == (5, 50)
    assert list(tmp_path.iterdir()) == [path]


def test_save_that_cannot_work_is_one_line(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "file" / "a.gif", "cannot be made"),
        (tmp_path / "folder.gif", "cannot be written"),
        (tmp_path / f"{'a' * 300}.png", "cannot be written"),
        (tmp_path / "a.bmp", "must end in"),
        (tmp_path / "a.mp4", "ffmpeg"),
    ):
        with pytest.raises(ToolkitError, match=reason):
            show(state, options(save=path), tmp_path, frames(state, options(frames=1)))


def stand_in_for_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Install a fake ffmpeg that runs the code and ends at Ctrl+C, like the real one."""
    if os.name == "nt":
        pytest.skip("Windows runs no script as a program")
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport os, signal, sys\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


COUNTS_IMAGES = """
from pathlib import Path
signal.signal(signal.SIGINT, lambda *_: os._exit(255))
rate, pattern = (sys.argv[sys.argv.index(option) + 1] for option in ("-framerate", "-i"))
assert os.path.isabs(sys.argv[-1])
open(sys.argv[-1], "w").write(f"{len(list(Path(pattern).parent.iterdir()))} {rate}")
"""


def test_film_gets_every_frame(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame reaches ffmpeg, also for file names that it would read as an option or an address."""
    stand_in_for_ffmpeg(tmp_path, monkeypatch, COUNTS_IMAGES)
    monkeypatch.chdir(tmp_path)
    show(state, options(0.5, save=Path("-at:12:30.mp4")), tmp_path, frames(state, options(frames=3)))
    assert (tmp_path / "-at:12:30.mp4").read_text() == "3 2.0"


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
def test_film_is_a_film(state: State, tmp_path: Path) -> None:
    show(state, options(save=tmp_path / "out.mp4"), tmp_path, frames(state, options(frames=3)))
    assert b"ftyp" in (tmp_path / "out.mp4").read_bytes()[:32]


def test_film_that_fails_is_one_line_with_the_reason(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_ffmpeg(tmp_path, monkeypatch, "sys.exit(1)")
    with pytest.raises(ToolkitError, match=r"out.mp4 cannot be written: "):
        show(state, options(save=tmp_path / "out.mp4"), tmp_path, frames(state, options(frames=1)))


def test_film_survives_ctrl_c(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal sends the signal to ffmpeg too, and still the last frame gets into the film."""
    stand_in_for_ffmpeg(tmp_path, monkeypatch, COUNTS_IMAGES)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    film = tmp_path / "out.mp4"
    command = ["-m", "consumers.ragini_visual_consumer", "--source", "file", "--backend", "agg"]
    options = ["--save", str(film), "--refresh", "0.2", "--size", "4", "4", "--data-dir", str(settings.data_path)]
    process = subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=PROJECT_DIR,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list(tmp_path.glob("*/tmp*.png")), timeout_s=40)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    images, rate = film.read_text().split()
    assert (out.count("\n"), int(images) > 1, rate) == (1, True, "5.0")


class Script:
    """A source that plays chunks, None, or errors."""

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
    state = State(BUZZ, "auto")
    reader = Reader(source, state, stop)
    reader.start()
    return reader, state


def test_reader_shows_trouble_and_recovers(logged: list[str]) -> None:
    locked = Unavailable("data/buzz.sqlite: database is locked")
    first = Chunk("b", "", "1", make_messages(3, producer_id="ann-1"), [Invalid("b row 9", "no text")])
    again = Chunk("b", "1", "2", make_messages(5, producer_id="ann-1"))
    troubles: list[str] = []

    class Watched(State):
        def using(self, name: str, detail: str, trouble: str = "") -> None:
            super().using(name, detail, trouble)
            if trouble:
                troubles.append(self.snapshot().source.trouble)

    state, stop = Watched(BUZZ, "auto"), threading.Event()
    reader = Reader(Script(first, locked, locked, again), state, stop)
    reader.start()
    wait_until(lambda: state.snapshot().total == 5)
    stop.set()
    reader.join(10)
    snapshot = state.snapshot()
    assert troubles == [str(locked)] * 2
    assert (snapshot.source.trouble_since, snapshot.source.name) == (None, "sqlite")
    assert (snapshot.total, snapshot.duplicate) == (5, 3)
    assert sum("locked" in line for line in logged) == 1
    assert "INFO waiting ended: data/buzz.sqlite is read" in logged
    assert sum("invalid record in b row 9" in line for line in logged) == 1


def test_reader_stops_everything_when_the_user_must_act_or_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    for error in (ToolkitError("not a database"), RuntimeError("bug")):
        stop, source = threading.Event(), Script(error)
        reader, _ = read(source, stop)
        reader.join(10)
        assert stop.is_set()
        assert source.closed
        assert reader.failure is error or (isinstance(error, RuntimeError) and "see the log" in str(reader.failure))


def test_reader_ends_with_stop() -> None:
    stop, source = threading.Event(), Script()
    reader, _ = read(source, stop)
    stop.set()
    reader.join(10)
    assert reader.failure is None
    assert source.closed


class Flood(Script):
    """A source that always has as many records as asked for."""

    sent = 0

    def poll(self, max_records: int) -> Chunk | None:
        self.sent += max_records
        return Chunk("f", "1", "1", make_messages(max_records, producer_id="ann-1", first=self.sent))


def test_flood_does_not_block_drawing_and_drawing_does_not_block_reading(tmp_path: Path) -> None:
    """Frames keep coming while the reader gets all it can, and records keep coming while frames are drawn."""
    stop = threading.Event()
    reader, state = read(Flood(), stop)
    drawing, path = Dashboard("light", size=(4, 3)), tmp_path / "dashboard.png"
    grown: list[int] = []

    def watched() -> Iterator[Snapshot]:
        for snapshot in frames(state, DashboardOptions(refresh=0.2, duration=60.0), stop):
            yield snapshot
            grown.append(state.snapshot().total - snapshot.total)
            if len(grown) == 4:
                stop.set()

    animation.keep_image(path, drawing, watched())
    stop.set()
    reader.join(10)
    assert len(grown) >= 4
    assert all(count > 0 for count in grown[:4])  # nothing is read after the stop
    assert state.snapshot().total > 10_000
