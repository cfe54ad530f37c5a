"""One emitter in forked children that the shim may end at a call; for test_power_cut.py.

One command a line on stdin, one answer a line on stdout:
`emit SINK FOLDER FIRST LAST CALL` -> exit code and calls seen; `last SINK FOLDER SYNC` -> exit code and last sequence,
from a process that is killed right after it knows; SYNC 0 leaves out the file emitter's sync.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from loguru import logger

from tests.helpers import make_batch
from utils.app.config import Settings
from utils.emitters import duckdb_emitter, file_emitter, sqlite_emitter  # noqa: F401 (loaded once, before all forks)
from utils.records.stream import BUZZ
from utils.sinks import SINKS

EXITED = 0


def in_child(work: Callable[[], int]) -> tuple[int, str]:
    """Run `work` in a fork without cleaning up; return its exit code and its number."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            os.write(writing, b"%d" % work())
            code = EXITED
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as answer:
        number = answer.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), number


def emit(sink: str, folder: str, first: int, last: int, call: int) -> int:
    shim = ctypes.CDLL(None)
    shim.crash_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
    emitter = SINKS[sink].emitter(Settings(data_dir=Path(folder)), BUZZ, "ann-1", "")
    emitter.last(["ann-1"])
    shim.crash_arm(folder.encode(), call, 1)
    emitter.emit(make_batch(last - first + 1, first=first))
    emitter.close()
    return int(shim.crash_seen())


def ask(sink: str, folder: str, sync: int) -> int:
    if not sync:
        file_emitter.sync = lambda fd: None  # type: ignore[attr-defined]
    found = SINKS[sink].emitter(Settings(data_dir=Path(folder)), BUZZ, "ann-1", "").last(["ann-1"])
    return found[1] if found else 0


def main() -> None:
    logger.remove()
    for line in sys.stdin:
        command, sink, folder, *numbers = line.split()
        work: Callable[..., int] = emit if command == "emit" else ask
        code, number = in_child(partial(work, sink, folder, *map(int, numbers)))
        print(code, number, flush=True)


if __name__ == "__main__":
    main()
