"""Which matplotlib backend draws, and why. Nothing is imported that could abort the process."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from utils.app.errors import ToolkitError

PROBE_S = 10.0
_PROBE = "import sys, matplotlib.pyplot as plt; plt.switch_backend(sys.argv[1]); plt.figure(); plt.close()"
_WITHOUT_WINDOW = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})
# For child processes: Ctrl+C in a terminal goes to all of its foreground group, and they have their own end to come to.
OUT_OF_REACH: dict[str, Any] = {
    "start_new_session": True,
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
}
_QT = ("PySide6", "PyQt6", "PyQt5", "PySide2")


@dataclass(frozen=True)
class Choice:
    """A backend's name, None for pictures without a window, and the reason in words."""

    backend: str | None
    reason: str


def probe_backend(backend: str) -> str:
    """Why a figure cannot be opened with this backend, "" if it can; Qt without its plugin would abort us."""
    environment = {**os.environ, "MPLBACKEND": "agg"}
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [sys.executable, "-c", _PROBE, backend],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=False,
            **OUT_OF_REACH,
        )
    except subprocess.TimeoutExpired:
        return f"it did not open a figure within {PROBE_S:g} s"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    told = [line for line in lines if "rror" in line or "could not" in line.lower()]
    return (told or lines or [f"it ended with code {done.returncode}"])[-1][:200]


def choose(
    asked: str | None,
    *,
    environment: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
    installed: Callable[[str], bool] = lambda module: find_spec(module) is not None,
    probe: Callable[[str], str] = probe_backend,
) -> Choice:
    """The backend that was asked for (by option or MPLBACKEND), else the first that works, else none.

    `probe` opens a figure in another process and returns why it cannot, "" if it can. Raises
    ToolkitError if the backend that was asked for cannot work.
    """
    if asked:
        if asked.lower() in _WITHOUT_WINDOW or "inline" in asked:
            return Choice(None, f"{asked} was asked for, which has no window")
        if problem := probe(asked):
            raise ToolkitError(
                f"backend {asked} (from --backend or MPLBACKEND) cannot draw here: {problem};"
                " leave it out to have one chosen, or give Agg to draw without a window"
            )
        return Choice(asked, "asked for")
    display = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    if platform not in ("darwin", "win32", "cygwin") and not display:
        return Choice(None, "there is no display (DISPLAY and WAYLAND_DISPLAY are not set)")
    reasons = []
    native = (("macosx", ("matplotlib",)),) if platform == "darwin" else ()
    for backend, modules in (*native, ("TkAgg", ("_tkinter",)), ("QtAgg", _QT)):
        if not any(installed(module) for module in modules):
            reasons.append(f"{backend}: not installed")
        elif problem := probe(backend):
            reasons.append(f"{backend}: {problem}")
        else:
            return Choice(backend, "it is installed and a display answers")
    return Choice(None, "no window can be opened (" + "; ".join(reasons) + ")")
