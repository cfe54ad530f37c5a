"""What an image shows, without the image: JSON and metrics for programs, words for people who cannot see it."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from consumers.dashboard import formatting
from consumers.dashboard.formatting import counted, plain
from consumers.dashboard.snapshot import Series, Snapshot

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SUMMARY = {
    "mean": "mean",
    "median": "median",
    "p95": "95th percentile",
    "sigma": "standard deviation",
    "low": "least",
    "high": "greatest",
}


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


def sentences(snapshot: Snapshot) -> list[tuple[str, str]]:
    """The statistics as pairs of a heading and words with units."""
    roles, total = snapshot.roles, snapshot.total
    last = (
        f"{formatting.span(snapshot.idle_s)} ago, at {formatting.clock(snapshot.last, snapshot.now)}"
        if snapshot.last
        else "none yet"
    )
    lag = snapshot.lag
    pairs = [
        ("Status", formatting.status(snapshot)),
        (roles.records.capitalize(), f"{total:,}; {snapshot.rate:,.3g} per second over the last minute"),
        ("Lag", f"median {lag.median:,.3g} s, 95th percentile {lag.p95:,.3g} s" if lag else "not known yet"),
        ("Errors", f"{snapshot.invalid:,} invalid, {snapshot.lost:,} lost, {snapshot.duplicate:,} duplicate"),
        (f"Last {roles.record}", last),
        ("Source", f"{plain(snapshot.source.name)}: {formatting.source_line(snapshot)}"),
        ("Running for", formatting.span(snapshot.now - snapshot.started)),
    ]
    if snapshot.groups:
        named = [f"{plain(name) or '(no name)'} {count:,}" for name, count in snapshot.groups]
        if rest := snapshot.group_count - len(named):
            named.append(f"{rest:,} others {total - sum(count for _, count in snapshot.groups):,}")
        pairs.append((f"{roles.records.capitalize()} by {plain(roles.by)}", ", ".join(named)))
    pairs += [_trend(snapshot, series) for series in snapshot.series if series.values]
    if measures := snapshot.measures:
        words = ", ".join(f"{text} {_number(getattr(measures, name))}" for name, text in _SUMMARY.items())
        unit = f" {roles.unit}" if roles.unit else ""
        pairs.append((plain(roles.histogram).capitalize(), f"{words}{unit}; of the last {measures.count:,}"))
    return pairs


def _trend(snapshot: Snapshot, series: Series) -> tuple[str, str]:
    """Latest value, means and anomalies of one line."""
    values, roles = series.values, snapshot.roles
    parts = [f"latest {_number(values[-1])}", f"average {_number(series.average)}"]
    if not math.isnan(series.rolling[-1]):
        parts.append(f"rolling mean {_number(series.rolling[-1])}")
    found = [index for index, marked in enumerate(series.anomalies) if marked]
    parts.append(counted(len(found), "anomaly", "anomalies") if found else "no anomalies")
    for index in found:
        key = f" of {plain(series.keys[index])}" if series.keys else ""
        parts.append(f"{_number(values[index])}{key} at {formatting.clock(series.times[index], snapshot.now)}")
    name = f"{plain(roles.value)} of {plain(series.name)}" if series.name else plain(roles.value)
    return name[:1].upper() + name[1:], ", ".join(parts) + f"; of the last {len(values):,}"


def _number(number: float) -> str:
    return f"{number:,.4g}" if abs(number) < 10_000 else f"{number:,.6g}"


def metrics(snapshot: Snapshot) -> str:
    """The statistics in the text format of Prometheus."""
    lines, before = [], ""
    for name, text, labels, number in _samples(snapshot):
        if number is None:
            continue
        if name != before:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP ragini_{name} {text}", f"# TYPE ragini_{name} {kind}"]
            before = name
        shown = ",".join(f'{label}="{_escaped(each)}"' for label, each in {"stream": snapshot.stream, **labels}.items())
        lines.append(f"ragini_{name}{{{shown}}} {float(number)!r}")
    return "\n".join(lines) + "\n"


def _samples(snapshot: Snapshot) -> Iterator[tuple[str, str, dict[str, str], float | None]]:
    lag, by, value = snapshot.lag, plain(snapshot.roles.by), plain(snapshot.roles.value)
    yield "records_total", "Records read.", {}, snapshot.total
    yield "invalid_total", "Records that could not be read.", {}, snapshot.invalid
    yield "lost", "Gaps in the sequences of the producers.", {}, snapshot.lost
    yield "duplicate_total", "Records that came again.", {}, snapshot.duplicate
    yield "records_per_second", "Mean of the last minute.", {}, snapshot.rate
    yield "stale", "1 if no record came for too long.", {}, snapshot.status == "STALE"
    yield "source_up", "0 while the source cannot be read.", {}, snapshot.source.trouble_since is None
    yield "last_record_timestamp_seconds", "When the newest record came.", {}, snapshot.last
    yield "start_timestamp_seconds", "When the dashboard started.", {}, snapshot.started
    yield "lag_seconds", "From event time to reading.", {"quantile": "0.5"}, lag.median if lag else None
    yield "lag_seconds", "From event time to reading.", {"quantile": "0.95"}, lag.p95 if lag else None
    for name, count in _distinct(snapshot.groups):
        yield "busiest_records", "Records of the busiest keys.", {"by": by, "key": name}, count
    for name, values in _distinct((each.name, each.values) for each in snapshot.series if each.values):
        yield "latest_value", "Newest value.", {"field": value, "key": name}, values[-1]


def _distinct(pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Pairs whose names still differ when they are plain; one name twice would make all metrics unreadable."""
    seen: set[str] = set()
    for name, what in pairs:
        if (shown := plain(name)) not in seen:
            seen.add(shown)
            yield shown, what


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
