"""Alerts and windows in PostgreSQL equal those in SQLite, and two machines share them."""

import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.postgres_server import Server
from tests.reading.test_alerts import HOT, SENSORS, Made, records
from tests.stores import Place, PostgresPlace, SqlitePlace
from utils.reading.alert_delivery import AlertDelivery
from utils.reading.alerts import Alerts, Rule
from utils.reading.store import ProcessedStore, Stored
from utils.reading.windows import Tumbling, Windows
from utils.sources.base import Chunk

pytestmark = [pytest.mark.full, pytest.mark.postgres]


def found_in(place: Place, rule: Rule, folder: Path) -> tuple[list[tuple[Any, ...]], list[Any], list[Any]]:
    """Return alerts, windows and deliveries of a random stream that two machines read in turn, a partition each."""
    rng, sent = random.Random(3), list[bytes]()
    made: list[Made] = [
        (rng.uniform(0, 300), rng.choice(["a", "b", "x\0y"]), rng.choice([20, 25.5, None])) for _ in range(400)
    ]
    read, positions = records(made), {"one": "", "two": ""}
    for start in range(0, len(read), 40):
        partition = rng.choice(["one", "two"])
        with closing(ProcessedStore(place.database(), SENSORS)) as store:
            alerts, windows = Alerts(store, rule.on(SENSORS)), Windows(store, Tumbling(60))
            chunk = Chunk(partition, positions[partition], str(start + 40), read[start : start + 40])

            def both(stored: Stored, alerts: Alerts = alerts, windows: Windows = windows) -> None:
                alerts.add(stored)
                windows.add(stored)

            store.add(chunk, both)
            positions[partition] = f"{start + 40} again"
            store.add(replace(chunk, start=chunk.end, end=positions[partition]), both)
            send = AlertDelivery(place.database(), {}, folder / "alerts.jsonl", lambda id, line: sent.append(line))
            with closing(send) as delivery:
                while delivery.step():
                    pass
            reported = [
                sorted(map(repr, place.ask("SELECT * FROM windows"))),
                sorted(windows.by_name().items()),
                sorted(map(repr, windows.open())),
            ]
    return sorted(place.ask("SELECT name, event_us, due_us FROM alerts")), reported, sent


@pytest.mark.parametrize(
    "rule", [Rule(when=HOT, times=2), Rule(when=HOT, cooldown_s=30), Rule(anomaly="temperature_c"), Rule(silent_s=1)]
)
def test_alerts_and_windows_are_those_of_sqlite(rule: Rule, postgres: Server, tmp_path: Path) -> None:
    alerts, windows, sent = found_in(PostgresPlace(postgres), rule, tmp_path)
    expected = found_in(SqlitePlace(tmp_path / "file.sqlite"), rule, tmp_path)
    assert (alerts, windows) == expected[:2]
    assert len(sent) == len(alerts)
    assert alerts or not rule.when


def test_a_silence_is_stored_once_by_two_machines(postgres: Server, tmp_path: Path) -> None:
    place, now_s = PostgresPlace(postgres), 1_000.0
    stores = [ProcessedStore(place.database(), SENSORS) for _ in range(2)]
    machines = [Alerts(store, Rule(silent_s=5).on(SENSORS), lambda: now_s) for store in stores]
    now_s += 5
    for alerts in machines:
        alerts.check_silence()
    assert place.ask("SELECT name, event_us FROM alerts") == [("", 1_000_000_000)]
    for store in stores:
        store.close()
