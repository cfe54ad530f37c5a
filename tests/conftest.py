"""Settings of the suite, isolation of every test, and the summary at the end."""

import gc
import importlib.util
import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

import hypothesis
import pytest
from loguru import logger

from tests.postgres_server import Server, programs, throwaway
from utils.app import config
from utils.app.config import Settings

Setting = Literal["quick", "full", "long"]
SETTINGS: tuple[Setting, ...] = ("quick", "full", "long")
RUN = "python scripts/run_tests.py"
SLOW = f"long setting: {RUN} --long"
FULL = f"attacks, processes and images, seconds each: {RUN} --all"
SERVER = f"needs a Kafka broker or a PostgreSQL: {RUN} --all"
KAFKA_WRITTEN = ("test_emitter", "test_contract", "test_audit_topic")
ON_DISK = tempfile.gettempdir()
NOT_RUN: Counter[str] = Counter()
"""Why so many tests are not part of this setting."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="without what takes seconds or a broker")
    parser.addoption("--long", action="store_true", help="the long settings: more kills, more crash points, more rows")
    parser.addoption("--proof", metavar="FILE", help="write what the tests that prove a guarantee measured to FILE")


def pytest_configure(config: pytest.Config) -> None:
    if memory := file_system_in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)
    chosen = setting(config)
    hypothesis.settings.register_profile(
        "toolkit",
        deadline=None,  # a busy machine may be slow
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        derandomize=chosen != "long",  # every run tries the same examples
        max_examples={"quick": 20, "full": 50, "long": 100}[chosen],
    )
    hypothesis.settings.load_profile("toolkit")


def file_system_in_memory(folder: Path = Path("/dev/shm"), least_bytes: int = 4 << 30) -> str:
    """Return a folder in memory for temporary files, or "": half of the suite's time would be syncs of small files."""
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > least_bytes else ""


def needs_a_disk(item: pytest.Item) -> bool:
    """Return whether a test kills, fills or tears something, so that its files must be on a real disk."""
    proof = item.get_closest_marker("proof")
    return "faults" in item.path.parts or bool(proof and re.search("kill|power", proof.args[1]))


def setting(config: pytest.Config) -> Setting:
    return "long" if config.getoption("--long") else "quick" if config.getoption("--quick") else "full"


def attacks(item: pytest.Item, now: Setting) -> int | str | None:
    """Return how often a test with a `proof` marker attacks: as it says, else as in the next shorter setting."""
    proof = item.get_closest_marker("proof")
    shorter = SETTINGS[: SETTINGS.index(now) + 1]
    return next((proof.kwargs[each] for each in reversed(shorter) if each in proof.kwargs), None) if proof else None


def why_not(item: pytest.Item, now: Setting) -> str:
    """Return why the setting leaves this test out, or "" if it runs."""
    counted = item.get_closest_marker("proof") is not None
    if now != "long" and (item.get_closest_marker("slow") or (counted and attacks(item, "full") is None)):
        return SLOW
    if now == "quick" and (item.get_closest_marker("kafka") or item.get_closest_marker("postgres")):
        return SERVER
    if now == "quick" and (item.get_closest_marker("full") or (counted and attacks(item, "quick") is None)):
        return FULL
    return ""


def pytest_make_parametrize_id(val: object) -> str | None:
    """Return a short id for a long value: xdist sends every id between its processes."""
    return f"{len(val)} long" if isinstance(val, str | bytes) and len(val) > 200 else None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        if "kafka" in item.path.parts:
            item.add_marker(pytest.mark.kafka)
        if "faults" in item.path.parts:  # they take seconds each
            item.add_marker(pytest.mark.full)
        if "kafka" in getattr(item, "fixturenames", ()):  # with `--dist loadgroup`, two processes have a broker each
            half = "kafka written" if item.path.stem in KAFKA_WRITTEN else "kafka"
            item.add_marker(pytest.mark.xdist_group(half))
        elif item.get_closest_marker("postgres"):
            item.add_marker(pytest.mark.xdist_group("postgres"))
    yield  # pytest's own hooks select by -k here
    reasons = {item: why_not(item, setting(config)) for item in items}
    NOT_RUN.update(reason for reason in reasons.values() if reason)
    config.hook.pytest_deselected(items=[item for item in items if reasons[item]])  # skips take as long as small tests
    items[:] = [item for item in items if not reasons[item]]


