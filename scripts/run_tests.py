"""Run all tests in the project's own environment: python scripts/run_tests.py [pytest arguments]."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts import environment

PREPARE_KAFKA = environment.PROJECT_DIR / "scripts" / "prepare_kafka.sh"


def prepare_kafka(script: Path = PREPARE_KAFKA, system: str = os.name) -> str:
    """Make a Kafka available to the tests, which decide what to do without one; the reason if there is none."""
    if system == "nt":
        return "on Windows it runs inside WSL"
    if not script.is_file():
        return f"there is no {script.name}"
    if subprocess.run(["bash", str(script)], check=False).returncode != 0:
        return f"{script.name} says why above"
    return ""


def main(arguments: list[str]) -> int:
    python = environment.prepare()
    reason = prepare_kafka()
    if reason:
        print(f"No Kafka for the tests: {reason}", flush=True)
    tests = subprocess.Popen([str(python), "-m", "pytest", "-v", *arguments], cwd=environment.PROJECT_DIR)
    try:
        return tests.wait()
    except KeyboardInterrupt:  # pytest got it too and ends by itself
        return tests.wait()


if __name__ == "__main__":
    sys.exit(environment.run(main))
