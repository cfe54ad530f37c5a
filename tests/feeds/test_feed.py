"""Each kind of input becomes a stream: whole, typed, once; damaged records are kept with place and reason."""

import gzip
import json
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from itertools import chain, repeat
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import duckdb
import psutil
import pytest

from tests.feeds.feed_runs import column, letters, lines
from tests.helpers import has_links, run_here, start_python, wait_until
from utils.app.config import PROJECT_DIR, Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients.line_file import MAX_LINE_BYTES
from utils.emitters.file_emitter import FileEmitter
from utils.feeds import feeding, inputs
from utils.feeds.feeding import sample_stream
from utils.feeds.lines import LineCodec, text_parser
from utils.feeds.rows import Row, RowSource
from utils.records.codec import Field
from utils.records.infer import instant_us
from utils.records.record import Batch
from utils.records.stream import Stream, declare
from utils.sources.base import Chunk, Resume, Source

Feed = Callable[..., subprocess.CompletedProcess[str]]

# The numbers of each input, in its own format.
NUMBERS = [1, 2.5, None, -4, 1e300]
NAMES = ["Ann, the first", 'say "hi"', "Zoë", "line\nend", "🔥"]
TIMES = [f"2026-11-23T19:04:0{second}Z" for second in range(5)]
RECORDS = [
    {"name": name, "number": number, "ts": time} for name, number, time in zip(NAMES, NUMBERS, TIMES, strict=True)
]


HEADER: list[Any] = ["name", "number", "ts"]

HINT = "--format, --pattern and --items tell how to read it; JSON has an object per line"


def as_csv(delimiter: str = ",") -> str:
    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & set('"\n;,\t') else text

    rows: list[list[Any]] = [HEADER, *([*record.values()] for record in RECORDS)]
    return "".join(delimiter.join(map(cell, row)) + "\r\n" for row in rows)


def as_lines() -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


def write_database(path: Path, connection: Any) -> None:
    with closing(connection):
        connection.execute("CREATE TABLE things (name VARCHAR, number DOUBLE, ts VARCHAR)")
        connection.executemany("INSERT INTO things VALUES (?, ?, ?)", [tuple(record.values()) for record in RECORDS])
        connection.commit()


def write_parquet(path: Path) -> None:
    with duckdb.connect() as memory:
        memory.execute("CREATE TABLE things (name VARCHAR, number DOUBLE, ts VARCHAR)")
        memory.executemany("INSERT INTO things VALUES (?, ?, ?)", [tuple(record.values()) for record in RECORDS])
        memory.execute(f"COPY (SELECT name, number, ts::TIMESTAMP AS ts FROM things) TO '{path}' (FORMAT parquet)")


INPUTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "things.jsonl": (lambda path: path.write_text(as_lines(), "utf-8"), ["--once"]),
    "things.ndjson": (lambda path: path.write_text(as_lines().rstrip(), "utf-8-sig"), ["--once"]),
    "things.json": (lambda path: path.write_text(json.dumps(RECORDS, indent=4), "utf-8-sig"), []),
    "things.dat": (lambda path: path.write_text(as_lines(), "utf-8"), ["--format", "json", "--once"]),
    "things.csv": (lambda path: path.write_bytes(as_csv().encode("utf-8-sig")), []),
    "things.CSV": (lambda path: path.write_bytes(as_csv(";").encode("utf-16")), ["--encoding", "utf-16"]),
    "things.tsv": (lambda path: path.write_bytes(gzip.compress(as_csv("\t").encode())), []),
    "things.csv.gz": (lambda path: path.write_bytes(gzip.compress(as_csv().encode())), []),
    "things.jsonl.gz": (lambda path: path.write_bytes(gzip.compress(as_lines().encode())), []),
    "things[1].parquet": (write_parquet, ["--stream", "things"]),
    "other.sqlite": (lambda path: write_database(path, sqlite3.connect(path)), ["--table", "things", "--once"]),
    "other.duckdb": (lambda path: write_database(path, duckdb.connect(str(path))), ["--table", "things", "--once"]),
}


