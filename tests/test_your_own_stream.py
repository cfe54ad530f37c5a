"""docs/your-own-stream.md, followed in a copy of the project."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.project_copy import apply_changes, copy_project, replace_once
from utils.app.config import PROJECT_DIR

pytestmark = pytest.mark.full

PAGE = (PROJECT_DIR / "docs" / "your-own-stream.md").read_text(encoding="utf-8")
PRODUCER = "producers/garden_producer.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    """Return the arguments of each `python -m` of the page, in order."""
    lines = [line for block in blocks("shell") for line in block.splitlines()]
    return [line.split()[2:] for line in lines if line.startswith("python -m ")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BASE_DATA_DIR", "data")
    return copy_project(tmp_path / "project", PAGE, ("utils", "producers", "consumers"))


def run(project: Path, *arguments: str, code: int = 0) -> str:
    """Run Python with these arguments; return stdout followed by stderr."""
    own = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # a .pyc would hide a change within the same second
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def rows(project: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(project / "data" / "buzz.sqlite")) as database:
        return database.execute(query).fetchall()


def follow(project: Path, word: str, *more: str) -> str:
    """Run the first command of the page that contains the word, without pauses and to its end."""
    arguments = next(each for each in commands() if word in each)
    return run(project, "-m", *[argument if argument != "0.1" else "0" for argument in arguments], *more)


def test_the_commands_of_the_page_work_in_order(project: Path) -> None:
    assert "garden: made 300, acknowledged 300" in follow(project, "producers.garden_producer")
    assert len((project / "data" / "garden.jsonl").read_text().splitlines()) == 300
    shown = run(project, "-m", "consumers.ragini_consumer", "--stream", "garden", "--once", "--json").splitlines()
    found = [json.loads(line) for line in shown if line.startswith("{")]
    assert len(found) == 300
    assert found[0].keys() >= {"bed", "moisture_pct", "temperature_c", "timestamp", "producer_id", "sequence"}
    assert "north" in follow(project, "--top")
    for block in blocks("python"):
        if not block.startswith("#") and "DROP" not in block:
            assert re.search(r"north|\(\d+,\)", run(project, "-c", block))
    follow(project, "consumers.sqlite_consumer_case")
    assert "garden" in follow(project, "audit")


def test_other_fields_and_odd_values_are_in_extra(project: Path) -> None:
    follow(project, "producers.garden_producer")
    run(project, "recording.py")
    printed = follow(project, "producers.replay_producer")
    assert "extra" in printed and "ph" in printed and "moisture_pct" in printed
    (query,) = blocks("sql")
    assert rows(project, query) == [("north", None, None), ("south", 41.5, 6.5)]
    assert '{"bed": "south", "moisture_pct": 41.5, "temperature_c": 17, "ph": 6.5,' in (
        project / "data" / "garden.jsonl"
    ).read_text(encoding="utf-8")


def test_a_field_more_and_a_type_that_changes(project: Path) -> None:
    follow(project, "producers.garden_producer")
    apply_changes(project, PAGE)
    follow(project, "producers.garden_producer")
    assert rows(project, "SELECT ph, count(*) FROM garden GROUP BY ph ORDER BY ph") == [(None, 300), (7.0, 300)]
    assert '"ph": "number"' in (project / "data" / "streams" / "garden.json").read_text()
    replace_once(project / PRODUCER, "ph: float = 7.0", 'ph: str = "7.0"')
    printed = run(project, "-m", "producers.garden_producer", "--count", "1", code=2)
    for word in ("ph", "number", "text", "garden.json"):
        assert word in printed


def test_a_stream_begins_anew(project: Path) -> None:
    follow(project, "producers.garden_producer")
    follow(project, "consumers.sqlite_consumer_case")
    (remove,) = [block.split()[1:] for block in blocks("shell") if block.startswith("rm ")]
    (drop,) = [block for block in blocks("python") if "DROP" in block]
    for path in [path for pattern in remove for path in project.glob(pattern)]:
        path.unlink()
    run(project, "-c", drop)
    run(project, "-m", "producers.garden_producer", "--interval", "0", "--count", "7")
    assert rows(project, "SELECT min(sequence), max(sequence), count(*) FROM garden") == [(1, 7, 7)]
    assert "in the store: records 7," in follow(project, "consumers.sqlite_consumer_case")
    audit = re.search(r"ok: (\d+) records in (\d+) sinks", run(project, "-m", "verify_emitters", "audit"))
    assert audit and int(audit[1]) == 7 * int(audit[2])


def test_the_page_shows_the_record_that_the_producer_has() -> None:
    shown = re.search(r"    class Plot\(Record\):\n(?:        .*\n)+", PAGE)
    assert shown
    assert re.sub(r"^    ", "", shown[0], flags=re.MULTILINE) in PAGE.replace(shown[0], "")


def test_the_examples_that_the_page_names_exist() -> None:
    named = re.findall(r"`(producers/\w+\.py)`", PAGE)
    assert [name for name in named if name != PRODUCER and not (PROJECT_DIR / name).exists()] == []
    assert len(named) == 4
