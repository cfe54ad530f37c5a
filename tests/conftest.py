"""Options and isolation that every test has."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from loguru import logger

from utils.app import config
from utils.app.config import Settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long settings: more kills, more crash points, more rows")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="long setting: run with --long"))


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no .env of the person who runs the tests counts, and nothing goes to their data folder."""
    for variable in config.variables():
        monkeypatch.setenv(variable, "")  # so that what a test's .env sets is undone as well
        monkeypatch.delenv(variable)
    monkeypatch.setenv("BASE_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What was logged, as `LEVEL text`."""
    lines: list[str] = []
    number = logger.add(lambda text: lines.append(str(text).rstrip()), level="DEBUG", format="{level} {message}")
    yield lines
    with suppress(ValueError):  # a command line in this process has set its own
        logger.remove(number)
