"""The project's own environment, `.venv`, for the scripts that begin before anything is installed.

Only the standard library, and no syntax that an older Python could not read: it shall see the line that says so.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
LEAST_PYTHON = (3, 11)
PROBE = f"import sys, pip; sys.exit(sys.version_info < {LEAST_PYTHON})"
UNFINISHED = 3


class Problem(Exception):
    """Something only the user can fix; its text is a line for them."""


def run(main: Callable[[list[str]], int]) -> int:
    """The exit code of `main`, called with the command line; problems become one line on stderr and code 2."""
    try:
        return main(sys.argv[1:])
    except Problem as problem:
        print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return UNFINISHED


def prepare(
    project: Path = PROJECT_DIR, interpreter: str = sys.executable, version: tuple[int, ...] = sys.version_info[:2]
) -> Path:
    """Path of the environment's Python; makes `.venv` with `interpreter` and installs requirements.txt where needed.

    Installs again only when requirements.txt has changed. Raises Problem with what to do.
    """
    if version < LEAST_PYTHON:
        have, need = (".".join(map(str, numbers[:2])) for numbers in (version, LEAST_PYTHON))
        raise Problem(f"this is Python {have}; install Python {need} or newer and run this script with it")
    venv = project / ".venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    requirements = project / "requirements.txt"
    stamp = venv / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    works = _succeeds([str(python), "-c", PROBE])
    if works and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not works:
        print(f"Making the environment {venv}", flush=True)
        _do(
            [interpreter, "-m", "venv", "--clear", str(venv)],
            "the environment could not be made: on Debian, Ubuntu and WSL install python3-venv; "
            f"else close what uses {venv} and run this again",
        )
    print("Installing requirements.txt; the first time this takes a minute or two", flush=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--timeout", "60"]
    _do(
        [*pip, "-r", str(requirements)],
        "requirements.txt could not be installed (pip says why above): check the network and run this again",
    )
    stamp.write_text(wanted)
    return python


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _do(command: list[str], otherwise: str) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        raise Problem(otherwise)
