"""Other parts of the toolkit with Kafka: check, doctor, the automatic source."""

from contextlib import closing
from dataclasses import replace

from confluent_kafka.admin import AdminClient, NewTopic

from tests.helpers import make_batch, run_here, wait_until
from tests.kafka.test_delivery import options
from tests.kafka.test_emitter import NOBODY
from utils.app.config import Settings
from utils.emitters.file_emitter import FileEmitter
from utils.emitters.kafka_emitter import KafkaEmitter
from utils.records.stream import BUZZ
from utils.sinks import ALL, source


def test_check_writes_reads_and_removes(settings: Settings, admin: AdminClient) -> None:
    done = run_here("verify_emitters", "check", *options(settings, "--sinks", *ALL), settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: not [name for name in admin.list_topics(timeout=5).topics if name.startswith("check-")])


def test_auto_prefers_kafka_when_it_has_data(settings: Settings) -> None:
    with closing(FileEmitter(settings.live_path)) as file:
        file.emit(make_batch(3))
    for expected in ("file", "kafka"):
        with closing(source("auto", settings, BUZZ, lambda partition: "")) as reader:
            wait_until(lambda reader=reader: reader.poll(100) is not None)  # type: ignore[misc]
            assert reader.name == expected
        with closing(KafkaEmitter(settings, BUZZ, "bob-1")) as sink:
            sink.emit(make_batch(3, producer_id="bob-1", first=1 if expected == "file" else 4))
    with closing(source("auto", replace(settings, kafka_broker=NOBODY), BUZZ, lambda partition: "")) as reader:
        wait_until(lambda: reader.poll(100) is not None)
        assert reader.name == "file"


def test_the_doctor_names_a_compacted_topic(settings: Settings, admin: AdminClient) -> None:
    topic = NewTopic(settings.topic, 1, config={"cleanup.policy": "compact"})
    admin.create_topics([topic])[settings.topic].result(10)
    done = run_here("verify_emitters", "doctor", *options(settings), settings=settings)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"topic {settings.topic} is compacted" in " ".join(done.stdout.split())
