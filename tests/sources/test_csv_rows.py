"""CSV files: every row that csv.writer wrote comes back, and a damaged line costs as little as it can."""

import csv
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.sources.csv_rows import MAX_LINES, csv_rows, json_line

cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(['"', ",", "\r\n", "a\nb", "7"])


def written(table: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    return text.getvalue().encode()


def read(data: bytes) -> tuple[list[list[str]], list[int]]:
    """The cells of each row that is whole, and the lines of those that are not."""
    found = list(csv_rows(io.StringIO(data.decode(), newline=""), "table.csv"))
    return [list(row.cells.values()) for row in found if row.cells], [row.number for row in found if row.reason]


@given(st.lists(st.lists(cells, min_size=3, max_size=3)))
def test_what_is_written_is_read_back(table: list[list[str]]) -> None:
    """But for rows without any value."""
    assert read(written([["a", "b", "c"], *table])) == ([row for row in table if any(row)], [])


@given(st.integers(0, 600), st.integers(1, 600))
def test_an_unclosed_quote_costs_its_line_only(before: int, after: int) -> None:
    first = [[str(number), "x"] for number in range(before)]
    rest = [[str(number), "y"] for number in range(after)]
    data = written([["a", "b"], *first]) + b'"open,x\r\n' + written(rest)
    assert read(data) == (first + rest, [before + 2])


def test_a_text_of_many_lines_is_a_row_up_to_a_limit() -> None:
    text = "line\n" * (MAX_LINES - 1)
    assert read(written([["a", "b"], [text, "x"], ["1", "2"]])) == ([[text, "x"], ["1", "2"]], [])


def test_blank_lines_are_no_rows_and_columns_without_a_name_get_one() -> None:
    assert [row.cells for row in csv_rows(io.StringIO(",b\n\n1,2\n\n"), "table.csv")] == [{"column_1": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("cell", "kind", "value"),
    [
        ("12", "", 12),
        ("1.50", "number", 1.5),
        ("1e3", "json", 1000.0),
        ("007", "", "007"),
        ("+1", "", "+1"),
        ("12", "text", "12"),
        ("True", "boolean", True),
        ("false", "text", "false"),
        ("NaN", "number", "NaN"),
        ("12", "timestamp", "12"),
        (" 1", "", " 1"),
    ],
)
def test_cells_by_type(cell: str, kind: str, value: object) -> None:
    assert msgspec.json.decode(json_line({"a": cell}, {"a": kind})) == {"a": value}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_what_the_first_line_has_most(delimiter: str) -> None:
    text = f'a{delimiter}b\n"x{delimiter}y"{delimiter}1\n'
    rows = list(csv_rows(io.StringIO(text), "table.csv"))
    assert [(row.data, row.cells) for row in rows] == [
        (text.split("\n")[1].encode(), {"a": f"x{delimiter}y", "b": "1"})
    ]


def test_empty_cells_are_absent() -> None:
    assert json_line({"a": "", "b": "x"}, {}) == b'{"b":"x"}'


def test_digits_stay_as_they_are() -> None:
    assert json_line({"a": "1.50000000000000000001"}, {"a": "number"}) == b'{"a":1.50000000000000000001}'
