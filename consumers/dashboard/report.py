"""What an image shows, without the image: JSON and metrics for programs, words for people who cannot see it."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from consumers.dashboard.formatting import SOURCES, brief, clock, counted, lag, plain, rate, source_line, span, status
from consumers.dashboard.snapshot import Series, Snapshot

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Tile(NamedTuple):
    """One statistic on the health of the stream: its value, in forms from the longest to the shortest, and a detail."""

    name: str
    values: tuple[str, ...]
    detail: str
    is_warning: bool = False


def tiles(snapshot: Snapshot) -> list[Tile]:
    """The six statistics of the health strip."""
    source, last, delay = snapshot.source, snapshot.last, snapshot.lag
    bad = (snapshot.invalid, snapshot.lost, snapshot.duplicate)
    received = snapshot.total + snapshot.invalid + snapshot.duplicate
    age = span(snapshot.idle_s)
    return [
        Tile("Source", (SOURCES.get(source.name, source.name),), source_line(snapshot), bool(source.trouble)),
        Tile("Throughput", (rate(snapshot.rate, snapshot.roles.records),), "mean of 60 s"),
        Tile("Lag", (lag(delay.median),), f"p95 {lag(delay.p95)}") if delay else Tile("Lag", ("\u2013",), ""),
        Tile("Invalid / lost / dup", (" / ".join(f"{count:,}" for count in bad), "/".join(map(brief, bad))),
             f"of {brief(received)} received", any(bad)),
        Tile("Last record", (f"{age} ago", age), f"at {clock(last, snapshot.now)}", snapshot.status == "STALE")
        if last else Tile("Last record", ("none yet",), ""),
        Tile("Uptime", (span(snapshot.now - snapshot.started),), f"since {clock(snapshot.started, snapshot.now)}"),
    ]  # fmt: skip


def statistics(snapshot: Snapshot) -> str:
    """The snapshot as JSON, with its own names and units; what is not known yet is null, texts are plain."""
    everything = asdict(snapshot) | {"status": snapshot.status, "idle_s": snapshot.idle_s}
    return json.dumps(_readable(everything), ensure_ascii=False)


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _readable(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_readable(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return plain(value) if isinstance(value, str) else value


def sentences(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """The statistics as pairs of a heading and words with units."""
    roles, total = snapshot.roles, snapshot.total
    yield "Status", status(snapshot)
    yield roles.records.capitalize(), f"{total:,}"
    for tile in tiles(snapshot):
        yield tile.name, f"{tile.values[0]}; {tile.detail}".removesuffix("; ")
    if snapshot.groups:
        named = [f"{plain(name) or '(no name)'} {count:,}" for name, count in snapshot.groups]
        if rest := snapshot.group_count - len(named):
            named.append(f"{rest:,} others {total - sum(count for _, count in snapshot.groups):,}")
        yield f"{roles.records.capitalize()} by {plain(roles.by)}", ", ".join(named)
    for series in snapshot.series:
        of = f" of {plain(series.name)}" if series.name else ""
        yield f"{plain(roles.value)}{of}".capitalize(), ", ".join(_trend(snapshot, series))
    if measures := snapshot.measures:
        words = f"mean {measures.mean:,.6g}, median {measures.median:,.6g}, 95th percentile {measures.p95:,.6g}"
        words += f", standard deviation {measures.sigma:,.4g}, from {measures.low:,.6g} to {measures.high:,.6g}"
        yield plain(roles.histogram).capitalize(), f"{words} {roles.unit}; of the last {measures.count:,}"


def _trend(snapshot: Snapshot, series: Series) -> Iterator[str]:
    """Latest value, means and anomalies of one line."""
    yield f"latest {series.values[-1]:,.6g}"
    yield f"average {series.average:,.4g}"
    if not math.isnan(series.rolling[-1]):
        yield f"rolling mean {series.rolling[-1]:,.4g}"
    yield counted(sum(series.anomalies), "anomaly")
    for value, key, at, odd in zip(series.values, series.keys, series.times, series.anomalies, strict=True):
        if odd:
            yield f"{value:,.6g} of {plain(key)} at {clock(at, snapshot.now)}"


def metrics(snapshot: Snapshot) -> str:
    """The statistics in the text format of Prometheus."""
    delay = snapshot.lag
    samples: dict[str, float | None] = {
        "records_total": snapshot.total,
        "invalid_total": snapshot.invalid,
        "duplicate_total": snapshot.duplicate,
        "lost": snapshot.lost,
        "records_per_second": snapshot.rate,
        "lag_median_seconds": delay.median if delay else None,
        "lag_p95_seconds": delay.p95 if delay else None,
        "stale": snapshot.status == "STALE",
        "source_up": snapshot.source.trouble_since is None,
        "last_record_timestamp_seconds": snapshot.last,
        "start_timestamp_seconds": snapshot.started,
    }
    lines = []
    for name, number in samples.items():
        if number is not None:
            kind = "counter" if name.endswith("_total") else "gauge"
            sample = f'ragini_{name}{{stream="{snapshot.stream}"}} {float(number)!r}'
            lines += [f"# TYPE ragini_{name} {kind}", sample]
    return "\n".join(lines) + "\n"
