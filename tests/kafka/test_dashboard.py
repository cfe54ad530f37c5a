"""A broker that dies and comes back while a source and the dashboard read from it."""

import time
from contextlib import closing

from consumers.dashboard import formatting
from tests.consumers.test_dashboard_sources import Watched, end, run
from tests.helpers import wait_until
from tests.kafka.conftest import Kafka
from utils import sinks
from utils.app.config import Settings
from utils.app.errors import Unavailable
from utils.records.stream import BUZZ


def test_a_broker_that_comes_back_is_named_and_followed_without_repeats(kafka: Kafka, settings: Settings) -> None:
    watched = Watched("kafka", "kafka", settings)
    watched.write(1, 30)
    run(watched)
    watched.snapshot(lambda snapshot: snapshot.total == 30)
    seen: list[int | None] = []
    failures: list[str] = []
    with closing(sinks.source("kafka", settings, BUZZ, lambda partition: "")) as source:

        def read() -> int:
            try:
                chunk = source.poll(1000)
            except Unavailable as error:
                failures.append(str(error))
            else:
                seen.extend(record.sequence for record in chunk.records) if chunk else None
            return len(seen)

        wait_until(lambda: read() == 30)
        killed_s = time.time()
        kafka.broker.kill()
        try:
            wait_until(lambda: read() and failures)
            down = watched.snapshot(lambda snapshot: snapshot.source.trouble)
            assert f"no Kafka broker answers at {settings.kafka_broker}" in down.source.trouble
            assert down.source.trouble_since is not None and killed_s <= down.source.trouble_since <= down.now
            assert formatting.source_line(down).startswith("down since ")
            assert (down.total, down.lost, down.duplicate) == (30, 0, 0)
        finally:
            kafka.broker.start()
        watched.write(31, 60)
        wait_until(lambda: read() == 60, 30)
    assert seen == list(range(1, 61))
    healed = watched.snapshot(lambda snapshot: snapshot.total >= 60)
    assert (healed.source.trouble, healed.source.trouble_since) == ("", None)
    end(watched)
    last = watched.state.snapshot()
    assert (last.total, last.lost, last.duplicate, last.invalid) == (60, 0, 0, 0)
