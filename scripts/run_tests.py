"""Run the tests in the project's own environment.

usage: python scripts/run_tests.py [--all | --long] [pytest arguments]

Without an option: the quick tests, in one to two minutes.
--all: everything, with Kafka and the checks of the code, as CI does.
--long: attacks that take hours.
What follows goes to pytest: -k journal, tests/records, -x, -n 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts import environment

PREPARE_KAFKA = environment.PROJECT_DIR / "scripts" / "prepare_kafka.sh"
PREPARE_POSTGRES = environment.PROJECT_DIR / "scripts" / "prepare_postgres.sh"
CHECKS = {"ruff check": ["ruff", "check", "."], "ruff format": ["ruff", "format", "--check", "."], "mypy": ["mypy"]}
ABOUT = {
    "quick": "Quick tests, one to two minutes; everything with Kafka and checks: --all, hours of attacks: --long",
    "all": "All tests and checks, as CI runs them, some minutes; the quick ones: without --all",
    "long": "The long settings, some hours",
}


def main(arguments: list[str]) -> int:
    setting, rest = split(arguments)
    if setting == "help":
        print(__doc__.strip())
        return 0
    python = environment.prepare(environment.DEVELOPER)
    print(ABOUT[setting], flush=True)
    failed = []
    if setting != "quick":
        reason = prepare_kafka()
        if reason:
            print(f"No Kafka for the tests: {reason}", flush=True)
        reason = prepare_postgres()
        if reason:
            print(f"No PostgreSQL for the tests: {reason}", flush=True)
        failed = run_checks(python)
    code = wait([str(python), "-m", "pytest", *options(setting), *rest])
    if failed:
        print(f"Failed besides the tests: {', '.join(failed)}", flush=True)
    return code or (1 if failed else 0)


def split(arguments: list[str]) -> tuple[str, list[str]]:
    """The setting and what is for pytest."""
    rest = [argument for argument in arguments if argument not in ("--all", "--long", "--quick")]
    if {"-h", "--help"} & set(arguments):
        return "help", rest
    return "long" if "--long" in arguments else "all" if "--all" in arguments else "quick", rest


def options(setting: str, cores: int | None = os.cpu_count()) -> list[str]:
    """Of pytest: a process per core, and one more where tests wait for servers and processes."""
    processes = min((cores or 1) + (setting != "quick"), 8)
    parallel = ["-q", "-n", str(processes), "--dist", "loadgroup"]
    return parallel if setting == "all" else [*parallel, f"--{setting}"]


def prepare_kafka(script: Path = PREPARE_KAFKA, system: str = os.name) -> str:
    """Make a Kafka available to the tests, which decide what to do without one; the reason if there is none."""
    return _prepared(system, script)


def prepare_postgres(script: Path = PREPARE_POSTGRES, system: str = os.name) -> str:
    """Make PostgreSQL's programs available to the tests; the reason if there are none."""
    return _prepared(system, script, "--programs")


def _prepared(system: str, script: Path, *options: str) -> str:
    if system == "nt":
        return "on Windows it runs inside WSL"
    if not script.is_file():
        return f"there is no {script.name}"
    if subprocess.run(["bash", str(script), *options], check=False).returncode != 0:
        return f"{script.name} says why above"
    return ""


def run_checks(python: Path) -> list[str]:
    """Names of the checks of the code that failed."""
    failed = []
    for name, command in CHECKS.items():
        print(f"{name}:", end=" ", flush=True)
        if wait([str(python), "-m", *command]):
            failed.append(name)
    return failed


def wait(command: list[str]) -> int:
    """Exit code of the command, run in the project's folder."""
    # The suite starts Python hundreds of times: without bytecode each compiles the project again.
    environment_variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, cwd=environment.PROJECT_DIR, env=environment_variables)
    try:
        return process.wait()
    except KeyboardInterrupt:  # it got it too and ends by itself
        return process.wait()


if __name__ == "__main__":
    sys.exit(environment.run(main))
