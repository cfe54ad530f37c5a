"""Tables of measurements: works that take turns, their medians and ratios, on the terminal and on the page."""

import platform
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import duckdb
import psutil

from utils.app.config import PROJECT_DIR
from utils.app.errors import ToolkitError

PAGE = PROJECT_DIR / "docs" / "performance.md"


class Taken(NamedTuple):
    """What a run took; the memory only of a process of its own."""

    wall_s: float
    cpu_s: float
    peak_mib: float = 0.0


@dataclass
class Bench:
    """Rows of one table, whose works take turns in folders of their own."""

    folder: Path
    rounds: int
    count: int
    peers: dict[str, str] = field(default_factory=dict)  # name of each row -> the row that its ratio compares it to
    works: dict[str, Callable[[Path], Taken]] = field(default_factory=dict)

    def add(self, name: str, peer: str, work: Callable[[Path], Taken]) -> None:
        """A row: `work` is called with an empty folder."""
        self.peers[name], self.works[name] = peer, work

    def run(self, command: str, note: str, write: bool) -> int:
        """Run all rows in turn, so that a machine whose speed drifts slows all of them, and report the medians."""
        runs: dict[str, list[Taken]] = {name: [] for name in self.works}
        for number in range(self.rounds):
            for name, work in self.works.items():
                place = self.folder / re.sub(r"\W+", "-", f"{name} {number}")  # topics are named like it
                place.mkdir()
                runs[name].append(work(place))
        took = {name: Taken(*map(median, zip(*found, strict=True))) for name, found in runs.items()}
        rows = [("what", "records/s", "ratio", "of", "CPU us/record", "peak MiB")]
        for name, taken in took.items():
            peer = self.peers[name]
            ratio = f"{took[peer].wall_s / taken.wall_s:.2f}" if peer else ""
            cpu_us, memory = taken.cpu_s / self.count * 1e6, f"{taken.peak_mib:,.0f}" if taken.peak_mib else ""
            rows.append((name, f"{self.count / taken.wall_s:,.0f}", ratio, peer, f"{cpu_us:.1f}", memory))
        report(command, f"{self.count:,} records each, median of {self.rounds} rounds.", rows, note, write)
        return 0


def report(command: str, title: str, rows: Sequence[Sequence[str]], note: str, write: bool) -> None:
    """Print rows, the heading first, as a Markdown table; on the page it stands between the marks of `command`."""
    ruled = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)
    text = "\n\n".join(filter(None, [f"{title} {machine()}.", table, note])) + "\n"
    print(text)
    if write:
        begin, end = f"<!-- measured: {command} -->", f"<!-- end of {command} -->"
        before, found, rest = PAGE.read_text(encoding="utf-8").partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ToolkitError(f"{PAGE} has no place for this: write {begin} and {end} where it shall stand")
        PAGE.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def machine() -> str:
    """What was measured on."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return (
        f"{psutil.cpu_count()} cores ({found[1] if found else platform.machine()}), "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, DuckDB {duckdb.__version__}"
    )
