"""Example producer of measured parts from three production lines, with tools that wear and rare bad parts."""

import random
import sys
from collections.abc import Iterator
from itertools import count
from typing import Annotated

from utils.app import cli
from utils.app.config import DEFAULTS, PRODUCING_STREAM, Reads, Settings
from utils.delivery import producing
from utils.records.record import Record
from utils.records.stream import Stream
from utils.sinks import DEFAULT_OPTIONS, ProducerOptions

LOWER_MM, UPPER_MM = 24.9, 25.1


class Part(Record):
    """One measured part; `passed` is whether `measure_mm` is within the limits."""

    line: str
    part: str
    measure_mm: float
    passed: bool
    lower_mm: float = LOWER_MM
    upper_mm: float = UPPER_MM


PARTS = Stream("parts", Part, by="line", value="measure_mm", histogram="measure_mm", zones=(LOWER_MM, UPPER_MM))

PARTS_PER_TOOL = {"north": 200, "south": 320, "west": 450}  # per line; as its tool wears, parts get larger
NEW_MM, WORN_MM, SPREAD_MM = 24.96, 25.05, 0.012
BAD_EVERY, BAD_MM = 150, 0.2  # mean number of parts per bad one, and its deviation


def parts(rng: random.Random) -> Iterator[tuple[float, Part]]:
    """Yield endless pairs: the pause before a part, in intervals, and the part, without timestamp and ids."""
    for number in count(1):
        for line, per_tool in PARTS_PER_TOOL.items():
            wear = number % per_tool / per_tool
            measure_mm = rng.gauss(NEW_MM + wear * (WORN_MM - NEW_MM), SPREAD_MM)
            if rng.random() * BAD_EVERY < 1:
                measure_mm += rng.choice((-BAD_MM, BAD_MM))
            part = f"{line[0].upper()}{number:07}"
            yield 1.0, Part(line, part, round(measure_mm, 3), LOWER_MM <= round(measure_mm, 3) <= UPPER_MM)


def main(
    *, options: ProducerOptions = DEFAULT_OPTIONS, settings: Annotated[Settings, Reads(*PRODUCING_STREAM)] = DEFAULTS
) -> int:
    """Stream measured parts of three lines into file, SQLite and DuckDB, or the sinks that --sinks names."""
    return producing.produce(PARTS, "factory", parts(random.Random(options.seed)), options, settings)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.factory_producer"))
