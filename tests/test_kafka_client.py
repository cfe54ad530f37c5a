"""Reports and errors of Kafka clients, without a broker."""

import re
from dataclasses import replace

import pytest
from confluent_kafka import KafkaError, KafkaException

from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.checks import doctor
from utils.clients.kafka_admin import Admin, ClientLog, mapped_error

AWAY = ("_TIMED_OUT", "_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_SSL", "_AUTHENTICATION")


@pytest.fixture
def away(settings: Settings) -> Settings:
    return replace(settings, kafka_broker="broker:9092")


def text(settings: Settings, name: str, reason: str = "") -> str:
    """Return the line about an error of this name, with `reason` as the client's last report."""
    log = ClientLog()
    log.reason = reason
    return str(mapped_error(KafkaException(KafkaError(getattr(KafkaError, name))), settings, log))


@pytest.mark.parametrize("name", AWAY)
def test_errors_of_a_connection_are_a_missing_broker(away: Settings, name: str) -> None:
    assert text(away, name).startswith("Kafka at broker:9092: Local: ")
    assert text(away, name, "Connect failed: Connection refused").endswith("9092: Connect failed: Connection refused")
    assert text(away, name, "Failed to resolve").startswith("no Kafka broker answers")


def test_the_answer_of_a_broker_is_the_reason(away: Settings) -> None:
    assert text(away, "NOT_COORDINATOR", "an older line") == "Kafka at broker:9092: Broker: Not coordinator"


def test_settings_to_check_are_named(away: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    for reason in ("SASL authentication error", "SSL handshake failed", "Disconnected"):
        assert f"KAFKA_USERNAME, KAFKA_PASSWORD, KAFKA_CA_FILE: {reason}" in text(away, "_TRANSPORT", reason)
    assert "KAFKA_USERNAME" not in text(away, "_TRANSPORT", "Connect failed: Connection refused")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"KAFKA_SECURITY_PROTOCOL": "TLS"},
            'Invalid value "TLS" for configuration property "KAFKA_SECURITY_PROTOCOL"',
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_USERNAME and KAFKA_PASSWORD must be set"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "FOO"},
            "KAFKA_SASL_MECHANISM is FOO: use PLAIN",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "OAUTHBEARER"},
            "KAFKA_SASL_MECHANISM is OAUTHBEARER: use PLAIN",
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_CA_FILE": "no.pem"}, "KAFKA_CA_FILE failed"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_before_a_broker_is_asked(
    settings: Settings, variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ToolkitError, match=re.escape(words)) as raised:
        Admin(settings)
    assert not isinstance(raised.value, Unavailable)
    signs = [sign for sign in doctor.examine(settings, str) if words in sign.text]
    assert [sign.state for sign in signs] == ["problem"]


def test_the_last_error_of_a_client_is_the_reason_and_its_lines_are_details(logged: list[str]) -> None:
    log = ClientLog()
    log.logger.error("FAIL [rdkafka#producer-1] [thrd:sasl]: broker:9092: Disconnected (after 12ms in state UP)")
    log.logger.warning("CONFWARN [rdkafka#2] odd")
    assert log.reason == "broker:9092: Disconnected"
    assert logged == ["DEBUG kafka: broker:9092: Disconnected", "DEBUG kafka: odd"]


def test_a_new_topic_is_waited_for_until_the_brokers_show_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, None, ("id", 1)])
    monkeypatch.setattr(Admin, "described", lambda self, name: next(answers, None))
    monkeypatch.setattr(Admin, "_create", lambda self, name: None)
    monkeypatch.setattr(Admin, "_topic_options", lambda self, name: {})
    assert Admin(settings).open_topic("things").partitions == 1
    monkeypatch.setattr("utils.clients.kafka_admin.REQUEST_S", 0.1)
    with pytest.raises(Unavailable, match="do not show it yet"):
        Admin(settings).open_topic("things")
