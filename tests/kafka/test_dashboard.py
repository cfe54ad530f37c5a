"""A broker that stops and returns while the dashboard reads from it."""

import time

from tests.consumers.test_dashboard_sources import Watched, end, run
from tests.kafka.conftest import Kafka
from utils.app.config import Settings


def test_a_broker_that_is_stopped_is_named_and_followed_when_it_is_back(kafka: Kafka, settings: Settings) -> None:
    watched = Watched("kafka", "kafka", settings)
    watched.write(1, 30)
    run(watched)
    watched.snapshot(lambda snapshot: snapshot.total == 30)
    stopped_s = time.time()
    kafka.broker.stop()
    try:
        down = watched.snapshot(lambda snapshot: snapshot.source.trouble)
        assert f"no Kafka broker answers at {settings.kafka_broker}" in down.source.trouble
        assert down.source.trouble_since is not None and stopped_s <= down.source.trouble_since <= down.now
        assert (down.total, down.lost, down.duplicate) == (30, 0, 0)
    finally:
        kafka.broker.start()
    watched.write(31, 60)
    healed = watched.snapshot(lambda snapshot: snapshot.total >= 60)
    assert (healed.source.trouble, healed.source.trouble_since) == ("", None)
    end(watched)
    last = watched.state.snapshot()
    assert (last.total, last.lost, last.duplicate, last.invalid) == (60, 0, 0, 0)
