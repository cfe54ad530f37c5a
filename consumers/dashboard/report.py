"""The statistics without the image: of the health of the stream, and all of them as JSON and metrics for programs."""

from dataclasses import asdict
from typing import NamedTuple

import msgspec

from consumers.dashboard.formatting import SOURCES, brief, clock, lag, rate, source_line, span
from consumers.dashboard.snapshot import Snapshot

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Tile(NamedTuple):
    """One statistic on the health of the stream: its value, in forms from the longest to the shortest, and a detail."""

    name: str
    values: tuple[str, ...]
    detail: str = ""
    is_warning: bool = False


def tiles(snapshot: Snapshot) -> list[Tile]:
    """The six statistics of the health strip."""
    source, last, delay, age = snapshot.source, snapshot.last, snapshot.lag, span(snapshot.idle_s)
    bad = (snapshot.invalid, snapshot.lost, snapshot.duplicate)
    return [
        Tile("Source", (SOURCES.get(source.name, source.name),), source_line(snapshot), bool(source.trouble)),
        Tile("Throughput", (rate(snapshot.rate, snapshot.roles.records),), "mean of 60 s"),
        Tile("Lag", (lag(delay.median),), f"p95 {lag(delay.p95)}") if delay else Tile("Lag", ("\u2013",)),
        Tile("Invalid / lost / dup", (" / ".join(f"{count:,}" for count in bad), "/".join(map(brief, bad))),
             f"of {brief(snapshot.received)} received", any(bad)),
        Tile("Last record", (f"{age} ago", age), f"at {clock(last, snapshot.now)}", snapshot.status == "STALE")
        if last else Tile("Last record", ("none yet",)),
        Tile("Uptime", (span(snapshot.now - snapshot.started),), f"since {clock(snapshot.started, snapshot.now)}"),
    ]  # fmt: skip


def statistics(snapshot: Snapshot) -> str:
    """The snapshot as JSON, with its own names and units; what is not known yet is null."""
    return msgspec.json.encode(asdict(snapshot) | {"status": snapshot.status, "idle_s": snapshot.idle_s}).decode()


def metrics(snapshot: Snapshot) -> str:
    """The statistics in the text format of Prometheus."""
    delay = snapshot.lag
    samples = {
        "records_total": snapshot.total,
        "invalid_total": snapshot.invalid,
        "duplicate_total": snapshot.duplicate,
        "lost": snapshot.lost,
        "records_per_second": snapshot.rate,
        "lag_median_seconds": delay.median if delay else None,
        "lag_p95_seconds": delay.p95 if delay else None,
        "stale": snapshot.status == "STALE",
        "source_up": not snapshot.source.trouble,
        "last_record_timestamp_seconds": snapshot.last,
        "start_timestamp_seconds": snapshot.started,
    }
    return "".join(
        f"# TYPE ragini_{name} {'counter' if name.endswith('_total') else 'gauge'}\n"
        f'ragini_{name}{{stream="{snapshot.stream}"}} {float(number)!r}\n'
        for name, number in samples.items()
        if number is not None
    )
