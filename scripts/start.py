"""Start a producer and the dashboard with one command: python scripts/start.py. Ctrl+C ends both.

`--stream NAME` shows another stream, with its producer if that is one of the built-in ones.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts import environment

# A producer may need its drain of 10 s to end.
END_WITHIN_S = 15.0
LOOK_EVERY_S = 0.1
# In the .env that this script makes; an existing one is not changed.
INTERVAL_S = 0.3
PRODUCERS = {
    "buzz": "ragini_producer",
    "sensors": "sensor_producer",
    "ticks": "market_producer",
    "parts": "factory_producer",
}
SOURCES = ("auto", "file", "sqlite", "duckdb", "kafka")
# Exits with 0 if matplotlib can open a window. In a process of its own, because some window systems abort it.
WINDOW = "import matplotlib.pyplot as plt; raise SystemExit(plt.figure().canvas.required_interactive_framework is None)"
WINDOW_S = 20.0
STYLE = environment.PROJECT_DIR / "consumers" / "dashboard" / "light.mplstyle"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    python = str(environment.prepare())
    copy_env_file(environment.PROJECT_DIR)
    producing = options.stream in PRODUCERS
    started = "a producer and the dashboard" if producing else "the dashboard"
    print(f"Starting {started}; Ctrl+C or closing the window ends all", flush=True)

    def dashboard() -> list[str]:
        """Return its command line. Called when the producer already runs, because the look for a window takes time."""
        if options.serve is None and not has_window(python):
            options.serve = ""
            print("No window can be opened here: the dashboard is a page instead", flush=True)
        return dashboard_command(python, options)

    producer = [producer_command(python, options)] if producing else []
    return run_together(*producer, dashboard, duration_s=options.duration)


def producer_command(python: str, options: argparse.Namespace) -> list[str]:
    # WARNING, because the log lines of the producer would push those of the dashboard out of sight.
    command = [python, "-m", f"producers.{PRODUCERS[options.stream]}", "--log-level", "WARNING"]
    if options.source == "kafka":
        command += ["--sinks", *SOURCES[1:]]
    return command


def dashboard_command(python: str, options: argparse.Namespace) -> list[str]:
    command = [python, "-m", "consumers.ragini_visual_consumer", "--source", options.source]
    if options.stream != "buzz":
        command += ["--stream", options.stream]
    if options.theme:
        command += ["--theme", options.theme]
    if options.serve is not None:
        command += ["--serve", *filter(None, [options.serve])]
    return command


def has_window(python: str) -> bool:
    """Return whether the dashboard can open a window here; otherwise it is a page in the browser."""
    variables = {**os.environ, "MATPLOTLIBRC": str(STYLE)}  # as in the dashboard: the user's file may be damaged
    try:
        done = subprocess.run([python, "-c", WINDOW], env=variables, capture_output=True, timeout=WINDOW_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=math.inf, metavar="S", help="end after S seconds")
    parser.add_argument(
        "--stream",
        default="buzz",
        metavar="NAME",
        help=f"stream to show (default: buzz); only {', '.join(PRODUCERS)} have a producer to start",
    )
    parser.add_argument(
        "--source",
        choices=SOURCES,
        help="sink that the dashboard reads (default: the file of the started producer, else auto)",
    )
    parser.add_argument(
        "--theme", choices=("light", "dark"), help="colours (default: light; a page follows the system)"
    )
    parser.add_argument(
        "--serve",
        nargs="?",
        const="",
        metavar="[ADDRESS:]PORT",
        help="show the dashboard as a page (default: at 127.0.0.1:8765, also without a display)",
    )
    options = parser.parse_args(arguments)
    if not options.duration > 0:
        parser.error("argument --duration: give a number of seconds above 0")
    # Not auto, which might take a topic of earlier runs, without records of this producer.
    options.source = options.source or ("file" if options.stream in PRODUCERS else "auto")
    return options


def copy_env_file(project: Path) -> None:
    """Make a `.env` that the user can change, with a short interval. An existing one stays as it is."""
    if not (project / ".env").exists():
        text = (project / ".env.example").read_text(encoding="utf-8")
        lively = re.sub("^MESSAGE_INTERVAL_SECONDS=.*", f"MESSAGE_INTERVAL_SECONDS={INTERVAL_S}", text, flags=re.M)
        (project / ".env").write_text(lively, encoding="utf-8")
        print(f"Made .env from .env.example, with a message every {INTERVAL_S} s: change it as you like", flush=True)


def run_together(
    *commands: list[str] | Callable[[], list[str]], duration_s: float, end_within_s: float = END_WITHIN_S
) -> int:
    """Run processes that end together: when one ends, on a signal, or after `duration_s`.

    Returns 0, or the first exit code other than 0; that of a killed process counts as 3.
    """
    asked: list[int] = []
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: asked.append(number))
    processes = [begin(command() if callable(command) else command) for command in commands]
    end_s = time.monotonic() + duration_s
    while not asked and time.monotonic() < end_s and all(p.poll() is None for p in processes):
        time.sleep(LOOK_EVERY_S)
    # Processes that ended by themselves come first: their codes are the reason why the others are ended.
    processes.sort(key=lambda process: process.poll() is None)
    for process in processes:
        if process.poll() is None:
            ask_to_end(process)
    before, end_s = len(asked), time.monotonic() + end_within_s
    while any(p.poll() is None for p in processes):
        if time.monotonic() > end_s or len(asked) > before:
            print("Not waiting any longer; acknowledged messages are safe in the journal", file=sys.stderr)
            for process in processes:
                process.kill()
                process.wait()
        time.sleep(LOOK_EVERY_S)
    # The exit code of a killed process depends on the operating system.
    codes = [p.returncode if p.returncode in range(4) else environment.UNFINISHED for p in processes]
    return next((code for code in codes if code), 0)


def begin(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own: Ctrl+C reaches only this script, which passes it on once."""
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # of Windows
    return subprocess.Popen(
        command, cwd=environment.PROJECT_DIR, creationflags=flags, start_new_session=True, **options
    )


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Send the signal that the process treats like Ctrl+C."""
    if sys.platform == "win32":
        try:
            process.send_signal(signal.CTRL_BREAK_EVENT)
        except OSError:  # there is no console, as under pythonw
            process.kill()
    else:
        process.terminate()


if __name__ == "__main__":
    sys.exit(environment.run(main))
