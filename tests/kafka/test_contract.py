"""The contract that every sink of the registry keeps, for Kafka; see tests/emitters/test_contract.py."""

from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient

from tests.emitters.test_contract import CHECKS, MINUTES, READINGS, Double, Rig, assert_catches
from tests.kafka.conftest import delete_topic
from utils.app.config import Settings
from utils.records.stream import BUZZ
from utils.sinks import SINKS

KAFKA = SINKS["kafka"]


@pytest.fixture
def rig(settings: Settings, request: pytest.FixtureRequest, admin: AdminClient) -> Rig:
    """Streams other than buzz name their topics themselves: each test begins without them."""
    for stream in (READINGS, MINUTES):
        if stream.name in admin.list_topics(timeout=10).topics:
            delete_topic(admin, stream.name)
    return Rig(KAFKA, settings, getattr(request, "param", BUZZ))


@pytest.mark.parametrize("rig", [BUZZ, READINGS], ids=lambda stream: stream.name, indirect=True)
@pytest.mark.parametrize("check", dict.fromkeys(check for check, _ in CHECKS), ids=lambda check: check.__name__)
def test_kafka_keeps(check: Callable[[Rig], None], rig: Rig) -> None:
    check(rig)


@pytest.mark.parametrize(("check", "double"), CHECKS, ids=lambda part: part.__name__)
def test_check_catches(check: Callable[[Rig], None], double: type[Double], rig: Rig) -> None:
    assert_catches(check, double, rig)
