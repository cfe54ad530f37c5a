"""Files that several processes use. On Windows most operations fail while another process has the file open."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

WAIT_S = 2.0

T = TypeVar("T")


def retried(attempt: Callable[[], T]) -> T:
    """Call `attempt` and return its result. On Windows a PermissionError is raised only after retries for WAIT_S."""
    deadline_s = time.monotonic() + (WAIT_S if sys.platform == "win32" else 0)
    while True:
        try:
            return attempt()
        except PermissionError:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(0.01)


def replace(path: Path, data: bytes) -> None:
    """Replace the contents of a file atomically: a reader sees either the old or the new contents. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        retried(lambda: draft.replace(path))
    except OSError:
        draft.unlink(missing_ok=True)
        raise
