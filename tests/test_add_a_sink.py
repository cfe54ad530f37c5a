"""docs/add-a-sink.md, followed in a copy of the project."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.project_copy import apply_changes, copy_project
from utils.app.config import PROJECT_DIR

pytestmark = pytest.mark.full

PAGE = (PROJECT_DIR / "docs" / "add-a-sink.md").read_text(encoding="utf-8")


@dataclass
class Copy:
    """A copy of the project that has what the page adds."""

    folder: Path

    def start(self, module: str, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", module, *options]
        return subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def run(self, module: str, *options: str) -> str:
        with self.start(module, *options) as process:
            out, err = process.communicate(timeout=280)
        assert process.returncode == 0, out + err
        return out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("copy") / "project", PAGE)
    apply_changes(folder, PAGE)
    return folder


@pytest.fixture
def copy(project: Path) -> Copy:
    return Copy(project)


def sequences(copy: Copy) -> list[int]:
    lines = copy.run("consumers.ragini_consumer", "--source", "parquet", "--once", "--json").splitlines()
    return [json.loads(line)["sequence"] for line in lines]


def test_the_sink_of_the_page_keeps_the_promise(copy: Copy, tmp_path: Path) -> None:
    producer = ("producers.ragini_producer", "--interval", "0", "--sinks", "parquet", "file")
    copy.run(*producer, "--count", "5000")
    with copy.start(*producer) as process:  # without a count; killed in the middle
        assert process.stderr is not None
        process.stderr.readline()
        process.kill()
        process.communicate()
    copy.run(*producer, "--count", "5")
    found = sequences(copy)
    assert len(found) >= 5_005
    assert found == list(range(1, len(found) + 1))
    lines = (tmp_path / "data" / "project_live.json").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == found


def test_its_consumer_keeps_each_record_once(copy: Copy) -> None:
    producer = ("producers.ragini_producer", "--interval", "0", "--sinks", "parquet")
    case = ("consumers.parquet_consumer_case", "--once", "--json")
    assert json.loads(copy.run(*producer, "--count", "40") and copy.run(*case))["store"]["records"] == 40
    copy.run(*producer, "--count", "2")
    assert json.loads(copy.run(*case, "--count", "1"))["store"]["records"] == 41
    totals = json.loads(copy.run(*case))["store"]
    assert (totals.pop("records"), set(totals.values())) == (42, {0})
    copy.run(*producer, "--count", "3")
    assert json.loads(copy.run(*case, "--from", "end"))["store"]["records"] == 42


def test_audit_and_doctor_know_it(copy: Copy) -> None:
    copy.run("producers.ragini_producer", "--interval", "0", "--sinks", "parquet", "file", "--count", "500")
    report = json.loads(copy.run("verify_emitters", "audit", "--json"))
    assert {each["sink"]: each["count"] for each in report["results"]} == {"file": 500, "parquet": 500}
    assert "parquet" in copy.run("verify_emitters", "check", "--sinks", "parquet")
    assert "parquet" in copy.run("verify_emitters", "doctor")


def test_no_other_test_depends_on_the_list_of_sinks(copy: Copy) -> None:
    """A new sink needs no change in the contract tests, nor in quick tests of files that concern all sinks.

    Tests of one existing sink, and those of the contract's doubles, are left out."""
    named = re.compile(r"\b(ALL|EMBEDDED)\b")
    found = [
        path for path in (copy.folder / "tests").rglob("test_*.py") if named.search(path.read_text(encoding="utf-8"))
    ]
    files = [str(path) for path in found if path.name not in ("test_docs.py", Path(__file__).name)]  # these need docs
    assert len(files) > 10
    chosen = "not sqlite and not duckdb and not kafka and not check_catches"
    printed = copy.run("pytest", "-v", "--quick", "-p", "no:cacheprovider", "-k", chosen, *files)
    assert re.search(r"test_sink_keeps\[parquet-\S+ PASSED", printed)


def test_its_code_is_typed_and_tidy(tmp_path: Path) -> None:
    """The code of the page passes mypy and ruff, run from the project's folder for mypy's cache."""
    files = []
    for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        files.append(tmp_path / Path(name).name)
        files[-1].write_text(code, encoding="utf-8")
    config = str(PROJECT_DIR / "pyproject.toml")
    for tool, *options in (
        ["mypy", "--config-file", config],
        ["ruff", "check", "--config", config],
        ["ruff", "format", "--check", "--config", config],
    ):
        if shutil.which(tool, path=str(Path(sys.executable).parent)) is None:
            pytest.skip(f"{tool} is not installed")
        command = [sys.executable, "-m", tool, *options, *map(str, files)]
        done = subprocess.run(command, cwd=PROJECT_DIR, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
