"""The environment is made once, filled again only after its lock file changed, and any failure is one line."""

import errno
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import environment
from scripts.environment import DEVELOPER, USER
from utils.app.config import PROJECT_DIR

# Fake Python, pip and uv: log their call; fail if the file `log.KIND` exists.
FAKE_PYTHON = """#!/bin/sh
case "$(basename "$0") $*" in
  "uv pip install --require-hashes "*) kind=uv ;;
  *" -m venv "*) kind=venv ;;
  *" install "*"uv>="*) kind=get-uv ;;
  *" pip "*" install --require-hashes "*) kind=pip ;;
  *) exit 0 ;;
esac
echo $kind >> '{log}'
[ ! -e '{log}'.$kind ] || {{ echo no network; exit 1; }}
for last; do :; done
case $kind in
  venv) mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
  get-uv) cp "$0" "$(dirname "$0")/uv" ;;
esac
"""

posix_only = pytest.mark.skipif(os.name == "nt", reason="the fake interpreter is a shell script")


class Project:
    def __init__(self, path: Path) -> None:
        self.path, self.log, self.interpreter = path, path / "log", path / "python"
        for lock in (USER, DEVELOPER):
            (path / lock).write_text("msgspec==1\n")
        self.interpreter.write_text(FAKE_PYTHON.format(log=self.log))
        self.interpreter.chmod(0o755)

    def prepare(self, lock: str = USER) -> tuple[Path, list[str]]:
        """Prepare the environment; return its Python and the logged commands."""
        self.log.write_text("")
        python = environment.prepare(lock, self.path, str(self.interpreter))
        return python, self.log.read_text().split()

    def fails(self, kind: str) -> Path:
        path = Path(f"{self.log}.{kind}")
        path.touch()
        return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(environment, "DOT_EVERY_S", 0.01)
    return Project(tmp_path)


@posix_only
def test_made_and_filled_once(project: Project) -> None:
    python, ran = project.prepare()
    assert python == project.path / ".venv" / "bin" / "python"
    assert ran == ["venv", "get-uv", "uv"]
    assert project.prepare() == (python, [])


@posix_only
def test_a_changed_lock_is_installed_again(project: Project) -> None:
    project.prepare()
    (project.path / USER).write_text("msgspec==2\n")
    assert project.prepare()[1] == ["uv"]
    assert project.prepare()[1] == []


@posix_only
def test_developers_get_more_packages_and_keep_them(project: Project) -> None:
    project.prepare()
    assert project.prepare(DEVELOPER)[1] == ["uv"]
    assert project.prepare(USER)[1] == project.prepare(DEVELOPER)[1] == []


@posix_only
def test_an_environment_of_developers_serves_users(project: Project) -> None:
    project.prepare(DEVELOPER)
    assert project.prepare(USER)[1] == []


@posix_only
@pytest.mark.parametrize(("failing", "ran"), [("get-uv", ["get-uv", "pip"]), ("uv", ["get-uv", "uv", "pip"])])
def test_pip_installs_where_uv_cannot(failing: str, ran: list[str], project: Project) -> None:
    project.fails(failing)
    assert project.prepare()[1] == ["venv", *ran]
    assert project.prepare()[1] == []


@posix_only
def test_broken_environment_is_made_again(project: Project) -> None:
    python, _ = project.prepare()
    python.unlink()
    assert project.prepare()[1][0] == "venv"


@posix_only
def test_failed_install_is_reported_and_is_tried_again(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    offline = [project.fails(kind) for kind in ("get-uv", "pip")]
    with pytest.raises(environment.Problem, match="check the network"):
        project.prepare()
    assert "no network" in capsys.readouterr().err
    for each in offline:
        each.unlink()
    assert project.prepare()[1] == ["get-uv", "uv"]


def test_long_work_is_never_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.DOT_EVERY_S < 5
    monkeypatch.setattr(environment, "DOT_EVERY_S", 0.01)
    assert environment._do("Waiting", [sys.executable, "-c", "import time; time.sleep(0.5)"]) == ""
    printed = capsys.readouterr().out
    assert printed.startswith("Waiting ...") and printed.endswith(" s\n")


def test_settings_of_pip_hold_for_uv() -> None:
    listed = ":env:.cert='/etc/ca.pem'\n:env:.timeout='180'\nglobal.index-url='https://mirror.example/simple'\n"
    assert environment.uv_variables(listed) == {
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
    }


def test_an_environment_that_cannot_be_made_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / USER).write_text("")
    (tmp_path / ".venv").write_text("a file is in the way")
    with pytest.raises(environment.Problem, match="could not be made"):
        environment.prepare(USER, tmp_path)


def test_old_python_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: list[str]) -> int:
        environment.prepare(USER, tmp_path, sys.executable, (3, 9))
        return 0

    monkeypatch.setattr(sys, "argv", ["scripts/start.py"])
    assert environment.run(main) == 2
    logged = capsys.readouterr().err
    assert logged == "start.py: this is Python 3.9; install Python 3.11 or newer and run this script with it\n"


def test_a_folder_that_cannot_be_written_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: list[str]) -> int:
        raise OSError(errno.EROFS, "Read-only file system", ".env")

    assert environment.run(main) == 2
    logged = capsys.readouterr().err
    assert logged.count("\n") == 1 and "Read-only file system: '.env'" in logged


def test_ctrl_c_while_installing_is_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    assert environment.run(main) == 3


# The lists of packages -----


def required(name: str) -> list[Requirement]:
    lines = (PROJECT_DIR / name).read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def pinned(name: str) -> dict[str, list[str]]:
    """Return name and versions in a lock file; some packages have one version per Python."""
    found: dict[str, list[str]] = {}
    for line in (PROJECT_DIR / name).read_text("utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            found.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return found


def test_pyproject_names_the_same_packages() -> None:
    project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dependencies"] == [str(each) for each in required("requirements.txt")]
    assert project["dependency-groups"]["dev"] == [str(each) for each in required("requirements-dev.txt")]


@pytest.mark.parametrize(
    ("lock", "lists"), [(USER, ["requirements.txt"]), (DEVELOPER, ["requirements.txt", "requirements-dev.txt"])]
)
def test_locks_are_compiled_from_the_lists(lock: str, lists: list[str]) -> None:
    versions = pinned(lock)
    for requirement in (each for name in lists for each in required(name)):
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found and all(version in requirement.specifier for version in found), f"{requirement}: run make lock"


def test_developers_have_the_versions_of_users() -> None:
    versions = pinned(DEVELOPER)
    assert {name: versions.get(name) for name in pinned(USER)} == pinned(USER)


@pytest.mark.parametrize("lock", [USER, DEVELOPER])
def test_locks_have_hashes_and_name_no_host(lock: str) -> None:
    text = (PROJECT_DIR / lock).read_text("utf-8")
    assert "://" not in text and "--index" not in text
    for entry in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry, entry