@pytest.fixture
def feed(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Feed:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = run_here("producers.feed_producer", *arguments, settings=settings)
        assert done.returncode == code, done.stderr + done.stdout
        return done

    return run


class TestInputs:
    @pytest.mark.full
    @pytest.mark.parametrize("name", INPUTS)
    def test_each_arrives_whole_and_typed_once_and_again_only_when_asked(
        self, name: str, feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        write, options = INPUTS[name]
        write(tmp_path / name)
        for part in (options, options, [*options, "--again"]):
            done = feed(name, *part)
        assert "read 5, acknowledged 5; file 5 delivered" in done.stdout
        for sink, found in column(settings, "things", "name").items():
            assert found == NAMES * 2, sink
        for sink, numbers in column(settings, "things", "number").items():
            assert numbers == NUMBERS * 2, sink
        stamps = [record["timestamp"] for record in lines(settings, "things")]
        assert [stamp.replace(".000", "") for stamp in stamps] == TIMES * 2, "the event time"

    def test_inferred_fields_are_printed_and_kept(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "things.csv").write_text("who,n,at\n" + "Ann,1,2026-11-23T19:04:05Z\nBob,2,\nAnn,1.5,\n" * 9)
        done = feed("things.csv")
        assert re.search(r"who +text +by", done.stdout)
        assert re.search(r"n +number +value", done.stdout)
        assert re.search(r"at +timestamp +time", done.stdout)
        schema = json.loads((settings.schema_folder / "things.json").read_text())
        assert schema["fields"] == {"who": "text", "n": "number", "at": "timestamp", "timestamp": "timestamp"}
        assert (schema["by"], schema["value"], schema["time"]) == ("who", "n", "at")
        second = feed("things.csv")
        assert "inferred" not in second.stderr
        assert f"nothing is new in {tmp_path / 'things.csv'} since it was fed: --again feeds all" in second.stdout

    def test_a_declared_stream_sets_the_types(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        settings.schema_folder.mkdir(parents=True)
        (settings.schema_folder / "parts.json").write_text('{"fields": {"code": "text", "n": "number"}}')
        (tmp_path / "things.csv").write_text("code,n,more\n12,3,4\n007,x,\n")
        done = feed("things.csv", "--stream", "parts")
        assert "in extra: more 1, n 1" in done.stdout
        assert [(each["code"], each["n"]) for each in lines(settings, "parts")] == [("12", 3), ("007", "x")]

    def test_a_field_is_a_number_if_most_of_its_texts_are(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "things.csv").write_text("code,zip\nA1,90001\nB2,01001\n12,90002\n" + ",90003\n" * 20)
        feed("things.csv")
        for sink, codes in column(settings, "things", "code").items():
            assert codes[:3] == ["A1", "B2", "12"], sink
        for sink, codes in column(settings, "things", "zip").items():
            assert codes[:3] == ["90001", "01001", "90002"], sink

    @pytest.mark.parametrize(
        ("table", "shown"),
        [
            ("t\n" + "7\n" * 9 + "soon\n" * 3, "t +text .*soon"),
            ("n\n" + "7\n" * 3, "n +number .*7"),
            ("t\n" + "7\n" * 9 + "n/a\n" * 30, "t +number .*n/a(.*\n)+.*in extra: t 30;"),
            ("Wert;Tag\n" + "4,1;23.11.2026 19:04\n" * 9, r"Wert +text .*4,1 *\n *Tag +text .*23\.11\.2026 19:04"),
            ("t;s\nTRUE;[1]\n", r"t +boolean .*true *\n *s +text .*\[1\]"),
            ("2026-11-23,0.5\n" * 9, "2026-11-23 +text .*2026-11-23"),
        ],
    )
    def test_a_value_shows_why_a_field_is_no_number(self, table: str, shown: str, feed: Feed, tmp_path: Path) -> None:
        (tmp_path / "things.csv").write_text(table)
        assert re.search(shown, feed("things.csv", "--sinks", "file").stdout)

    @pytest.mark.parametrize(("name", "options"), [("date", ()), ("day", ("--time", "day"))])
    def test_a_date_alone_is_a_text_and_the_event_time(
        self, name: str, options: tuple[str, ...], feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / "things.csv").write_text(f"{name},n\n2026-11-23,1\n2026-11-24,2\n")
        assert feed("things.csv", "--sinks", "file", *options).returncode == 0
        assert [record[name] for record in lines(settings, "things")] == ["2026-11-23", "2026-11-24"]
        stamps = [datetime.fromisoformat(record["timestamp"]).astimezone() for record in lines(settings, "things")]
        assert [stamp.strftime("%d %H:%M") for stamp in stamps] == ["23 00:00", "24 00:00"]

    @pytest.mark.parametrize("name", ["Timestamp", "TIMESTAMP"])
    @pytest.mark.parametrize(("at", "time"), [("2026-11-23 19:04", True), ("soon", False)])
    def test_a_timestamp_in_other_letters_takes_the_place_of_ours(  # noqa: PLR0917
        self, name: str, at: str, time: bool, feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / "things.csv").write_text(f"{name},n\n" + f"{at},1\n" * 3)
        done = feed("things.csv")
        assert "extra" not in done.stdout + done.stderr
        assert ("no field has times" in done.stderr) == (not time)
        for sink, found in column(settings, "things", name).items():
            assert [str(value)[:10] for value in found] == [at[:10]] * 3, sink
        assert [each for record in lines(settings, "things") for each in record if each.lower() == "timestamp"] == [
            name
        ] * 3

    def test_times_in_the_form_of_apache(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "access.log").write_text('::1 - - [23/Nov/2026:19:04:05 +0100] "GET / HTTP/1.1" 200 12\n')
        feed("access.log", "--once", "--pattern", r"\[(?P<at>[^]]+)\]", "--time-format", "%d/%b/%Y:%H:%M:%S %z")
        assert lines(settings, "access")[0]["timestamp"] == "2026-11-23T18:04:05.000Z"
        assert str(column(settings, "access", "at")["duckdb"]) == "[datetime.datetime(2026, 11, 23, 18, 4, 5)]"

    @pytest.mark.parametrize("name", ["dates.csv", "dates.csv.gz"])
    def test_dates_in_the_form_of_a_country(self, name: str, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        text = b"day,n\n11/23/2026,1\n,2\nsoon,3\n"
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
        feed(name, "--time-format", "%m/%d/%Y", "--time", "day")
        assert [record.get("day") for record in lines(settings, "dates")] == ["2026-11-23", None, "soon"]

    def test_text_with_a_pattern(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "app").write_bytes(
            b"2026-11-23 19:04:05 WARN slow 12.5ms\r\n\nat line 7\n2026-11-23 19:04:06 INFO J\xf6rg\n"
        )
        pattern = r"^(?P<time>\S+ \S+) (?P<level>[A-Z]+) (?P<text>\D+?)( (?P<ms>[\d.]+)ms)?$"
        feed("app", "--pattern", pattern, "--once", "--encoding", "latin-1")
        found = lines(settings, "app")
        assert [(each["level"], each["text"], each.get("ms")) for each in found] == [
            ("WARN", "slow", 12.5), ("INFO", "Jörg", None),
        ]  # fmt: skip
        (letter,) = letters(settings, "app")
        assert letter == {"place": "app byte 39", "reason": "does not match --pattern", "input": "at line 7"}

    def test_text_without_a_pattern_is_lines(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "app.log").write_bytes(b"12\n{}\n caf\xe9\nx \n")
        feed("app.log", "--once")
        assert column(settings, "app", "line")["sqlite"] == ["12", "{}", "x"]
        assert "--encoding" in letters(settings, "app")[0]["reason"]

    @pytest.mark.parametrize(("name", "items"), [("a.json", "data"), ("a.geojson", "a.b.c")])
    def test_an_array_in_an_object(self, name: str, items: str, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        found: Any = [{"n": 1, "of": {"x": [1]}}, 7, {"n": 2.50}]
        for member in reversed(items.split(".")):
            found = {"size": 3, member: found}
        (tmp_path / name).write_text(json.dumps(found, indent=2))
        for _ in range(2):
            feed(name, "--items", items, "--sinks", "sqlite")
        assert column(settings, "a", "n")["sqlite"] == [1, 2.5]
        assert [letter["place"] for letter in letters(settings, "a")] == [f"{name} item 2"]

    @pytest.mark.parametrize(
        ("name", "stream", "field"),
        [("a.json", "a", "n"), ("2026-11-23.log", "feed_2026-11-23", "line"), ("A b.json.gz", "a_b", "n")],
    )
    def test_a_file_of_one_line_without_its_end(  # noqa: PLR0917
        self, name: str, stream: str, field: str, feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        text = b'{"n": 7}'
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
        feed(name, "--once")
        assert len(column(settings, stream, field)["duckdb"]) == 1

    def test_the_event_time_that_is_named(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "things.csv").write_text("made,sent\n2026-01-01T00:00:00Z,1763980000250\n")
        feed("things.csv", "--time", "sent")
        assert json.loads((settings.schema_folder / "things.json").read_text())["time"] == "sent"
        assert column(settings, "things", "timestamp")["file"] == ["2025-11-24T10:26:40.250Z"]

    def test_count_stops_in_the_middle_and_the_next_run_continues(
        self, feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / "things.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(5_000)))
        feed("things.csv", "--count", 2_345, "--sinks", "file")
        assert len(lines(settings, "things")) == 2_345
        feed("things.csv", "--sinks", "file")
        assert column(settings, "things", "n")["file"] == list(range(5_000))

    @pytest.mark.full
    def test_rows_that_are_appended_are_fed_and_a_changed_file_is_one_line(
        self, feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        path = tmp_path / "things.csv"
        path.write_text("n\n1\n2\n")
        feed(path)
        path.write_text("n\n1\n2\n3\n")
        feed(path)
        for changed in ("n\n1\n5\n3\n4\n", "n\n1\n"):
            path.write_text(changed)
            done = feed(path, code=2)
            assert "--again feeds all of it" in done.stderr
        assert column(settings, "things", "n")["duckdb"] == [1, 2, 3]

    @pytest.mark.full
    def test_a_table_grows_and_a_deleted_row_is_one_line(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        arguments = (tmp_path / "other.sqlite", "--once", "--sinks", "file", "--table", "Things To Do")
        with closing(sqlite3.connect(tmp_path / "other.sqlite", isolation_level=None)) as database:
            database.execute('CREATE TABLE "Things To Do" (id INTEGER, n INTEGER)')
            for first in (1, 4):
                database.executemany(
                    'INSERT INTO "Things To Do" VALUES (?, ?)', [(n, n) for n in range(first, first + 3)]
                )
                feed(*arguments)
                feed(*arguments[:-1], "things TO do")
            database.execute('DELETE FROM "Things To Do" WHERE n = 6')
            done = feed(*arguments, code=2)
        assert "--again feeds all of it" in done.stderr
        assert column(settings, "things_to_do", "id")["file"] == [1, 2, 3, 4, 5, 6]

    def test_own_ids_become_those_of_the_source(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "things.jsonl").write_text('{"n":1,"producer_id":"ann-1","sequence":7}\n')
        feed("things.jsonl", "--once")
        (record,) = lines(settings, "things")
        assert (record["source_producer_id"], record["source_sequence"], record["sequence"]) == ("ann-1", 7, 1)


def test_the_log_of_the_document_is_counted_by_level(feed: Feed, settings: Settings) -> None:
    document = (PROJECT_DIR / "docs" / "logs.md").read_text("utf-8")
    command = re.findall(r"^python -m producers.feed_producer (docs/samples.*)$", document, re.MULTILINE)[0]
    path, *options = shlex.split(command)
    feed(PROJECT_DIR / path, *options)
    levels = Counter(column(settings, "shop", "level")["duckdb"])
    assert dict(re.findall(r"^ (INFO|WARN|ERROR) +(\d+) ", document, re.MULTILINE)) == {
        level: str(count) for level, count in levels.items()
    }
    assert [letter["input"] for letter in letters(settings, "shop")] == ["TimeoutError: the bank does not answer"]


LOGS = {
    "Apache and nginx": '::1 - ann [23/Nov/2026:19:04:05 +0000] "GET /a HTTP/1.1" 200 - "-" "curl"',
    "Apache, errors": "[Mon Nov 23 19:04:05.250000 2026] [core:error] [pid 7] no file",
    "syslog as in": "Nov  3 19:04:05 shop sshd[71]: session: opened",
    "syslog, RFC 5424": "<34>1 2026-11-23T19:04:05.250Z shop sshd 71 ID1 - session opened",
    "Python's": "2026-11-23 19:04:05,250 WARNING shop.pay slow",
    "Java's": "2026-11-23 19:04:05,250 WARN [main] shop.Pay: slow",
    "Android's": "11-23 19:04:05.250  1702  2395 D Pay Manager: slow: 3 s",
}


def test_the_patterns_of_the_document_find_the_time() -> None:
    document = (PROJECT_DIR / "docs" / "logs.md").read_text("utf-8")
    rows = re.findall(r"^\| ([A-Z]?\w+.*?) \| `(.*)` \| `?(.*?)`? ?\|$", document, re.MULTILINE)
    assert len(rows) == len(LOGS)
    for (log, pattern, form), (name, line) in zip(rows, LOGS.items(), strict=True):
        assert log.startswith(name)
        record = json.loads(text_parser(pattern, "utf-8", form)(line.encode(), {}))
        at_us = instant_us(record.get("at") or record["time"])
        assert at_us is not None, record
        written = record.get("at") or record["time"]
        assert (written[5:10], written[11:19]) == ("11-03" if name == "syslog as in" else "11-23", "19:04:05")


class TestDamage:
    @pytest.mark.full
    @pytest.mark.parametrize(
        ("name", "content", "place", "reason"),
        [
            ("things.jsonl", b'{"n":1}\nbad\n{"n":2}', "byte 8", "not a JSON object"),
            ("things.jsonl", b'{"n":1}\n{"n":2}\n{"n', "byte 16", "truncated"),
            ("things.jsonl", b'{"n":1}\n[7]\n{"n":2}\n', "byte 8", "not a JSON object"),
            ("things.jsonl", b'[7]\n{"n":1}\n{"n":2}\n', "byte 0", "not a JSON object"),
            ("things.jsonl", b'{"n":1}\n{"n":NaN}\n{"n":2}\n', "byte 8", "NaN or Infinity"),
            ("things.jsonl", b'{"n":1}\n{"n":"\\ud800"}\n{"n":2}\n', "byte 8", "a lone surrogate in a text"),
            ("things.jsonl", b'{"n":1}\n{"n":"\xff"}\n{"n":2}\n', "byte 8", "not valid UTF-8"),
            ("things.jsonl", b'{"n":1}\n{"n":' + b"[" * 101 + b"]" * 101 + b'}\n{"n":2}\n', "byte 8", "nested"),
            ("things.jsonl", b'{"n":1}\n{"n":"' + b"x" * 300_000 + b'"}\n{"n":2}\n', "byte 8", "over the limit"),
            ("things.csv", b"n,m\n1,\n1,2,3\n2,\n", "line 3", "3 cells where the first line has 2"),
            ("things.csv", b'n,m\n1,\n"unclosed,\n2,\n', "line 3", "unexpected end of data"),
            ("things.csv", b"n,m\n1,\n3,J\xf6rg\n2,\n", "line 3", "not utf-8; --encoding"),
            ("things.csv", b"n,m\n1,\n" + b"x" * 300_000 + b",\n2,\n", "line 3", "field limit"),
            ("things.tsv", b"n\tm\n1\t\n3\n2\t\n", "line 3", "1 cell where the first line has 2"),
        ],
    )
    def test_is_kept_with_place_and_reason_and_all_else_arrives(  # noqa: PLR0917
        self, name: str, content: bytes, place: str, reason: str, feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_bytes(content)
        feed(name, "--once", "--sinks", "file")
        assert "acknowledged 0;" in feed(name, "--once", "--sinks", "file").stdout, "a second run adds nothing"
        assert column(settings, "things", "n") == {"file": [1, 2]}
        letter, *others = letters(settings, "things")
        assert letter["place"] == f"{name} {place}"
        assert others in ([], [letter]), "only an unfinished last line is read again"
        assert reason in letter["reason"]
        assert letter["input"].encode()[:3] in content

    @pytest.mark.parametrize("tail", [b"z" * 300, b'{"n":5}'])
    @pytest.mark.parametrize("options", [[], ["--pattern", r"(?P<line>\w+)\W*$"]])
    def test_no_part_of_a_too_long_line_becomes_a_record(
        self, tail: bytes, options: list[str], feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / "things.txt.gz").write_bytes(
            gzip.compress(b"first\n" + b"x" * (MAX_LINE_BYTES + inputs.BLOCK_BYTES) + tail + b"\nlast\n")
        )
        assert "read 3, acknowledged 2; rejected 1;" in feed("things.txt.gz", *options).stdout
        assert column(settings, "things", "line")["file"] == ["first", "last"]
        (letter,) = letters(settings, "things")
        assert letter["place"] == "things.txt.gz line 2"
        assert "over the limit" in letter["reason"]

    def test_rejected_input_can_be_corrected_and_fed(self, feed: Feed, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "things.jsonl").write_text('{"n":1}\n{"n":2,}\n{"n":3}\n')
        done = feed("things.jsonl", "--once")
        assert "read 3, acknowledged 2; rejected 1" in done.stdout
        assert str(settings.dead_letter_path("things-input")) in done.stdout
        (letter,) = letters(settings, "things")
        (tmp_path / "corrected.jsonl").write_text(letter["input"].replace(",}", "}"))
        feed("corrected.jsonl", "--stream", "things", "--once")
        assert column(settings, "things", "n")["sqlite"] == [1, 3, 2]

    @pytest.mark.full
    def test_a_damaged_compressed_file_is_read_up_to_the_damage(
        self, feed: Feed, settings: Settings, tmp_path: Path
    ) -> None:
        rows = "n\n" + "".join(f"{n}\n" for n in range(30_000))
        whole = gzip.compress(rows.encode(), mtime=0)
        path = tmp_path / "things.csv.gz"
        path.write_bytes(whole[:-1_500])
        done = feed(path, "--sinks", "file", code=2)
        assert "things.csv.gz is damaged after line" in done.stderr
        found = column(settings, "things", "n")["file"]
        assert 15_000 < len(found) < 30_000
        path.write_bytes(whole)
        feed(path, "--sinks", "file")
        assert column(settings, "things", "n")["file"] == list(range(30_000))


def database_with_a_view() -> bytes:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript("CREATE TABLE t(n); CREATE TABLE u(n); CREATE VIEW v AS SELECT 1 AS n")
        return database.serialize()


VIEW = database_with_a_view()
BAD: dict[str, tuple[str, bytes | None, list[str], str]] = {
    "missing": ("no.csv", None, [], "there is no file no.csv"),
    "folder": (".", None, [], "there is no file .: name one, not a folder"),
    "device": ("/dev/null", None, [], "name one, not a folder, or pipe input into feed_producer -"),
    "unknown suffix": ("a.xyz", b"1", [], ".xyz does not tell the format"),
    "no suffix": ("a", b"1", [], "does not tell the format"),
    "binary": ("a.csv", b"\x89PNG\r\n\0\0\0\rIHDR", [], "is binary"),
    "executable": ("a.log", b"\x7fELF\2\1\1\0\0", [], "is binary"),
    "half of a gzip": ("a.csv", gzip.compress(b"n\n1\n", mtime=0)[:-9], [], "is damaged after line"),
    "UTF-16 lines": ("a.jsonl", '{"n":1}'.encode("utf-16"), [], "or UTF-16"),
    "UTF-16 lines named": ("a.log", "n\n".encode("utf-16"), ["--encoding", "utf-16"], "not read as utf-16: save it"),
    "JSON that grows": ("a.jsonl", b'{"n":"\xc3\xa9"}\n', ["--encoding", "latin-1"], "so it is not read as iso8859-1"),
    "UTF-16 table": ("a.csv", "n\n1".encode("utf-16-le"), [], "or UTF-16 (add --encoding utf-16 for a CSV file)"),
    "no database": ("a.sqlite", b"x" * 5_000, ["--table", "t"], "is not a SQLite database"),
    "no DuckDB": ("a.duckdb", b"x" * 15_000, ["--table", "t"], "DuckDB database"),
    "no table named": ("a.sqlite", VIEW, [], "name one of its tables with --table (t, u)"),
    "no table to name": ("a.sqlite", b"", [], "name one of its tables with --table (it has none yet)"),
    "missing table": ("a.sqlite", b"", ["--table", "t"], "has no table t"),
    "no Parquet": ("a.parquet", b"x" * 50, [], "cannot be read as Parquet: "),
    "empty": ("a.jsonl", b"", [], "no readable record, so no stream is known"),
    "names only": ("a.csv", b"n,m\n,\n", [], "no readable record, so no stream is known"),
    "a view": ("a.sqlite", VIEW, ["--table", "v"], "has no row numbers to follow (a view has none)"),
    "a title above": (
        "a.csv",
        b"Rain\n\n" + b"1,2\n" * 19 + b"sum\n",
        [],
        "only 1 readable record: 2 cells where the first",
    ),
    "all damaged": ("a.csv", b"n,m\n1\n", [], "1 cell where"),
    "an object over lines": (
        "a.json",
        b'{\n  "n": [\n    {"m": 1}\n]}\n',
        [],
        "begins with an object over several lines",
    ),
    "an object of arrays": (
        "a.json",
        b'\xef\xbb\xbf {"n": 1, "items": [\r\n{"m": 1}]}\n',
        [],
        "--items names the array",
    ),
    "no such items": (
        "a.json",
        b'{"n": {"m": [1]}}',
        ["--items", "n.k"],
        "a.json: n.k is not a complete JSON array: there is no k, only m",
    ),
    "items of no array": ("a.json", b'{"n": {"m": 1}}', ["--items", "n.m"], "Expected `array`, got `int`"),
    "items of lines": ("a.json", b'{"n":1}\n{"n":2}\n', ["--items", "n"], "trailing characters"),
    "items of a table": ("a.csv", b"n\n1\n", ["--items", "n"], "--items is for a file that is one JSON object"),
    "items in gzip": ("a.json", gzip.compress(b'{"n":[]}', mtime=0), ["--items", "n"], "uncompressed"),
    "no time format": ("a.csv", b"n\n1\n", ["--time-format", "%Q"], "write it in the codes of Python's strptime"),
    "time format of nothing": ("a.csv", b"n\n1\n", ["--time-format", "today"], "it has no code for a time"),
    "time format of JSON": ("a.jsonl", b'{"n":1}\n', ["--time-format", "%Y"], "--time-format is for CSV and text"),
    "incomplete array": ("a.json", b'[{"n":1},', [], "it is not a complete JSON array"),
    "NaN in an array": ("a.json", b'[{"n":NaN}]', [], "is not a complete JSON array: NaN or Infinity (byte 6)"),
    "bad pattern": ("a.log", b"1\n", ["--pattern", "("], "is not a regular expression"),
    "pattern without names": ("a.log", b"1\n", ["--pattern", ".*"], "names no field"),
    "bad encoding": ("a.csv", b"n\n1\n", ["--encoding", "klingon"], "there is no such encoding"),
    "encoding of no text": ("a.csv", b"n\n1\n", ["--encoding", "base64"], "there is no such encoding"),
    "time of no field": ("a.csv", b"n\n1\n", ["--time", "at"], "--time: time names at, which is no field"),
    "time of no times": ("a.csv", b"n\n1\n2\n", ["--time", "n"], "whose values are not times, such as 1"),
    "time of a text": ("a.csv", b"n\nx\n", ["--time", "n"], "--time names n, whose values are not times, such as 'x'"),
    "stream": ("a.csv", b"n\n1\n", ["--stream", "No Name"], "cannot name a stream"),
    "no letter of a stream": ("データ 1.csv", b"n\n1\n", [], "give it one with --stream"),
    "own table": ("data/buzz.sqlite", b"", ["--table", "A", "--stream", "a"], "is the sqlite sink of stream a"),
    "own sink": ("data/a.jsonl", b'{"n":1}\n', [], "is the file sink of stream a"),
    "no sink": ("a.csv", b"n\n1\n", ["--sinks", "file", "--drop", "file"], "no sink is left"),
    "no topic": ("kafka:", None, [], "name a topic"),
    "cells of a topic": ("kafka:things", None, ["--format", "csv"], "one JSON object in UTF-8, or text"),
    "JSON of a topic": ("kafka:things", None, ["--encoding", "utf-16"], "one JSON object in UTF-8, or text"),
    "no option": ("-", None, ["--onec"], "--once"),
}


@pytest.mark.parametrize("case", [each for each in BAD if each != "device" or os.name == "posix"])
def test_a_bad_source_is_one_line(case: str, feed: Feed, tmp_path: Path) -> None:
    name, content, options, reason = BAD[case]
    if content is not None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = feed(name, *options, "--once", "--log-level", "ERROR", code=2)
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("http:{port}", "--stream", "things"), "http:{port}: cannot listen on port {port} of 127.0.0.1"),
        (("http:0.0.0.0:{port}", "--stream", "things"), "set FEED_TOKEN"),
        (("http:nowhere:x", "--stream", "things"), "give PORT or ADDRESS:PORT"),
        (("http:{port}",), "give --stream"),
        (("http:{port}", "--stream", "things", "--once"), "leave out --once"),
        (("http:{port}", "--stream", "Things"), "cannot name a stream"),
    ],
)
def test_an_invalid_http_source_is_one_line(feed: Feed, arguments: tuple[str, ...], line: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = feed(*(each.format(port=port) for each in arguments), "--log-level", "ERROR", code=2)
    assert line.format(port=port) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_topic_may_have_text_in_any_encoding(settings: Settings) -> None:
    options = inputs.InputOptions(pattern="(?P<line>.+)", encoding="latin-1")
    assert inputs.find_input("kafka:things", options, settings, threading.Event()).kind == "text"


def test_a_file_that_may_not_be_read_is_one_line(feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("n\n1\n")
    opened = Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "a.csv":
            raise PermissionError(13, "Permission denied")  # the superuser ignores permissions
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    assert "a.csv cannot be read: Permission denied" in feed("a.csv", code=2).stderr


@pytest.mark.full
class TestStandardInput:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ([], as_lines()),
            (["--format", "csv", "--time", "ts"], as_csv()),
            (["--format", "json"], "\ufeff\n" + as_lines() + " \n"),
        ],
    )
    def test_is_fed_to_its_end(self, options: list[str], text: str, settings: Settings) -> None:
        for times in (1, 2):  # the second time the fields are known
            with start_python("producers.feed_producer", "-", *options, settings=settings) as process:
                out, err = process.communicate(text, timeout=60)
            assert process.returncode == 0, err
            assert "feed-stdin: read 5, acknowledged 5; file 5 delivered" in out
            assert all(found == NAMES * times for found in column(settings, "stdin", "name").values())

    def test_a_slow_line_arrives_at_once_and_a_bad_one_is_kept(self, settings: Settings) -> None:
        options = ("--stream", "slow", "--sinks", "file")
        with start_python("producers.feed_producer", "-", *options, settings=settings) as process:
            assert process.stdin
            for n in range(3):
                process.stdin.write(f'{{"n":{n}}}\n')
                process.stdin.flush()
                wait_until(lambda: len(lines(settings, "slow")) == n + 1, 30)  # noqa: B023
            process.stdin.write("bad\n")
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "read 4, acknowledged 3; rejected 1" in out
        assert letters(settings, "slow")[0]["place"] == "standard input line 4"

    def test_ctrl_c_ends_it_cleanly(self, settings: Settings) -> None:
        with start_python("producers.feed_producer", "-", "--sinks", "file", settings=settings) as process:
            assert process.stdin
            process.stdin.write('{"n":1}\n')
            process.stdin.flush()
            wait_until(lambda: lines(settings, "stdin"), 30)
            process.interrupt()
            assert process.wait(30) == 0
            assert process.stdout
            assert "read 1, acknowledged 1; file 1 delivered, 0 pending" in process.stdout.read()

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", ""),
            ("a,b\n1,2\n", f": not a JSON object; {HINT}"),
            ('{\n"a": 1\n}\n', f": Input data was truncated; {HINT}"),
        ],
    )
    def test_a_pipe_without_records_describes_no_stream(self, text: str, reason: str, settings: Settings) -> None:
        with start_python("producers.feed_producer", "-", settings=settings) as process:
            _, err = process.communicate(text, timeout=60)
        assert process.returncode == 2
        assert err.endswith(f"standard input has no readable record{reason}, so no stream is known\n")


def test_a_closed_standard_input_is_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python sets it
    with pytest.raises(ToolkitError, match="there is no standard input"):
        inputs.find_input("-", inputs.PLAIN, settings, threading.Event())


def test_a_pipe_whose_first_line_does_not_end_needs_no_memory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for fields in a pipe keeps the bytes to be fed, but of a line without an end only a part."""
    blocks = chain(repeat(b"x" * inputs.AHEAD_BYTES, 1_000), [b'\n{"n":1}\n{"n":2}\n', b""])
    stdin = SimpleNamespace(buffer=SimpleNamespace(read1=lambda size: next(blocks)))
    monkeypatch.setattr(sys, "stdin", stdin)
    stop = threading.Event()
    source = inputs.find_input("-", inputs.PLAIN, settings, stop)
    tracemalloc.start()
    try:
        stream = sample_stream(source, "things", settings, stop)
        assert tracemalloc.get_traced_memory()[1] < 20 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
    assert stream
    with closing(source.open(stream, lambda partition: "", True)) as reader:
        chunks = list(iter(lambda: reader.poll(10), None))
    assert [line.line for chunk in chunks for line in chunk.records] == [b'{"n":1}', b'{"n":2}']
    assert sum(len(chunk.invalid) for chunk in chunks) == 1


def test_fields_of_a_pipe_are_inferred_from_more_than_its_first_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields and roles do not depend on how a program splits its output."""
    blocks = chain((b'{"who":"%c"}\n' % who for who in b"ab" * 10), [b""])

    asked = threading.Semaphore(0)

    class OneByOne(Queue[bytes]):
        def get(self, block: bool = True, timeout: float | None = None) -> bytes:
            if block:  # the program writes the next line only when the feed waits for it
                asked.release()
            return super().get(block, timeout)

    def read1(size: int) -> bytes:
        asked.acquire()
        return next(blocks)

    monkeypatch.setattr(inputs, "Queue", OneByOne)
    monkeypatch.setattr(inputs, "GATHER_S", 60.0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=SimpleNamespace(read1=read1)))
    stop = threading.Event()
    found = sample_stream(inputs.find_input("-", inputs.PLAIN, settings, stop), "things", settings, stop)
    assert found and found.by == "who"


@pytest.mark.parametrize("name", ["things.jsonl", "things.jsonl.gz"])
def test_fields_are_inferred_from_all_first_records_of_a_file(settings: Settings, tmp_path: Path, name: str) -> None:
    path, stop = tmp_path / name, threading.Event()
    with gzip.open(path, "wt") if name.endswith(".gz") else path.open("w") as file:  # one read takes six of them
        file.writelines(json.dumps({"who": who, "filler": "x" * 150_000}) + "\n" for who in "ab" * 10)
    found = sample_stream(inputs.find_input(str(path), inputs.PLAIN, settings, stop), "things", settings, stop)
    assert found and found.by == "who"


def test_fields_of_large_records_are_inferred_from_a_few(settings: Settings, tmp_path: Path) -> None:
    """Two thousand records of the largest size would take a GiB and more."""
    path, stop = tmp_path / "things.jsonl", threading.Event()
    with path.open("w") as file:
        file.writelines(json.dumps({f"n{number}": "x" * 200_000}) + "\n" for number in range(100))
    found = sample_stream(inputs.find_input(str(path), inputs.PLAIN, settings, stop), "things", settings, stop)
    assert found and 40 <= len(found.fields) < 60


def test_a_wait_for_a_first_record_ends_without_an_error(settings: Settings) -> None:
    stop = threading.Event()

    def make(codec: LineCodec, resume: Resume, finished: bool) -> Source:
        return RowSource("standard input", pages(), codec, resume)

    def pages() -> Iterator[list[Row]]:
        stop.set()  # Ctrl+C while nothing comes
        yield from ()

    assert (
        sample_stream(inputs.Input("stdin", "-", "json", inputs.PLAIN, make, ends=True), "things", settings, stop)
        is None
    )


@pytest.mark.parametrize("is_new", [True, False])
def test_a_feed_that_follows_waits_for_a_source_that_is_away(
    settings: Settings, is_new: bool, logged: list[str]
) -> None:
    if not is_new:
        settings.schema_folder.mkdir(parents=True)
        (settings.schema_folder / "things.json").write_text('{"fields": {"n": "number"}}')
    failures = iter([Unavailable("no broker")] * 2)

    class Away(RowSource):
        def poll(self, max_records: int) -> Chunk | None:
            if error := next(failures, None):
                raise error
            return super().poll(max_records)

    def make(codec: LineCodec, resume: Resume, finished: bool) -> Source:
        pages = iter([[Row(1, b'{"n":1}', b'{"n":1}')]])
        return Away("things", pages, codec, resume)

    source, stop = inputs.Input("things", "things", "json", inputs.PLAIN, make), threading.Event()
    with pytest.raises(Unavailable, match="no broker"):
        sample_stream(source, "things", settings, stop)
    found = sample_stream(source, "things", settings, stop, wait=True)
    assert found and found.fields[0].name == "n"
    assert [line for line in logged if "no broker; waiting" in line]


def test_a_feed_that_leaves_pending_records_is_unfinished(feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "things.csv").write_text("n\n1\n")
    done = feed("things.csv", "--sinks", "kafka", "--kafka-broker", "127.0.0.1:1", code=3)
    assert "kafka 0 delivered, 1 pending (" in done.stdout


@pytest.mark.parametrize("is_new", [True, False])
def test_a_feed_interrupted_before_its_first_record_is_unfinished(
    settings: Settings, tmp_path: Path, is_new: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path, stop = tmp_path / "things.csv", threading.Event()
    if not is_new:
        declare(Stream("things", fields=(Field("n", "number"),)), settings.schema_folder)
    path.write_text("n\n1\n")
    stop.set()
    found = inputs.find_input(str(path), inputs.PLAIN, settings, stop)
    assert feeding.feed(found, "things", feeding.PLAIN_FEED, settings, stop) == 3
    assert "nothing is new" not in capsys.readouterr().out


def test_a_rejected_record_waits_for_space_on_the_disk(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, full = tmp_path / "things.csv", [True, True]
    path.write_text("n\n1\n2,2\n3\n")

    class OnFullDisk(FileEmitter):
        def emit(self, batch: Batch) -> None:
            if full:
                full.pop()
                raise Unavailable("no space left")
            super().emit(batch)

    monkeypatch.setattr(feeding, "FileEmitter", OnFullDisk)
    stop = threading.Event()
    found = inputs.find_input(str(path), inputs.PLAIN, settings, stop)
    assert feeding.feed(found, "things", feeding.PLAIN_FEED, settings, stop) == 0
    assert [each["input"] for each in letters(settings, "things")] == ["2,2"]
    assert column(settings, "things", "n") == {"file": [1, 3], "sqlite": [1, 3], "duckdb": [1, 3]}


@has_links
def test_a_link_to_changing_files_is_one_source(feed: Feed, settings: Settings, tmp_path: Path) -> None:
    first, second, link = (tmp_path / f"{name}.jsonl" for name in ("app-20261126", "app-20261127", "current"))
    first.write_text('{"n":0}\n')
    link.symlink_to(first)
    feed(link, "--once")
    with first.open("a") as file:
        file.write('{"n":1}\n')  # unread before the next file began
    second.write_text('{"n":2}\n')
    link.unlink()
    link.symlink_to(second)
    for _ in range(2):
        feed(link, "--once")
    assert [record["n"] for record in lines(settings, "current")] == [0, 1, 2]


@has_links
def test_the_own_sink_is_known_behind_a_link(feed: Feed, settings: Settings, tmp_path: Path) -> None:
    settings.file_path("a").parent.mkdir(parents=True, exist_ok=True)
    settings.file_path("a").write_text('{"n":0}\n')
    (tmp_path / "b.jsonl").symlink_to(settings.file_path("a"))
    done = feed(tmp_path / "b.jsonl", "--stream", "a", code=2)
    assert "is the file sink of stream a" in done.stderr


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_a_complete_file_is_closed_if_the_feed_ends_in_the_middle(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / name
    with gzip.open(path, "wt") if name.endswith(".gz") else path.open("w") as file:
        file.write("n\n" + f"{'x' * 100_000}\n" * 30)  # more than one read takes
    source = inputs.find_input(str(path), inputs.PLAIN, settings, threading.Event())
    with closing(source.open(Stream("rows"), lambda partition: "", True)) as reader:
        assert reader.poll(10)
        assert str(path) in {each.path for each in psutil.Process().open_files()}
    assert str(path) not in {each.path for each in psutil.Process().open_files()}
