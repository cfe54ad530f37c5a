"""Logging: short lines on stderr, full ones with tracebacks in `<data>/logs/<command>.log`."""

import logging
import logging.handlers
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from utils.app.config import Settings

if TYPE_CHECKING:
    from loguru import Record

MAX_BYTES = 2_000_000
BACKUPS = 3
# Control characters, line ends of all kinds, and what changes the direction of the text around it.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class _FileLog(logging.handlers.RotatingFileHandler):
    """Bounded log file that is opened at its first line and given up quietly: no disk, no log, but no harm."""

    def __init__(self, path: Path, secrets: tuple[str, ...]) -> None:
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(message)s"))
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The whole text, traceback included, without secrets."""
        return "\n".join(map(plain, masked(super().format(record), self._secrets).split("\n")))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        super().emit(record)

    def doRollover(self) -> None:  # noqa: N802 (the library's name)
        """Begin a new file; Windows renames none that another process has open, so this one grows on meanwhile."""
        try:
            super().doRollover()
        except OSError:
            self.maxBytes += MAX_BYTES

    def close(self) -> None:
        with suppress(OSError):  # what a full disk did not take
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the library's name)
        """Say nothing: a full disk must not turn into a traceback per line."""


def plain(text: str) -> str:
    """One line that can neither steer the terminal nor pass for another line, whoever wrote it."""
    return _STEERING.sub(" ", text)


def masked(text: str, secrets: tuple[str, ...]) -> str:
    """`text` with each of `secrets` made unreadable."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def _short(record: "Record") -> str:
    return "{time:HH:mm:ss} <level>{level: <7}</level> {message}\n"


def set_up(settings: Settings, command: str, secrets: tuple[str, ...] = ()) -> None:
    """Send log lines of `settings.log_level` and above to stderr and to the command's file.

    `secrets` are values (passwords) that are masked wherever they would appear.
    """

    def mask(record: "Record") -> None:
        record["message"] = plain(masked(record["message"], secrets))

    logging.getLogger("portalocker").setLevel(logging.ERROR)  # it warns when the data folder was deleted; so do we
    logger.remove()
    logger.configure(patcher=mask)
    logger.add(sys.stderr, level=settings.log_level, format=_short, backtrace=False, diagnose=False)
    logger.add(
        _FileLog(settings.data_path / "logs" / f"{command}.log", secrets),
        level=settings.log_level,
        format="{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level} {process} {name} {message}",
        backtrace=False,
        diagnose=False,
    )
    threading.excepthook = _log_thread_failure


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    thread = failure.thread.name if failure.thread else "a thread"
    if failure.exc_value is not None:
        logger.opt(exception=failure.exc_value).error(
            "{} stopped unexpectedly: {!r} (traceback in logs/)", thread, failure.exc_value
        )
