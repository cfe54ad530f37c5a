"""A real window on a virtual display: opened, resized, controlled by keys, closed in every way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageGrab

from tests.helpers import wait_until
from utils.app.config import PROJECT_DIR

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="Xvfb or xdotool is not installed"
    ),
]
QT = any(find_spec(name) for name in ("PySide6", "PyQt6", "PyQt5", "PySide2"))
DARK_PAGE = (0x0E, 0x13, 0x19)
LIGHT_PAGE = (0xF3, 0xF5, 0xF8)


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x1200x24", "-dpi", "96", "-noreset"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        name = f":{pipe.readline().strip()}"
    environment = {**os.environ, "DISPLAY": name}
    wait_until(lambda: subprocess.run(["xdotool", "getdisplaygeometry"], env=environment, check=False).returncode == 0)
    yield name
    server.terminate()
    server.wait()


@pytest.fixture(params=["TkAgg", pytest.param("QtAgg", marks=pytest.mark.skipif(not QT, reason="no Qt"))])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Window:
    """The program in a window on the display, controlled by keys."""

    def __init__(self, display: str, backend: str, data: Path) -> None:
        self.data, self.environment = data, {**os.environ, "DISPLAY": display}
        data.mkdir(parents=True, exist_ok=True)
        self.lines = 0
        self.append(40)
        command = [sys.executable, "-m", "consumers.ragini_visual_consumer", "--source", "file", "--backend", backend]
        options = ["--refresh", "1", "--data-dir", str(data)]
        self.process = subprocess.Popen(
            command + options, cwd=PROJECT_DIR, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        wait_until(lambda: self.process.poll() is not None or self._number(), timeout_s=40, what="no window")
        assert self.process.poll() is None, self.process.communicate()
        # Its toolkit passes keys on only after the first drawing.
        wait_until(lambda: ImageGrab.grab(xdisplay=display).getpixel((5, 5)) == LIGHT_PAGE, timeout_s=40)
        self.number = self._number()
        self.tool("windowfocus", "--sync", self.number)
        self.tool("mousemove", "--window", self.number, "300", "300", "click", "1")

    def append(self, count: int) -> None:
        with (self.data / "project_live.json").open("a") as stream:
            for _ in range(count):
                self.lines += 1
                stream.write(json.dumps({"message": "hello", "author": f"A{self.lines % 5}", "sentiment": 0.5}) + "\n")

    def tool(self, *arguments: str) -> str:
        done = subprocess.run(
            ["xdotool", *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=20
        )
        return done.stdout.strip()

    def _number(self) -> str:
        found = self.tool("search", "--onlyvisible", "--name", "Streaming Dashboard").split()
        return found[-1] if found else ""

    def press(self, key: str) -> None:
        self.tool("windowfocus", self.number)
        self.tool("key", "--clearmodifiers", key)

    def saved(self) -> Image.Image:
        """Press `s`; return the image that it saves."""
        self.press("s")
        wait_until(lambda: list(self.data.glob("dashboard-*.png")), timeout_s=40)
        (path,) = self.data.glob("dashboard-*.png")
        image = Image.open(path).convert("RGB")
        path.unlink()
        return image

    def pause(self) -> None:
        """Press space, which stops even the clock."""
        self.press("space")
        first, begun_s = self.saved().tobytes(), time.monotonic()
        while time.monotonic() - begun_s < 2.0:
            assert self.saved().tobytes() == first

    def wait_for_page(self, colour: tuple[int, int, int]) -> None:
        wait_until(lambda: self.saved().getpixel((2, 2)) == colour, timeout_s=20)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
def window(display: str, backend: str, tmp_path: Path) -> Iterator[Window]:
    window = Window(display, backend, tmp_path / "data")
    yield window
    if window.process.poll() is None:
        window.process.kill()
        window.process.communicate()


def close_by_window(window: Window) -> None:
    """Ask the window to close as a window manager's close button does."""
    code = """
import ctypes, sys
x = ctypes.CDLL("libX11.so.6")
x.XOpenDisplay.restype = ctypes.c_void_p
display, window = ctypes.c_void_p(x.XOpenDisplay(None)), ctypes.c_ulong(int(sys.argv[1]))
atom = lambda name: x.XInternAtom(display, name, 0)
class Message(ctypes.Structure):  # XClientMessageEvent, padded to the size of XEvent
    _fields_ = [("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("sent", ctypes.c_int),
                ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("kind", ctypes.c_ulong),
                ("format", ctypes.c_int), ("data", ctypes.c_long * 5), ("rest", ctypes.c_long * 24)]
event = Message(33, 0, 1, display, window, atom(b"WM_PROTOCOLS"), 32)
event.data[0] = atom(b"WM_DELETE_WINDOW")
x.XSendEvent(display, window, 0, 0, ctypes.byref(event))
x.XSync(display, 0)
"""
    subprocess.run([sys.executable, "-c", code, window.number], env=window.environment, check=True, timeout=20)


