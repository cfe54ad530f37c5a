"""Files that several processes use: on Windows most operations fail while another process has the file open."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

WAIT_S = 2.0

T = TypeVar("T")


def retried(attempt: Callable[[], T]) -> T:
    """The result of the attempt. On Windows a PermissionError is retried for up to WAIT_S before it is raised."""
    deadline_s = time.monotonic() + (WAIT_S if sys.platform == "win32" else 0)
    while True:
        try:
            return attempt()
        except PermissionError:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(0.01)


def replace(path: Path, data: bytes) -> None:
    """Write a file anew: a reader sees the old one or the new one and nothing between. Raises OSError."""
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
