"""Tables of measurements with medians and ratios, and the parts of documents that are written from them."""

import os
import platform
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import duckdb
import psutil

from utils.app.config import PROJECT_DIR
from utils.app.errors import ToolkitError

PAGE = PROJECT_DIR / "docs" / "performance.md"


@dataclass
class Bench:
    """Rows of one table. Their functions (`works`) run in turn, each in an empty folder."""

    folder: Path
    rounds: int
    count: int
    peers: dict[str, str] = field(default_factory=dict)  # name of each row -> the row that it is compared with
    works: dict[str, Callable[[Path], object]] = field(default_factory=dict)

    def add(self, name: str, peer: str, work: Callable[[Path], object]) -> None:
        """Add a row, whose `work` is called with an empty folder."""
        self.peers[name], self.works[name] = peer, work

    def place(self, name: str) -> Path:
        """Make an empty folder. Its name, which begins like that of `folder`, may also name a topic or schema."""
        path = self.folder / re.sub(r"\W+", "-", f"{self.folder.name} {name}")
        path.mkdir()
        return path

    def run(self, command: str, write: bool) -> None:
        """Run all rows in turn and report the medians. In turn, a machine whose speed drifts slows all rows alike."""
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in self.works}
        for number in range(self.rounds):
            for name, work in self.works.items():
                place = self.place(f"{name} {number}")
                wall_s, cpu_s = time.perf_counter(), _cpu_s()
                work(place)
                runs[name].append((time.perf_counter() - wall_s, _cpu_s() - cpu_s))
        took = {name: [median(each) for each in zip(*found, strict=True)] for name, found in runs.items()}
        rows = [("what", "records/s", "ratio", "of", "CPU us/record")]
        for name, (wall_s, cpu_s) in took.items():
            peer = self.peers[name]
            ratio = f"{took[peer][0] / wall_s:.2f}" if peer else ""
            rows.append((name, f"{self.count / wall_s:,.0f}", ratio, peer, f"{cpu_s / self.count * 1e6:.1f}"))
        report(command, f"{self.count:,} records each, median of {self.rounds} rounds.", rows, write)


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of the child processes that have ended."""
    return sum(os.times()[:4])


def report(command: str, title: str, rows: Sequence[Sequence[str]], write: bool) -> None:
    """Print rows, the heading first, as a Markdown table; with `write` also put it between the page's marks."""
    ruled = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)
    text = f"{title} {machine()}.\n\n{table}\n"
    print(text)
    if write:
        write_part(PAGE, command, text)


def write_part(page: Path, name: str, text: str) -> None:
    """Replace the text between the marks of this name in a document. Raises ToolkitError if it has no such marks."""
    begin, end = f"<!-- measured: {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ToolkitError(f"{page} has no place for the text: write {begin} and {end} into it")
    page.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def machine() -> str:
    """Describe this machine and the versions that are measured."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return (
        f"{psutil.cpu_count()} cores ({found[1] if found else platform.machine()}), "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, DuckDB {duckdb.__version__}"
    )
