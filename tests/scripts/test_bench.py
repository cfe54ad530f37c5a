"""The tables that scripts/bench_table.py writes into the page of measurements."""

from pathlib import Path

import pytest

from scripts import bench_table
from utils.app.errors import ToolkitError

ROWS = [("what", "ratio"), ("bare", "1.00")]


def test_a_table_replaces_the_one_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    monkeypatch.setattr(bench_table, "PAGE", page)
    page.write_text("before\n<!-- measured: sinks -->\nold\n<!-- end of sinks -->\nafter\n")
    for _ in range(2):
        bench_table.report("sinks", "Two records.", ROWS, write=True)
        text = page.read_text()
        assert text.startswith("before\n<!-- measured: sinks -->\nTwo records. ")
        assert text.endswith("| bare | 1.00 |\n<!-- end of sinks -->\nafter\n")
        assert "old" not in text


@pytest.mark.parametrize("text", ["no place", "<!-- measured: sinks -->\nthe rest", "<!-- end of sinks -->"])
def test_a_page_without_both_marks_stays_as_it_is(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    monkeypatch.setattr(bench_table, "PAGE", page)
    page.write_text(text)
    with pytest.raises(ToolkitError, match="has no place for the text: write <!-- measured: sinks -->"):
        bench_table.report("sinks", "Two records.", ROWS, write=True)
    assert page.read_text() == text
