"""CSV files: every row that csv.writer wrote is read, and a damaged line spoils as few others as possible."""

import csv
import io

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from utils.app.errors import ToolkitError
from utils.feeds.lines import json_line
from utils.feeds.rows import DELIMITERS, MAX_CELL_BYTES, Row, Text, csv_pages

cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(['"', ",", "\r\n", "a\nb", "7"])


def written(table: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    return text.getvalue().encode()


def rows_of(data: bytes, size: int = 1 << 20, encoding: str = "utf-8") -> list[Row]:
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    text = Text.of("table.csv", encoding, iter([*blocks, b""]))
    types = dict.fromkeys(("a", "b", "c", "Größe", "Straße"), "text")
    return [row for page in csv_pages(text, types) for row in page]


def values(row: Row) -> dict[str, str]:
    """Return the values of an undamaged row by column name."""
    found: dict[str, str] = msgspec.json.decode(row.line)
    return found


def read(data: bytes, size: int = 1 << 20) -> tuple[list[dict[str, str]], list[int]]:
    """Return the values of each undamaged row, and the line numbers of the damaged ones."""
    found = rows_of(data, size)
    return [values(row) for row in found if not row.reason], [row.number for row in found if row.reason]


def named(table: list[list[str]]) -> list[dict[str, str]]:
    """Return the expected rows, without empty cells and rows of empty cells."""
    return [{name: cell for name, cell in zip("abc", row, strict=False) if cell} for row in table if any(row)]


@given(st.lists(st.lists(cells, min_size=3, max_size=3)), st.integers(1, 50))
@example([["a\nb", "\u20ac\n", "c"], ["1", "2", "3"]], 1)
def test_rows_are_read_back(table: list[list[str]], size: int) -> None:
    """Only rows without any value are left out, however the file is divided into blocks."""
    assert read(written([["a", "b", "c"], *table]), size) == (named(table), [])


@given(st.integers(0, 600), st.integers(1, 3_000))
def test_an_unclosed_quote_costs_its_line_only(before: int, after: int) -> None:
    first = [[str(number), "x"] for number in range(before)]
    rest = [[str(number), "y"] for number in range(after)]
    data = written([["a", "b"], *first]) + b'"open,x\r\n' + written(rest)
    assert read(data) == (named(first + rest), [before + 2])


def test_a_text_of_many_lines_is_a_row_up_to_a_limit() -> None:
    text = "line\n" * (MAX_CELL_BYTES // 5)
    assert read(written([["a", "b"], [text, "x"], ["1", "2"]])) == (named([[text, "x"], ["1", "2"]]), [])


def test_blank_lines_are_no_rows_and_columns_without_a_name_get_one() -> None:
    assert [row.line for row in rows_of(b" , b\n\n1,2\n\n")] == [b'{"column_1":1,"b":"2"}']


@pytest.mark.parametrize(
    ("cell", "kind", "value"),
    [
        ("12", "", 12),
        ("1.50", "number", 1.5),
        ("1e3", "json", 1000.0),
        (".5", "", 0.5),
        ("-.5E2", "number", -50.0),
        (".", "number", "."),
        ("-", "number", "-"),
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
    assert msgspec.json.decode(json_line([("a", cell)], {"a": kind})) == {"a": value}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_most_frequent_one_of_the_first_line(delimiter: str) -> None:
    cell = f"x{delimiter}{DELIMITERS.replace(delimiter, '') * 3}"
    text = f'a{delimiter}b\n"{cell}"{delimiter}1\n'
    for size in (4, 100):
        assert [(row.data, values(row)) for row in rows_of(text.encode(), size)] == [
            (text.split("\n")[1].encode(), {"a": cell, "b": "1"})
        ]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_encodings_and_line_ends(encoding: str, end: str, size: int) -> None:
    text = end.join(["Größe,Straße", "1,Übel", "", "2,Öl", ""])
    rows = rows_of(text.encode(encoding), size, encoding)
    assert [(row.number, [*values(row).values()]) for row in rows] == [(2, ["1", "Übel"]), (4, ["2", "Öl"])]


def test_names_that_cannot_be_read_are_one_error() -> None:
    with pytest.raises(ToolkitError, match=r"the first line of table\.csv cannot name the columns: not utf-8"):
        rows_of("Größe,b\n1,2\n".encode("latin-1"))


def test_columns_of_one_name_are_numbered() -> None:
    assert [row.line for row in rows_of(b"a,b,b,a,b_2,b\n1,2,3,4,5,6\n")] == [
        b'{"a":"1","b":"2","b_2":3,"a_2":4,"b_2_2":5,"b_3":6}'
    ]


def test_empty_cells_are_absent() -> None:
    assert json_line([("a", ""), ("b", "x")], {}) == b'{"b":"x"}'


def test_digits_stay_as_they_are() -> None:
    assert json_line([("a", "1.50000000000000000001")], {"a": "number"}) == b'{"a":1.50000000000000000001}'
