"""How the dashboard says numbers, times and names, in the picture and beside it."""

import unicodedata
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from consumers.dashboard import stats
from consumers.dashboard.state import ANALYSIS, Snapshot
from utils.records.sentiment import label

SOURCES = {"file": "JSONL", "sqlite": "SQLite", "duckdb": "DuckDB", "kafka": "Kafka", "auto": "Auto"}
NAME_CHARS = 13
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
    return datetime.fromtimestamp(epoch_s).strftime("%H:%M:%S" if abs(now - epoch_s) < 86_400 else "%Y-%m-%d %H:%M")


def moment(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s).strftime("%Y-%m-%d  %H:%M:%S")


def rate(per_second: float) -> str:
    decimals = 0 if per_second >= 100 else 2 if 0 < per_second < 0.1 else 1
    return f"{per_second:,.{decimals}f} msg/s"


def lags(median: float, p95: float) -> tuple[str, str]:
    """Both in one unit: milliseconds if the median is short and the other not very long, else seconds."""
    if abs(median) < 0.1 and p95 < 10:
        return f"{median * 1000:.0f} ms", f"{p95 * 1000:,.0f} ms"
    return _lag(median), _lag(p95)


def _lag(seconds: float) -> str:
    if seconds < 0:
        return f"-{_lag(-seconds)}"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s" if seconds < 600 else span(seconds)


def share(count: int, total: int) -> str:
    percent = 100 * count / total
    if count < total and percent >= 99.5:
        return ">99%"
    return "<1%" if 0 < percent <= 0.5 else f"{percent:.0f}%"


def whole(number: float) -> str:
    """`5,243`; beyond a billion three digits and a power, so that it never fills a panel."""
    return f"{number:,.0f}" if abs(number) < 1e9 else f"{number:.3g}".replace("e+", "e")


def brief(count: int) -> str:
    """`999`, `1.2k`, `12k`, `3.4M`: for where there is little room."""
    for size, unit in zip((10**18, 10**15, 10**12, 10**9, 10**6, 1000), "EPTGMk", strict=True):
        if count >= size:
            return f"{count / size:.{int(count < 10 * size)}f}{unit}"
    return str(count)


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2,000 frames`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def latest(count: int) -> str:
    """`first message`, `last 30 messages`: what a panel shows."""
    return f"last {count} messages" if count > 1 else "first message"


def measure(number: float, decimals: int = 1) -> str:
    """`35.4`, `36`, `36.5`, `1,235`: no more decimals than can matter."""
    if abs(number) >= 1000:
        return whole(number)
    return f"{number:.{decimals}f}" if decimals or number == round(number) else f"{number:.1f}"


def plain(text: str) -> str:
    """Text that cannot disturb a picture or a terminal: no control or format characters, few marks per letter."""
    kept: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", text[:1000]):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks <= _MARKS_PER_LETTER:
            kept.append(" " if category[0] in "CZ" else character)
    return " ".join("".join(kept).split())


def display_name(author: str) -> str:
    """An author's name in at most 13 characters, marks not counted."""
    name = plain(author) or "(no name)"
    letters = [index for index, character in enumerate(name) if not unicodedata.category(character).startswith("M")]
    return name if len(letters) <= NAME_CHARS else name[: letters[NAME_CHARS - 1]].rstrip() + "\u2026"


def source(snapshot: Snapshot) -> str:
    return SOURCES.get(snapshot.source, snapshot.source)


def source_line(snapshot: Snapshot) -> str:
    """Where the data comes from, since when and why not from where it came before, or why it does not come."""
    if snapshot.trouble_since is None:
        if not snapshot.moved:
            return plain(snapshot.detail)
        left, at, why = snapshot.moved
        reason = f": {plain(why)}" if why else ""
        return f"since {clock(at, snapshot.now)} instead of {SOURCES.get(left, left)}{reason}"
    return f"down since {clock(snapshot.trouble_since, snapshot.now)}: {plain(snapshot.trouble)}"


def status(snapshot: Snapshot) -> str:
    if snapshot.status == "STALE":
        return f"STALE \u00b7 no messages for {span(snapshot.idle_s)}"
    return snapshot.status


def _rfc3339(epoch_s: float | None) -> str | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s).astimezone().isoformat("T", "milliseconds")


def figures(snapshot: Snapshot) -> dict[str, Any]:
    """Every figure of the picture under a plain name, for programs and screen readers; times in RFC 3339."""
    lengths = stats.summary(snapshot.lengths) if snapshot.lengths else None
    recent = snapshot.sentiments[-ANALYSIS:]
    rolling = float(np.mean(snapshot.sentiments[-stats.ROLLING :])) if len(recent) >= stats.ROLLING else None
    lags = stats.summary(snapshot.lags) if snapshot.lags else None
    return {
        "status": snapshot.status,
        "time": _rfc3339(snapshot.now),
        "source": snapshot.source,
        "source_detail": source_line(snapshot),
        "source_down_since": _rfc3339(snapshot.trouble_since),
        "messages": snapshot.total,
        "messages_per_second": round(snapshot.rate, 3),
        "lag_median_s": lags and round(lags.median, 3),
        "lag_p95_s": lags and round(lags.p95, 3),
        "invalid": snapshot.invalid,
        "last_invalid": plain(snapshot.last_invalid) or None,
        "lost": snapshot.lost,
        "duplicate": snapshot.duplicate,
        "last_message": _rfc3339(snapshot.last),
        "uptime_s": round(snapshot.now - snapshot.started, 1),
        "authors": snapshot.author_count,
        "top_authors": [{"author": plain(name), "messages": count} for name, count in snapshot.authors],
        "sentiment_average": round(float(np.mean(recent)), 4) if recent else None,
        "sentiment_rolling": None if rolling is None else round(rolling, 4),
        "sentiment_label": label(recent[-1]) if recent else None,
        "anomalies": int(stats.anomalies(snapshot.sentiments, ANALYSIS).sum()),
        "length_mean": lengths and round(lengths.mean, 2),
        "length_median": lengths and lengths.median,
        "length_p95": lengths and round(lengths.p95, 2),
        "length_sigma": lengths and round(lengths.sigma, 2),
    }
