"""What a sink's writer promises, and the file checks that the embedded ones share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from utils.app.errors import SinkReplaced, Unavailable
from utils.records.record import Batch


class Emitter(Protocol):
    """Writes batches to one sink. Constructing opens; after any error it is closed and thrown away.

    Emitters never retry and never know about each other. They do not promise that a message is
    stored once: the worker makes it so by asking `last_sequence` after each construction.
    """

    def last_sequence(self, producer_id: str) -> int:
        """Highest sequence of this producer that the sink holds, 0 = none. The sink itself is the cursor."""
        ...

    def emit(self, batch: Batch) -> None:
        """Store the batch, in order, and return once it is durable.

        Raises Unavailable (can heal), Rejected (one message, never), or another ToolkitError (the
        user must act). After an error or a crash the sink holds at most a prefix of the batch.
        """
        ...

    def close(self) -> None:
        """Release everything; may be called twice; never raises."""
        ...


Connect = Callable[[], Emitter]


def sync(fd: int) -> None:
    """Make what was written to `fd` survive a power cut; macOS's fsync alone stops at the drive's cache."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def file_id(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file now at `path`, None if there is none. Raises Unavailable if nobody can tell."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror or error}") from error
    return status.st_dev, status.st_ino


def check_same_file(path: Path, opened: tuple[int, int] | None) -> None:
    """Raise SinkReplaced unless `path` still names the file that was opened (rule 7)."""
    if file_id(path) != opened:
        raise SinkReplaced(f"{path} was deleted or replaced while in use")
