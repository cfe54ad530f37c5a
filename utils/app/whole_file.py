"""Files that are replaced as a whole: a reader sees the old or the new one and nothing between."""

import sys
import time
from pathlib import Path

WAIT_S = 2.0


def replace(draft: Path, path: Path) -> None:
    """Rename `draft` to `path`. Windows does not while anybody reads that file, so it is tried for a while."""
    deadline_s = time.monotonic() + (WAIT_S if sys.platform == "win32" else 0)
    while True:
        try:
            draft.replace(path)
            return
        except PermissionError:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(0.01)
