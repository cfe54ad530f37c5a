"""Make the images of the documentation: five scenes of the dashboard from seeded data.

python scripts/make_pictures.py [--size WxH ...] [--folder docs/images]
"""

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from consumers.dashboard import outputs, picture
from consumers.dashboard.state import Snapshot, State
from consumers.dashboard.theme import DEFAULT_SIZE, DPI, ThemeName
from consumers.ragini_visual_consumer import inches
from utils.app.config import PROJECT_DIR
from utils.records.codec import instant_text
from utils.records.record import Invalid, Message
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
        mood = rng.gauss(0.61, 0.06) if calm else rng.random()
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
            sentiment=min(max(mood, 0.0), 1.0),
            keyword_mentioned="world",
            message_length=length,
        )
        yield at + lag, message


def _snapshot(authors: dict[str, int], *, calm: bool = False, now: float = NOW) -> Snapshot:
    time = BEGIN
    state = State("file", "data/project_live.json", clock=lambda: time)
    state.healthy(caught_up=True)
    messages = list(_stream(authors, calm))
    if calm:
        messages[-19][1].sentiment, messages[-7][1].sentiment = 0.97, 0.06
    for number, (at, message) in enumerate(messages):
        time = at
        invalid = [Invalid("project_live.json byte 9", "truncated")] if number in (70, 900, 2500) else []
        state.add(Chunk("project_live.json", str(number), str(number + 1), [message], invalid))
    time = now
    return state.snapshot()


def scenes() -> list[Scene]:
    """The five scenes, always the same."""
    clock = NOW + 1
    empty = State("file", "data/project_live.json", clock=lambda: clock)
    return [
        Scene("light", "light", _snapshot(FOUR)),
        Scene("dark", "dark", _snapshot(FOUR)),
        Scene("anomalies", "light", _snapshot(TEN, calm=True)),
        Scene("empty", "light", replace(empty.snapshot(), started=clock - 12)),
        Scene("stale-dark", "dark", _snapshot(FOUR, now=NOW + 11)),
    ]


def draw(scene: Scene, size: tuple[float, float]) -> picture.Dashboard:
    dashboard = picture.headless(size, scene.theme, 2.0)
    dashboard.frame_s = 0.07
    dashboard.update(scene.snapshot)
    return dashboard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=[f"{DEFAULT_SIZE[0]}x{DEFAULT_SIZE[1]}"], metavar="WxH")
    parser.add_argument("--folder", type=Path, default=PROJECT_DIR / "docs" / "images")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for size in map(inches, options.size):
        for scene in scenes():
            suffix = "" if size == DEFAULT_SIZE else f"-{size[0] * DPI:.0f}x{size[1] * DPI:.0f}"
            path = options.folder / f"dashboard-{scene.name}{suffix}.png"
            outputs.write_atomically(path, draw(scene, size).png())
            print(path)


if __name__ == "__main__":
    main()
