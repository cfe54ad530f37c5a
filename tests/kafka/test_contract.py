"""Kafka keeps the contract of every sink; see tests/emitters/test_contract.py."""

import pytest
from confluent_kafka.admin import AdminClient

from tests.emitters.test_contract import CHECKS, MINUTES, READINGS, Check, Rig, of_each_stream
from tests.kafka.conftest import delete_topic
from utils.app.config import Settings
from utils.sinks import SINKS

KAFKA = SINKS["kafka"]


@pytest.fixture
def rig(settings: Settings, request: pytest.FixtureRequest, admin: AdminClient) -> Rig:
    """Delete the topics of streams other than buzz, whose names are fixed."""
    for stream in (READINGS, MINUTES):
        if stream.name in admin.list_topics(timeout=10).topics:
            delete_topic(admin, stream.name)
    return Rig(KAFKA, settings, request.param)


@pytest.mark.parametrize(("check", "rig"), of_each_stream(check for check, *_ in CHECKS), indirect=["rig"])
def test_kafka_keeps(check: Check, rig: Rig) -> None:
    check(rig)
