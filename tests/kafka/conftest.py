"""A broker for the whole session and a cluster, both from the prepared Kafka."""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.conftest import require
from tests.helpers import wait_until
from tests.kafka_broker import Broker, Cluster, free_ports, java, kafka_home
from utils.app.config import Settings

USER, PASSWORD = "ann", "a-very-secret-word"

_LISTENERS = "PLAINTEXT://127.0.0.1:{{port}},SASL_PLAINTEXT://127.0.0.1:{},SSL://127.0.0.1:{},SASL_SSL://127.0.0.1:{}"


def missing_kafka() -> str:
    if kafka_home() is None:
        return "no Kafka in KAFKA_HOME or ~/kafka: run scripts/prepare_kafka.sh"
    return "" if shutil.which(java()) else "no Java: Kafka cannot be started"


@pytest.fixture(scope="session")
def home() -> Path:
    """Return the folder of the prepared Kafka."""
    require(missing_kafka())
    found = kafka_home()
    assert found
    return found


@dataclass
class Kafka:
    """One broker with a listener per kind of security, and the CA of their certificate."""

    broker: Broker
    ports: dict[str, int]
    ca_file: Path

    @property
    def address(self) -> str:
        return self.broker.address

    def security(self, protocol: str, mechanism: str = "", password: str = PASSWORD) -> dict[str, str]:
        """Return the variables that a user would set."""
        variables = {"KAFKA_SECURITY_PROTOCOL": protocol}
        if protocol.startswith("SASL"):
            variables |= {"KAFKA_USERNAME": USER, "KAFKA_PASSWORD": password, "KAFKA_SASL_MECHANISM": mechanism}
        if protocol.endswith("SSL"):
            variables["KAFKA_CA_FILE"] = str(self.ca_file)
        return variables


def _make_certificates(folder: Path) -> None:
    """Make `ca.pem`, and `server.pem` with a key and a certificate for 127.0.0.1 that this CA has signed."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-sha256")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(*new, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-sha256", "-extfile", "san", "-out", "server.crt")  # fmt: skip
    (folder / "server.pem").write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())


@pytest.fixture(scope="session")
def kafka(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    folder = tmp_path_factory.mktemp("kafka-tls")
    _make_certificates(folder)
    ports = free_ports(3)
    login = "org.apache.kafka.common.security"
    settings = {
        "listeners": _LISTENERS.format(*ports) + ",CONTROLLER://127.0.0.1:{controller_port}",
        "listener.security.protocol.map": ",".join(
            f"{name}:{name}" for name in ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL")
        )
        + ",CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "server.pem"),
        # "ann" may do whatever no rule forbids.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
        # As many real brokers do: a missing topic must be created or reported.
        "auto.create.topics.enable": "false",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        plain = f'{login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        settings[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            scram = f"{login}.scram.ScramLoginModule required;"
            settings[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = scram
    users = [
        part
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for part in ("--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]")
    ]
    with Cluster(home, settings=settings, format_arguments=users) as cluster:
        broker = cluster.brokers[0]
        names = ("SASL_PLAINTEXT", "SSL", "SASL_SSL")
        yield Kafka(broker, {"PLAINTEXT": broker.port, **dict(zip(names, ports, strict=True))}, folder / "ca.pem")


@pytest.fixture
def settings(kafka: Kafka, tmp_path: Path) -> Settings:
    """Settings with a new topic on the session's broker."""
    name = f"test-{secrets.token_hex(4)}"
    return Settings(data_dir=tmp_path / "data", kafka_broker=kafka.address, topic=name, group=name)


@pytest.fixture
def secured(kafka: Kafka, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> "Secured":
    return Secured(kafka, settings, monkeypatch)


@dataclass
class Secured:
    """Returns settings for one of the protected listeners."""

    kafka: Kafka
    settings: Settings
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, protocol: str, mechanism: str = "", password: str = PASSWORD) -> Settings:
        for variable, value in self.kafka.security(protocol, mechanism, password).items():
            self.monkeypatch.setenv(variable, value)
        return replace(self.settings, kafka_broker=f"127.0.0.1:{self.kafka.ports[protocol]}")


@pytest.fixture
def admin(settings: Settings) -> AdminClient:
    return AdminClient({"bootstrap.servers": settings.kafka_broker, "log_level": 0})


def read_topic(settings: Settings, *, isolation: str = "read_committed") -> list[Message]:
    """Return every visible record of the topic by partition, read without the project's code."""
    options = {
        "bootstrap.servers": settings.kafka_broker,
        "group.id": "reader",
        "isolation.level": isolation,
        "enable.partition.eof": True,
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 10,
    }
    found: list[Message] = []
    with closing(Consumer(options)) as consumer:
        topic = consumer.list_topics(settings.topic, timeout=10).topics[settings.topic]
        for partition in sorted(topic.partitions):
            consumer.assign([TopicPartition(settings.topic, partition, 0)])
            at_end = False

            def read() -> bool:
                nonlocal at_end
                for record in consumer.consume(10_000, 0.1):
                    error = record.error()
                    if error is None and (record.value() is not None or record.key() is None):  # no end mark
                        found.append(record)
                    at_end |= error is not None and error.code() == KafkaError._PARTITION_EOF
                return at_end

            wait_until(read, 60.0, "the topic cannot be read")
    return found


def delete_topic(admin: AdminClient, topic: str) -> None:
    admin.delete_topics([topic])[topic].result(10)
    wait_until(lambda: topic not in admin.list_topics(timeout=5).topics)
