"""How the dashboard writes numbers, times and names."""

import math
import unicodedata
from itertools import pairwise

from consumers.dashboard.snapshot import Snapshot
from utils.app import local_time

SOURCES = {"file": "JSONL", "sqlite": "SQLite", "duckdb": "DuckDB", "kafka": "Kafka", "auto": "Auto"}
_MARKS_PER_LETTER = 2


def span(seconds: float) -> str:
    """`12 s`, `3 m 4 s`, `12 m`, `2 h 14 m`, `3 d 4 h`, `7,978 y`: two units while the first has one digit."""
    whole = max(0, int(seconds))
    units = ((31_536_000, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
    for (size, unit), (small, small_unit) in pairwise(units):
        if whole >= size:
            first, second = whole // size, whole % size // small
            return f"{first} {unit} {second} {small_unit}" if first < 10 and second else f"{first:,} {unit}"
    return f"{whole} s"


def clock(epoch_s: float, now: float) -> str:
    """The local time, with its date if that is over a day away from `now`."""
    return local_time.of(epoch_s).strftime("%H:%M:%S" if abs(now - epoch_s) < 86_400 else "%Y-%m-%d %H:%M")


def moment(epoch_s: float) -> str:
    return local_time.of(epoch_s).strftime("%Y-%m-%d  %H:%M:%S")


def rate(per_second: float, records: str) -> str:
    """`2.7 msg/s`, for records other than messages `2.7 rec/s`."""
    decimals = 0 if per_second >= 100 else 2 if 0 < per_second < 0.1 else 1
    return f"{per_second:,.{decimals}f} {'msg' if records == 'messages' else 'rec'}/s"


def lag(seconds: float) -> str:
    """`54 ms`, `1.1 s`, `2 h 1 m`."""
    if abs(seconds) < 0.1:
        return f"{seconds * 1000:.0f} ms"
    text = f"{abs(seconds):.1f} s" if abs(seconds) < 60 else span(abs(seconds))
    return f"-{text}" if seconds < 0 else text


def share(count: int, total: int) -> str:
    percent = 100 * count / max(1, total)
    if count < total and percent >= 99.5:
        return ">99%"
    return "<1%" if 0 < percent <= 0.5 else f"{percent:.0f}%"


def brief(count: int) -> str:
    """`5,243`, `999,999`, `1.2M`: what always has room."""
    for size, unit in zip((10**18, 10**15, 10**12, 10**9, 10**6), "EPTGM", strict=True):
        if count >= size:
            return f"{count / size:.{int(count < 10 * size)}f}{unit}"
    return f"{count:,}"


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2,000 frames`, `2 anomalies`."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def decimals(extent: float) -> int:
    """How many decimals matter where values differ by `extent`: two for 1, one for 10."""
    return 2 - round(math.log10(extent)) if extent > 0 else 2


def number(value: float, places: int) -> str:
    """`0.57`, `1,235`, `1.2e+09`: with so many decimals, or three digits where that would be too long."""
    if abs(value) >= 1e7 or places > 6:
        return f"{value:.3g}".replace("e+", "e")
    return f"{value:,.{max(0, min(places, 7 - len(f'{abs(value):.0f}')))}f}"


def plain(text: str) -> str:
    """Text that cannot disturb an image or a terminal: no control or format characters, few marks per letter."""
    kept: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", text[:1000]):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks <= _MARKS_PER_LETTER:
            kept.append(" " if category[0] in "CZ" else character)
    return " ".join("".join(kept).split())


def heading(name: str) -> str:
    """`temperature c` as `Temperature c`, `message length` as `Message Length`."""
    return " ".join(word.capitalize() if len(word) > 3 else word for word in plain(name).split())


def plural(noun: str) -> str:
    """`devices`, `categories`, `status`."""
    return f"{noun[:-1]}ies" if noun.endswith("y") else noun if noun.endswith("s") else f"{noun}s"


def source_line(snapshot: Snapshot) -> str:
    """Where the data comes from, or since when and why it does not come."""
    source = snapshot.source
    if source.trouble_since is not None:
        return f"down since {clock(source.trouble_since, snapshot.now)}: {source.trouble}"
    return source.detail


def status(snapshot: Snapshot) -> str:
    if snapshot.status == "STALE":
        return f"STALE \u00b7 no {snapshot.roles.records} for {span(snapshot.idle_s)}"
    return snapshot.status
