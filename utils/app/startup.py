"""Errors while a command still imports its modules: Ctrl+C, and packages that are missing.

This module imports almost nothing, so that it runs before the imports that take long.
"""

import importlib.util
import os
import signal
import sys

UNUSABLE = 2
UNFINISHED = 3
_NEEDED = ("cyclopts", "dotenv", "loguru", "msgspec", "portalocker")


def check_environment_of_command() -> None:
    """Call `check_environment` if Python was started with `-m` and imports the package of that module.

    Python sets `sys.argv[0]` to "-m" only while it locates the module
    (https://docs.python.org/3/using/cmdline.html#cmdoption-m), so that later imports, as in a script, do nothing here.
    """
    if sys.argv[:1] == ["-m"]:
        check_environment()


def check_environment() -> None:
    """Print one line instead of a traceback at Ctrl+C during the imports, and if a package is missing."""
    signal.signal(signal.SIGINT, _exit_interrupted)
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        print(f"{sys.executable} has no {', '.join(missing)}; do this first: {remedy()}", file=sys.stderr)
        sys.exit(UNUSABLE)


def remedy(project: str = "", prefix: str = sys.prefix, base_prefix: str = sys.base_prefix) -> str:
    """Return the command that makes the packages available: activate `.venv`, fill the active one, or make one."""
    from pathlib import Path

    venv = (Path(project) if project else Path(__file__).resolve().parents[2]) / ".venv"
    if venv.is_dir() and not venv.samefile(prefix):
        return ".venv\\Scripts\\activate" if os.name == "nt" else "source .venv/bin/activate"
    if prefix != base_prefix:
        return "python -m pip install -r requirements.txt"
    return f"{Path(sys.executable).name.removesuffix('.exe')} scripts/start.py"


def restore_interrupt() -> None:
    """Let Ctrl+C raise KeyboardInterrupt again, now that the imports are done."""
    if signal.getsignal(signal.SIGINT) is _exit_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit_interrupted(*_: object) -> None:
    os.write(2, b"interrupted before it began\n")
    os._exit(UNFINISHED)
