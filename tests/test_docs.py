"""Settings, commands, options and files that the documents name exist."""

import json
import re
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from tests.test_imports import MODULES
from utils.app import config
from utils.app.config import PROJECT_DIR, Settings
from utils.app.options import Interval

# Cyclopts warns of any run under pytest that reads sys.argv.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Cyclopts application invoked"),
    pytest.mark.xdist_group("help"),  # so that one process builds each help once
]

EXAMPLE = PROJECT_DIR / ".env.example"
README = PROJECT_DIR / "README.md"
PAGES = sorted((PROJECT_DIR / "docs").glob("*.md"))
DOCUMENTS = [README, PROJECT_DIR / "CONTRIBUTING.md", PROJECT_DIR / "SECURITY.md", *PAGES]
COMMANDS = {
    "verify_emitters": ("check", "audit", "doctor"),
    "scripts.bench": ("all", "sinks", "sources", "kafka", "feed", "dashboard"),
}
ENTRY_POINTS = [name for name in MODULES if name.split(".")[0] != "utils" and "dashboard" not in name]
SCRIPTS = [f"scripts.{path.stem}" for path in (PROJECT_DIR / "scripts").glob("*.py")]

# Every setting of the command line: its variable, option, default and meaning.
SHARED = {
    hint.__metadata__[0].env_var[0]: (
        f"--{name.replace('_', '-')}",
        str(getattr(Settings, name)),
        hint.__metadata__[0].help,
    )
    for name, hint in get_type_hints(Settings, include_extras=True).items()
}
INTERVAL = ("--interval", config.variables()["MESSAGE_INTERVAL_SECONDS"], get_args(Interval)[1].help)
ALL = {"MESSAGE_INTERVAL_SECONDS": INTERVAL, **SHARED}


@cache
def run_help(name: str, command: str = "", option: str = "--help") -> str:
    """Return what `python -m name [command] --help` (or another option) prints, run in this process."""
    with pytest.MonkeyPatch.context() as patched:
        printed: list[str] = []
        patched.setenv("COLUMNS", "400")
        patched.setattr(sys, "argv", [name, *filter(None, [command]), option])
        patched.setattr(sys.stdout, "write", printed.append)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PROJECT_DIR / f"{name.replace('.', '/')}.py"), run_name="__main__")
    assert not ended.value.code, name
    return "".join(printed)


def commands() -> list[tuple[str, str]]:
    """Return module and arguments of every `python -m ...` in the documents."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = re.findall(r"python(?:3(?:\.\d+)?)? -m ([a-z_.]+)([^\n`|]*)", text)
        made = {name.replace("/", ".") for name in re.findall(r"```python\n# (\S+)\.py\n", text)}
        found += [(module, arguments) for module, arguments in named if module not in made]
    return [
        (module, arguments) for module, arguments in found if module not in ("venv", "pip", "pytest", "ruff", "mypy")
    ]


def test_env_example_equals_the_settings() -> None:
    lines = [line for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines == [f"{name}={value}" for name, value in config.variables().items()]


def test_env_example_explains_each_setting() -> None:
    explained = EXAMPLE.read_text(encoding="utf-8")
    for variable, (_, _, meaning) in ALL.items():
        assert re.search(rf"^# {re.escape(meaning)}\n(#.*\n)*{variable}=", explained, re.MULTILINE), variable


def test_readme_lists_each_setting() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| `(--[a-z-]+)` \| (\S+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(variable, option, default) for variable, (option, default, _) in ALL.items()]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_names_variables_and_defaults(name: str) -> None:
    """Only the settings that a command reads are in its help."""
    lines = run_help(name).splitlines()
    for variable, (option, default, _) in SHARED.items():
        shown = [line for line in lines if re.search(rf"{option}\b(?!-)", line)]
        assert all(variable in line and default in line for line in shown), variable
    assert any("BASE_DATA_DIR" in line for line in lines)


def test_each_setting_is_taken_by_some_command() -> None:
    helps = "\n".join(map(run_help, ENTRY_POINTS))
    assert [variable for variable in SHARED if variable not in helps] == []


@pytest.mark.parametrize("name", ["producers.ragini_producer", "producers.producer_case"])
def test_help_of_producers_names_the_interval(name: str) -> None:
    assert re.search(r"MESSAGE_INTERVAL_SECONDS\].*default: 5", run_help(name))


def test_documents_have_commands() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize(("module", "arguments"), sorted(set(commands())))
def test_documented_commands_and_options_exist(module: str, arguments: str) -> None:
    assert module in (*ENTRY_POINTS, *SCRIPTS)
    words = arguments.split()
    command = words[0] if words and words[0] in COMMANDS.get(module, ()) else ""
    known = run_help(module, command)
    for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", arguments):
        assert re.search(rf"{option}\b", known), f"{module} has no {option}"


@pytest.mark.parametrize(
    ("name", "command"), [(name, each) for name in ENTRY_POINTS for each in ("", *COMMANDS.get(name, ()))]
)
def test_every_option_is_in_a_document(name: str, command: str) -> None:
    documented = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    options = re.findall(r"^│ \*?\s*(--[a-z][a-z-]*)", run_help(name, command), re.MULTILINE)
    assert "--data-dir" in options
    assert [option for option in options if not re.search(rf"{option}\b(?!-)", documented)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_index_has_every_page() -> None:
    index = (PROJECT_DIR / "docs" / "index.md").read_text(encoding="utf-8")
    assert [path.name for path in PAGES if path.name != "index.md" and f"({path.name})" not in index] == []


def test_targets_of_make_that_the_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT_DIR / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {name for path in DOCUMENTS for name in re.findall(r"`make ([a-z]+)`", path.read_text("utf-8"))}
    assert named <= targets
    assert {"test", "lint", "bench", "pictures"} <= targets


def test_run_configurations_of_the_editor_are_commands() -> None:
    launch = json.loads((PROJECT_DIR / ".vscode" / "launch.json").read_text("utf-8"))
    for each in launch["configurations"]:
        assert each["module"] in (*ENTRY_POINTS, "pytest")
        options = (
            {word for word in each.get("args", ()) if word.startswith("--")} if each["module"] != "pytest" else set()
        )
        assert all(option in run_help(each["module"]) for option in options), each["name"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_scripts_exist(document: Path) -> None:
    scripts = re.findall(r"(?<!tests/)\bscripts/[a-z_]+\.(?:py|sh)", document.read_text(encoding="utf-8"))
    assert [script for script in scripts if not (PROJECT_DIR / script).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_variables_exist(document: Path) -> None:
    named = re.findall(
        r"\b(?:KAFKA|BUZZ|MESSAGE|BASE|LIVE|SQLITE|DUCKDB|JOURNAL|LOG)_[A-Z_]+\b", document.read_text("utf-8")
    )
    assert set(named) - {"KAFKA_HOME"} <= set(config.variables())
