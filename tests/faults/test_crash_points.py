"""The process ends at every single write, sync, truncation or removal of a file; then the real producer recovers.

A shim below Python, SQLite and DuckDB ends it before the call or after a part of a write, as a kill or a power cut
stops large writes between two pages."""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import crashing
from tests.helpers import assert_complete, last_assigned, start_python
from utils.app.config import Settings

PARTS = 0, 1, 32, 63  # of 64, of the interrupted write


class Crasher:
    """The process that forks."""

    def __init__(self, shim: Path, settings: Settings) -> None:
        self.process = start_python("tests.faults.crashing", settings=settings, environment={"LD_PRELOAD": str(shim)})

    def ask(self, *words: object) -> list[int]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return [int(number) for number in self.process.stdout.readline().split()]


@pytest.fixture
def crasher(tmp_path: Path, settings: Settings) -> Iterator[Crasher]:
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("needs Linux and a C compiler to build the shim")
    shim = tmp_path / "shim.so"
    source = Path(__file__).with_name("crash_shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    crasher = Crasher(shim, settings)
    yield crasher
    _, err = crasher.process.communicate(timeout=10)
    assert "Traceback" not in err


@pytest.mark.proof(
    "an acknowledged record is in every sink, once and in order",
    "the process ends before or within a write, sync, truncation or removal of a file",
    full=16,
    long="every one",
)
@pytest.mark.timeout(7200)  # for all points, with --long
def test_recovers_from_a_crash_at_any_call(
    crasher: Crasher, tmp_path: Path, times: int, measured: Callable[[str], None]
) -> None:
    complete = crasher.ask("run", tmp_path / "complete", 0, 0)
    made = crashing.STARTS * crashing.APPENDS * crashing.MESSAGES
    code, calls = complete[0], complete[-1]
    assert (code, complete[-2]) == (0, made)
    assert calls > 100
    points = [(call, part) for call in range(1, calls + 1) for part in PARTS]
    if times:
        points = random.Random(1).sample(points, times)
    for call, part in points:
        settings = Settings(data_dir=tmp_path / f"{call}-{part}")
        code, *acknowledged = crasher.ask("run", settings.data_path, call, part)
        assert code == 9, f"no crash at call {call}"
        assert crasher.ask("recover", settings.data_path) == [0], f"no recovery from call {call}, part {part}"
        assert last_assigned(settings) > max(acknowledged, default=0)
        assert_complete(settings)
        shutil.rmtree(settings.data_path)
    measured(f"{len(points)} crashes in a run of {made} records and {calls} calls: lost 0, twice 0")
