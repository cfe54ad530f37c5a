"""Make the images of the documentation: scenes of the dashboard from seeded data.

python scripts/make_pictures.py [--narrow] [--all] [--folder docs/images]
"""

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from consumers.dashboard.figure import Dashboard
from consumers.dashboard.options import DEFAULT_SIZE, ThemeName
from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from producers import factory_producer, market_producer, sensor_producer
from utils.app.config import PROJECT_DIR
from utils.records.instants import instant_text
from utils.records.record import Invalid, Message, Record
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Chunk

BEGIN = datetime(2025, 9, 27, 6, 17, 40).timestamp()
NOW = datetime(2025, 9, 27, 8, 31, 52).timestamp()
FOUR = {"Bob": 27, "Charlie": 26, "Alice": 26, "Eve": 24}
TEN = FOUR | {"Dana": 8, "Frank": 6, "Grace": 2, "Heidi": 2, "Ivan": 1, "Judy": 1}


@dataclass(frozen=True)
class Scene:
    name: str
    theme: ThemeName
    snapshot: Snapshot


def _stream(authors: dict[str, int], calm: bool) -> Iterator[tuple[float, Message]]:
    """Two hours of messages, with the times at which they are read."""
    rng = random.Random(20250927)
    at, sequence = BEGIN + 2.0, 0
    names, weights = list(authors), list(authors.values())
    while (at := at + rng.choice((0.6, 0.8, 1.0, 1.2, 1.8, 3.6))) < NOW - 1.0:
        sequence += 1
        feeling = rng.gauss(0.61, 0.06) if calm else rng.random()
        lag = rng.uniform(0.2, 0.5) + (0.7 if rng.random() < 0.08 else 0.0)
        text = "Hello World " * 3
        length = round(rng.gauss(35.5, 2.2))
        author = rng.choices(names, weights)[0]
        message = Message(
            timestamp=instant_text(round(at * 1000) * 1000),
            producer_id="ragini-1",
            sequence=sequence,
            message=text,
            author=author,
            category="hello",
            sentiment=min(max(feeling, 0.0), 1.0),
            keyword_mentioned="world",
            message_length=length,
        )
        yield at + lag, message


def _snapshot(authors: dict[str, int], *, calm: bool = False, now: float = NOW) -> Snapshot:
    time = BEGIN
    state = State(BUZZ, "file", clock=lambda: time)
    state.using("file", "data/project_live.json")
    state.go_live()
    messages = list(_stream(authors, calm))
    if calm:
        messages[-19][1].sentiment, messages[-7][1].sentiment = 0.97, 0.06
    for number, (at, message) in enumerate(messages):
        time = at
        invalid = [Invalid("project_live.json byte 9", "truncated")] if number in (70, 900, 2500) else []
        state.add(Chunk("project_live.json", str(number), str(number + 1), [message], invalid))
    time = now
    return state.snapshot()


def _example(stream: Stream, records: Iterator[tuple[float, Record]]) -> Snapshot:
    """Twenty minutes of one of the other streams."""
    time = NOW - 1200
    state = State(stream, "sqlite", clock=lambda: time)
    state.using("sqlite", "data/buzz.sqlite")
    state.go_live()
    for sequence, (pause, record) in enumerate(records, 1):
        time += 0.7 * pause
        if time > NOW:
            break
        record.timestamp = instant_text(round((time - 0.05) * 1000) * 1000)
        record.producer_id, record.sequence = f"{stream.name}-1", sequence
        state.add(Chunk(stream.name, str(sequence - 1), str(sequence), [record]))
    time = NOW
    return state.snapshot()


def examples() -> list[Scene]:
    """The streams of the other producers."""
    rng = random.Random(7)
    return [
        Scene("sensors", "light", _example(sensor_producer.SENSORS, sensor_producer.readings(rng))),
        Scene("ticks", "dark", _example(market_producer.TICKS, market_producer.ticks(rng))),
        Scene("parts", "light", _example(factory_producer.PARTS, factory_producer.parts(rng))),
    ]


def scenes() -> list[Scene]:
    """The scenes of the documentation, always the same."""
    clock = NOW + 1
    empty = State(BUZZ, "file", clock=lambda: clock)
    empty.using("file", "data/project_live.json")
    four = _snapshot(FOUR)
    return [
        Scene("light", "light", four),
        Scene("dark", "dark", four),
        Scene("anomalies", "light", _snapshot(TEN, calm=True)),
        Scene("empty", "light", replace(empty.snapshot(), started=clock - 12)),
        Scene("stale-dark", "dark", _snapshot(FOUR, now=NOW + 24)),
        examples()[0],
    ]


def draw(scene: Scene, size: tuple[float, float] = DEFAULT_SIZE, *, narrow: bool = False) -> Dashboard:
    """The scene on a figure of this size in inches, or in one column."""
    dashboard = Dashboard(scene.theme, size=size, narrow=narrow)
    dashboard.update(scene.snapshot)
    return dashboard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--narrow", action="store_true", help="one column, as on phones")
    parser.add_argument("--all", action="store_true", help="every stream in both themes")
    parser.add_argument("--folder", type=Path, default=PROJECT_DIR / "docs" / "images")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    shown = scenes()
    if options.all:
        themes: tuple[ThemeName, ...] = ("light", "dark")
        shown += [replace(each, name=f"{each.name}-{theme}", theme=theme) for each in examples() for theme in themes]
    for scene in shown:
        path = options.folder / f"dashboard-{scene.name}{'-narrow' * options.narrow}.png"
        path.write_bytes(draw(scene, narrow=options.narrow).png(scene.snapshot))
        print(path)


if __name__ == "__main__":
    main()
