"""A consumer of alerts that is killed repeatedly, with a webhook that is down half of the time."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial

import msgspec
import pytest

from tests.helpers import run_here, start_python, wait_until
from tests.reading.test_alert_delivery import Webhook, webhook
from tests.reading.test_alerts import HOT, SENSORS, by_pandas, records
from utils.app.config import Settings
from utils.reading.alerts import Rule

__all__ = ["webhook"]  # the fixture


def made_stream(amount: int, crossings: int, rng: random.Random) -> list[tuple[float, str, float | None]]:
    """Make records of five devices, one a second; now and then a device is hot for 3 to 30 records."""
    hot_until = dict.fromkeys("abcde", -1)
    begins = set(rng.sample(range(0, amount - 160, 160), crossings))  # the longest lasts 150 records
    made: list[tuple[float, str, float | None]] = []
    for number in range(amount):
        device = "abcde"[number % 5]
        if number in begins:
            hot_until[device] = number + 5 * rng.randint(3, 30)
        made.append((float(number), device, 30.0 if number < hot_until[device] else 20.0))
    return made


def received_more(webhook: Webhook, than: int) -> bool:
    return len(webhook.received) > than


@pytest.mark.proof(
    "an alert is stored once and delivered at least once",
    "kill -9 of the alert consumer, with a webhook that is down half of the time",
    full=4,
    long=50,
)
@pytest.mark.timeout(3600)  # for the long setting
def test_each_alert_is_stored_once_and_delivered(
    times: int, long: bool, *, settings: Settings, webhook: Webhook, measured: Callable[[str], None]
) -> None:
    amount, crossings, kills = (200_000, 300, times) if long else (6_000, 30, times)
    rng = random.Random(amount)
    made = made_stream(amount, crossings, rng)
    lines = [SENSORS.codec.encode(record) + b"\n" for record in records(made)]
    folder = settings.data_path / "streams"
    folder.mkdir(parents=True)
    types = {field.name: field.type for field in SENSORS.fields}
    (folder / "sensors.json").write_bytes(
        msgspec.json.encode({"fields": types, "by": "device", "value": "temperature_c"})
    )
    options = ("--stream", "sensors", "--source", "file", "--when", HOT, "--for", "3", "--then", webhook.url)
    up = webhook.answer
    step, seen = -(-amount // kills), 0
    for kill in range(kills):
        with settings.file_path("sensors").open("ab") as stream:
            stream.write(b"".join(lines[kill * step : (kill + 1) * step]))
        webhook.answer = up if kill % 2 else lambda request: request.send_response(503)
        with start_python("consumers.alert_consumer", *options, settings=settings) as process:
            with suppress(AssertionError):  # during a delivery, if there is one
                wait_until(partial(received_more, webhook, seen), timeout_s=rng.choice([0.5, 1, 5]))
            process.kill()
            process.communicate()
        seen = len(webhook.received)
    webhook.answer = up
    before = {id for id, _ in webhook.received}
    done = run_here("consumers.alert_consumer", *options, "--once", "--drain", "60", settings=settings)
    assert done.returncode == 0, done.stderr
    expected = by_pandas(made, 3, 0)
    assert len(expected) == crossings
    path = settings.processed_path(f"alerts-{Rule(when=HOT, times=3).key}", "sensors")
    with closing(sqlite3.connect(path)) as connection:
        stored = connection.execute("SELECT id, record FROM alerts").fetchall()
    assert sorted(msgspec.json.decode(record)["sequence"] for _, record in stored) == expected
    ids = {id for id, _ in stored}
    assert len(ids) == len(stored)
    assert {id for id, _ in webhook.received} == ids  # each at least once, none invented
    assert before
    jsonl = (settings.data_path / "alerts.jsonl").read_bytes().splitlines()
    assert {msgspec.json.decode(line)["id"] for line in jsonl} == ids
    measured(
        f"{kills} kills in {amount:,} records: {len(expected)} alerts stored (pandas counts the same), "
        f"{len(webhook.received):,} calls of the webhook: each alert arrived, and no other"
    )
