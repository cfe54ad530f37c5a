"""Imports point down, have no side effects and load only what is used; only the settings read the environment."""

import ast
import json
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import run_python
from utils.app.config import PROJECT_DIR, Settings

# From the top. A module imports from its own group and from lower layers, never from another group of its layer.
LAYERS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"producers": ("producers.*",), "consumers": ("consumers.*",), "verify_emitters": ("verify_emitters",)},
    {"dashboard": ("consumers.dashboard.*",), "feeds": ("utils.feeds.*",)},
    {"delivery": ("utils.delivery.*",), "reading": ("utils.reading.*",), "checks": ("utils.checks.*",)},
    {"sinks": ("utils.sinks",)},
    {"emitters": ("utils.emitters.*",), "sources": ("utils.sources.*",)},
    {"records": ("utils.records.*",), "clients": ("utils.clients.*",)},
    {"app": ("utils.app.*",)},
)
# Within these groups a module imports no other one, apart from what the group shares.
APART = {"producers": (), "emitters": ("base",), "sources": ("base", "table_source"), "consumers": ()}
HEAVY = ("pandas", "numpy", "matplotlib", "duckdb", "kafka", "confluent_kafka", "rich")


def modules() -> dict[str, Path]:
    """Return name and file of every module of the project, without tests and scripts."""
    files = [PROJECT_DIR / "verify_emitters.py"]
    for folder in ("producers", "consumers", "utils"):
        files += sorted((PROJECT_DIR / folder).rglob("*.py"))
    names = {".".join(path.relative_to(PROJECT_DIR).with_suffix("").parts): path for path in files if path.exists()}
    return {name: path for name, path in names.items() if not name.endswith(".__init__")}


MODULES = modules()


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Return every module that a file imports anywhere; `from package import module` counts as package.module."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def place(name: str) -> tuple[int, str]:
    """Return layer (0 = top) and group; the longest pattern wins."""
    found = [
        (len(pattern), layer, group)
        for layer, groups in enumerate(LAYERS)
        for group, patterns in groups.items()
        for pattern in patterns
        if fnmatch(name, pattern)
    ]
    assert found, f"{name} has no place in the design's list of imports: give it one in LAYERS"
    _, layer, group = max(found)
    return layer, group


def wrong(importer: str, target: str) -> str:
    """Return why this import is not allowed, or ""."""
    (layer, group), (target_layer, target_group) = place(importer), place(target)
    if target_layer < layer:
        return f"{importer} imports {target} from above"
    if target_layer == layer and target_group != group:
        return f"{importer} imports {target} from beside"
    if target_group == group in APART and target.rpartition(".")[2] not in APART[group]:
        return f"{importer} imports its sibling {target}"
    return ""


def test_imports_point_down() -> None:
    pairs = ((name, target) for name, path in MODULES.items() for target in imported(path) if target in MODULES)
    assert [reason for pair in pairs if (reason := wrong(*pair))] == []


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("utils.records.record", "utils.sinks"),
        ("utils.sources.file_source", "utils.delivery.producing"),
        ("utils.emitters.file_emitter", "utils.emitters.sqlite_emitter"),
        ("utils.emitters.file_emitter", "utils.sources.file_source"),
        ("utils.delivery.producing", "utils.reading.follow"),
        ("producers.ragini_producer", "consumers.ragini_consumer"),
        ("producers.ragini_producer", "producers.producer_case"),
        ("consumers.dashboard.state", "consumers.ragini_visual_consumer"),
    ],
)
def test_the_rule_sees_imports_that_are_wrong(importer: str, target: str) -> None:
    assert wrong(importer, target)


def test_nothing_imports_in_a_circle() -> None:
    above: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        assert name not in above, " > ".join([*above, name])
        if name not in done:
            above.append(name)
            for target in imported(MODULES[name]):
                if target in MODULES:
                    visit(target)
            above.pop()
            done.add(name)

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("utils.records.record", {"sqlite3", "duckdb"}),
        ("consumers.dashboard.state", {"matplotlib", "threading.Thread"}),
    ],
)
def test_modules_do_not_import_forbidden_libraries(name: str, unknown: set[str]) -> None:
    assert not {target.partition(".")[0] for target in imported(MODULES[name])} & unknown


def uses_environment(source: str) -> bool:
    """Return whether a module reads or sets environment variables by itself."""
    nodes = list(ast.walk(ast.parse(source)))
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    found |= {node.name for node in nodes if isinstance(node, ast.alias)}
    return bool(found & {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"})


def test_only_the_settings_read_the_environment() -> None:
    assert [name for name, path in MODULES.items() if uses_environment(path.read_text("utf-8"))] == ["utils.app.config"]


@pytest.mark.parametrize(
    "source", ["import os\nos.environ.get('A')", "from os import getenv as g", "x.os.putenv(a, b)"]
)
def test_the_search_sees_each_use_of_the_environment(source: str) -> None:
    assert uses_environment(source)


IMPORT_ALL = """
import importlib, json, os, signal, sys, threading
sys.dont_write_bytecode = True
for library in {libraries}:
    importlib.import_module(library)
seen = []
# Reading source is all that an import may do.
def watch(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1]):
        seen.append((event, str(arguments[0])))
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.putenv", "subprocess.Popen", "sqlite3.connect",
                   "socket.connect", "socket.bind", "_thread.start_new_thread"):
        seen.append((event, str(arguments)))
signals = [signal.getsignal(number) for number in signal.valid_signals()]
sys.addaudithook(watch)
for module in {modules}:
    importlib.import_module(module)
if signals != [signal.getsignal(number) for number in signal.valid_signals()]:
    seen.append(("signal", "a handler was changed"))
print(json.dumps(seen))
"""


@pytest.mark.full
def test_importing_every_module_has_no_side_effects(settings: Settings) -> None:
    libraries = [*HEAVY, "matplotlib.pyplot", "vaderSentiment.vaderSentiment", "cyclopts", "loguru", "portalocker"]
    done = run_python(code=IMPORT_ALL.format(libraries=libraries, modules=list(MODULES)), settings=settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []
    assert not settings.data_path.exists()


RUNS = """
import json, sys
from importlib import import_module
from utils.app import cli
name = {name!r}
main = import_module(name).main
for arguments in {runs!r}:
    code = cli.run(main, name=name, arguments=arguments)
    print(json.dumps([code, sorted(set({heavy!r}) & set(sys.modules))]))
"""


@pytest.mark.full
@pytest.mark.parametrize("name", ["producers.ragini_producer", "producers.producer_case"])
def test_a_command_loads_only_what_it_uses(name: str, settings: Settings) -> None:
    run = ["--count", "3", "--interval", "0", "--sinks"]
    runs = {"file": [*run, "file"], "duckdb": [*run, "file", "sqlite", "duckdb"], "help": ["--help"]}
    done = run_python(code=RUNS.format(name=name, runs=list(runs.values()), heavy=HEAVY), settings=settings)
    printed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [code for code, _ in printed] == [0, 0, 0], done.stderr
    file, duckdb, shown = (set(loaded) for _, loaded in printed)
    assert not file
    assert duckdb <= {"duckdb", "numpy"}
    assert shown - duckdb <= {"rich"}
