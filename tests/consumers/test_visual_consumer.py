"""The dashboard's command line: options, one-line errors, exit codes, clean stops."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from PIL import Image

from consumers import ragini_visual_consumer
from consumers.dashboard.figure import Dashboard
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from tests.helpers import Process, make_batch, run_here, run_python, start_python, wait_until
from utils.app.config import Settings

pytestmark = pytest.mark.full

MODULE = "consumers.ragini_visual_consumer"
HEADLESS = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}


@pytest.fixture
def live(settings: Settings) -> Settings:
    settings.data_path.mkdir(parents=True)
    settings.live_path.write_bytes(make_batch(60).lines + b"not a record\n")
    return settings


def test_headless_run_leaves_an_image_and_one_summary(live: Settings) -> None:
    """A display that does not answer and a broken matplotlibrc do not disturb a run without a window."""
    (live.data_path / "matplotlibrc").write_bytes(b"font.size: banana\nnonsense\xff\n")
    environment = {**HEADLESS, "DISPLAY": ":987", "MPLCONFIGDIR": str(live.data_path)}
    options = ("--source", "file", "--duration", "2", "--refresh", "0.5")
    done = run_python(MODULE, *options, settings=live, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("60 messages, 1 invalid, 0 lost, 0 duplicate\n")
    assert done.stdout.count("\n") == 1
    assert "drawing without a window: the image is" in done.stderr
    assert "matplotlibrc" not in done.stderr
    assert Image.open(live.data_path / "dashboard.png").size == (1280, 720)


@pytest.mark.parametrize("ask", [Process.interrupt, Process.terminate])
def test_signal_stops_cleanly_with_a_last_image(live: Settings, ask: Callable[[Process], None]) -> None:
    with start_python(MODULE, "--source", "file", settings=live, environment=HEADLESS) as process:
        wait_until((live.data_path / "dashboard.png").exists, timeout_s=30)
        ask(process)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in err) == (0, False)
    assert out.startswith("60 messages")


def test_from_end_shows_only_new_records(live: Settings) -> None:
    options = ("--from", "end", "--duration", "0.6", "--refresh", "0.2", "--backend", "agg")
    done = run_here(MODULE, "--source", "file", *options, settings=live)
    assert done.stdout.startswith("0 messages"), done.stderr


def test_reading_that_does_not_end_is_logged(live: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragini_visual_consumer, "FIRST_LOOK_S", 0.1)
    monkeypatch.setattr(ragini_visual_consumer, "END_S", 0.1)
    released = threading.Event()
    monkeypatch.setattr(State, "add", lambda *_: released.wait(60))
    try:
        done = run_here(MODULE, "--source", "file", "--frames", "1", "--backend", "agg", settings=live)
    finally:
        released.set()
    assert (done.returncode, "has not ended normally; see the log" in done.stderr) == (3, True)


BAD_INPUT: list[tuple[list[str], str]] = [
    ([], "nonsense (from --backend or MPLBACKEND)"),  # the variable is for the first case only
    (["--backend", "bananas"], "backend bananas"),
    (["--backend", "module://os"], "backend module://os"),
    (["--backend", "TkAgg"], "backend TkAgg"),
    (["--save", f"{__file__}/out.gif"], "cannot be made"),
    (["--save", "out.bmp"], "must end in"),
    (["--serve", "nonsense"], "--serve nonsense"),
    (["--save", "out.png", "--serve", "99999"], "give one of them"),
    (["--size", "1", "1"], "for --size. Must be >= 4"),
    (["--size", "nan", "5"], "for --size. Must be <= 80"),
    (["--size", "1920x1080"], "requires 2"),
    (["--frames", "0"], "Must be > 0"),
    (["--frames", "1.5"], 'unable to convert "1.5" into int'),
    (["--refresh", "nan"], "Must be <= 600"),
    (["--refresh", "1e300"], "Must be <= 600"),
    (["--theme", "pink"], "pink"),
    (["--serve", "{port}"], "cannot listen on port"),
]
RUN_ALL = f"""
import contextlib, io, json
from consumers.ragini_visual_consumer import main
from utils.app import cli
for options, _ in {BAD_INPUT!r}:
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = cli.run(main, name="{MODULE}", arguments=["--source", "file", *options])
    print(json.dumps([code, errors.getvalue()]))
"""


def test_bad_input_is_one_line_and_exit_2(live: Settings) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        code = RUN_ALL.replace("{port}", str(taken.getsockname()[1]))
        done = run_python(code=code, settings=live, environment={**HEADLESS, "MPLBACKEND": "nonsense"})
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (_, reason), (code, errors) in zip(BAD_INPUT, answers, strict=True):
        assert (code, len(errors.splitlines())) == (2, 1), errors
        assert reason in errors


def test_save_records_a_gif(live: Settings) -> None:
    path = live.data_path / "out.gif"
    options = ("--save", path, "--frames", "3", "--refresh", "0.2", "--size", "8", "6")
    done = run_here(MODULE, "--source", "file", *options, settings=live)
    assert done.returncode == 0, done.stderr
    image = Image.open(path)
    assert image.size == (800, 600)


def test_the_first_image_shows_the_present_records(live: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, png = list[int](), Dashboard.image

    def noted(dashboard: Dashboard, snapshot: Snapshot) -> bytes:
        drawn.append(snapshot.total)
        return png(dashboard, snapshot)

    monkeypatch.setattr(Dashboard, "image", noted)
    done = run_here(MODULE, "--source", "file", "--save", live.data_path / "look.png", "--frames", "1", settings=live)
    assert (done.returncode, drawn) == (0, [60]), done.stderr
