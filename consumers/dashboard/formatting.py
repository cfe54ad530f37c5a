"""How the dashboard writes numbers, times and names."""

import math
import unicodedata
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


def rate(per_second: float, records: str) -> str:
    """`2.7 msg/s`, for records other than messages `2.7 rec/s`."""
    decimals = 0 if per_second >= 100 else 2 if 0 < per_second < 0.1 else 1
    return f"{per_second:,.{decimals}f} {'msg' if records == 'messages' else 'rec'}/s"


def share(count: int, total: int) -> str:
    """`37%`; `<1%` for what is there, however rare."""
    rounded = f"{count / total:.0%}"
    return "<1%" if rounded == "0%" else rounded


def lag(seconds: float) -> str:
    """`54 ms`, `1.1 s`, `2 h 1 m`."""
    if abs(seconds) >= 60:
        return "-" * (seconds < 0) + span(abs(seconds))
    return f"{seconds * 1000:z.0f} ms" if abs(seconds) < 0.1 else f"{seconds:.1f} s"


def brief(count: int) -> str:
    """`5,243`, `999,999`, `1.2M`: what always has room."""
    for size, unit in zip((10**18, 10**15, 10**12, 10**9, 10**6), "EPTGM", strict=True):
        if count >= size:
            return f"{count / size:.{int(count < 10 * size)}f}{unit}"
    return f"{count:,}"


def number(value: float, extent: float) -> str:
    """`0.57`, `1,235`, `1.2e9`: two decimals where values differ by 1, one where by 10; three digits if it is long."""
    places = 2 - round(math.log10(extent)) if extent > 0 else 2
    if abs(value) >= 1e7 or places > 6:
        return f"{value:.3g}".replace("e+", "e")
    return f"{value:z,.{max(0, min(places, 7 - len(f'{abs(value):.0f}')))}f}"


def between(low: float, high: float, extent: float) -> str:
    """Both ends of a range, or what both are."""
    return "\u2013".join(dict.fromkeys((number(low, extent), number(high, extent))))


def plain(text: str) -> str:
    """Text that cannot disturb an image or a terminal: no control or format characters, two marks per letter."""
    shown = [each if each.isprintable() else " " for each in unicodedata.normalize("NFC", text[:1000])]
    is_mark = [unicodedata.category(each) in ("Mn", "Me") for each in shown]
    kept = (each for place, each in enumerate(shown) if place < 2 or not all(is_mark[place - 2 : place + 1]))
    return " ".join("".join(kept).split())


def heading(name: str) -> str:
    """`temperature c` as `Temperature c`, `message length` as `Message Length`."""
    return " ".join(word.capitalize() if len(word) > 3 else word for word in name.split())


def why_empty(snapshot: Snapshot) -> str:
    """Why no record is shown, or what would bring one."""
    if snapshot.where and snapshot.received:
        return f"\n\n--where is true for none of {snapshot.received:,} so far"
    return "\n\npython -m producers.ragini_producer" if snapshot.stream == "buzz" else ""


def source_line(snapshot: Snapshot) -> str:
    """Where the data comes from, or since when and why it does not come."""
    source = snapshot.source
    if source.trouble_since is not None:
        return f"down since {clock(source.trouble_since, snapshot.now)}: {source.trouble}"
    return source.detail


def status(snapshot: Snapshot) -> str:
    """`LIVE`, `WAITING`, and what is stale since when."""
    silent = f" \u00b7 no {snapshot.roles.records} for {span(snapshot.idle_s)}"
    return snapshot.status + silent * (snapshot.status == "STALE")
