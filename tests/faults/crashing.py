"""A short run of journal and embedded emitters in forked children that the shim stops; for test_crash_points.py.

One command a line on stdin, one answer a line on stdout:
`run FOLDER CALL PART` -> exit code, acknowledged sequences, calls seen; `recover FOLDER` -> exit code.
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
from utils.app.config import Settings
from utils.delivery.journal import Journal
from utils.emitters import duckdb_emitter, sqlite_emitter  # noqa: F401 (loaded once, before all forks)
from utils.records.record import Batch
from utils.records.stream import BUZZ
from utils.sinks import EMBEDDED, SINKS, ProducerOptions, RunOptions

STARTS, APPENDS, MESSAGES = 3, 3, 10


def run(settings: Settings, report: Callable[[int], None]) -> None:
    """Do what a producer does, but in one thread, so that the same call is always the n-th."""
    for _ in range(STARTS):
        with closing(Journal(settings.journal_path("ragini"), BUZZ)) as journal:
            journal.subscribe(EMBEDDED)
            for _ in range(APPENDS):
                made = Batch.of_records(make_messages(MESSAGES), journal.producer_id, journal.last + 1, BUZZ.codec)
                journal.append(made)
                report(made.last)
                for sink in EMBEDDED:
                    mark = journal.subscriptions[sink].mark
                    with closing(SINKS[sink].emitter(settings, BUZZ, journal.key, mark)) as emitter:
                        last = emitter.last(list(journal.runs()))
                        batch = journal.read(last[1] if last else 0, 1000)
                        assert batch
                        emitter.emit(batch)
                        journal.note_reached(sink, batch.last, emitter.mark)
                journal.prune()


def in_child(work: Callable[[Callable[[int], None]], int]) -> tuple[int, list[int]]:
    """Run `work` in a fork; return its exit code and the numbers it reported."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            code = work(lambda number: (os.write(writing, b"%d\n" % number), None)[1])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as reported:
        numbers = [int(line) for line in reported]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), numbers


def main() -> None:
    shim = ctypes.CDLL(None)
    shim.crash_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # hides summaries
    logger.remove()
    ragini_producer.pool()  # scores the texts once for all forks
    for line in sys.stdin:
        command, folder, *numbers = line.split()
        settings = Settings(data_dir=Path(folder))

        def armed(report: Callable[[int], None], settings: Settings = settings, numbers: list[str] = numbers) -> int:
            shim.crash_arm(str(settings.data_path).encode(), int(numbers[0]), int(numbers[1]))
            run(settings, report)
            report(shim.crash_seen())
            return 0

        def recovering(report: Callable[[int], None], settings: Settings = settings) -> int:
            return ragini_producer.main(
                options=ProducerOptions(interval=0.0, run=RunOptions(count=1, drain=30.0)), settings=settings
            )

        code, numbers_seen = in_child(armed if command == "run" else recovering)
        os.write(answers, " ".join(map(str, [code, *numbers_seen])).encode() + b"\n")


if __name__ == "__main__":
    main()
