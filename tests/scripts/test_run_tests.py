"""run_tests.py passes arguments and the exit code on, and says why there is no Kafka."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import environment, run_tests


def test_missing_kafka_is_reported_and_does_not_stop(tmp_path: Path) -> None:
    assert run_tests.prepare_kafka(tmp_path / "prepare_kafka.sh", "posix") == "there is no prepare_kafka.sh"
    assert "WSL" in run_tests.prepare_kafka(tmp_path / "prepare_kafka.sh", "nt")


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
@pytest.mark.parametrize(("code", "reason"), [(0, ""), (3, "prepare_kafka.sh says why above")])
def test_kafka_is_prepared_by_its_script(tmp_path: Path, code: int, reason: str) -> None:
    script = tmp_path / "prepare_kafka.sh"
    script.write_text(f"exit {code}\n")
    assert run_tests.prepare_kafka(script, "posix") == reason


def test_arguments_and_exit_code_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    class Pytest:
        def __init__(self, command: list[str], cwd: Path) -> None:
            ran.append(command)

        def wait(self) -> int:
            return 5

    monkeypatch.setattr(environment, "prepare", lambda: Path(sys.executable))
    monkeypatch.setattr(run_tests, "prepare_kafka", lambda: "")
    monkeypatch.setattr(subprocess, "Popen", Pytest)
    assert run_tests.main(["-k", "journal"]) == 5
    assert ran == [[sys.executable, "-m", "pytest", "-v", "-k", "journal"]]
