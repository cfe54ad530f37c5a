"""What Windows lets nobody do to a file that another process has open, tried until that one is done."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

WAIT_S = 2.0

T = TypeVar("T")


def in_turn(attempt: Callable[[], T]) -> T:
    """The result of the attempt. On Windows a PermissionError is raised only if it still comes after WAIT_S."""
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
        in_turn(lambda: draft.replace(path))
    except OSError:
        draft.unlink(missing_ok=True)
        raise
