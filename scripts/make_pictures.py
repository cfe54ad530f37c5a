"""Make the images of the documentation in docs/images: dashboards of the producers' streams, the same in each run."""

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from consumers.dashboard.figure import Dashboard, column
from consumers.dashboard.options import DEFAULT_SIZE, ThemeName
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from producers import factory_producer, market_producer, ragini_producer, sensor_producer
from utils.app.config import PROJECT_DIR
from utils.records.instants import instant_text
from utils.records.record import Record
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Chunk

NOW = datetime(2025, 9, 27, 8, 31, 52).timestamp()
LENGTH_S, INTERVAL_S = 1200, 0.7
LAG_S = 0.05


@dataclass(frozen=True)
class Scene:
    name: str
    theme: ThemeName
    snapshot: Snapshot


def watched(
    stream: Stream, records: Iterator[tuple[float, Record]], length_s: float = LENGTH_S, silent_s: float = 0.0
) -> Snapshot:
    """Return the snapshot of a dashboard after `length_s` seconds of records and `silent_s` seconds of silence."""
    begin, time = NOW - silent_s - length_s, NOW - silent_s - length_s
    state = State(stream, "sqlite", clock=lambda: time)
    state.using("sqlite", "data/buzz.sqlite")
    state.go_live()
    for sequence, (pause, record) in enumerate(records, 1):
        time += INTERVAL_S * pause
        if time > begin + length_s:
            break
        record.timestamp = instant_text(round((time - LAG_S) * 1000) * 1000)
        record.producer_id, record.sequence = f"{stream.name}-1", sequence
        state.add(Chunk(stream.name, str(sequence - 1), str(sequence), [record]))
    time = NOW
    return state.snapshot()


def examples() -> list[Scene]:
    """Return a scene of each example stream."""
    rng = random.Random(7)
    return [
        Scene("sensors", "light", watched(sensor_producer.SENSORS, sensor_producer.readings(rng))),
        Scene("ticks", "dark", watched(market_producer.TICKS, market_producer.ticks(rng))),
        Scene("parts", "light", watched(factory_producer.PARTS, factory_producer.parts(rng))),
    ]


def scenes() -> list[Scene]:
    """Return the scenes of the documentation."""

    def messages(pattern: ragini_producer.Pattern) -> Iterator[tuple[float, Record]]:
        return ragini_producer.messages(pattern, random.Random(1))

    waves = watched(BUZZ, messages("wave"))
    return [
        Scene("light", "light", waves),
        Scene("dark", "dark", waves),
        Scene("anomalies", "light", watched(BUZZ, messages("drift"), length_s=1165)),  # soon after an anomaly
        Scene("empty", "light", watched(BUZZ, iter(()), length_s=12)),
        Scene("stale-dark", "dark", watched(BUZZ, messages("wave"), silent_s=24)),
        examples()[0],
    ]


def draw(scene: Scene, size: tuple[float, float] = DEFAULT_SIZE, *, narrow: bool = False) -> Dashboard:
    """Draw a scene on a figure of this size in inches, or in one column."""
    dashboard = Dashboard(scene.theme, column() if narrow else size)
    dashboard.update(scene.snapshot)
    return dashboard


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for scene in scenes():
        path = PROJECT_DIR / "docs" / "images" / f"dashboard-{scene.name}.png"
        path.write_bytes(draw(scene).image(scene.snapshot))
        print(path)


if __name__ == "__main__":
    main()
