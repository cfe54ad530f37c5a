"""Sends the records of a recording again, as new ones, with their original gaps."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from msgspec.structs import astuple

from utils.app import cli
from utils.app.config import BUZZ, DEFAULTS, PRODUCING, Reads, Settings, Speed, StreamName
from utils.app.early import UNFINISHED
from utils.app.errors import ToolkitError
from utils.delivery import producing
from utils.reading.follow import InvalidLog
from utils.records.codec import Codec, Field, instant_text
from utils.records.infer import inferred, instant_us, values_of
from utils.records.record import Batch, Invalid, Line
from utils.records.schema import known
from utils.records.stream import Stream
from utils.sinks import EMBEDDED, INFERRED_FROM, WHOLE_RUN, Run, Sinks
from utils.sources.base import Source

PAGE_RECORDS = 10_000
LINES, TABLES, CSV = (".jsonl", ".ndjson", ".json"), (".sqlite", ".duckdb"), (".csv", ".tsv", ".csv.gz", ".tsv.gz")


class Recorded(Line):
    """A line of a recording and the record that it is."""

    record: Any = None


def main(
    recording: Annotated[Path, Parameter(help=f"A file: {' '.join((*LINES, *CSV, *TABLES))}.")],
    /,
    *,
    stream: StreamName = BUZZ,
    speed: Speed = 1.0,
    sinks: Sinks = EMBEDDED,
    run: Run = WHOLE_RUN,
    settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS,
) -> int:
    """Send the records of a recording again, under new ids: to fill sinks, or to deliver dead letters."""
    found = find_stream(stream, recording, settings)
    records = recorded(recording, found)
    name = "replay" if stream == BUZZ else f"replay-{stream}"
    interval_s = 1 / speed if speed else 0.0
    with cli.progress(_expected(recording), "records") as done:
        replay = Replay(found, records, done)
        paced, run = replay.paced(run.count), replace(run, count=None)
        code = producing.produce(
            found, name, paced, settings, interval_s=interval_s, sinks=sinks, run=run, make=replay.make
        )
    cli.print_lines(f"{recording}: {replay.valid:,} records read, {replay.invalid:,} invalid")
    return code if replay.ended else code or UNFINISHED


class Replay:
    """Paces recorded records by their event times and counts them; invalid ones are logged.

    `ended` says that each record that was asked for has been handed on.
    """

    def __init__(self, stream: Stream, records: Iterable[Recorded | Invalid], done: Callable[[int], None]) -> None:
        self._records, self._done = records, done
        columns, time = stream.codec.columns, stream.time or "timestamp"
        self._time = columns.index(time) if time in columns else None
        self._producer_id = ""  # of this run, once it has sent something
        self.ended = False
        self.valid = self.invalid = 0

    def paced(self, count: int | None = None) -> Iterator[tuple[float, Recorded]]:
        """Pairs of the seconds since the record before, 0 where they are not known, and the record; at most `count`."""
        before_us: int | None = None
        log = InvalidLog()
        for each in self._records:
            if isinstance(each, Invalid):
                self.invalid += 1
                log.add([each])
                continue
            if self._producer_id and each.record.producer_id == self._producer_id:
                break  # the recording is one of the sinks of this run
            self.valid += 1
            self._done(1)
            at_us = None if self._time is None else instant_us(astuple(each.record)[self._time])
            if at_us is not None:
                each.timestamp = instant_text(at_us)  # for a record without the field
            yield 0.0 if at_us is None or before_us is None else max(0.0, (at_us - before_us) / 1e6), each
            before_us = before_us if at_us is None else at_us
            if self.valid == count:
                break
        self.ended = True  # whoever asks for more has taken over the last one

    def make(self, lines: Sequence[Line], producer_id: str, first: int, codec: Codec) -> Batch:
        """The batch that sends these lines. Raises ValueError for what no sink can store."""
        self._producer_id = producer_id
        return Batch.of_lines(lines, producer_id, first, codec)


def find_stream(name: str, recording: Path, settings: Settings) -> Stream:
    """The stream as its schema file describes it, else as the first records of the recording do.

    Raises ToolkitError if neither describes it, or like `recorded`.
    """
    if found := known(name, settings.schema_folder):
        return found
    first = islice((each for each in recorded(recording, Stream(name)) if isinstance(each, Recorded)), INFERRED_FROM)
    found = inferred(name, [values_of(each.line) for each in first])
    if not found.fields:
        raise ToolkitError(f"{recording} has no readable record, so that nothing is known of stream {name}")
    if any(field.name == "timestamp" for field in found.fields):
        return found
    return replace(found, fields=(*found.fields, Field("timestamp", "timestamp")))  # each record gets one


def recorded(recording: Path, stream: Stream) -> Iterator[Recorded | Invalid]:
    """All records of a file up to its present end. Raises ToolkitError if there is no such file or kind."""
    if not recording.is_file():
        raise ToolkitError(f"there is no recording {recording}")
    try:
        recording.open("rb").close()
    except OSError as error:
        raise ToolkitError(f"{recording} cannot be read: {error.strerror}") from error
    suffix = "".join(recording.suffixes[-2:] if recording.suffix == ".gz" else recording.suffixes[-1:]).lower()
    if suffix in CSV:
        return _csv_records(recording, stream)
    if suffix in LINES:
        from utils.sources.file_source import FileSource

        return _source_records(FileSource([recording], _KeepsLines(stream.codec), lambda _: "", finished=True))
    if suffix == ".sqlite":
        from utils.sources.sqlite_source import SqliteSource

        return _encoded(_source_records(SqliteSource(recording, stream, lambda _: "")), stream.codec)
    if suffix == ".duckdb":
        from utils.sources.duckdb_source import DuckdbSource

        return _encoded(_source_records(DuckdbSource(recording, stream, lambda _: "")), stream.codec)
    raise ToolkitError(f"{recording} is not a recording: {' '.join((*LINES, *CSV, *TABLES))} can be read")


class _KeepsLines(Codec):
    """Reads records of a stream together with their lines."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def decode_lines(self, data: bytes, *, trusted: bool = False) -> list[Any]:
        return list(map(_recorded, self._codec.decode_lines(data), data.split(b"\n")))

    def decode(self, line: bytes | str) -> Any:
        return _recorded(self._codec.decode(line), line.encode() if isinstance(line, str) else line)


def _recorded(record: Any, line: bytes) -> Recorded:
    return Recorded(line, record=record)


def _source_records(source: Source) -> Iterator[Any]:
    with closing(source):
        while (chunk := source.poll(PAGE_RECORDS)) is not None:
            yield from chunk.records
            yield from chunk.invalid


def _encoded(records: Iterable[Any], codec: Codec) -> Iterator[Recorded | Invalid]:
    for each in records:
        yield each if isinstance(each, Invalid) else _recorded(each, codec.encode(each))


def _csv_records(recording: Path, stream: Stream) -> Iterator[Recorded | Invalid]:
    from utils.sources.csv_rows import json_line, rows

    types = {field.name: field.type for field in stream.fields}
    for row in rows(recording):
        try:
            if row.reason:
                raise ValueError(row.reason)
            line = json_line(row.cells, types)
            yield _recorded(stream.codec.decode(line), line)
        except ValueError as error:
            yield Invalid(f"{recording.name} line {row.line}", str(error))


def _expected(recording: Path) -> int | None:
    """How many lines a text file has, which is how many records one may expect; None for other files."""
    if recording.suffix.lower() not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        return None
    with recording.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.replay_producer"))
