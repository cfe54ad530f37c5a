"""A short run of journal and embedded emitters in forked children that the shim stops; for test_crash_points.py.

One command a line on stdin, one answer a line on stdout:
`run FOLDER CALL HALF` -> exit code, calls seen, last acknowledged sequence; `recover FOLDER` -> exit code.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from loguru import logger

from producers import ragini_producer
from tests.helpers import make_messages
from utils import sinks
from utils.app.config import Settings
from utils.sinks import EMBEDDED, Run
from utils.delivery.journal import Journal
from utils.emitters import duckdb_emitter, sqlite_emitter  # noqa: F401 (loaded once, before all forks)

STARTS, APPENDS, MESSAGES = 3, 3, 10


def run(settings: Settings, tell: Callable[[int], None]) -> None:
    """What a producer does, but one thing after the other, so that the same call is always the n-th."""
    for _ in range(STARTS):
        with closing(Journal(settings.journal_path("ragini"))) as journal:
            journal.owe(EMBEDDED)
            for sink in EMBEDDED:
                journal.offer(sink)
            for _ in range(APPENDS):
                tell(journal.append(make_messages(MESSAGES)).last)
                for sink in EMBEDDED:
                    with closing(sinks.emitter(sink, settings)()) as emitter:
                        batch = journal.read(emitter.last_sequence(journal.producer_id), 1000)
                        assert batch
                        emitter.emit(batch)
            journal.prune(journal.last)


def in_child(work: Callable[[Callable[[int], None]], int]) -> tuple[int, list[int]]:
    """Run `work` in a fork; its exit code and what it told."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            code = work(lambda number: (os.write(writing, b"%d\n" % number), None)[1])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        numbers = [int(line) for line in told]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), numbers


def main() -> None:
    shim = ctypes.CDLL(None)
    shim.crash_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # summaries
    logger.remove()
    ragini_producer.pool()  # scores its texts, once for all forks
    for line in sys.stdin:
        command, folder, *numbers = line.split()
        settings = Settings(data_dir=Path(folder))

        def armed(tell: Callable[[int], None], settings: Settings = settings, numbers: list[str] = numbers) -> int:
            shim.crash_arm(str(settings.data_path).encode(), int(numbers[0]), int(numbers[1]))
            run(settings, tell)
            tell(shim.crash_seen())
            return 0

        def recovering(tell: Callable[[int], None], settings: Settings = settings) -> int:
            return ragini_producer.main(interval=0.0, run=Run(count=1, drain=30.0), settings=settings)

        code, told = in_child(armed if command == "run" else recovering)
        os.write(answers, " ".join(map(str, [code, *told])).encode() + b"\n")


if __name__ == "__main__":
    main()
