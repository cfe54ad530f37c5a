"""A power cut of a machine with one broker: acknowledged records are on its disk."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import make_batch
from tests.kafka.test_prepare import SCRIPT, SYNC
from tests.kafka_broker import Cluster
from utils.app.config import Settings
from utils.emitters.kafka_emitter import KafkaEmitter
from utils.records.stream import BUZZ

KEY = "ann-12345678"


def mount(image: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("may not mount a loop device")


@pytest.fixture
def disk(home: Path, tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs Linux, root and mkfs.ext4 to mount a disk of its own")
    with (tmp_path / "image").open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(tmp_path / "image")], check=True)
    mount(tmp_path / "image", tmp_path / "disk")
    try:
        yield tmp_path / "disk"
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=False, capture_output=True)


@pytest.mark.proof(
    "a record that a sink reports is on its disk",
    "a power cut under a broker that prepare_kafka.sh set up (needs root and Linux)",
    full=1,
)
def test_what_a_broker_acknowledged_is_on_its_disk(home: Path, disk: Path, tmp_path: Path, settings: Settings) -> None:
    synced = re.search(rf"^sync={SYNC}=(\d+)$", SCRIPT.read_text("utf-8"), re.MULTILINE)
    assert synced
    places = {"log.dirs": str(disk / "data"), SYNC: synced[1]}
    with Cluster(home, settings=places) as cluster:
        (broker,) = cluster.brokers
        settings = replace(settings, kafka_broker=broker.address)
        with closing(KafkaEmitter(settings, BUZZ, KEY)) as emitter:
            assert emitter.last(["ann-1"]) is None
            subprocess.run(["sync", "-f", str(disk)], check=True)  # as on a broker that was set up long ago
            for first in range(1, 1001, 50):
                emitter.emit(make_batch(50, first=first))
            mark = emitter.mark
        broker.freeze()  # a power cut leaves what the block device has now
        shutil.copyfile(tmp_path / "image", tmp_path / "left")
        broker.kill()
        subprocess.run(["umount", str(disk)], check=True)
        mount(tmp_path / "left", disk)
        broker.start()
        with closing(KafkaEmitter(settings, BUZZ, KEY, mark)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 1000)
