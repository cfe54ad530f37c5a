"""Run the tests in the project's own environment.

usage: python scripts/run_tests.py [--all | --long] [pytest arguments]

Without an option: the quick tests, in under a minute.
--all: everything, with Kafka and the checks of the code, as CI does.
--long: attacks that take hours.
Other arguments go to pytest: -k journal, tests/records, -x, -n 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts import environment

SERVERS = {"Kafka": ["prepare_kafka.sh"], "PostgreSQL": ["prepare_postgres.sh", "--programs"]}
CHECKS = {"ruff check": ["ruff", "check", "."], "ruff format": ["ruff", "format", "--check", "."], "mypy": ["mypy"]}
ABOUT = {
    "quick": "Quick tests, under a minute; everything with Kafka and checks: --all, hours of attacks: --long",
    "all": "All tests and checks, as CI runs them, some minutes; the quick ones: without --all",
    "long": "The long settings, some hours",
}


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    setting = next((each for each in ("long", "all") if f"--{each}" in arguments), "quick")
    rest = [argument for argument in arguments if argument not in ("--all", "--long", "--quick")]
    python = str(environment.prepare(environment.DEVELOPER))
    print(ABOUT[setting], flush=True)
    failed = []
    if setting != "quick":
        for server, command in SERVERS.items():
            reason = prepare(command)
            if reason:
                print(f"No {server} for the tests: {reason}", flush=True)
        for name, command in CHECKS.items():
            print(f"{name}:", end=" ", flush=True)
            if wait([python, "-m", *command]):
                failed.append(name)
    code = wait([python, "-m", "pytest", *options(setting), *rest])
    if failed:
        print(f"Failed besides the tests: {', '.join(failed)}", flush=True)
    return code or (1 if failed else 0)


def options(setting: str, cores: int | None = os.cpu_count()) -> list[str]:
    """Return options of pytest: a process per core, and two more if tests wait for servers, processes and disks."""
    processes = min(max(2, cores or 1) + (0 if setting == "quick" else 2), 8)
    parallel = ["-q", "-n", str(processes), "--dist", "loadgroup"]
    return parallel if setting == "all" else [*parallel, f"--{setting}"]


def prepare(command: list[str], folder: Path = environment.PROJECT_DIR / "scripts", system: str = os.name) -> str:
    """Prepare a server for the tests. Return the reason if there is none; the tests know what to do without it."""
    if system == "nt":
        return "on Windows it runs inside WSL"
    if not (folder / command[0]).is_file():
        return f"there is no {command[0]}"
    code = subprocess.run(["bash", str(folder / command[0]), *command[1:]], check=False).returncode
    return f"{command[0]} says why above" if code else ""


def wait(command: list[str]) -> int:
    """Run a command in the project's folder and return its exit code."""
    # The suite starts Python hundreds of times: without bytecode each compiles the project again.
    environment_variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, cwd=environment.PROJECT_DIR, env=environment_variables)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the command gets Ctrl+C too and ends by itself
        return process.wait()


if __name__ == "__main__":
    sys.exit(environment.run(main))
