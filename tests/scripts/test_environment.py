"""The environment is made once, filled again only when requirements.txt changed, and failures are one line."""

import os
import sys
from pathlib import Path

import pytest

from scripts import environment

FAKE_PYTHON = """#!/bin/sh
echo "$@" >> '{log}'
case "$*" in
  *"-m venv"*) for last; do :; done; mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
  *"-m pip"*) [ ! -e '{log}.offline' ] ;;
esac
"""

posix_only = pytest.mark.skipif(os.name == "nt", reason="the fake interpreter is a shell script")


class Project:
    def __init__(self, path: Path) -> None:
        self.path, self.log, self.interpreter = path, path / "log", path / "python"
        self.requirements = path / "requirements.txt"
        self.requirements.write_text("msgspec\n")
        self.interpreter.write_text(FAKE_PYTHON.format(log=self.log))
        self.interpreter.chmod(0o755)

    def prepare(self) -> tuple[Path, str]:
        """The environment's Python and which modules were run to make it."""
        self.log.unlink(missing_ok=True)
        python = environment.prepare(self.path, str(self.interpreter))
        calls = [line.split()[1] for line in self.log.read_text().splitlines() if line.startswith("-m")]
        return python, " ".join(calls)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@posix_only
def test_made_and_filled_once(project: Project) -> None:
    python, ran = project.prepare()
    assert python == project.path / ".venv" / "bin" / "python"
    assert ran == "venv pip"
    assert project.prepare() == (python, "")


@posix_only
def test_changed_requirements_are_installed_again(project: Project) -> None:
    project.prepare()
    project.requirements.write_text("msgspec\nrich\n")
    assert project.prepare()[1] == "pip"
    assert project.prepare()[1] == ""


@posix_only
def test_broken_environment_is_made_again(project: Project) -> None:
    python, _ = project.prepare()
    python.unlink()
    assert project.prepare()[1] == "venv pip"


@posix_only
def test_failed_install_is_reported_and_is_tried_again(project: Project) -> None:
    offline = Path(f"{project.log}.offline")
    offline.touch()
    with pytest.raises(environment.Problem, match="check the network"):
        project.prepare()
    offline.unlink()
    assert project.prepare()[1] == "pip"


def test_environment_that_cannot_be_made_names_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / ".venv").write_text("a file is in the way")
    with pytest.raises(environment.Problem, match="could not be made"):
        environment.prepare(tmp_path)


def test_old_python_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: list[str]) -> int:
        environment.prepare(tmp_path, sys.executable, (3, 9))
        return 0

    monkeypatch.setattr(sys, "argv", ["scripts/start.py"])
    assert environment.run(main) == 2
    logged = capsys.readouterr().err
    assert logged == "start.py: this is Python 3.9; install Python 3.11 or newer and run this script with it\n"


def test_ctrl_c_while_installing_is_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    assert environment.run(main) == 3
