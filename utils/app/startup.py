"""Errors at the start of a command, while it imports: Ctrl+C, and an environment that is not activated.

Imports next to nothing itself, because imports take the time.
"""

import importlib.util
import os
import signal
import sys

UNUSABLE = 2
UNFINISHED = 3
_NEEDED = ("cyclopts", "dotenv", "loguru", "msgspec", "portalocker")


def guard_command() -> None:
    """For packages of commands: `guard` before all else if Python looks for the module that `-m` names, else nothing.

    It says so by this first argument (https://docs.python.org/3/using/cmdline.html#cmdoption-m); whoever imports a
    command afterwards, or from a script, finds another one.
    """
    if sys.argv[:1] == ["-m"]:
        guard()


def guard() -> None:
    """One line instead of a traceback for Ctrl+C during the imports and for packages that are not there."""
    signal.signal(signal.SIGINT, _end)
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        print(f"{sys.executable} has no {', '.join(missing)}; do this first: {remedy()}", file=sys.stderr)
        sys.exit(UNUSABLE)


def remedy(project: str = "", prefix: str = sys.prefix, base_prefix: str = sys.base_prefix) -> str:
    """The command that helps this Python to its packages: activate `.venv`, fill the active one, or make one."""
    from pathlib import Path

    venv = (Path(project) if project else Path(__file__).resolve().parents[2]) / ".venv"
    if venv.is_dir() and not venv.samefile(prefix):
        return ".venv\\Scripts\\activate" if os.name == "nt" else "source .venv/bin/activate"
    if prefix != base_prefix:
        return "python -m pip install -r requirements.txt"
    return f"{Path(sys.executable).name.removesuffix('.exe')} scripts/start.py"


def begin() -> None:
    """From here on Ctrl+C raises KeyboardInterrupt, as usual, until `signals.stop_on_signals`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os.write(2, b"interrupted before it began\n")
    os._exit(UNFINISHED)
