"""Kafka clients: the options of both libraries, log lines, errors, and the administration of topics."""

import logging
import re
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loguru import logger

from utils.app.cli import counted
from utils.app.config import KAFKA_SECURITY, Settings, kafka_security
from utils.app.errors import ToolkitError, Unavailable

if TYPE_CHECKING:
    from confluent_kafka import KafkaException

ANSWER_S = 1.5
REQUEST_S = 5.0
CLIENT_ID = "streaming-toolkit"
DEFAULT_MAX_BYTES = 1_048_588

# The parts of a line of librdkafka that change each time.
_CHANGING = re.compile(r"^\S+ \[.*?\] (\[thrd:.*?\]: )?|\(after \d+ms in state \w+\)|, \d+ identical error\(s\).*$")


class ClientLog(logging.Handler):
    """Handler that logs librdkafka's lines as details. `reason` is the last error, for the report of a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        self.logger = logging.Logger("kafka", logging.INFO)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        text = _CHANGING.sub("", record.getMessage()).strip()
        if record.levelno >= logging.ERROR:
            self.reason = text
        logger.debug("kafka: {}", text)


def librdkafka_options(settings: Settings) -> dict[str, Any]:
    """Return the configuration of confluent-kafka's clients."""
    own = {"bootstrap.servers": settings.kafka_broker, "client.id": CLIENT_ID, "reconnect.backoff.max.ms": 1_000}
    return own | {"socket.connection.setup.timeout.ms": 3_000} | kafka_security()


def kafka_python_options(settings: Settings) -> dict[str, Any]:
    """Return the same configuration under the names of kafka-python."""
    renamed = {"sasl.username": "sasl_plain_username", "sasl.password": "sasl_plain_password"}
    renamed |= {"ssl.ca.location": "ssl_cafile", "socket.connection.setup.timeout.ms": "bootstrap_timeout_ms"}
    options = librdkafka_options(settings)
    return {renamed.get(name, name.replace(".", "_")): value for name, value in options.items()}


def mapped_error(error: "KafkaException", settings: Settings, log: ClientLog) -> Unavailable:
    """Return the error for a failed call, with the reason: of a broker, of the login, or that no broker answers."""
    reason, broker, detail = error.args[0], settings.kafka_broker, log.reason
    is_away = reason.name() in ("_TIMED_OUT", "_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_SSL", "_AUTHENTICATION")
    if not (is_away and detail):
        return Unavailable(f"Kafka at {broker}: {reason.str()}")
    if kafka_security() and "connection refused" not in detail.lower():
        return Unavailable(f"Kafka at {broker} takes no connection, check {', '.join(KAFKA_SECURITY)}: {detail}")
    return Unavailable(f"no Kafka broker answers at {broker}: {detail}")


@dataclass(frozen=True)
class Topic:
    """Properties of a topic. Another `topic_id` means another topic of the same name."""

    name: str
    topic_id: str
    partitions: int
    max_bytes: int


class Admin:
    """Client that describes, creates and deletes topics. `options` is the configuration for any client.

    Its methods raise Unavailable if the error can heal, another ToolkitError if only the user can fix it.
    """

    def __init__(self, settings: Settings, log: ClientLog | None = None) -> None:
        """Connect with the first request, not here."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        self.settings, self.log = settings, log or ClientLog()
        self.options = librdkafka_options(settings) | {"log.connection.close": False, "logger": self.log.logger}
        try:
            self.client: AdminClient = AdminClient(self.options)
        except KafkaException as error:
            reason = error.args[0].str()
            for variable, option in KAFKA_SECURITY.items():
                reason = reason.replace(option, variable)
            raise ToolkitError(f"Kafka cannot be used with these settings: {reason}") from error

    def open_topic(self, name: str) -> Topic:
        """Return the topic. Create it if it is missing."""
        found = self.described(name)
        deadline_s = time.monotonic() + REQUEST_S
        if found is None:
            self._create(name)
        while found is None and (found := self.described(name)) is None:
            if time.monotonic() > deadline_s:
                raise Unavailable(f"topic {name} was created, but the brokers do not show it yet")
            time.sleep(0.02)
        options = self._topic_options(name)
        if problem := _problem(name, options):
            raise ToolkitError(problem)
        return Topic(name, *found, int(options.get("max.message.bytes", DEFAULT_MAX_BYTES)))

    def described(self, name: str) -> tuple[str, int] | None:
        """Return id and number of partitions of a topic, None if it does not exist."""
        from confluent_kafka import TopicCollection

        asked = self.client.describe_topics(TopicCollection([name]), request_timeout=ANSWER_S)[name]
        found = self._answer(name, asked, "UNKNOWN_TOPIC_OR_PART")
        return found and (str(found.topic_id), len(found.partitions))

    def problem(self, name: str) -> str:
        """Return why a topic would lose records, "" if it would not or does not exist."""
        return "" if self.described(name) is None else _problem(name, self._topic_options(name))

    def delete_topic(self, name: str) -> None:
        """Delete a topic and what it contains."""
        asked = self.client.delete_topics([name], operation_timeout=REQUEST_S, request_timeout=REQUEST_S)
        self._answer(name, asked[name])

    def _topic_options(self, name: str) -> dict[str, str]:
        """Return the configuration of a topic, empty if this user may not read it."""
        from confluent_kafka.admin import ConfigResource

        topic = ConfigResource(ConfigResource.Type.TOPIC, name)
        asked = self.client.describe_configs([topic], request_timeout=REQUEST_S)[topic]
        found = self._answer(name, asked, "TOPIC_AUTHORIZATION_FAILED")
        if found is None:
            remedy = f"make sure that it is not compacted and takes messages of {DEFAULT_MAX_BYTES} bytes"
            logger.warning("kafka: this user may not read the configuration of topic {}: {}", name, remedy)
        return {option: entry.value for option, entry in (found or {}).items()}

    def _create(self, name: str) -> None:
        from confluent_kafka.admin import NewTopic

        partitions, copies = self.settings.kafka_partitions, self.settings.kafka_replication or -1
        logger.info("kafka: topic {} is missing and is created with {}", name, counted(partitions, "partition"))
        wanted = NewTopic(name, partitions, copies, config={"cleanup.policy": "delete"})
        asked = self.client.create_topics([wanted], operation_timeout=REQUEST_S, request_timeout=REQUEST_S)
        self._answer(name, asked[name], "TOPIC_ALREADY_EXISTS")

    def _answer(self, topic: str, asked: "Future[Any]", expected: str = "") -> Any:
        """Return the brokers' answer about a topic, None if it is the error named `expected`."""
        from confluent_kafka import KafkaException

        try:
            return asked.result()
        except KafkaException as error:
            self.client.poll(0)  # passes waiting lines of the client to the log
            reason = error.args[0]
            if reason.name() == expected:
                return None
            if reason.name() == "TOPIC_EXCEPTION":
                raise ToolkitError(f"Kafka takes no topic {topic!r}: {reason.str()}") from error
            raise mapped_error(error, self.settings, self.log) from error


def _problem(name: str, options: Mapping[str, str]) -> str:
    if "compact" not in options.get("cleanup.policy", ""):
        return ""
    remedy = "set its cleanup.policy to delete, or name another topic"
    return f"topic {name} is compacted, which removes records of the same key: {remedy}"