def close_by_key(window: Window) -> None:
    window.press("q")


def close_by_sigterm(window: Window) -> None:
    window.process.send_signal(signal.SIGTERM)


def close_by_ctrl_c(window: Window) -> None:
    window.process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("close", [close_by_window, close_by_ctrl_c])  # others are below
def test_window_closes_with_a_summary(window: Window, close: Callable[[Window], None]) -> None:
    width, height = window.saved().size  # a toolkit may scale by the dots per inch that it detects
    assert (width / 1280, height / 720) == pytest.approx((1, 1), rel=0.05)
    close(window)
    code, out, err = window.end()
    assert code == 0, err
    assert "40 messages, 0 invalid, 0 lost, 0 duplicate" in out
    assert "Traceback" not in err


def test_the_window_shows_the_text_of_the_bar_under_the_mouse(window: Window) -> None:
    """The bar of the busiest author shows name, count and share; elsewhere nothing is shown."""
    window.tool("mousemove", "--window", window.number, "5", "5")
    window.pause()
    width, height = window.saved().size
    plain = window.saved()
    window.tool("mousemove", "--window", window.number, str(int(0.72 * width)), str(int(0.365 * height)))
    wait_until(lambda: window.saved().tobytes() != plain.tobytes(), timeout_s=20)
    changed = ImageChops.difference(window.saved(), plain).getbbox()
    assert changed is not None
    assert changed[0] > width / 2 and changed[3] < height / 2  # in the card of that bar
    window.tool("mousemove", "--window", window.number, "5", "5")
    wait_until(lambda: window.saved().tobytes() == plain.tobytes(), timeout_s=20)
    close_by_key(window)
    code, out, err = window.end()
    assert (code, "40 messages" in out, "Traceback" in err) == (0, True, False)


def test_window_follows_size_theme_and_pause(window: Window) -> None:
    first = window.saved()
    assert first.getpixel((2, 2)) == LIGHT_PAGE
    window.tool("windowsize", "--sync", window.number, "900", "700")
    wait_until(lambda: window.saved().size == pytest.approx((900, 700), abs=2), timeout_s=20)
    window.press("t")
    window.wait_for_page(DARK_PAGE)
    window.press("space")
    paused = window.saved().tobytes()
    window.append(30)
    assert window.saved().tobytes() == paused
    window.press("t")
    window.wait_for_page(LIGHT_PAGE)
    paused = window.saved().tobytes()
    window.append(20)
    for page in (DARK_PAGE, LIGHT_PAGE):  # the theme changes, the moment does not
        window.press("t")
        window.wait_for_page(page)
    assert window.saved().tobytes() == paused
    window.press("space")
    wait_until(lambda: window.saved().tobytes() != paused, timeout_s=20)
    close_by_sigterm(window)
    code, out, err = window.end()
    assert (code, "Traceback" in err) == (0, False)
    assert "90 messages" in out  # reading continued while drawing paused
