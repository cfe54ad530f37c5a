"""The project's own environment, `.venv`, for scripts that run before any package is installed.

It uses only the standard library and syntax that an older Python can read, which then prints that it is too old.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
LEAST_PYTHON = (3, 11)
PROBE = f"import sys, pip; sys.exit(sys.version_info < {LEAST_PYTHON})"
USER, DEVELOPER = "requirements.lock", "requirements-dev.lock"
UV = "uv>=0.5"
# Settings of pip for indexes and certificates, and the variables that mean the same for uv.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}
DOT_EVERY_S = 1.0
UNFINISHED = 3


class Problem(Exception):
    """An error that only the user can fix; its text is one line for the user."""


def run(main: Callable[[list[str]], int]) -> int:
    """Call `main` with the command line; return its code. Problem and OSError are one line on stderr and code 2."""
    try:
        return main(sys.argv[1:])
    except (Problem, OSError) as problem:
        print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return UNFINISHED


def prepare(
    lock: str = USER,
    project: Path = PROJECT_DIR,
    interpreter: str = sys.executable,
    version: tuple[int, ...] = sys.version_info[:2],
) -> Path:
    """Return the path of the environment's Python. Makes `.venv` with `interpreter` if it is missing or broken.

    Installs the packages of `lock`, and again only when that file has changed. Raises Problem with what to do.
    """
    if version < LEAST_PYTHON:
        have, need = (".".join(map(str, numbers[:2])) for numbers in (version, LEAST_PYTHON))
        raise Problem(f"this is Python {have}; install Python {need} or newer and run this script with it")
    venv = project / ".venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = {venv / f"{name}.sha256": _digest(project / name) for name in {USER, lock}}  # DEVELOPER includes USER
    stamp = venv / f"{lock}.sha256"
    works = _succeeds([str(python), "-c", PROBE])
    if works and stamp.is_file() and stamp.read_text() == wanted[stamp]:
        return python
    if not works:
        _must(
            f"Making the environment {venv.name}",
            [interpreter, "-m", "venv", "--clear", str(venv)],
            "the environment could not be made: on Debian, Ubuntu and WSL install python3-venv; "
            f"else close what uses {venv} and run this again",
        )
    _install(python, project / lock)
    for path, digest in wanted.items():
        path.write_text(digest)
    return python


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _install(python: Path, lock: Path) -> None:
    """Install with uv, which takes a tenth of the time, or with pip if uv fails."""
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    uv = python.with_name("uv.exe" if os.name == "nt" else "uv")
    arguments = ["install", "--require-hashes", "-r", str(lock)]
    if uv.is_file() or not _do("Getting uv, which installs fast", [*pip, "install", "--timeout", "60", UV]):
        listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
        variables = {**uv_variables(listed), **os.environ}
        if not _do(f"Installing {lock.name}", [str(uv), "pip", *arguments, "--python", str(python)], variables):
            return
    print("uv could not install it; pip tries, which takes a minute or two", flush=True)
    _must(
        f"Installing {lock.name}",
        [*pip, *arguments, "--timeout", "60"],
        f"{lock.name} could not be installed (pip says why above): check the network and run this again",
    )


def uv_variables(listed: str) -> dict[str, str]:
    """Return the variables of uv for the output of `pip config list`."""
    found = re.findall(r"^\S+?\.([a-z-]+)='(.*)'$", listed, re.MULTILINE)
    return {UV_NAMES[name]: value for name, value in found if name in UV_NAMES}


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _must(what: str, command: list[str], otherwise: str) -> None:
    """Run a command. If it fails, show its output and raise Problem(otherwise)."""
    printed = _do(what, command)
    if printed:
        print(printed, file=sys.stderr, flush=True)
        raise Problem(otherwise)


def _do(what: str, command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command with a dot per second. Return "" if it succeeded, else its output."""
    print(what, end=" ", flush=True)
    began_s = time.monotonic()
    with tempfile.TemporaryFile() as printed:
        try:
            process = subprocess.Popen(command, stdout=printed, stderr=printed, env=environment)
        except OSError as error:
            print("failed", flush=True)
            return str(error)
        while True:
            try:
                code = process.wait(DOT_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                print(".", end="", flush=True)
        print(f" {time.monotonic() - began_s:.0f} s" if code == 0 else " failed", flush=True)
        printed.seek(0)
        text = printed.read().decode(errors="replace").strip()
    return "" if code == 0 else text or f"{command[0]} ended with code {code}"
