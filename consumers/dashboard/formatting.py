"""How the dashboard writes numbers, times and names."""

import math
import re
from itertools import pairwise

from consumers.dashboard.snapshot import Snapshot
from utils.records.instants import local_time

SOURCES = {"file": "JSONL", "sqlite": "SQLite", "duckdb": "DuckDB", "kafka": "Kafka", "auto": "Auto"}
UNITS_S = ((31_536_000, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def span(seconds: float) -> str:
    """`12 s`, `3 m 4 s`, `12 m`, `2 h 14 m`, `3 d 4 h`, `7,978 y`: two units while the first has one digit."""
    whole = max(0, int(seconds))
    for (size, unit), (small, small_unit) in pairwise(UNITS_S):
        if whole >= size:
            first, second = whole // size, whole % size // small
            return f"{first} {unit} {second} {small_unit}" if first < 10 and second else f"{first:,} {unit}"
    return f"{whole} s"


def clock(epoch_s: float, now: float) -> str:
    """The local time, with its date if that is over a day away from `now`."""
    return local_time(epoch_s).strftime("%H:%M:%S" if abs(now - epoch_s) < 86_400 else "%Y-%m-%d %H:%M")


def rate(per_second: float, record: str) -> str:
    """`2.7 msg/s`, for records other than messages `2.7 rec/s`."""
    decimals = 0 if per_second >= 100 else 2 if 0 < per_second < 0.1 else 1
    return f"{per_second:,.{decimals}f} {'msg' if record == 'message' else 'rec'}/s"


def brief(count: int) -> str:
    """`5,243`, `999,999`, `1.2M`: what always has room."""
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.1f}M"


def number(value: float, extent: float) -> str:
    """`0.57`, `1,235`, `1.2e9`: two decimals where values differ by 1, one where by 10; three digits if it is long."""
    places = 2 - round(math.log10(extent)) if extent > 0 else 2
    if abs(value) >= 1e7 or places > 6:
        return f"{value:.3g}".replace("e+", "e")
    return f"{value:z,.{max(0, min(places, 7 - len(f'{abs(value):.0f}')))}f}"


def plain(text: str) -> str:
    """Text that cannot disturb an image or a terminal: no control or format characters, two accents per letter."""
    printable = "".join(each if each.isprintable() else " " for each in text[:1000])
    return " ".join(re.sub("([\u0300-\u036f]{2})[\u0300-\u036f]+", r"\1", printable).split())


def why_empty(snapshot: Snapshot) -> str:
    """Why no record is shown, or what would bring one."""
    if snapshot.where and snapshot.received:
        return f"\n\n--where is true for none of {snapshot.received:,} so far"
    return "\n\npython -m producers.ragini_producer" if snapshot.stream == "buzz" else ""


def status(snapshot: Snapshot) -> str:
    """`LIVE`, `WAITING`, and what is stale since when."""
    silent = f" \u00b7 no {snapshot.roles.record}s for {span(snapshot.idle_s)}"
    return snapshot.status + silent * (snapshot.status == "STALE")
