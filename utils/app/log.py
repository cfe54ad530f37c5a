"""Logging: short lines on stderr, full ones with tracebacks in `<data>/logs/<command>.log`."""

import logging
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from utils.app.config import Settings

if TYPE_CHECKING:
    from loguru import Record

MAX_BYTES = 4_000_000
# Control characters, line ends of all kinds, and what changes the direction of the text around it.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """One line that can neither steer the terminal nor pass for another line, whoever wrote it."""
    return _STEERING.sub(" ", text)


def escaped(text: str) -> str:
    """A line of JSON of which the same is true, and which means the same as before."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def masked(text: str, secrets: tuple[str, ...]) -> str:
    """`text` with each of `secrets` made unreadable."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def set_up(settings: Settings, command: str, secrets: tuple[str, ...] = ()) -> None:
    """Send log lines of `settings.log_level` and above to stderr and to the command's file.

    `secrets` are values (passwords) that are masked wherever they would appear.
    """

    def mask(record: "Record") -> None:
        record["message"] = plain(masked(record["message"], secrets))

    logging.getLogger("portalocker").setLevel(logging.ERROR)  # it warns when the data folder was deleted; so do we
    logger.remove()
    logger.configure(patcher=mask)
    short = "{time:HH:mm:ss} <level>{level: <7}</level> {message}"
    logger.add(
        sys.stderr, level=settings.log_level, format=lambda _: short + "\n", backtrace=False, diagnose=False
    )  # without the traceback
    logger.add(
        _file(settings.data_path / "logs" / f"{command}.log", secrets),
        level=settings.log_level,
        format="{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level} {process} {name} {message}",
        backtrace=False,
        diagnose=False,
    )
    threading.excepthook = _log_thread_failure


def _file(path: Path, secrets: tuple[str, ...]) -> Callable[[str], None]:
    """What keeps lines in a file and the one before it; where there is no place for them there is no log, but no harm.

    The file is open for a moment only: Windows renames none that another process has open.
    """

    def write(text: str) -> None:
        lines = "\n".join(map(plain, masked(text.rstrip("\n"), secrets).split("\n"))) + "\n"
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # it is not there yet, or open elsewhere just now: then it grows meanwhile
                if path.stat().st_size + len(lines) > MAX_BYTES:
                    path.replace(path.with_suffix(".old.log"))
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(lines)

    return write


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread and failure.thread.name
    logger.opt(exception=failure.exc_value).error("{} ended by {!r} (traceback in logs/)", name, failure.exc_value)