def pytest_collection_finish() -> None:
    gc.freeze()  # imports and collected tests stay: the garbage collector need not look at them


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (sent := getattr(session.config, "workeroutput", None)) is not None:  # only in a process of xdist
        sent["not_run"] = dict(NOT_RUN)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the counts of one process only: each has collected the same tests."""
    NOT_RUN.update({} if NOT_RUN else getattr(node, "workeroutput", {}).get("not_run", {}))  # none if it died


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print which tests were not run, and why; write what was measured to the file of `--proof`."""
    skipped = Counter(NOT_RUN)
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[reason.removeprefix("Skipped: ")] += 1
    if skipped:
        terminalreporter.write_sep("-", f"{setting(config)} setting; not run here, and why")
    for reason, amount in skipped.most_common():
        terminalreporter.write_line(f"{amount:5}  {reason}")
    measured = {
        report.nodeid.partition("@")[0]: text
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, text in report.user_properties
        if name == "measured"
    }
    for name, text in measured.items():
        terminalreporter.write_line(f"{name.rpartition('::')[2]}: {text}")
    if path := config.getoption("--proof"):
        Path(path).write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return setting(request.config) == "long"


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """Return how often the test attacks in this setting, by its `proof` marker; 0 if that is no number."""
    number = attacks(request.node, setting(request.config))
    return number if isinstance(number, int) else 0


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return a callback that keeps a line of measurements for the end of the run and docs/proof.md."""
    return lambda text: record_property("measured", text)


def reset_log() -> None:
    """Log to the present sys.stderr: a thread may outlive its test, whose stderr is closed by then."""
    logger.configure(handlers=[], patcher=lambda _: None)
    logger.add(lambda text: print(text, end="", file=sys.stderr), level="INFO")


@pytest.fixture(autouse=True, scope="session")
def own_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", file_system_in_memory() or None)
        patch.setattr(sysconfig, "get_path", cache(sysconfig.get_path))  # loguru asks for many paths per handler
        reset_log()
        yield


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return count(1)


@pytest.fixture(scope="session")
def disk_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield a folder on the disk; it stays if a test has failed, like pytest's own folders."""
    folder = Path(tempfile.mkdtemp(prefix="toolkit-tests-", dir=ON_DISK))
    yield folder
    if not request.session.testsfailed:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, numbers: Iterator[int]) -> Path:
    """Replace pytest's fixture, which searches the folders of all earlier tests for the next number."""
    on_disk = needs_a_disk(request.node)
    folder: Path = request.getfixturevalue("disk_folder") if on_disk else tmp_path_factory.getbasetemp()
    name = re.sub(r"\W", "_", request.node.name)[:30]
    path = folder / f"{name}{next(numbers)}"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Isolate the test from the user's variables, .env, data and broker."""
    for variable in config.variables():
        monkeypatch.setenv(variable, "")  # so that monkeypatch also undoes what a test's .env sets
        monkeypatch.delenv(variable)
    monkeypatch.setenv("BASE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("KAFKA_BROKER_ADDRESS", "localhost:1")
    monkeypatch.delenv("COLUMNS", raising=False)
    log = repr(logger)  # repr() names the handlers
    yield
    if repr(logger) != log:  # setting up the log takes as long as a small test
        reset_log()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", kafka_broker="localhost:1")  # nobody listens there


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Yield the list of logged lines, each as `LEVEL text`."""
    lines: list[str] = []
    number = logger.add(lambda text: lines.append(str(text).rstrip()), level="DEBUG", format="{level} {message}")
    yield lines
    with suppress(ValueError):  # a command line in this process may have replaced the handlers
        logger.remove(number)


def require(missing: str) -> None:
    """Skip the test if something is missing; fail instead where CI=true promises that everything is there."""
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)


def missing_postgres() -> str:
    if importlib.util.find_spec("psycopg") is None:
        return "no psycopg: pip install 'psycopg[binary]'"
    return "" if programs() else "no PostgreSQL: run scripts/prepare_postgres.sh"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Yield one PostgreSQL for the whole session."""
    require(missing_postgres())
    with closing(throwaway(settings=("fsync = off",))) as server:
        yield server


@pytest.fixture
def server(postgres: Server) -> Iterator[Server]:
    """Yield the session's PostgreSQL to a test that stops it, and start it again afterwards."""
    yield postgres
    postgres.start_again()
