"""Example producer of sensor readings in five rooms, with days, nights and rare faults."""

import math
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


class Reading(Record):
    """One reading of a sensor; `temperature_c` is None while the sensor has no contact to its probe."""

    device: str
    temperature_c: float | None
    humidity_pct: float
    battery_v: float


SENSORS = Stream("sensors", Reading, by="device", value="temperature_c", histogram="humidity_pct", zones=(18, 24))

ROOMS = {"kitchen": 22.0, "office": 21.5, "bedroom": 19.0, "cellar": 14.0, "roof": 24.0}  # means in °C
ROUNDS_PER_DAY = 96  # a round is a reading of each room
FAULT_EVERY = 200  # mean readings per fault: half of the faults are power-on values, half have no contact
POWER_ON_C = 85.0
FULL_V, EMPTY_V, ROUNDS_PER_BATTERY = 3.2, 2.4, 2_000


def readings(rng: random.Random) -> Iterator[tuple[float, Reading]]:
    """Yield endless pairs: the pause before a reading, in intervals, and the reading, without timestamp and ids."""
    for number in count():
        sun = math.sin(math.tau * number / ROUNDS_PER_DAY)
        for age, (room, mean_c) in enumerate(ROOMS.items()):
            temperature_c = rng.gauss(mean_c + sun * (6 if room == "roof" else 2), 0.2)
            humidity_pct = rng.gauss(70 - temperature_c + 10 * math.cos(number / 30), 1.5)
            used = (number + age * ROUNDS_PER_BATTERY // len(ROOMS)) % ROUNDS_PER_BATTERY / ROUNDS_PER_BATTERY
            fault = rng.random() * FAULT_EVERY
            seen_c = POWER_ON_C if fault < 0.5 else None if fault < 1 else round(temperature_c, 2)
            yield 1.0, Reading(room, seen_c, round(humidity_pct, 1), round(FULL_V - used**3 * (FULL_V - EMPTY_V), 3))


def main(
    *, options: ProducerOptions = DEFAULT_OPTIONS, settings: Annotated[Settings, Reads(*PRODUCING_STREAM)] = DEFAULTS
) -> int:
    """Stream temperature, humidity and battery of rooms into file, SQLite and DuckDB, or the sinks of --sinks."""
    return producing.produce(SENSORS, "sensor", readings(random.Random(options.seed)), options, settings)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.sensor_producer"))
