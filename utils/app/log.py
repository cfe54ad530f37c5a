"""Logging: short lines on stderr, lines with time zone, process and traceback in `<data>/logs/<command>.log`."""

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
# ASCII and Latin-1 control characters, Unicode's line ends, and the characters that change the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Replace control characters by spaces, so that the text is one line and cannot steer the terminal."""
    return _CONTROL.sub(" ", text)


def escaped(text: str) -> str:
    r"""Replace control characters in a line of JSON by \u escapes, which have the same meaning."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def masked(text: str, secrets: tuple[str, ...]) -> str:
    """Replace each of `secrets` in a text by `***`."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def set_up(settings: Settings, command: str, secrets: tuple[str, ...] = ()) -> None:
    """Send log lines of `settings.log_level` and above to stderr and to the command's file.

    Passwords and tokens in `secrets` are masked in both.
    """

    def mask(record: "Record") -> None:
        record["message"] = plain(masked(record["message"], secrets))

    logging.getLogger("portalocker").setLevel(logging.ERROR)  # of a deleted data folder the toolkit warns itself
    logger.remove()
    logger.configure(patcher=mask)
    short = "{time:HH:mm:ss} <level>{level: <7}</level> {message}\n"
    # loguru appends the traceback to a format that is a string, but not to one that is a function.
    logger.add(sys.stderr, level=settings.log_level, format=lambda _: short, backtrace=False, diagnose=False)
    logger.add(
        _file_writer(settings.data_path / "logs" / f"{command}.log", secrets),
        level=settings.log_level,
        format="{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level} {process} {name} {message}",
        backtrace=False,
        diagnose=False,
    )
    threading.excepthook = _log_thread_failure


def _file_writer(path: Path, secrets: tuple[str, ...]) -> Callable[[str], None]:
    """Return a callback that appends lines to `path`, which is renamed to `.old.log` at MAX_BYTES.

    It closes the file after each line: on Windows a file that a process has open cannot be renamed. A line that cannot
    be written is dropped without an error.
    """

    def write(text: str) -> None:
        lines = "\n".join(map(plain, masked(text.rstrip("\n"), secrets).split("\n"))) + "\n"
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # the file does not exist yet, or another process has it open: then it grows
                if path.stat().st_size + len(lines) > MAX_BYTES:
                    path.replace(path.with_suffix(".old.log"))
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(lines)

    return write


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread and failure.thread.name
    logger.opt(exception=failure.exc_value).error("{} ended by {!r} (traceback in logs/)", name, failure.exc_value)
