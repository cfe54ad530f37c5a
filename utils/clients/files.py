"""Helpers for durable files: syncs, and checks that a path still names the same file."""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.app.errors import SinkReplaced, ToolkitError, Unavailable
from utils.app.shared_files import retried


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Map OSError to Unavailable."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror or error}") from error


def sync(fd: int) -> None:
    """Make the data written to `fd` survive a power cut. On macOS fsync alone stops at the drive's cache."""
    if sys.platform == "darwin":
        import fcntl

        with suppress(OSError):  # network drives do not support it
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def sync_path(path: Path) -> None:
    """Sync the file or folder at a path, if it exists. Never use it for a database that this process has open.

    It would drop the locks of SQLite and DuckDB, as closing any descriptor of a file drops all locks of the process.
    """
    if path.is_dir() and os.name != "posix":
        return  # Windows makes names durable by itself
    try:
        fd = retried(lambda: os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR))
    except FileNotFoundError:
        return
    try:
        sync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a shared or network drive may be unable to sync a folder
            raise
    finally:
        os.close(fd)


def file_id(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file now at `path`, None if there is none. Raises Unavailable on other errors."""
    with mapped_errors(path):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
    return status.st_dev, status.st_ino


def check_same_file(path: Path, opened: tuple[int, int] | None) -> None:
    """Raise SinkReplaced unless `path` still names the file that was opened."""
    if file_id(path) != opened:
        raise SinkReplaced(f"{path} was deleted, moved or replaced while in use")


def check_one_name(path: Path) -> None:
    """Raise ToolkitError if the database has several hard links: each name would have a log of its own."""
    with suppress(OSError):
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            names = f"{status.st_nlink} names (hard links)"
            raise ToolkitError(f"{path} has {names}, and a database may have only one: make a copy instead of a link")
