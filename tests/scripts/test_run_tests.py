"""run_tests.py: its settings, the same commands in CI, exit codes, missing Kafka, and the summary of the suite."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import environment, run_tests
from utils.app.config import PROJECT_DIR


def test_missing_kafka_is_reported_and_does_not_stop(tmp_path: Path) -> None:
    assert run_tests.prepare(["prepare_kafka.sh"], tmp_path, "posix") == "there is no prepare_kafka.sh"
    assert "WSL" in run_tests.prepare(["prepare_kafka.sh"], tmp_path, "nt")


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
@pytest.mark.parametrize(("code", "reason"), [(0, ""), (3, "prepare_kafka.sh says why above")])
def test_kafka_is_prepared_by_its_script(tmp_path: Path, code: int, reason: str) -> None:
    (tmp_path / "prepare_kafka.sh").write_text(f"exit {code}\n")
    assert run_tests.prepare(["prepare_kafka.sh"], tmp_path, "posix") == reason


class Ran:
    """Records commands instead of running them, and plays their exit codes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.codes: dict[str, int] = {}
        self.locks: list[str] = []
        monkeypatch.setattr(environment, "prepare", self.prepare)
        monkeypatch.setattr(run_tests, "SERVERS", {})
        monkeypatch.setattr(run_tests, "wait", self.wait)

    def prepare(self, lock: str) -> Path:
        self.locks.append(lock)
        return Path("python")

    def wait(self, command: list[str]) -> int:
        assert command[:2] == ["python", "-m"]
        self.commands.append(command[2:])
        return self.codes.get(command[2], 0)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    return Ran(monkeypatch)


def test_quick_by_itself_with_the_developers_packages(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    ran.codes["pytest"] = 5
    assert run_tests.main(["-k", "journal"]) == 5
    assert ran.locks == ["requirements-dev.lock"]
    ((name, *options),) = ran.commands
    assert (name, options[-3:]) == ("pytest", ["--quick", "-k", "journal"])
    printed = capsys.readouterr().out
    assert "--all" in printed and "--long" in printed


def test_all_runs_the_checks_and_every_test(ran: Ran) -> None:
    assert run_tests.main(["--all"]) == 0
    assert ran.commands[:3] == [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]
    assert not {"--quick", "--long", "--all"} & set(ran.commands[3])
    assert run_tests.main(["--long", "-x"]) == 0
    assert ran.commands[-1][-2:] == ["--long", "-x"]


@pytest.mark.parametrize("failing", ["ruff", "mypy", "pytest"])
def test_any_failure_is_the_exit_code_and_the_rest_runs(
    failing: str, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    ran.codes[failing] = 1
    assert run_tests.main(["--all"]) == 1
    assert [command[0] for command in ran.commands] == ["ruff", "ruff", "mypy", "pytest"]
    assert (f"Failed besides the tests: {failing}" in capsys.readouterr().out) == (failing != "pytest")


def test_help_makes_no_environment(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tests.main(["--help"]) == 0
    assert not ran.locks and "--all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "cores", "processes"), [("quick", None, "2"), ("quick", 2, "2"), ("all", 2, "4"), ("long", 64, "8")]
)
def test_processes_for_the_cores(setting: str, cores: int | None, processes: str) -> None:
    options = run_tests.options(setting, cores)
    assert options[options.index("-n") + 1] == processes


def test_the_integration_runs_all_of_it() -> None:
    assert "run_tests.py --all" in (PROJECT_DIR / ".ci" / "run").read_text("utf-8")
    for workflow in (PROJECT_DIR / ".github" / "workflows").glob("*.yml"):
        assert "run_tests.py --all" in workflow.read_text("utf-8")


PLANTED = {
    "an unused import": (["ruff", "check"], "import os\n"),
    "no format": (["ruff", "format", "--check"], "x = [1,2]\n"),
    "a wrong type": (["mypy"], 'x: int = "one"\n'),
}


@pytest.mark.parametrize("what", [*list(PLANTED)[:2], pytest.param("a wrong type", marks=pytest.mark.full)])
def test_linters_find_planted_mistakes(what: str, tmp_path: Path) -> None:
    command, text = PLANTED[what]
    planted = tmp_path / "planted.py"
    planted.write_text(text)
    config = ["--config-file" if command == ["mypy"] else "--config", str(PROJECT_DIR / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", *command, *config, str(planted)], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1, done.stdout


SUITE = """
import pytest
def test_plain(tmp_path, disk_folder): assert disk_folder not in tmp_path.parents
@pytest.mark.full
def test_full(): ...
@pytest.mark.slow
def test_slow(): ...
@pytest.mark.kafka
def test_kafka(): ...
@pytest.mark.proof("a", "kill -9", full=2, long=3)
def test_attack(times, measured, tmp_path, disk_folder):
    assert disk_folder in tmp_path.parents
    measured(f"{times} attacks")
@pytest.mark.proof("a", "b", quick=1, full=2, long=3)
def test_always(times, measured): measured(f"{times} attacks")
@pytest.mark.proof("a", "b", long=3)
def test_rare(times): ...
def test_elsewhere(): pytest.skip("needs the moon")
"""


def run_suite(folder: Path, *options: str) -> str:
    (folder / "test_it.py").write_text(SUITE)
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    shared = ["-p", "no:cacheprovider", "-c", str(PROJECT_DIR / "pyproject.toml"), "--rootdir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", *shared, *options, str(folder / "test_it.py")],
        cwd=PROJECT_DIR, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.full
@pytest.mark.parametrize(
    ("options", "ran", "attacks"),
    [
        (["--quick", "-n", "2", "--dist", "loadgroup"], {"plain", "always"}, ["test_always: 1 attacks"]),
        ([], {"plain", "full", "kafka", "attack", "always"}, ["test_attack: 2 attacks", "test_always: 2 attacks"]),
        (["--long"], {"plain", "full", "slow", "kafka", "attack", "always", "rare"}, ["test_attack: 3 attacks"]),
    ],
)
def test_each_setting_runs_and_prints_its_tests(
    options: list[str], ran: set[str], attacks: list[str], tmp_path: Path
) -> None:
    printed = run_suite(tmp_path, *options)
    passed = {line.partition("::test_")[2].split()[0].partition("@")[0] for line in printed.splitlines()
              if "::test_" in line and "PASSED" in line}  # fmt: skip
    assert passed == ran
    assert f"{len(ran)} passed, 1 skipped" in printed, printed
    assert "    1  needs the moon" in printed
    assert sum(map(int, re.findall(r"^ +(\d+)  ", printed, re.MULTILINE))) == 8 - len(ran)
    assert all(line in printed for line in attacks)
    assert ("long setting: " in printed) == ("--long" not in options)
    assert ("needs a Kafka broker or a PostgreSQL: " in printed) == ("--quick" in options)
