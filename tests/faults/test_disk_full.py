"""A full disk (a limit on the size of files): no acknowledged message is lost, and delivery resumes by itself."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.running import Running
from tests.helpers import FILES, assert_complete, last_assigned, wait_until
from utils.app.config import Settings
from utils.sinks import EMBEDDED

resource = pytest.importorskip("resource", reason="needs limits on the size of files")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="changes the limits of another process")


@pytest.fixture
def started() -> Iterator[list[Running]]:
    running: list[Running] = []
    yield running
    for producer in running:
        producer.kill()


def limit(producer: Running, size: int) -> None:
    resource.prlimit(producer.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def check_end(producer: Running, settings: Settings, sinks: tuple[str, ...]) -> None:
    code, out = producer.stop()
    assert (code, out.count(" 0 pending")) == (0, len(sinks)), out
    assert not producer.lines("Traceback")
    assert_complete(settings, sinks=sinks)


@pytest.fixture
def small_disk(settings: Settings) -> Iterator[Path]:
    """Mount a small disk inside the data folder."""
    folder = settings.data_path / "disk"
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.full
@pytest.mark.parametrize("place", [*FILES, "journal"])
def test_one_disk_is_full_and_gets_space_again(
    place: str, settings: Settings, small_disk: Path, started: list[Running]
) -> None:
    options: tuple[str, ...] = ()
    moved = Path("disk") / "moved"
    if place == "journal":
        (settings.data_path / "journal").symlink_to(small_disk)
        expected = ("cannot take records, waiting", "takes records again")
    else:
        settings = {
            "file": replace(settings, live_file=moved),
            "sqlite": replace(settings, sqlite_file=moved),
            "duckdb": replace(settings, duckdb_file=moved),
        }[place]
        options = (f"--{'live' if place == 'file' else place}-file", str(moved))
        expected = (f"{place}: unavailable", f"{place}: delivering again")
    producer = Running("producers.ragini_producer", "--interval", "0.005", *options, settings=settings)
    started.append(producer)
    healthy = "sqlite" if place == "file" else "file"
    wait_until(lambda: producer.lines("producing to"), 20)
    wait_until(lambda: producer.amount(healthy) > 10, 20)
    filler = fill(small_disk)
    wait_until(lambda: producer.lines(expected[0]), 60, "the full disk is noticed")
    before = producer.amount(healthy)
    if place != "journal":
        wait_until(lambda: producer.amount(healthy) > before + 100, 20, "the others continue")
    filler.unlink()
    wait_until(lambda: producer.lines(expected[1]), 30, "the sink recovers by itself")
    check_end(producer, settings, EMBEDDED)
    assert [len(producer.lines(words)) for words in expected] == [1, 1], producer.log
    assert "full" in producer.lines(expected[0])[0] or "No space left" in producer.lines(expected[0])[0]


@pytest.mark.proof(
    "a sink that is down delays no other sink and gets all records when it is up again",
    "a disk that is full for journal and sinks at once",
    full=2,
)
def test_the_disk_is_full_for_everything_at_once(settings: Settings, started: list[Running]) -> None:
    producer = Running("producers.ragini_producer", "--interval", "0.005", settings=settings)
    started.append(producer)
    for _ in range(2):
        seen = len(producer.lines("journal takes records again"))
        wait_until(lambda: producer.lines("producing to"), 20)
        wait_until(lambda: last_assigned(settings) > 0, 20)
        limit(producer, 1)
        wait_until(lambda seen=seen: len(producer.lines("cannot take records, waiting")) > seen, 20)  # type: ignore[misc]
        limit(producer, resource.RLIM_INFINITY)
        wait_until(lambda seen=seen: len(producer.lines("takes records again")) > seen, 20)  # type: ignore[misc]
    check_end(producer, settings, EMBEDDED)


def test_a_full_disk_at_the_end_costs_neither_summary_nor_message(settings: Settings, started: list[Running]) -> None:
    options = ("--interval", "0.005", "--sinks", "file")
    producer = Running("producers.ragini_producer", *options, settings=settings, drain_s=1)
    started.append(producer)
    wait_until(lambda: producer.lines("producing to"), 20)
    wait_until(lambda: producer.amount("file") > 5, 20)
    limit(producer, 1)
    wait_until(lambda: producer.lines("cannot take records, waiting"), 20)
    code, out = producer.stop()
    assert code == (0 if " 0 pending" in out else 3), "the exit code does not fit the summary"
    assert out.startswith("ragini: made ")
    assert not producer.lines("Traceback"), producer.log
    assert f"acknowledged {last_assigned(settings):,};" in out
