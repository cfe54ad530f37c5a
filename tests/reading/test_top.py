"""The live table: its contents, its size in the terminal, and its start without reading the whole store."""

from collections.abc import Iterator
from contextlib import closing
from io import StringIO

import pytest
import rich
from rich.console import Console, ConsoleDimensions

from tests.helpers import run_here
from tests.reading.test_windows import SENSORS, Opened, records
from utils.app.config import Settings
from utils.reading.progress import Progress
from utils.reading.top import MAX_NAMES, OTHERS, TopView
from utils.reading.windows import Tumbling


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    made = Console(file=StringIO(), width=110, height=30, force_terminal=False)
    monkeypatch.setattr(rich, "_console", made)
    yield made


def drawn(view: TopView, screen: Console) -> list[str]:
    with screen.capture() as text:
        screen.print(view._drawn("title"))
    return [line.rstrip() for line in text.get().splitlines()]


def test_totals_the_present_window_and_the_latest_records(screen: Console) -> None:
    made: list[tuple[float, str | None, float | None]] = [
        (0, "a", 10.0),
        (30, "b", 5.0),
        (61, "a", 20.0),
        (62, "a", None),
    ]
    with closing(TopView(SENSORS, Progress("file", SENSORS), 60)) as view:
        view.show(records(made))
        assert view._drawn_s  # also in a flood, without a wait
        lines = drawn(view, screen)
    assert lines[0] == "title"
    rows = [line.split() for line in lines if "%" in line]
    assert rows == [
        ["a", "3", "75%", "2", "15.00", "20.00", "10.00", "20.00"],
        ["b", "1", "25%", "0", "5.00", "5.00", "5.00"],
    ]
    assert [line.split()[1] for line in lines if line.startswith("20")] == ["a", "b", "a", "a"]


@pytest.mark.parametrize(("names", "read"), [(1, 3), (1, 500), (60, 500)])
def test_it_fills_the_terminal_and_no_more(names: int, read: int, screen: Console) -> None:
    with closing(TopView(SENSORS, Progress("file", SENSORS), 60)) as view:
        view.show(records([(at_s, f"device {at_s % names}", 1.0) for at_s in range(read)]))
        lines = drawn(view, screen)
    assert len(lines) == (29 if read == 500 else 9)
    assert max(map(len, lines)) <= 110


def test_the_first_line_is_whole_in_a_narrow_terminal(screen: Console) -> None:
    screen.size = ConsoleDimensions(80, 30)
    progress = Progress("duckdb", SENSORS)
    with closing(TopView(SENSORS, progress, 60)) as view:
        view.show(records([(at_s, "a", 1.0) for at_s in range(500)]))
        with screen.capture() as text:
            screen.print(view._drawn(progress.measured()))
    lines = text.get().splitlines()
    assert " ".join(" ".join(lines[:2]).split()) == progress.measured()
    assert len(lines) == 29
    assert max(map(len, lines)) <= 80


def test_names_are_bounded_and_cannot_steer_the_terminal(screen: Console) -> None:
    with closing(TopView(SENSORS, Progress("file", SENSORS), 60)) as view:
        view.show(records([(0, f"x\x1b[2J{number}", 1.0) for number in range(MAX_NAMES + 5)]))
        assert len(view._totals) == MAX_NAMES + 1
        assert view._totals[OTHERS].records == 5
        assert "\x1b" not in "".join(drawn(view, screen))


def test_a_run_begins_with_the_stored_windows(settings: Settings) -> None:
    path = settings.processed_path("file", "sensors")
    opened = Opened(path, Tumbling(120))
    opened.add(records([(0, "a", 10.0), (100, "a", 20.0), (0, "b", 1.0)]), "", "x")
    settings.file_path("sensors").write_bytes(b'{"device":"a","temperature_c":30,"timestamp":"2026-11-23T19:10:05Z"}\n')
    (settings.data_path / "streams").mkdir()
    schema = b'{"fields":{"device":"text","temperature_c":"number","timestamp":"timestamp"},"by":"device"'
    schema += b',"value":"temperature_c"}'
    (settings.data_path / "streams" / "sensors.json").write_bytes(schema)
    options = ("--stream", "sensors", "--top", "--every", "120", "--once")
    done = run_here("consumers.file_consumer_case", *options, settings=settings)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if "%" in line]
    assert rows == [["a", "3", "75%", "1", "20.00", "30.00"], ["b", "1", "25%", "0", "1.00"]]
    assert "in the store" not in done.stdout  # the summary would read every record
