"""Ctrl+C at any moment: before a command has begun, during imports, and around a wait."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from tests.helpers import run_python
from tests.test_docs import ENTRY_POINTS
from utils.app import signals, startup
from utils.app.config import PROJECT_DIR, Settings

if TYPE_CHECKING:
    from _typeshed import TraceFunction

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


@pytest.fixture
def stop() -> Iterator[signals.Stop]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield signals.stop_on_signals()
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("is_signal", [True, False])
def test_another_thread_ends_a_wait(stop: signals.Stop, is_signal: bool) -> None:
    """After a signal in another thread, threading.Event would keep waiting."""
    begun_s = time.monotonic()
    threading.Timer(0.05, lambda: signal.raise_signal(signal.SIGINT) if is_signal else stop.set()).start()
    assert stop.wait(30)
    assert time.monotonic() - begun_s < 10
    assert stop.is_set()


@pytest.mark.parametrize("moment", range(8))
def test_a_handler_may_interrupt_a_wait_anywhere(stop: signals.Stop, moment: int) -> None:
    """A handler can set the event at any moment of a wait: threading.Event deadlocks while it holds its lock."""
    passed = 0

    def interrupt(frame: FrameType, event: str, argument: object) -> "TraceFunction":
        nonlocal passed
        if passed == moment:
            signal.raise_signal(signal.SIGTERM)
        passed += 1
        return interrupt

    sys.settrace(interrupt)
    try:
        stop.wait(0.01)
    finally:
        sys.settrace(None)
    assert stop.is_set() == (passed > moment)


def test_it_waits_as_long_as_it_is_asked(stop: signals.Stop) -> None:
    assert not stop.wait(0) and not stop.wait(-1) and not stop.wait(0.001) and not stop.is_set()
    stop.set()
    assert stop.wait(1e300) and stop.wait()


def test_ctrl_c_while_a_command_is_imported_is_one_line(settings: Settings) -> None:
    code = (
        "import signal; from utils.app import startup as s; s.check_environment(); signal.raise_signal(signal.SIGINT)"
    )
    done = run_python(code=code, settings=settings)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "interrupted before it began\n")


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_command_without_its_packages_names_the_remedy(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", name], cwd=PROJECT_DIR, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r".* has no cyclopts, .*; do this first: .*(activate|requirements.txt|start.py)\n", done.stderr)


def test_the_remedy_for_missing_packages_fits_the_active_environment(tmp_path: Path) -> None:
    """pip is suggested only in a virtual environment (systems reject it elsewhere), activation only outside of one."""
    system, other, venv = (str(tmp_path / name) for name in ("usr", "other", ".venv"))
    for folder in (system, other):
        Path(folder).mkdir()
    assert startup.remedy(str(tmp_path), system, system).endswith("scripts/start.py")
    assert startup.remedy(str(tmp_path), other, system).endswith("pip install -r requirements.txt")
    Path(venv).mkdir()
    assert startup.remedy(str(tmp_path), system, system).endswith("activate")
    assert startup.remedy(str(tmp_path), other, system).endswith("activate")
    assert startup.remedy(str(tmp_path), venv, system).endswith("pip install -r requirements.txt")


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_command_has_its_guard_before_it_imports_anything_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", name], cwd=PROJECT_DIR, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "interrupted before it began\n")
