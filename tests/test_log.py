"""Log lines: their targets, the limit on their size, and secrets that they never contain."""

import threading
from pathlib import Path

import pytest
from loguru import logger

from utils.app import log
from utils.app.config import Settings


@pytest.fixture
def path(settings: Settings) -> Path:
    return settings.data_path / "logs" / "test.log"


def test_short_lines_for_people_and_full_ones_for_the_file(
    settings: Settings, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.set_up(settings, "test")
    logger.debug("not shown")
    try:
        raise ValueError("a reason")
    except ValueError as error:
        logger.opt(exception=error).error("went wrong")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "ERROR   went wrong" in shown
    kept = path.read_text(encoding="utf-8")
    assert "Traceback" in kept
    assert "ValueError: a reason" in kept
    assert "not shown" not in kept


def test_the_log_is_bounded(settings: Settings, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_BYTES", 2_000)
    log.set_up(settings, "test")
    for number in range(100):
        logger.info("line {} of many", number)
    assert sorted(file.name for file in path.parent.iterdir()) == ["test.log", "test.old.log"]
    assert all(file.stat().st_size <= 2_000 for file in path.parent.iterdir())
    assert "line 99" in path.read_text(encoding="utf-8")


def test_a_log_that_cannot_be_renamed_loses_no_line(
    settings: Settings, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Windows cannot rename a log that another process has open, lines are still appended to it."""
    monkeypatch.setattr(log, "MAX_BYTES", 2_000)

    def replace(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    log.set_up(settings, "test")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        for number in range(100):
            logger.info("line {} of many", number)
    assert path.read_text(encoding="utf-8").count("of many") == 100
    logger.info("it is renamed once that is possible")
    assert path.stat().st_size < 2_000


def test_without_a_writable_folder_commands_run_without_a_log_file(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("a file")
    log.set_up(settings, "test")
    logger.info("still logged")
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_is_made_before_the_first_line(settings: Settings) -> None:
    log.set_up(settings, "test")
    assert not settings.data_path.exists()


def test_secrets_are_masked_in_lines_and_tracebacks(
    settings: Settings, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.set_up(settings, "test", secrets=("", "hunter2"))
    try:
        raise ValueError("with hunter2")
    except ValueError as error:
        logger.opt(exception=error).error("logged hunter2 with {}", "hunter2")
    kept = path.read_text(encoding="utf-8")
    assert "hunter2" not in kept + capsys.readouterr().err
    assert "ValueError: with ***" in kept


def test_a_thread_that_dies_is_named(settings: Settings, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.excepthook
    log.set_up(settings, "test")
    thread = threading.Thread(target=lambda: 1 / 0, name="file worker")
    thread.start()
    thread.join()
    threading.excepthook = before
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "file worker ended by ZeroDivisionError" in shown
    assert "Traceback" in path.read_text(encoding="utf-8")


HOSTILE = "a\nok: all is well\r\x1b[2J\x9b2J\u2028\u202eb\u2066\x00\x85"


def test_external_text_is_one_line_without_control_characters() -> None:
    assert log.plain(HOSTILE) == "a ok: all is well  [2J 2J  b   "
    assert log.plain("İ ß 日本 😀\u00a0\u200d") == "İ ß 日本 😀\u00a0\u200d"


def test_external_text_cannot_forge_a_log_line(
    settings: Settings, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.set_up(settings, "test")
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        logger.opt(exception=error).error("it logged {}", HOSTILE)
    shown, kept = capsys.readouterr().err, path.read_text(encoding="utf-8")
    assert shown.count("\n") == 1
    assert not set("\x1b\x9b\u2028\u202e\u2066\x00\x85") & set(shown + kept)
    assert "it logged a ok: all is well" in kept.splitlines()[0]
