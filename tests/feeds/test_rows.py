import json
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from utils.feeds.lines import LineCodec
from utils.feeds.rows import RowSource, array_pages, parquet_pages
from utils.records.stream import BUZZ
from utils.sources.base import Chunk

ITEMS = [{"message": "a"}, {"message": "b"}, {"message": "c"}]


def read(path: Path, position: str = "", max_records: int = 2) -> list[Chunk]:
    source = RowSource(path.name, array_pages(path), LineCodec(BUZZ), lambda partition: position, "item")
    with closing(source):
        return list(iter(lambda: source.poll(max_records), None))


def texts(chunks: list[Chunk]) -> list[str]:
    return [line.record.message for chunk in chunks for line in chunk.records]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list.json"


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_items_of_an_array_are_records_or_rejected(path: Path, indent: int | None, newline: str) -> None:
    text = json.dumps([ITEMS[0], 3, *ITEMS[1:]], indent=indent)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", newline).encode())
    chunks = read(path)
    assert (texts(chunks), len(chunks)) == (["a", "b", "c"], 2)
    assert [invalid.where for chunk in chunks for invalid in chunk.invalid] == ["list.json item 2"]


def test_a_longer_array_is_read_from_where_the_shorter_ended(path: Path) -> None:
    path.write_text(json.dumps(ITEMS[:1]))
    end = read(path)[-1].end
    path.write_text(json.dumps(ITEMS, indent=1).replace("{\n  ", "{").replace("\n }", "}"))
    assert texts(read(path, end)) == ["b", "c"]


def test_an_array_with_another_beginning_begins_again(path: Path) -> None:
    path.write_text(json.dumps(ITEMS[:2]))
    end = read(path)[-1].end
    path.write_text(json.dumps(ITEMS[1:]))
    assert [chunk.begins_again for chunk in read(path, end)] == [True]


@pytest.mark.parametrize(
    "values, line",
    [
        (
            "12345678901234567890.123456789::DECIMAL(38, 9) AS price, 'nan'::DOUBLE AS nothing",
            b'{"price":12345678901234567890.123456789}',
        ),
        ("0.3::FLOAT AS a, 1e-7::FLOAT AS b", b'{"a":0.3,"b":1e-7}'),
        (
            "'2025-01-01 00:00:00.1234565+02'::TIMESTAMPTZ_NS AS one, ['2025-01-01'::TIMESTAMP] AS all",
            b'{"one":"2024-12-31T22:00:00.123457Z","all":["2025-01-01T00:00:00"]}',
        ),
        ("'inf'::DOUBLE AS a, '-inf'::FLOAT AS b", b'{"a":"inf","b":"-inf"}'),
    ],
    ids=["numbers keep all their digits", "numbers of 32 bits", "nanoseconds and lists of instants", "infinity"],
)
def test_values_of_a_parquet_file(values: str, line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "exact.parquet"
    with duckdb.connect() as memory:
        memory.execute(f"COPY (SELECT {values}) TO '{path}' (FORMAT parquet)")
    ((row,),) = parquet_pages(path)
    assert row.data == line
