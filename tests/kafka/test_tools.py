"""What else of the toolkit meets Kafka: check, audit, the auto source."""

from dataclasses import replace

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from tests.helpers import make_batch, run_python, wait_until
from tests.kafka.test_delivery import finish, options
from utils.app.config import Settings
from utils.sinks import ALL
from utils.emitters.file_emitter import FileEmitter
from utils.emitters.kafka_emitter import KafkaEmitter
from utils.sinks import source


def test_check_writes_reads_and_removes(settings: Settings, admin: AdminClient) -> None:
    done = run_python("verify_emitters", "check", *options(settings, "--sinks", *ALL), settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: not [name for name in admin.list_topics(timeout=5).topics if name.startswith("verify_")])


def test_audit_sees_what_the_topic_holds_too_often(settings: Settings) -> None:
    finish(settings)
    audit = ("verify_emitters", "audit", *options(settings, "--sinks", *ALL))
    done = run_python(*audit, settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    first_line = settings.live_path.read_bytes().splitlines()[0]
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "log_level": 0})
    producer.produce(settings.topic, first_line, partition=0)
    assert producer.flush(10) == 0
    done = run_python(*audit, settings=settings)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "kafka" in done.stdout and "duplicate" in done.stdout


def test_auto_prefers_kafka_when_it_has_data(settings: Settings) -> None:
    file = FileEmitter(settings.live_path)
    file.emit(make_batch(3))
    file.close()
    for expected in ("file", "kafka"):
        reader = source("auto", settings, lambda partition: "")
        wait_until(lambda reader=reader: reader.poll(100) is not None)  # type: ignore[misc]
        assert getattr(reader, "name", "") == expected
        reader.close()
        sink = KafkaEmitter(settings)
        sink.emit(make_batch(3, producer_id="bob-1", first=1 if expected == "file" else 4))
        sink.close()
    reader = source("auto", replace(settings, kafka_broker="127.0.0.1:1"), lambda partition: "")
    wait_until(lambda: reader.poll(100) is not None)
    assert getattr(reader, "name", "") == "file"
    reader.close()
