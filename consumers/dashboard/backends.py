"""Which toolkit of matplotlib draws the window, and why. Nothing is imported here that could abort the process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from utils.app.errors import ToolkitError

PROBE_S = 20.0
# Qt without its plugin would abort us; the child says what matplotlib chose and whether that has a window.
_PROBE = """
import matplotlib.pyplot as plt
from matplotlib.backends import BackendFilter, backend_registry
plt.figure()
name = plt.get_backend()
plt.close()
print(name, name.lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE) or name.startswith("module://"))
"""


class Choice(NamedTuple):
    """A backend's name, None for images without a window, and the reason in words."""

    backend: str | None
    reason: str


def choose(asked: str | None, environment: Mapping[str, str] = os.environ) -> Choice:
    """The backend that was asked for by --backend or MPLBACKEND, else what matplotlib chooses, else Tk, else none.

    Raises ToolkitError if the one that was asked for cannot draw here.
    """
    display = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    if not asked and not display and sys.platform not in ("darwin", "win32", "cygwin"):
        return Choice(None, "there is no display (DISPLAY and WAYLAND_DISPLAY are not set)")
    problems = []
    for backend in [asked] if asked else ["", "TkAgg"]:
        name, problem = _tried(backend, environment)
        if not problem:
            why = "asked for" if asked else "it works here" if backend else "matplotlib's own choice"
            return Choice(name, why) if name else Choice(None, f"{backend or 'matplotlib'} finds no window here")
        problems.append(f"{backend or 'matplotlib'}: {problem}")
    if asked:
        raise ToolkitError(
            f"backend {asked} (from --backend or MPLBACKEND) cannot draw here: {problem};"
            " leave it out to have one chosen, or give Agg to draw without a window"
        )
    return Choice(None, "no window can be opened (" + "; ".join(problems) + ")")


def _tried(backend: str, environment: Mapping[str, str]) -> tuple[str | None, str]:
    """The backend's name if it has a window, and why it does not work, "" if it does."""
    given = {name: value for name, value in environment.items() if name != "MPLBACKEND"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=given | ({"MPLBACKEND": backend} if backend else {}),
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=False,
            start_new_session=True,  # Ctrl+C in a terminal goes to all of its foreground group
        )
    except subprocess.TimeoutExpired:
        return None, f"it did not open a figure within {PROBE_S:g} s"
    if done.returncode == 0:
        name, has_window = done.stdout.split()[-2:]
        if backend and name.lower() != backend.lower():
            return None, f"matplotlib takes {name} instead, as without a display"
        return (name if has_window == "True" else None), ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if "rror" in line or "could not" in line.lower()]
    return None, (reasons or lines or [f"it ended with code {done.returncode}"])[-1][:200]
